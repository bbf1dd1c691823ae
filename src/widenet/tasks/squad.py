"""From the scores of tokens to answers, and SQuAD's official metrics of them.

Axes: W windows, L tokens of the longest one.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from widenet.data.text.questions import Question
from widenet.data.text.windows import Windows
from widenet.errors import WideNetError
from widenet.files import write_json

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answers:
    """What a model answers, by the question's id.

    Attributes:
        predictions: the answers; "" says that the context holds none.
        nbest: the best answers, best first, each with ``text``, ``probability`` (among them),
            ``start_logit``, ``end_logit`` and, as characters of the context, ``start`` and ``end``; these
            are None for the answer "", which comes in addition.
        null_odds: score of "no answer" less that of the best answer; empty unless asked for.
    """

    predictions: dict[str, str] = field(default_factory=dict)
    nbest: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    null_odds: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write predictions.json, nbest_predictions.json and, where there are any, null_odds.json."""
        write_json(folder / "predictions.json", self.predictions)
        write_json(folder / "nbest_predictions.json", self.nbest)
        if self.null_odds:
            write_json(folder / "null_odds.json", self.null_odds)


def pick_answers(
    questions: list[Question],
    windows: Windows,
    start_logits: Tensor | np.ndarray,
    end_logits: Tensor | np.ndarray,
    n_best: int = 20,
    max_answer_length: int = 30,
    with_impossible: bool = False,
    null_threshold: float = 0.0,
) -> Answers:
    """Return the best answers to each question over all of its windows.

    As in BERT's script, an answer scores the sum of its two logits, starts at a token that its window
    shows with most context, and lies in one window. "No answer" scores the two logits of [CLS], in the
    window where they are least.

    Args:
        questions: those which the windows were made of.
        windows: as :func:`widenet.data.text.windows.make_windows` returns them.
        start_logits: [W, L], of each token to be the first of the answer; what is beyond a window is ignored.
        end_logits: [W, L], to be the last one.
        n_best: how many starts, ends and answers to look at.
        max_answer_length: tokens of an answer, at most.
        with_impossible: a question may have no answer, as in SQuAD 2.0.
        null_threshold: null odds above which the prediction is "no answer". With ``math.inf`` it is always
            an answer, which :func:`squad_scores` needs to find the best threshold.
    """
    starts, ends = (np.asarray(logits, dtype=np.float64) for logits in (start_logits, end_logits))  # [W, L]
    longest = max(map(len, windows.input_ids), default=0)
    if starts.shape != ends.shape or starts.ndim != 2 or len(starts) != len(windows) or starts.shape[1] < longest:
        raise WideNetError(
            f"logits of {len(windows)} windows of up to {longest} tokens are needed, not of shape "
            f"{starts.shape} and {ends.shape}"
        )
    by_question: list[list[int]] = [[] for _ in questions]
    for window, question in enumerate(windows.question.tolist()):
        by_question[question].append(window)
    answers = Answers()
    for question, own in zip(questions, by_question, strict=True):
        candidates = [
            candidate
            for window in own
            for candidate in _candidates(windows, window, starts, ends, n_best, max_answer_length)
        ]
        best: list[dict[str, Any]] = []
        seen: set[str] = set()
        for start_logit, end_logit, start, end in sorted(candidates, key=lambda c: c[0] + c[1], reverse=True):
            text = question.context[start:end]
            # the same words may stand in several windows and places; the best of them counts
            if text not in seen:
                seen.add(text)
                best.append(_entry(text, start_logit, end_logit, start, end))
            if len(best) == n_best:
                break
        prediction = best[0]["text"] if best else ""
        if with_impossible or not best:
            null = min(((float(starts[window, 0]), float(ends[window, 0])) for window in own), key=sum)
            entry = _entry("", *null, None, None)
            # a context without a token cannot hold an answer
            odds = _score(entry) - _score(best[0]) if best else 0.0
            best = sorted([*best, entry], key=_score, reverse=True)
            if with_impossible:
                answers.null_odds[question.id] = odds
                prediction = "" if odds > null_threshold else prediction
        weights = np.exp(np.array([_score(entry) for entry in best]) - _score(best[0]))
        for entry, weight in zip(best, weights / weights.sum(), strict=True):
            entry["probability"] = float(weight)
        answers.predictions[question.id] = prediction
        answers.nbest[question.id] = best
    return answers


def _entry(text: str, start_logit: float, end_logit: float, start: int | None, end: int | None) -> dict[str, Any]:
    return {"text": text, "start_logit": start_logit, "end_logit": end_logit, "start": start, "end": end}


def _score(entry: dict[str, Any]) -> float:
    return float(entry["start_logit"] + entry["end_logit"])


