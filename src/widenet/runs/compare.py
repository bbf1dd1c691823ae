"""Runs side by side: what each reached, at what size and cost."""

from collections import Counter
from pathlib import Path
from typing import Any

from widenet.errors import WideNetError
from widenet.runs.run import Run
from widenet.tasks import Task, find_task


def compare_runs(runs: list[Path]) -> list[dict[str, Any]]:
    """Return one row per run, in the order given.

    Args:
        runs: run folders, all tested on the same data.

    Returns:
        ``name`` (the folder's; the whole path where two folders share it), ``model``, the first run's
        headline metrics on the test (of several parts on each, ``matched accuracy``), ``parameters``,
        ``active_parameters``, ``active_flops``, training ``seconds`` and ``seed``. None stands for what a run has not
        recorded.

    Raises:
        WideNetError: a run has no readable metrics, or two runs were tested on different splits.
    """
    metrics = [Run(run).metrics for run in runs]
    for run, found in zip(runs, metrics, strict=True):
        if _digest(found) != _digest(metrics[0]):
            raise WideNetError(
                f"{runs[0]} ({_source(metrics[0])}) and {run} ({_source(found)}) were tested on different splits "
                "of the data; compare runs with the same data section and split_seed"
            )
    names = [run.resolve().name for run in runs]
    seen = Counter(names)
    return [
        {
            "name": name if seen[name] == 1 else str(run),
            "model": found.get("model", {}).get("name"),
            **headline_scores(found, metrics[0].get("headline")),
            **{key: found.get("model", {}).get(key) for key in ("parameters", "active_parameters", "active_flops")},
            **{key: found.get("training", {}).get(key) for key in ("seconds", "seed")},
        }
        for name, run, found in zip(names, runs, metrics, strict=True)
    ]


def headline_scores(metrics: dict[str, Any], headline: list[str] | None = None) -> dict[str, float | None]:
    """Return the headline metrics of each part of a test; parts that only split up the whole test are left out.

    Args:
        metrics: of a run.
        headline: which; the run's own by default.
    """
    parts = [""] if "" in metrics["test"] else list(metrics["test"])
    return {
        f"{part} {name}".strip(): metrics["test"][part].get(name)
        for part in parts
        for name in headline or metrics.get("headline", [])
    }


def score_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per part of a test: how many examples, and every metric that the task declares."""
    names = [metric.name for metric in find_task(metrics["task"]).metrics]
    several = len(metrics["test"]) > 1
    return [
        {
            **({"part": part or "all"} if several else {}),
            "examples": scores.get("examples"),
            **{name: scores[name] for name in names if name in scores},
        }
        for part, scores in metrics["test"].items()
    ]


def as_text(task: type[Task], row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its metrics as a person reads them, under their labels; other values stay."""
    known = {metric.name: metric for metric in task.metrics}
    shown = {}
    for key, value in row.items():
        part, _, name = key.rpartition(" ")
        metric = known.get(name)
        shown[f"{part} {metric.label}".strip() if metric else key] = metric.text(value) if metric else value
    return shown


def _digest(metrics: dict[str, Any]) -> Any:
    return (metrics.get("split") or {}).get("digest")


def _source(metrics: dict[str, Any]) -> str:
    split = metrics.get("split") or {}
    return f"{split['source']}, {str(split.get('digest'))[:8]}" if "source" in split else "no record of its split"
