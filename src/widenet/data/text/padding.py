"""Rows of token ids of different lengths as one tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.corpus import Segments


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return what fills short rows; attention masks it, so any number does where there is no such token."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def pad_rows(rows: list[np.ndarray], value: int) -> Tensor:
    """Return rows of different lengths as int64 [N, L], filled up on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


class SegmentBatches(Dataset):
    """Segments as they are: ``[CLS] A [SEP]``, batches of input_ids and attention_mask, int64 [N, L]."""

    def __init__(self, segments: Segments, tokenizer: PreTrainedTokenizerBase) -> None:
        self.segments = segments
        self.first, self.last = [int(tokenizer.cls_token_id)], [int(tokenizer.sep_token_id)]
        self.pad = pad_id(tokenizer)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch; DataLoader asks for it when the collator passes it through."""
        rows = [np.concatenate([self.first, self.segments[index], self.last]) for index in indices]
        return {
            "input_ids": pad_rows(rows, self.pad),
            "attention_mask": pad_rows([np.ones(len(row)) for row in rows], 0),
        }