def _candidates(
    windows: Windows, window: int, starts: np.ndarray, ends: np.ndarray, n_best: int, max_answer_length: int
) -> list[tuple[float, float, int, int]]:
    """Return the answers that combine a window's best starts and ends: their logits, and their characters."""
    offsets, most = windows.offsets[window], windows.max_context[window]
    context = slice(windows.context_start[window], windows.context_start[window] + len(offsets))
    start, end = starts[window, context], ends[window, context]
    best_starts = np.argsort(np.where(most, -start, np.inf), kind="stable")[: min(n_best, int(most.sum()))]
    best_ends = np.argsort(-end, kind="stable")[:n_best]
    firsts = [(i, float(start[i]), int(offsets[i, 0])) for i in best_starts.tolist()]
    lasts = [(j, float(end[j]), int(offsets[j, 1])) for j in best_ends.tolist()]
    return [
        (start_logit, end_logit, begin, stop)
        for i, start_logit, begin in firsts
        for j, end_logit, stop in lasts
        if i <= j < i + max_answer_length
    ]


# ---- metrics ----


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and superfluous white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if two texts are the same once normalised, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def f1_score(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the words which two texts have in common.

    Where one of them has no words, it is 1 if neither has, else 0. That is the rule of SQuAD 2.0; the
    script of SQuAD 1.1 gives 0 even if an answer like "the" is exact.
    """
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    same = (Counter(predicted) & Counter(wanted)).total()
    return 2 * same / (len(predicted) + len(wanted))  # = 2pr / (p + r) for p = same / predicted, r = same / wanted


def squad_scores(
    questions: list[Question],
    predictions: dict[str, str],
    null_odds: dict[str, float] | None = None,
    null_threshold: float = 0.0,
) -> dict[str, float]:
    """Return the official metrics, in percent, by the names of the official scripts.

    Without impossible questions and null odds those of SQuAD 1.1: ``exact_match``, ``f1``; and ``total``.
    Otherwise those of SQuAD 2.0: ``exact``, ``f1``, ``total``; the same of the questions that have an
    answer, ``HasAns_…``, and of those that have none, ``NoAns_…``; and with null odds ``best_exact`` and
    ``best_f1``, which the thresholds ``best_exact_thresh`` and ``best_f1_thresh`` on them would give.

    The script of SQuAD 2.0 leaves out questions without a prediction; here, as in that of 1.1, they count
    as wrong, since a score over fewer questions is another score.

    Args:
        questions: the questions with their reference answers, of which the nearest one counts.
        predictions: answers by id; "" for none.
        null_odds: by id; where they are greater than `null_threshold`, the prediction counts as none.
        null_threshold: see above. For the best thresholds to mean anything, predictions should be answers,
            not "", whatever their odds.
    """
    if not questions:
        raise WideNetError("there are no questions to score")
    impossible = {question.id: question.impossible for question in questions}
    second = null_odds is not None or any(impossible.values())
    raw = {
        name: {question.id: _best(metric, question, predictions, second) for question in questions}
        for name, metric in (("exact", exact_match), ("f1", f1_score))
    }
    if not second:
        return {"exact_match": _percent(raw["exact"]), "f1": _percent(raw["f1"]), "total": len(questions)}
    answered = [name for name in impossible if name in predictions]
    if null_odds is None:
        scores = raw
    else:
        missing = next((name for name in answered if name not in null_odds), None)
        if missing is not None:
            raise WideNetError(f"null odds lack the question {missing!r}")
        none = {name for name in answered if null_odds[name] > null_threshold}
        scores = {
            metric: {name: float(impossible[name]) if name in none else score for name, score in values.items()}
            for metric, values in raw.items()
        }
    result: dict[str, float] = {}
    for prefix, chosen in (
        ("", list(impossible)),
        ("HasAns_", [name for name in impossible if not impossible[name]]),
        ("NoAns_", [name for name in impossible if impossible[name]]),
    ):
        if chosen:
            result |= {f"{prefix}{key}": _percent({name: scores[key][name] for name in chosen}) for key in raw}
            result[f"{prefix}total"] = len(chosen)
    if null_odds is not None:
        for key in raw:
            best = _best_threshold(raw[key], {name: null_odds[name] for name in answered}, impossible, predictions)
            result[f"best_{key}"], result[f"best_{key}_thresh"] = best
    return result


def _best(metric: Callable[[str, str], float], question: Question, predictions: dict[str, str], second: bool) -> float:
    """Return the score against the nearest reference; 0 for a question without a prediction."""
    if question.id not in predictions:
        return 0.0
    references = [text for text, _ in question.answers]
    if second:  # the script of 2.0 drops references like "the"; no reference at all means "no answer"
        references = [text for text in references if normalize_answer(text)] or [""]
    return max(metric(predictions[question.id], reference) for reference in references)


def _percent(scores: dict[str, float]) -> float:
    return 100.0 * math.fsum(scores.values()) / len(scores)


def _best_threshold(
    scores: dict[str, float], null_odds: dict[str, float], impossible: dict[str, bool], predictions: dict[str, str]
) -> tuple[float, float]:
    """Return the best score that a threshold on the null odds gives, in percent, and that threshold.

    The official search: at first every question is given no answer, which is right for the impossible
    ones; then, from the least odds up, one question after another is given its prediction. Its oddities
    are kept: the first threshold is called 0, and equal odds are told apart.
    """
    current = float(sum(impossible[name] for name in null_odds))
    best, threshold = current, 0.0
    for name in sorted(null_odds, key=lambda name: null_odds[name]):
        if not impossible[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[name]
    return 100.0 * best / len(scores), threshold
