"""The windows of context in which a model looks for the answers to questions, and their batches.

Axes: N windows of a batch, L tokens of the longest one, W windows in all.

A context that does not fit is read through overlapping windows, [CLS] question [SEP] context [SEP]. A
window keeps the characters which each of its context tokens stands for, so that an answer is always a
slice of the original context.
"""

import unicodedata
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.data.text.padding import pad_id, pad_rows
from widenet.data.text.questions import Question
from widenet.errors import WideNetError

TOKENISE_AT_ONCE = 1024  # texts


@dataclass(frozen=True)
class Windows:
    """Windows over the contexts of a list of questions, in the order of the questions.

    Attributes:
        question: int64 [W], index of each window's question.
        input_ids: per window, int32 [length]: [CLS] question [SEP] context [SEP].
        context_start: int64 [W], position of the first context token; tokens from here on are of type 1.
        offsets: per window, int64 [context tokens, 2]: the characters of the original context, from and
            up to, which a token stands for.
        max_context: per window, bool [context tokens]: of the windows that a token is in, whether this is
            the one which shows most of its surroundings.
        start_positions, end_positions: int64 [W], tokens of the first reference answer, both included; 0,
            the [CLS], where the window does not hold all of it. None unless made for training.
        cut_questions: questions that were too long for their windows.
    """

    question: np.ndarray
    input_ids: list[np.ndarray]
    context_start: np.ndarray
    offsets: list[np.ndarray]
    max_context: list[np.ndarray]
    start_positions: np.ndarray | None
    end_positions: np.ndarray | None
    cut_questions: int

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class _Lists:
    """Windows while they are being made."""

    question: list[int] = field(default_factory=list)
    input_ids: list[np.ndarray] = field(default_factory=list)
    context_start: list[int] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    max_context: list[np.ndarray] = field(default_factory=list)
    positions: list[tuple[int, int]] = field(default_factory=list)


def make_windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    max_length: int,
    doc_stride: int,
    training: bool,
) -> Windows:
    """Cut contexts into overlapping windows, and find the answers' tokens in them.

    A question takes at most half of a window's room; BERT's script cuts at 64 tokens, which questions as
    they are asked do not reach, either.

    Args:
        tokenizer: a fast tokenizer with a [CLS] and a [SEP] token.
        questions: what to ask.
        max_length: tokens of a window, with the special ones.
        doc_stride: tokens from the start of a window to the start of the next, as in BERT's script (the
            `stride` of Hugging Face's tokenizers is the overlap). A window with less room for context
            moves on by that room, so that no token is left out.
        training: give the tokens of the first reference answer, too.
    """
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if not tokenizer.is_fast or not isinstance(cls, int) or not isinstance(sep, int):
        raise WideNetError("question answering needs a fast tokenizer with a [CLS] and a [SEP] token")
    if max_length < 5:
        raise WideNetError(
            f"max_length must be at least 5 (three special tokens, question, context), not {max_length}"
        )
    if doc_stride < 1:
        raise WideNetError(f"doc_stride must be at least 1, not {doc_stride}")

    texts = list(dict.fromkeys(question.context for question in questions))
    contexts = dict(zip(texts, _encode(tokenizer, texts, True), strict=True))
    asked = _encode(tokenizer, [question.question for question in questions], False)
    lists, longest = _Lists(), (max_length - 3) // 2
    for index, (question, (query, _)) in enumerate(zip(questions, asked, strict=True)):
        ids, offsets = contexts[question.context]
        head = np.array([cls, *query[:longest], sep], dtype=np.int32)
        spans = _spans(len(ids), max_length - len(head) - 1, doc_stride)
        answer = _answer_tokens(offsets, question.answers[0]) if training and question.answers else None
        for (start, end), most in zip(spans, _max_context(spans), strict=True):
            lists.question.append(index)
            lists.input_ids.append(np.concatenate([head, ids[start:end], np.array([sep], dtype=np.int32)]))
            lists.context_start.append(len(head))
            lists.offsets.append(offsets[start:end])
            lists.max_context.append(most)
            inside = answer is not None and start <= answer[0] and answer[1] < end
            shift = len(head) - start
            lists.positions.append((answer[0] + shift, answer[1] + shift) if answer and inside else (0, 0))
    positions = np.array(lists.positions, dtype=np.int64).reshape(-1, 2)
    return Windows(
        np.array(lists.question, dtype=np.int64),
        lists.input_ids,
        np.array(lists.context_start, dtype=np.int64),
        lists.offsets,
        lists.max_context,
        positions[:, 0] if training else None,
        positions[:, 1] if training else None,
        sum(len(query) > longest for query, _ in asked),
    )


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], with_offsets: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each text's tokens, int32 [tokens], and their characters, int64 [tokens, 2], or [0, 2] if not asked."""
    found = []
    for start in range(0, len(texts), TOKENISE_AT_ONCE):
        block = texts[start : start + TOKENISE_AT_ONCE]
        # verbose: long texts are no mistake here
        encoded = tokenizer(block, add_special_tokens=False, return_offsets_mapping=with_offsets, verbose=False)
        for number, (text, ids) in enumerate(zip(block, encoded["input_ids"], strict=True)):
            offsets = np.array(encoded["offset_mapping"][number] if with_offsets else [], dtype=np.int64).reshape(
                -1, 2
            )
            found.append((np.array(ids, dtype=np.int32), _with_marks(text, offsets)))
    return found


