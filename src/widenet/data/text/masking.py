"""From segments to the batches of text pretraining: masked tokens and sentence order, as ALBERT.

Axes: N examples, L tokens of the longest, V token ids; W words of one example.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.corpus import SPECIAL_PER_PAIR, CorpusSection, sentence_cuts
from widenet.data.text.tokenizer import continuations, sentence_ends
from widenet.errors import WideNetError

__all__ = ["PretrainingBatches", "ngram_spans", "sentence_order"]

IGNORED = -100  # the label of a token that is not predicted
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


class SegmentList(Protocol):
    """A list of segments, each int64 token ids of any length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def sentence_order(
    segment: np.ndarray, ends: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Split a segment in two, and swap the parts half of the time.

    The split lies at the sentence end nearest to a random token, or there if no sentence ends inside.

    Args:
        segment: at least two token ids.
        ends: bool [V], see :func:`sentence_ends`.
        rng: where the random numbers come from.

    Returns:
        The first part, the second part, and the label: 0 in order, 1 swapped.
    """
    cut = int(rng.integers(1, len(segment)))
    cuts = sentence_cuts(segment, ends)
    if len(cuts):
        cut = int(cuts[np.abs(cuts - cut).argmin()])
    if rng.random() < 0.5:
        return segment[cut:], segment[:cut], 1
    return segment[:cut], segment[cut:], 0


def ngram_spans(
    maskable: np.ndarray, continuation: np.ndarray, budget: int, max_ngram: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Choose runs of whole words to mask, n words with probability proportional to 1/n.

    A run is shortened where it would reach a token that cannot be masked, a word already chosen, or the
    budget. So the budget is never exceeded, and it is met unless every word left is longer than what is
    left of it; only if every word is longer than the budget, one word is chosen all the same.

    Args:
        maskable: bool [L].
        continuation: bool [L], True where a token continues the word of the one before.
        budget: tokens to choose.
        max_ngram: the largest n.
        rng: where the random numbers come from.

    Returns:
        (start, end) of each run, in the order they were chosen.
    """
    L = len(maskable)
    first = maskable.copy()  # of a word
    first[1:] &= ~(continuation[1:] & maskable[:-1])
    starts = np.flatnonzero(first)  # [W]
    if not len(starts):
        return []
    borders = np.append(np.flatnonzero(first | ~maskable), L)
    ends = borders[np.searchsorted(borders, starts, side="right")].tolist()  # [W]
    W = len(ends)
    shares = 1 / np.arange(1, max_ngram + 1)
    lengths = np.searchsorted((shares / shares.sum()).cumsum()[:-1], rng.random(W), side="right") + 1  # [W] of 1 … n
    order = rng.permutation(W).tolist()
    begins = starts.tolist()
    taken = [False] * W
    spans: list[tuple[int, int]] = []
    for word, length in zip(order, lengths.tolist(), strict=True):
        stop = word
        while (
            stop < min(word + length, W)
            and not taken[stop]
            and ends[stop] - begins[word] <= budget
            and (stop == word or begins[stop] == ends[stop - 1])
        ):
            taken[stop] = True
            stop += 1
        if stop > word:
            spans.append((begins[word], ends[stop - 1]))
            budget -= ends[stop - 1] - begins[word]
            if budget <= 0:
                break
    return spans or [(begins[order[0]], ends[order[0]])]


class PretrainingBatches(Dataset):
    """Whole batches of masked examples: ``[CLS] A [SEP] B [SEP]``, or ``[CLS] A [SEP]`` without sentence order.

    ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``labels`` (-100 where nothing is predicted)
    are int64 [N, L], with L the longest example of the batch; ``sentence_order_label`` is int64 [N].

    In training the masks depend on nothing but the seed and the indices of the batch: they are the same
    in a resumed run and with any number of workers, and other ones in every epoch, since its order is.
    """

    def __init__(
        self, segments: SegmentList, tokenizer: PreTrainedTokenizerBase, section: CorpusSection, seed: int | None
    ) -> None:
        """Take the segments as they are.

        Args:
            segments: token ids without special tokens, short enough for the section's ``max_length``.
            tokenizer: what the ids mean.
            section: the ``data`` section of a recipe: ``masking`` and what goes with it.
            seed: at least 0. None for evaluation, where an example depends on its own index alone.
        """
        self.segments = segments
        self.section = section
        self.seed = seed
        self.pad, self.cls, self.sep, self.mask = (
            int(getattr(tokenizer, f"{name}_token_id")) for name in ("pad", "cls", "sep", "mask")
        )
        self.continuation = continuations(tokenizer)  # [V]
        self.ends = sentence_ends(tokenizer)  # [V]
        self.ordinary = np.ones(len(self.ends), dtype=bool)  # [V]
        self.ordinary[tokenizer.all_special_ids] = False
        self.replacements = np.flatnonzero(self.ordinary)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch; DataLoader asks for it when the collator passes it through."""
        shared = self._rng(*indices) if self.seed is not None else None
        examples = [self._example(index, shared or self._rng(index)) for index in indices]
        shape = len(examples), max(len(ids) for ids, *_ in examples)
        input_ids = np.full(shape, self.pad)  # [N, L], as the next three
        labels = np.full(shape, IGNORED)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        for row, (ids, wanted, second, _) in enumerate(examples):
            input_ids[row, : len(ids)] = ids
            labels[row, : len(ids)] = wanted
            attention_mask[row, : len(ids)] = 1
            token_type_ids[row, second : len(ids)] = 1
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "labels": labels,
        }
        if self.section.sentence_order:
            batch["sentence_order_label"] = np.array([order for *_, order in examples])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _rng(self, *indices: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed or 0, *map(int, indices)]))

    def _example(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return input ids, labels, where the second part starts, and the sentence-order label."""
        segment = self.segments[index]
        if len(segment) + SPECIAL_PER_PAIR > self.section.max_length:
            raise WideNetError(
                f"segment {index} has {len(segment)} tokens; with {SPECIAL_PER_PAIR} special ones, at most "
                f"max_length={self.section.max_length} are allowed"
            )
        if self.section.sentence_order:
            first, last, order = sentence_order(segment, self.ends, rng)
            ids = np.concatenate([[self.cls], first, [self.sep], last, [self.sep]])
            second = len(first) + 2
        else:
            order = 0
            ids = np.concatenate([[self.cls], segment, [self.sep]])
            second = len(ids)
        labels = np.full(len(ids), IGNORED)
        chosen = self._choose(ids, rng)
        labels[chosen] = ids[chosen]
        draw = rng.random(len(chosen))
        ids[chosen[draw < MASK_SHARE]] = self.mask
        replaced = chosen[(draw >= MASK_SHARE) & (draw < MASK_SHARE + RANDOM_SHARE)]
        ids[replaced] = self.replacements[rng.integers(len(self.replacements), size=len(replaced))]
        return ids, labels, second, order

    def _choose(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the positions of the tokens to predict."""
        maskable = self.ordinary[ids]
        budget = max(round(self.section.mask_rate * int(maskable.sum())), 1)
        if self.section.masking == "token":
            return rng.permutation(np.flatnonzero(maskable))[:budget]
        spans = ngram_spans(maskable, self.continuation[ids], budget, self.section.max_ngram, rng)
        return np.array([position for span in spans for position in range(*span)], dtype=np.int64)
