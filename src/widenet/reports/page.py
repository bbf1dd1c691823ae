"""From a run folder to the page: what is read, and the order of the sections."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.reports.curves import learning_curves
from widenet.reports.markup import page, section
from widenet.reports.sections import (
    class_table,
    expert_load,
    facts,
    header,
    origin_table,
    recipe_text,
    scores,
    seed_table,
    split_table,
)
from widenet.reports.words import IMAGES, words_of
from widenet.runs.compare import read_metrics


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write a run's page and return where it is.

    The page depends only on what the run folder holds. Whatever the folder lacks (logs, recipe, a
    mixture's expert load) is left out, and the page says so.

    Args:
        run: a run folder with ``metrics.json``.
        output: the page; ``report.html`` in the run folder by default.

    Raises:
        WideNetError: the run is missing or damaged, or the page cannot be written.
    """
    text = _page(run, read_metrics(run))
    output = output or run / "report.html"
    partial = output.with_name(f"{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WideNetError(f"the report cannot be written to {output}: {error}") from error
    return output


def _page(run: Path, metrics: dict[str, Any]) -> str:
    config = read_config(run)
    recipe = read_recipe_text(run)
    name, model = str(metrics.get("recipe") or run.resolve().name), str(metrics.get("model") or "unknown model")
    classes = class_table(metrics) if words_of(metrics) is IMAGES or metrics.get("class_accuracy") else None
    found = {  # None: not of this task
        "Scores": scores(metrics),
        "Seeds": seed_table(metrics),
        "Learning curves": learning_curves(run / "logs", config, metrics),
        "Expert load": expert_load(metrics),
        "Accuracy by class": classes,
        "Data": split_table(metrics),
        "Recipe": recipe_text(recipe),
        "Made with": origin_table(metrics),
    }
    sections = [section(title, content) for title, content in found.items() if content is not None]
    sections = [header(name, model, recipe, config), facts(metrics, recipe), *sections]
    return page(f"{name} · {model}", "\n".join(sections))


def read_config(run: Path) -> WideNetConfig | None:
    """Return the configuration of a run's model; None where there is none.

    Raises:
        WideNetError: it is damaged.
    """
    file = run / "config.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        is_text = values.get("model_type") == WideNetTextConfig.model_type
        return (WideNetTextConfig if is_text else WideNetVisionConfig).from_dict(values)
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise WideNetError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def read_recipe_text(run: Path) -> str | None:
    """Return the text of a run's ``recipe.yaml``; None where there is none.

    Raises:
        WideNetError: it cannot be read.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WideNetError(f"{file} cannot be read: {error}") from error
