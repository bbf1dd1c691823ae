"""Answers and their scores: worked by hand, and SQuAD 1.1 against torchmetrics."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from widenet.data.text.questions import Question
from widenet.data.text.windows import Windows
from widenet.errors import WideNetError
from widenet.tasks.squad import (
    Answers,
    exact_match,
    f1_score,
    normalize_answer,
    pick_answers,
    squad_scores,
)

CONTEXT = "red green  blue red"  # two spaces before "blue"
WORDS = [(0, 3), (4, 9), (11, 15), (16, 19)]
LOW = -9.0


def question(name: str = "q", *answers: str, impossible: bool = False) -> Question:
    return Question(name, "which?", CONTEXT, [(answer, 0) for answer in answers], impossible)


def windows(spans: list[tuple[int, int]], owners: list[int] | None = None, most: list[list[bool]] | None = None):
    """Return windows [CLS] q [SEP] words [SEP] over CONTEXT: the first word is token 3."""
    count = len(spans)
    return Windows(
        question=np.array(owners or [0] * count),
        input_ids=[np.zeros(end - start + 4, dtype=np.int32) for start, end in spans],
        context_start=np.full(count, 3),
        offsets=[np.array(WORDS[start:end], dtype=np.int64).reshape(-1, 2) for start, end in spans],
        max_context=[np.array(flags) for flags in most]
        if most
        else [np.full(end - start, True) for start, end in spans],
        start_positions=None,
        end_positions=None,
        cut_questions=0,
    )


def logits(count: int, length: int, **values: float) -> np.ndarray:
    """Return LOW everywhere but at the given places: w0t3=5 is window 0, token 3."""
    made = np.full((count, length), LOW)
    for place, value in values.items():
        window, token = place.removeprefix("w").split("t")
        made[int(window), int(token)] = value
    return made


# ---- picking ----


def test_answer_is_a_slice_of_the_context() -> None:
    found = pick_answers([question()], windows([(0, 4)]), logits(1, 8, w0t4=5.0), logits(1, 8, w0t5=4.0))
    assert found.predictions == {"q": "green  blue"}  # with both of its spaces
    best = found.nbest["q"][0]
    assert (best["start"], best["end"], best["start_logit"], best["end_logit"]) == (4, 15, 5.0, 4.0)
    assert found.null_odds == {}


def test_scores_of_nbest() -> None:
    # start: red 2, green 1; end: green 3, blue 1. Spans: red–green 5, green–green 4, red–blue 3, green–blue 2
    starts, ends = logits(1, 8, w0t3=2.0, w0t4=1.0), logits(1, 8, w0t4=3.0, w0t5=1.0)
    found = pick_answers([question()], windows([(0, 4)]), starts, ends, n_best=2).nbest["q"]
    assert [entry["text"] for entry in found] == ["red green", "green"]
    # softmax over 5 and 4: 1 / (1 + e^-1) = 0.7311
    assert [entry["probability"] for entry in found] == pytest.approx([0.731059, 0.268941], abs=1e-6)


def test_an_answer_does_not_end_before_it_starts_nor_is_it_too_long() -> None:
    starts, ends = logits(1, 8, w0t3=5.0, w0t5=4.0), logits(1, 8, w0t4=3.0, w0t6=6.0)
    every = [windows([(0, 4)]), starts, ends]
    assert pick_answers([question()], *every).predictions["q"] == CONTEXT  # 5 + 6
    assert pick_answers([question()], *every, max_answer_length=3).predictions["q"] == "blue red"  # 4 + 6
    # one word: blue–blue 4 + LOW, last red LOW + 6, first red 5 + LOW, green LOW + 3
    assert pick_answers([question()], *every, max_answer_length=1).predictions["q"] == "red"


def test_the_same_words_are_listed_once() -> None:
    starts, ends = logits(1, 8, w0t3=1.0, w0t6=2.0), logits(1, 8, w0t3=1.0, w0t6=2.0)
    found = pick_answers([question()], windows([(0, 4)]), starts, ends, max_answer_length=1).nbest["q"]
    assert sorted(entry["text"] for entry in found) == ["blue", "green", "red"]
    assert found[0] == pytest.approx(found[0] | {"text": "red", "start": 16, "start_logit": 2.0})


def test_a_start_counts_where_its_token_has_most_context() -> None:
    # "blue" is in both windows and scores higher in the first, where it is at the edge
    spans, most = [(0, 3), (1, 4)], [[True, True, False], [False, True, True]]
    starts, ends = logits(2, 7, w0t5=9.0, w1t4=3.0), logits(2, 7, w0t5=9.0, w1t4=3.0)
    found = pick_answers([question()], windows(spans, most=most), starts, ends)
    assert found.predictions["q"] == "blue" and found.nbest["q"][0]["start_logit"] == 3.0


def test_what_is_no_context_is_no_answer() -> None:
    # [CLS], the question, [SEP] and what is behind the window's 8 tokens score best
    starts, ends = np.full((1, 12), 50.0), np.full((1, 12), 50.0)
    starts[0, 3:7], ends[0, 3:7] = [0, 1, 0, 0], [0, 1, 0, 0]
    assert pick_answers([question()], windows([(0, 4)]), starts, ends).predictions["q"] == "green"


def test_windows_belong_to_their_questions() -> None:
    asked = [question("a"), question("b")]
    cut = windows([(0, 2), (2, 4), (0, 4)], owners=[0, 0, 1])
    starts = torch.from_numpy(logits(3, 8, w0t3=1.0, w1t3=2.0, w2t4=9.0))
    found = pick_answers(asked, cut, starts, starts)
    assert found.predictions == {"a": "blue", "b": "green"}


def test_no_answer_is_weighed_against_the_best_one() -> None:
    # null: the lesser of 1 + 1 and 4 + 3; the best answer: 2 + 2. Odds 2 − 4 = −2
    cut = windows([(0, 2), (2, 4)])
    starts = logits(2, 6, w0t0=1.0, w1t0=4.0, w1t3=2.0)
    ends = logits(2, 6, w0t0=1.0, w1t0=3.0, w1t3=2.0)
    found = pick_answers([question()], cut, starts, ends, with_impossible=True)
    assert found.null_odds == {"q": -2.0} and found.predictions == {"q": "blue"}
    null = next(entry for entry in found.nbest["q"] if entry["text"] == "")
    assert (null["start_logit"], null["end_logit"], null["start"], null["end"]) == (1.0, 1.0, None, None)
    assert math.fsum(entry["probability"] for entry in found.nbest["q"]) == pytest.approx(1)

    assert pick_answers([question()], cut, starts, ends, with_impossible=True, null_threshold=-2.0).predictions["q"]
    strict = pick_answers([question()], cut, starts, ends, with_impossible=True, null_threshold=-2.5)
    assert strict.predictions == {"q": ""} and strict.null_odds == {"q": -2.0}


def test_no_answer_wins() -> None:
    starts = logits(1, 8, w0t0=6.0, w0t3=2.0)
    found = pick_answers([question()], windows([(0, 4)]), starts, starts, with_impossible=True, n_best=1)
    assert found.predictions == {"q": ""} and found.null_odds == {"q": 8.0}  # 12 − 4
    assert [entry["text"] for entry in found.nbest["q"]] == ["", "red"]
    always = pick_answers(
        [question()], windows([(0, 4)]), starts, starts, with_impossible=True, null_threshold=math.inf
    )
    assert always.predictions == {"q": "red"}


def test_a_context_without_tokens_has_no_answer() -> None:
    empty = windows([(0, 0)])
    for with_impossible, odds in ((False, {}), (True, {"q": 0.0})):
        found = pick_answers([question()], empty, np.ones((1, 4)), np.ones((1, 4)), with_impossible=with_impossible)
        assert found.predictions == {"q": ""} and found.null_odds == odds
        assert [entry["probability"] for entry in found.nbest["q"]] == [1.0]


@pytest.mark.parametrize("shape", [(2, 8), (1, 7), (8,)])
def test_logits_of_other_windows(shape: tuple[int, ...]) -> None:
    with pytest.raises(WideNetError, match=r"logits of 1 windows of up to 8 tokens are needed, not of shape"):
        pick_answers([question()], windows([(0, 4)]), np.zeros(shape), np.zeros(shape))


def test_files_are_read_back(tmp_path: Path) -> None:
    starts = logits(1, 8, w0t0=1.0, w0t3=2.0)
    found = pick_answers([question()], windows([(0, 4)]), starts, starts, with_impossible=True)
    found.write(tmp_path)
    names = ("predictions.json", "nbest_predictions.json", "null_odds.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert Answers(*(json.loads((tmp_path / name).read_text()) for name in names)) == found


def test_null_odds_are_not_written_for_squad_1(tmp_path: Path) -> None:
    Answers({"ü": "é"}, {"ü": []}).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nbest_predictions.json", "predictions.json"]
    assert "é" in (tmp_path / "predictions.json").read_text(encoding="utf-8")


# ---- metrics of one answer ----


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat", "cat"),
        ("a\tcat,\nan owl", "cat owl"),
        ("Theatre of Athens", "theatre of athens"),  # "the" as part of a word stays
        ("U.S.", "us"),
        ("it's 5-4", "its 54"),
        ("a-team", "ateam"),  # punctuation goes before articles do
        ("the", ""),
        ("", ""),
        ("«naïve» – 東京", "«naïve» – 東京"),  # string.punctuation is ASCII only
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("The Cat!", "cat", 1, 1),
        ("black cat", "the cat", 0, 2 / 3),  # p = 1/2, r = 1
        ("cat cat cat", "cat cat dog", 0, 2 / 3),  # two words in common, however often they occur
        ("dog", "cat", 0, 0),
        ("", "", 1, 1),
        ("the", "a", 1, 1),  # no words in both
        ("", "cat", 0, 0),
        ("cat", "the", 0, 0),
    ],
)
def test_one_reference(prediction: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(prediction, reference) == exact
    assert f1_score(prediction, reference) == pytest.approx(f1)


# ---- SQuAD 1.1 ----

SQUAD1 = [
    question("1", "the red cat", "cat"),
    question("2", "green"),
    question("3", "blue", "dark blue sea"),
    question("4", "red"),
]


def test_squad1_by_hand() -> None:
    # 1: second reference exact. 2: wrong. 3: against "blue" p = 1/3, r = 1, F1 1/2; against "dark blue sea"
    # two of three and three words: 2·2/6 = 2/3, the better one. 4: not answered
    found = squad_scores(SQUAD1, {"1": "Cat.", "2": "red", "3": "the light blue sea", "5": "red"})
    assert found == pytest.approx({"exact_match": 25.0, "f1": 100 * (1 + 2 / 3) / 4, "total": 4})


@pytest.mark.parametrize("seed", range(3))
def test_squad1_is_what_torchmetrics_says(seed: int) -> None:
    from torchmetrics.text import SQuAD

    rng = np.random.default_rng(seed)
    words = ["The", "red", "cat,", "a", "sea", "of", "Green", "(dark)", "blue.", "an", "Ärger", "東京"]

    def phrase() -> str:
        return " ".join(rng.choice(words, rng.integers(1, 4)))

    asked = [question(str(name), *(phrase() for _ in range(rng.integers(1, 4)))) for name in range(60)]
    predictions = {each.id: phrase() for each in asked}
    metric = SQuAD()
    metric.update(
        [{"id": name, "prediction_text": text} for name, text in predictions.items()],
        [
            {"id": each.id, "answers": {"text": [text for text, _ in each.answers], "answer_start": [0]}}
            for each in asked
        ],
    )
    wanted = {name: float(value) for name, value in metric.compute().items()}
    found = squad_scores(asked, predictions)
    assert 0 < found["exact_match"] < found["f1"] < 100
    assert found == pytest.approx(wanted | {"total": 60}, rel=1e-5)


# ---- SQuAD 2.0 ----

SQUAD2 = [
    question("a", "red cat"),
    question("b", "green"),
    question("c", impossible=True),
    question("d", impossible=True),
]
PREDICTIONS = {"a": "red", "b": "green", "c": "blue", "d": "sea"}
ODDS = {"a": -3.0, "b": 1.0, "c": -1.0, "d": 2.0}


def test_squad2_without_null_odds() -> None:
    # a: exact 0, F1 2·1/3; b: right; c: right to say nothing; d: wrong
    found = squad_scores(SQUAD2, PREDICTIONS | {"c": ""})
    assert found == pytest.approx(
        {
            "exact": 50.0,
            "f1": 100 * (2 / 3 + 1 + 1) / 4,
            "total": 4,
            "HasAns_exact": 50.0,
            "HasAns_f1": 100 * (2 / 3 + 1) / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
        }
    )
    assert list(found) == [
        *("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"),
        *("NoAns_exact", "NoAns_f1", "NoAns_total"),
    ]


def test_threshold_search_by_hand() -> None:
    # Threshold 0: b (odds 1) and d (odds 2) count as "no answer": b wrong, d right; c is answered: wrong.
    # exact: a 0, b 0, c 0, d 1. F1: a 2/3, b 0, c 0, d 1.
    # Search: nothing answered gives c and d: 2. Answered from the least odds up:
    #   exact: a (-3) +0 = 2; c (-1) -1 = 1; b (1) +1 = 2; d (2) -1 = 1. Never more than 2: threshold "0".
    #   F1: a (-3) +2/3 = 2.667, the best; c 1.667; b 2.667, no more than that; d 1.667. Threshold -3.
    found = squad_scores(SQUAD2, PREDICTIONS, ODDS)
    assert found["exact"] == 25.0 and found["f1"] == pytest.approx(100 * (5 / 3) / 4)
    assert (found["HasAns_exact"], found["NoAns_exact"]) == (0.0, 50.0)
    assert (found["best_exact"], found["best_exact_thresh"]) == (50.0, 0.0)
    assert found["best_f1"] == pytest.approx(100 * (8 / 3) / 4) and found["best_f1_thresh"] == -3.0
    assert squad_scores(SQUAD2, PREDICTIONS, ODDS, null_threshold=-3.0)["f1"] == pytest.approx(found["best_f1"])


def test_threshold_is_exceeded_not_reached() -> None:
    # at 1, b's own odds, b is answered: right; only d is not
    found = squad_scores(SQUAD2, PREDICTIONS, ODDS, null_threshold=1.0)
    assert (found["exact"], found["HasAns_exact"]) == (50.0, 50.0)


def test_predictions_that_are_none_cost_nothing() -> None:
    # c says nothing: from 2, a +0 = 2, c +0 = 2, b +1 = 3 (the best), d -1
    found = squad_scores(SQUAD2, PREDICTIONS | {"c": ""}, ODDS)
    assert (found["best_exact"], found["best_exact_thresh"]) == (75.0, 1.0)


def test_missing_predictions_count_as_wrong() -> None:
    found = squad_scores(SQUAD2, {"b": "green", "c": ""}, {"b": -1.0, "c": 1.0})
    assert (found["exact"], found["HasAns_exact"], found["NoAns_exact"], found["total"]) == (50.0, 50.0, 50.0, 4)
    assert (found["best_exact"], found["best_exact_thresh"]) == (50.0, -1.0)
    with pytest.raises(WideNetError, match="null odds lack the question 'c'"):
        squad_scores(SQUAD2, {"b": "green", "c": ""}, {"b": -1.0})


def test_squad2_drops_references_without_words() -> None:
    assert squad_scores([question("a", "the", "cat")], {"a": ""}, {"a": 0.0})["exact"] == 0.0
    assert squad_scores([question("a", "the")], {"a": ""}, {"a": 0.0})["exact"] == 100.0
    assert squad_scores([question("a", "the", "cat")], {"a": "A"})["exact_match"] == 100.0  # the script of 1.1


def test_all_are_of_one_kind() -> None:
    found = squad_scores(SQUAD2[2:], {"c": "", "d": ""})
    assert found == {"exact": 100, "f1": 100, "total": 2, "NoAns_exact": 100, "NoAns_f1": 100, "NoAns_total": 2}
    assert "NoAns_exact" not in squad_scores(SQUAD2[:2], PREDICTIONS, ODDS)


def test_nothing_to_score() -> None:
    with pytest.raises(WideNetError, match="no questions"):
        squad_scores([], {})