def _with_marks(text: str, offsets: np.ndarray) -> np.ndarray:
    """Let a token stand for the combining marks after it, too.

    Tokenizers that strip accents forget those at a word's end: "cafe" + U+0301 would be answered as "cafe".
    """
    if text.isascii():
        return offsets
    for number, end in enumerate(offsets[:, 1].tolist()):
        limit = offsets[number + 1, 0] if number + 1 < len(offsets) else len(text)
        while end < limit and unicodedata.category(text[end]).startswith("M"):
            end += 1
        offsets[number, 1] = end
    return offsets


def _spans(tokens: int, room: int, doc_stride: int) -> list[tuple[int, int]]:
    """Return each window's context tokens as (start, end); also an empty context has a window."""
    spans = [(0, min(tokens, room))]
    while spans[-1][1] < tokens:
        start = spans[-1][0] + min(room, doc_stride)
        spans.append((start, min(tokens, start + room)))
    return spans


def _max_context(spans: list[tuple[int, int]]) -> list[np.ndarray]:
    """Return, per window, whether it is the one that shows most around each of its tokens.

    As in BERT's script, the lesser of a token's left and right context counts, then the longer window,
    then the earlier one. So a token is scored once, where the model sees most of what it depends on.
    """
    total = spans[-1][1]
    best, winner = np.full(total, -1.0), np.zeros(total, dtype=np.int64)
    for number, (start, end) in enumerate(spans):
        left = np.arange(end - start)
        score = np.minimum(left, left[::-1]) + 0.01 * (end - start)
        better = score > best[start:end]
        winner[start:end][better] = number
        best[start:end][better] = score[better]
    return [winner[start:end] == number for number, (start, end) in enumerate(spans)]


def _answer_tokens(offsets: np.ndarray, answer: tuple[str, int]) -> tuple[int, int] | None:
    """Return the first and the last token that hold a character of the answer; None if no token does."""
    text, start = answer
    touched = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < start + len(text)))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


class QuestionBatches(Dataset):
    """Windows as batches: input_ids, attention_mask, token_type_ids [N, L], and what goes with the windows.

    That is start_positions and end_positions [N] if the windows were made for training; window [N], the
    index of each, if not. Rows are padded, on the right, to the batch's longest window.
    """

    def __init__(self, windows: Windows, tokenizer: PreTrainedTokenizerBase) -> None:
        self.windows = windows
        self._pad = pad_id(tokenizer)
        self._types = "token_type_ids" in tokenizer.model_input_names

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a whole batch; DataLoader asks for it when the collator passes it through."""
        windows, chosen = self.windows, np.asarray(indices)
        rows = [windows.input_ids[index] for index in indices]
        batch = {
            "input_ids": pad_rows(rows, self._pad),
            "attention_mask": pad_rows([np.ones(len(row)) for row in rows], 0),
        }
        if self._types:
            starts = torch.from_numpy(windows.context_start[chosen]).unsqueeze(1)  # [N, 1]
            mask = batch["attention_mask"]
            batch["token_type_ids"] = (torch.arange(mask.shape[1]) >= starts).long() * mask  # [N, L]
        if windows.start_positions is None or windows.end_positions is None:
            return batch | {"window": torch.from_numpy(chosen)}
        return batch | {
            "start_positions": torch.from_numpy(windows.start_positions[chosen]),
            "end_positions": torch.from_numpy(windows.end_positions[chosen]),
        }
