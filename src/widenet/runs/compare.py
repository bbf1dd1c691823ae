"""Runs side by side: what each reached, at what size and cost."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from widenet.errors import WideNetError

COLUMNS = ("parameters", "active_parameters", "active_flops", "seconds", "seed")


def compare_runs(runs: list[Path]) -> list[dict[str, Any]]:
    """Return one row per run, in the order given.

    Args:
        runs: run folders, all tested on the same data.

    Returns:
        ``name`` (the folder's; the whole path where two folders share it), ``model``, the first run's
        headline metrics on the test part (``accuracy`` for images), ``parameters``, ``active_parameters``,
        ``active_flops``, training ``seconds`` and ``seed``. None stands for what a run has not recorded.

    Raises:
        WideNetError: a run has no readable metrics, or two runs were tested on different splits.
    """
    metrics = [read_metrics(run) for run in runs]
    for run, found in zip(runs, metrics, strict=True):
        if _digest(found) != _digest(metrics[0]):
            raise WideNetError(
                f"{runs[0]} ({_source(metrics[0])}) and {run} ({_source(found)}) were tested on different splits "
                "of the data; compare runs with the same data section and split_seed"
            )
    columns = ("model", *(metrics[0].get("headline", ["accuracy"]) if metrics else []), *COLUMNS)
    names = [run.resolve().name for run in runs]
    seen = Counter(names)
    return [
        {"name": name if seen[name] == 1 else str(run), **{column: found.get(column) for column in columns}}
        for name, run, found in zip(names, runs, metrics, strict=True)
    ]


def read_metrics(run: Path) -> dict[str, Any]:
    """Return what a run's ``metrics.json`` holds.

    Raises:
        WideNetError: the folder or its metrics are missing or damaged.
    """
    if not run.is_dir():
        raise WideNetError(f"run folder {run} does not exist")
    file = run / "metrics.json"
    if not file.is_file():
        raise WideNetError(f"{run} has no metrics.json; train it to its end or run `widenet evaluate` on it first")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WideNetError(f"{file} cannot be read: {error}") from error
    if not isinstance(metrics, dict):
        raise WideNetError(f"{file} holds no metrics: it must be a JSON object, not {type(metrics).__name__}")
    return metrics


def _digest(metrics: dict[str, Any]) -> Any:
    return (metrics.get("split") or {}).get("digest")


def _source(metrics: dict[str, Any]) -> str:
    split = metrics.get("split") or {}
    return f"{split['source']}, {str(split.get('digest'))[:8]}" if "source" in split else "no record of its split"
