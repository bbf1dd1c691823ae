"""Comparing runs: the rows, and that runs on different data are not put side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from widenet.errors import WideNetError
from widenet.runs.compare import compare_runs, read_metrics


def write_run(run: Path, digest: str = "a" * 64, **metrics: Any) -> Path:
    run.mkdir(parents=True)
    split = {"source": "digits", "seed": 0, "digest": digest}
    (run / "metrics.json").write_text(json.dumps({"model": "widenet-digits", "split": split, **metrics}))
    return run


def test_rows_are_in_order_with_none_for_what_is_not_recorded(tmp_path: Path) -> None:
    sizes = {"parameters": 191722, "active_parameters": 117418, "active_flops": 14636928}
    first = write_run(tmp_path / "first", accuracy=0.75, seconds=90.5, seed=0, **sizes)
    second = write_run(tmp_path / "second", accuracy=0.5)
    empty = dict.fromkeys(["parameters", "active_parameters", "active_flops", "seconds", "seed"])
    assert compare_runs([second, first]) == [
        {"name": "second", "model": "widenet-digits", "accuracy": 0.5, **empty},
        {"name": "first", "model": "widenet-digits", "accuracy": 0.75, **sizes, "seconds": 90.5, "seed": 0},
    ]


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
    [(None, "evaluate"), ("{", "cannot be read"), (b"\xff\xfe", "cannot be read"), ("[1]", "not list")],
)
def test_missing_or_damaged_metrics_are_one_line(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WideNetError, match=message) as caught:
        read_metrics(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="nowhere does not exist"):
        compare_runs([tmp_path / "nowhere"])
