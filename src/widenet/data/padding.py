"""Rows of token ids of different lengths as one tensor."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return what fills short rows; attention masks it, so any number does where there is no such token."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def pad_rows(rows: list[np.ndarray], value: int) -> Tensor:
    """Return rows of different lengths as int64 [N, L], filled up on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)
