"""From a finished run to its model card (README.md): every number is one of ``metrics.json``."""

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from widenet.config import WideNetConfig, WideNetVisionConfig
from widenet.models.card import (
    NEEDED,
    PAPER,
    PLACE,
    base_model_of,
    describe,
    is_public,
    license_of,
    loading,
    make_card,
    markdown_table,
    save_card,
)
from widenet.models.heads import head_of
from widenet.models.presets import list_models
from widenet.reports.markup import duration
from widenet.reports.sections import max_length, measured
from widenet.runs.run import Run
from widenet.tasks import TASKS, Task, find_task, metric_of


def write_card(folder: Path) -> Path:
    """Write a run's model card, ``README.md`` in its folder, in place of one that is there; return its path.

    Args:
        folder: a run folder with ``config.json`` and ``metrics.json``.

    Raises:
        WideNetError: the run is missing or damaged.
        OSError: the card cannot be written.
    """
    run = Run(folder)
    metrics, config = run.metrics, run.config
    task, kind = find_task(metrics["task"]), (config.architectures or [""])[0]
    head = head_of(kind)
    pipeline = head.pipeline if head else task.pipeline
    model = str(metrics["model"]["name"])
    title = f"{metrics['recipe']} · {Path(model).name}"
    hub, results = _results(metrics, task, pipeline)
    sections = {
        "": f"{describe(config)}\n\n{PAPER}",
        "Results": _scores(metrics, task),
        "Sizes": _sizes(metrics, task, max_length(run)),
        "Use": _use(run, kind),
        "Data": _data(metrics, task),
        "Training": _training(metrics, run.recipe_text),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(metrics, task, config, max_length(run))),
    }
    headline = [metric_of(task, name) for name in metrics["headline"]]
    card = make_card(
        title,
        config,
        pipeline,
        sections,
        datasets=[hub] if hub else None,
        metrics=list(dict.fromkeys(metric.hub or metric.name for metric in headline)),
        model_name=title,
        eval_results=results or None,
        **({} if model in list_models() else license_of(model) | base_model_of(model)),
    )
    return save_card(card, folder)


def _results(metrics: dict[str, Any], task: type[Task], pipeline: str | None) -> tuple[str | None, list[EvalResult]]:
    """Return the data set's name on the hub, where it has one, and every result as it was recorded."""
    split = metrics.get("split") or {}
    source = str(split.get("source"))
    name, _, config = source.removeprefix("hf:").partition(":")
    hub = name if source.startswith("hf:") or is_public(name) else None
    name = hub or Path(source).name
    parts, found = measured(metrics, task)
    return hub, [
        EvalResult(
            task_type=pipeline or task.name,
            dataset_type=name,
            dataset_name=name,
            dataset_config=(config or None) if hub else None,
            dataset_split=part,
            metric_type=metric.hub or metric.name,
            metric_name=metric.title,
            metric_value=value,
        )
        for part, values in parts.items()
        for metric in found
        if isinstance(value := values.get(metric.name), int | float) and math.isfinite(value)
    ]


def _use(run: Run, kind: str) -> str:
    words = run.head_task.words if _has_task(run) else None
    if words is None or not words.usage:
        return f"{NEEDED}\n\n{loading(kind)}\n\n{PLACE}"
    code = f"```python\nimport widenet  # registers the model\n{words.usage}\n```"
    command = f"`widenet.Run` reads folders alone. On the command line: `widenet predict . {words.sample}`."
    return f"{NEEDED}\n\n{code}\n\n{PLACE} {command}"


def _has_task(run: Run) -> bool:
    kinds = {task.model_class.__name__ for task in TASKS.values() if task.model_class is not None}
    return (run.config.architectures or [""])[0] in kinds


def _scores(metrics: dict[str, Any], task: type[Task]) -> str:
    parts, found = measured(metrics, task)
    rows = [[metric.title, *(metric.text(values.get(metric.name)) for values in parts.values())] for metric in found]
    tested = next(iter(metrics["test"].values())).get("examples")
    on = f"Tested on {tested:,} {task.words.examples}.\n\n" if tested else ""
    return on + markdown_table([["", *parts], *rows])


def _sizes(metrics: dict[str, Any], task: type[Task], length: int | None) -> str:
    of = f" of {length:,} tokens" if length else ""
    labels = {"parameters": "parameters", "flops": f"FLOPs of one {task.words.one}{of}"}
    model = metrics["model"]
    rows = [
        [label, f"{model[key]:,}", f"{model[f'active_{key}']:,}"]
        for key, label in labels.items()
        if key in model and f"active_{key}" in model
    ]
    note = "Active is what one token uses: of a mixture, K of the E experts. A multiply-add counts as two FLOPs."
    return f"{markdown_table([['', 'all', 'active'], *rows])}\n\n{note}"


def _data(metrics: dict[str, Any], task: type[Task]) -> str:
    split, examples = metrics.get("split") or {}, task.words.examples
    origin = split.get("origin", {})
    rows = [
        [part, f"{size:,}", re.sub("^own", "the source's own", origin.get(part, "–"))]
        for part, size in split.get("sizes", {}).items()
    ]
    digest = f"Digest `{split.get('digest')}`: runs with the same one have the same {examples} in every part."
    return f"Source: `{split.get('source')}`.\n\n{markdown_table([['part', examples, 'from'], *rows])}\n\n{digest}"


def _training(metrics: dict[str, Any], recipe: str | None) -> str:
    training = metrics["training"]
    took = f"{training['steps']:,} steps ({training['epochs']:g} epochs) with seed {training['seed']} took "
    took += f"{duration(training['seconds'])}; the weights are those of epoch {training['best_epoch']:.6g}."
    made = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    made += f"; widenet's commit {metrics['commit']}" if metrics.get("commit") else ""
    parts = [took, f"Made with {made}."]
    if training.get("command"):
        parts.append(f"The command was\n\n```bash\n{training['command']}\n```")
    if recipe is not None:
        parts += [
            "In this folder the following line trains it again.",
            "```bash\nwidenet train recipe.yaml --output again\n```",
            "<details><summary>recipe.yaml, every value that was in force</summary>",
            f"````yaml\n{recipe.rstrip()}\n````",
            "</details>",
        ]
    return "\n\n".join(parts)


def _limits(metrics: dict[str, Any], task: type[Task], config: WideNetConfig, length: int | None) -> list[str]:
    limits = [
        f"One run with one seed ({metrics['training']['seed']}): how far another seed would end from it is not known.",
        "The validation part chose which weights were kept, and so flatters; the test part chose nothing.",
    ]
    if (metrics.get("split") or {}).get("origin", {}).get("test", "").startswith("held out"):
        limits.append(f"The test {task.words.examples} are held out of the same source; others may well be harder.")
    if isinstance(config, WideNetVisionConfig):
        limits.append(f"It sees {config.image_size}×{config.image_size} pixels.")
    elif length:
        limits.append(f"It reads {length:,} tokens at once.")
    limits += task.limits(metrics, config)
    first = next(iter(metrics["test"].values()))
    shares = [share for block in first.get("expert_load") or [] for share in block or []]
    if shares:
        limits.append(
            f"On the test {task.words.unit} the busiest expert of a block got {max(shares):.1%} of the assignments, "
            f"the idlest {min(shares):.1%}."
        )
    return limits
