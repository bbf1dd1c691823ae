"""Masking and sentence order: rates within binomial bounds, words kept whole, randomness by index."""

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from widenet.data.batch import Batch
from widenet.data.text.corpus import CorpusSection
from widenet.data.text.masking import PretrainingBatches, ngram_spans, sentence_order
from widenet.data.text.tokenizer import sentence_ends
from widenet.errors import WideNetError

PAD, UNK, CLS, SEP, MASK, STOP = range(6)
WORDS = range(6, 56)  # w0 … w49
PARTS = range(56, 76)  # ##p0 … ##p19
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
SPECIAL["mask_token"] = "[MASK]"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    tokens = [*SPECIAL.values(), ".", *(f"w{n}" for n in range(50)), *(f"##p{n}" for n in range(20))]
    model = models.WordPiece(vocab={token: number for number, token in enumerate(tokens)}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **SPECIAL)


@cache
def segments(count: int = 400) -> list[np.ndarray]:
    """Return segments of 8 to 125 tokens: words, a third of which go on, sentences, and now and then [UNK]."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(count):
        ids = rng.choice([*WORDS, *PARTS, STOP, STOP, STOP, STOP, UNK], size=rng.integers(8, 126))
        ids[0] = WORDS[0]
        result.append(ids)
    return result


def made(some: list[np.ndarray], seed: int | None, **options: object) -> PretrainingBatches:
    return PretrainingBatches(some, tokenizer(), CorpusSection(source=None, **options), seed)  # type: ignore[arg-type]


def batches(seed: int | None = 1, **options: object) -> PretrainingBatches:
    return made(segments(), seed, **options)


def originals(batch: Batch) -> torch.Tensor:
    """Return what the input ids were before they were masked."""
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])


def sampled(dataset: PretrainingBatches, size: int = 40) -> list[Batch]:
    return [dataset.__getitems__(list(range(start, start + size))) for start in range(0, len(dataset), size)]


def within(successes: int, trials: int, p: float) -> bool:
    """Return whether a binomial count lies within four standard deviations of what is expected."""
    return abs(successes - trials * p) < 4 * (trials * p * (1 - p)) ** 0.5


# ---- masking ----


@pytest.mark.parametrize("masking", ["ngram", "token"])
def test_a_share_of_the_tokens_is_predicted(masking: str):
    for batch in sampled(batches(masking=masking)):
        before = originals(batch)
        for row in range(len(before)):
            real = int((before[row] > MASK).sum())  # neither special nor [UNK]
            # 15 % to the nearest token, at least one; every text here has words of one token left
            assert (batch["labels"][row] != -100).sum() == max(round(0.15 * real), 1)


@pytest.mark.parametrize("masking", ["ngram", "token"])
def test_eighty_ten_ten(masking: str):
    trials = masked = same = replaced = 0
    for batch in sampled(batches(masking=masking)):
        chosen = batch["labels"] != -100
        ids, labels = batch["input_ids"][chosen], batch["labels"][chosen]
        trials += len(ids)
        masked += int((ids == MASK).sum())
        same += int((ids == labels).sum())
        replaced += int(((ids != MASK) & (ids != labels)).sum())
        assert ((ids == MASK) | (ids > MASK)).all(), "a random token is never a special one"

    assert trials > 3000
    assert within(masked, trials, 0.8)
    # one of the 71 ordinary tokens is the same again
    assert within(same, trials, 0.1 + 0.1 / 71)
    assert within(replaced, trials, 0.1 * 70 / 71)


def test_random_tokens_are_spread_over_the_vocabulary():
    seen = Counter()
    for seed in range(5):
        for batch in sampled(batches(seed=seed)):
            ids, labels = batch["input_ids"], batch["labels"]
            seen.update(ids[(labels != -100) & (ids != MASK) & (ids != labels)].tolist())

    assert set(seen) == {STOP, *WORDS, *PARTS}


@pytest.mark.parametrize("masking", ["ngram", "token"])
def test_special_tokens_and_padding_are_left_alone(masking: str):
    for batch in sampled(batches(masking=masking)):
        before = originals(batch)
        special = before <= SEP
        assert (batch["labels"][special] == -100).all()
        assert (batch["attention_mask"] == (before != PAD)).all()
        assert (batch["labels"][batch["labels"] != -100] > MASK).all()


def test_words_stay_whole():
    for batch in sampled(batches(sentence_order=False)):
        chosen = batch["labels"] != -100
        before = originals(batch)
        continues = before >= PARTS[0]
        after_word = torch.zeros_like(continues)
        after_word[:, 1:] = before[:, :-1] > MASK  # after [UNK] or [CLS] there is nothing to continue
        joined = continues & after_word
        assert (chosen[:, 1:] == chosen[:, :-1])[joined[:, 1:]].all()


def test_bert_masking_splits_words():
    batch = batches(masking="token").__getitems__(list(range(100)))
    chosen, continues = batch["labels"] != -100, originals(batch) >= PARTS[0]

    assert not (chosen[:, 1:] == chosen[:, :-1])[continues[:, 1:]].all()


def test_ngrams_are_as_frequent_as_one_over_n():
    L = 20_000
    lengths: Counter[int] = Counter()
    for seed in range(20):
        # with 1 % masked, hardly a run meets another
        rng = np.random.default_rng(seed)
        spans = ngram_spans(np.ones(L, dtype=bool), np.zeros(L, dtype=bool), L // 100, 3, rng)
        lengths.update(end - start for start, end in spans[:-1])  # the last one is what the budget left over

    # 1/1 : 1/2 : 1/3 = 6 : 3 : 2
    total = sum(lengths.values())
    assert total > 2000
    for n, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        assert within(lengths[n], total, share)


def test_runs_do_not_overlap_nor_cross_what_cannot_be_masked():
    maskable = np.ones(60, dtype=bool)
    maskable[::7] = False
    for seed in range(200):
        spans = sorted(ngram_spans(maskable, np.zeros(60, dtype=bool), 20, 3, np.random.default_rng(seed)))
        assert all(maskable[start:end].all() for start, end in spans)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        assert sum(end - start for start, end in spans) == 20


def test_budget_is_kept_by_leaving_long_words():
    # three words of 2, 3 and 2 tokens: a budget of 3 takes the middle one, or one of the others
    continuation = np.array([0, 1, 0, 1, 1, 0, 1], dtype=bool)
    found = {
        tuple(ngram_spans(np.ones(7, dtype=bool), continuation, 3, 3, np.random.default_rng(seed)))
        for seed in range(50)
    }

    assert found == {((0, 2),), ((2, 5),), ((5, 7),)}


def test_one_word_is_chosen_although_all_are_too_long():
    continuation = np.array([0, 1, 1, 0, 1], dtype=bool)
    found = {
        tuple(ngram_spans(np.ones(5, dtype=bool), continuation, 1, 3, np.random.default_rng(seed)))
        for seed in range(50)
    }

    assert found == {((0, 3),), ((3, 5),)}


def test_nothing_is_predicted_where_nothing_can_be():
    only_unknown = [np.full(8, UNK)]
    for masking in ("ngram", "token"):
        batch = made(only_unknown, 0, masking=masking, max_length=11).__getitems__([0])
        assert (batch["labels"] == -100).all()


# ---- sentence order ----


def test_examples_are_pairs():
    segment = np.array([6, 7, STOP, 8, 9])
    dataset = made([segment], 0, mask_rate=0.01, max_length=8)
    found = {}
    for seed in range(20):
        dataset.seed = seed
        batch = dataset.__getitems__([0])
        assert batch["attention_mask"].tolist() == [[1] * 8]
        found[int(batch["sentence_order_label"])] = (originals(batch).tolist(), batch["token_type_ids"].tolist())

    assert found == {
        0: ([[CLS, 6, 7, STOP, SEP, 8, 9, SEP]], [[0, 0, 0, 0, 0, 1, 1, 1]]),
        1: ([[CLS, 8, 9, SEP, 6, 7, STOP, SEP]], [[0, 0, 0, 0, 1, 1, 1, 1]]),
    }


def test_half_of_the_pairs_are_swapped():
    labels = torch.cat([batch["sentence_order_label"] for seed in range(5) for batch in sampled(batches(seed=seed))])

    assert within(int(labels.sum()), len(labels), 0.5)
    assert set(labels.tolist()) == {0, 1}


def parts(segment: list[int], trials: int = 60) -> set[tuple[int, ...]]:
    """Return every first part, in the order of the text, that a segment is split into."""
    ends = sentence_ends(tokenizer())
    found = set()
    for seed in range(trials):
        first, last, label = sentence_order(np.array(segment), ends, np.random.default_rng(seed))
        if label:
            first, last = last, first
        assert [*first, *last] == segment
        found.add(tuple(first.tolist()))
    return found


def test_split_lies_at_a_sentence_end():
    assert parts([6, 7, STOP, 8, 9, STOP, 10, STOP]) == {(6, 7, STOP), (6, 7, STOP, 8, 9, STOP)}


def test_split_lies_after_the_last_of_several_stops():
    assert parts([6, STOP, STOP, STOP, 7, 8]) == {(6, STOP, STOP, STOP)}


def test_split_is_anywhere_if_no_sentence_ends_inside():
    assert parts([6, 7, 8, STOP]) == {(6,), (6, 7), (6, 7, 8)}


def test_without_sentence_order():
    batch = made([np.array([6, 7, STOP])], 0, sentence_order=False, max_length=8).__getitems__([0])

    assert originals(batch).tolist() == [[CLS, 6, 7, STOP, SEP]]
    assert batch["token_type_ids"].tolist() == [[0] * 5]
    assert "sentence_order_label" not in batch


# ---- batches ----


def test_batches_are_padded_to_their_longest():
    dataset = batches()
    lengths = [len(segment) + 3 for segment in segments()]

    for indices in ([0, 1, 2], [5], [9, 3]):
        batch = dataset.__getitems__(indices)
        assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)
        assert batch["input_ids"].shape == (len(indices), max(lengths[index] for index in indices))
        assert batch["attention_mask"].sum(1).tolist() == [lengths[index] for index in indices]


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_batch_depends_on_seed_and_indices():
    indices = [3, 7, 11, 15]
    batch = batches().__getitems__(indices)

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert equal(batch, batches().__getitems__(indices))
    assert not equal(batch, batches(seed=2).__getitems__(indices))
    other = batches().__getitems__([3, 7, 11, 16])
    assert not torch.equal(batch["labels"][0, :8], other["labels"][0, :8]) or not torch.equal(
        batch["labels"][1:3, :8], other["labels"][1:3, :8]
    )


def test_an_evaluated_example_depends_on_its_own_index():
    dataset = batches(None)
    together = dataset.__getitems__([3, 7, 11])

    for row, index in enumerate([3, 7, 11]):
        alone = dataset.__getitems__([index])
        L = alone["input_ids"].shape[1]
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][row] if value.dim() == 1 else together[name][row, :L])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_matter(workers: int):
    loader = DataLoader(batches(), batch_size=50, num_workers=workers, collate_fn=lambda batch: batch)

    for batch, expected in zip(loader, sampled(batches(), 50), strict=True):
        assert equal(batch, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masking": "word"}, "'ngram' or 'token'"),
        ({"mask_rate": 0.0}, "greater than 0"),
        ({"mask_rate": 1.0}, "less than 1"),
        ({"max_ngram": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=rf"{next(iter(options))}\n.*{message}"):
        batches(**options)


def test_too_long_a_segment():
    with pytest.raises(WideNetError, match=r"segment 0 has 30 tokens; .*max_length=32"):
        made([np.full(30, 6)], 0, max_length=32).__getitems__([0])
