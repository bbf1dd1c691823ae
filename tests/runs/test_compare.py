"""Comparing runs: the rows, how scores are shown, and that runs on different data are not put side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from widenet.errors import WideNetError
from widenet.runs.compare import as_text, compare_runs, headline_scores, score_rows
from widenet.runs.run import Run
from widenet.tasks import find_task


def write_run(run: Path, digest: str = "a" * 64, task: str = "image-classification", **metrics: Any) -> Path:
    run.mkdir(parents=True)
    common: dict[str, Any] = {"recipe": "tiny", "task": task, "headline": ["accuracy"], "test": {"": {}}}
    common |= {"model": {"name": "widenet-digits"}, "split": {"source": "digits", "seed": 0, "digest": digest}}
    (run / "metrics.json").write_text(json.dumps({**common, **metrics}))
    return run


def test_rows_are_in_order_with_none_for_what_is_not_recorded(tmp_path: Path) -> None:
    sizes = {"parameters": 191722, "active_parameters": 117418, "active_flops": 14636928}
    first = write_run(
        tmp_path / "first",
        test={"": {"accuracy": 0.75}},
        model={"name": "widenet-digits", "flops": 24000000, **sizes},
        training={"seconds": 90.5, "seed": 0, "steps": 10},
    )
    second = write_run(tmp_path / "second", test={"": {"accuracy": 0.5}})
    empty = dict.fromkeys(["parameters", "active_parameters", "active_flops", "seconds", "seed"])
    assert compare_runs([second, first]) == [
        {"name": "second", "model": "widenet-digits", "accuracy": 0.5, **empty},
        {"name": "first", "model": "widenet-digits", "accuracy": 0.75, **sizes, "seconds": 90.5, "seed": 0},
    ]


# of MNLI each part has its number; those of SQuAD 2.0 only split up the whole
MNLI = {"matched": {"accuracy": 0.5, "macro_f1": 0.25}, "mismatched": {"accuracy": 0.75}}
SQUAD = {"": {"f1": 60.0, "exact": 50.0}, "answerable": {"f1": 70.0}, "unanswerable": {"f1": 30.0}}


def test_headline_metrics_come_by_part(tmp_path: Path) -> None:
    assert headline_scores({"headline": ["accuracy"], "test": MNLI}) == {
        "matched accuracy": 0.5,
        "mismatched accuracy": 0.75,
    }
    assert headline_scores({"headline": ["f1", "exact"], "test": SQUAD}) == {"f1": 60.0, "exact": 50.0}
    asked = headline_scores({"headline": ["accuracy"], "test": MNLI}, ["macro_f1"])
    assert asked == {"matched macro_f1": 0.25, "mismatched macro_f1": None}


def test_the_headline_of_the_first_run_is_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", headline=["loss"], test={"": {"loss": 1.0, "accuracy": 0.5}})
    other = write_run(tmp_path / "other", test={"": {"accuracy": 0.75}})
    assert [row["loss"] for row in compare_runs([first, other])] == [1.0, None]


def test_score_rows_have_every_declared_metric_of_each_part() -> None:
    metrics = {"task": "text-classification", "test": {key: {**each, "examples": 20} for key, each in MNLI.items()}}
    assert score_rows(metrics) == [
        {"part": "matched", "examples": 20, "accuracy": 0.5, "macro_f1": 0.25},
        {"part": "mismatched", "examples": 20, "accuracy": 0.75},
    ]
    one = {"accuracy": 0.5, "class_accuracy": {"a": 1.0}, "expert_load": []}  # of these only a number is a score
    assert score_rows({"task": "image-classification", "test": {"": one}}) == [{"examples": None, "accuracy": 0.5}]
    parts = [row["part"] for row in score_rows({"task": "question-answering", "test": SQUAD})]
    assert parts == ["all", "answerable", "unanswerable"]


def test_scores_are_shown_by_their_metric() -> None:
    sentences = find_task("text-classification")
    row = {"name": "run", "matched accuracy": 0.875, "pearson": -0.25, "loss": 3.25, "seconds": 90.5}
    assert as_text(sentences, row) == {
        "name": "run",
        "matched accuracy": "87.50%",
        "Pearson correlation": "-0.250",
        "loss": "3.250",
        "seconds": 90.5,
    }
    assert as_text(find_task("question-answering"), {"f1": 60.0, "exact": None}) == {
        "F1": "60.00%",
        "exact match": "–",
    }


def test_no_runs_no_rows() -> None:
    assert compare_runs([]) == []


def test_folders_of_the_same_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "digits") for parent in ("a", "b")] + [write_run(tmp_path / "other")]
    assert [row["name"] for row in compare_runs(runs)] == [str(runs[0]), str(runs[1]), "other"]


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_run(tmp_path / "here"))
    assert compare_runs([Path(".")])[0]["name"] == "here"


def test_different_splits_are_refused_and_both_runs_named(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two"), write_run(tmp_path / "odd", digest="b" * 64)]
    with pytest.raises(WideNetError, match=r"one \(digits, aaaaaaaa\) and .*odd \(digits, bbbbbbbb\)") as caught:
        compare_runs(runs)
    assert "two" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_without_a_split_record_does_not_pass_as_the_same(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="no record of its split"):
        compare_runs([write_run(tmp_path / "one"), write_run(tmp_path / "old", split=None)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "evaluate"),
        ("{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        ("[1]", "not list"),
        ('{"accuracy": 0.5}', "no key 'test'.*widenet evaluate"),  # the flat form of old
    ],
)
def test_missing_or_damaged_metrics_are_one_line(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WideNetError, match=message) as caught:
        _ = Run(tmp_path).metrics
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="nowhere does not exist"):
        compare_runs([tmp_path / "nowhere"])
