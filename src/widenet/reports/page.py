"""From a run folder to the page: what is read, and the order of the sections."""

from pathlib import Path
from typing import Any

from widenet.config import WideNetConfig
from widenet.errors import WideNetError
from widenet.files import write_text
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
from widenet.runs.run import Run
from widenet.tasks import find_task


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write a run's page and return where it is.

    The page depends only on what the run folder holds. Whatever the folder lacks (logs, recipe, a
    mixture's expert load) is left out, and the page says so.

    Args:
        run: a run folder; of one that was interrupted, the page has what there is so far.
        output: the page; ``report.html`` in the run folder by default.

    Raises:
        WideNetError: the run is missing or damaged, or the page cannot be written.
    """
    text = _page(Run(run))
    output = output or run / "report.html"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
    except OSError as error:
        raise WideNetError(f"the report cannot be written to {output}: {error}") from error
    return output


def _page(run: Run) -> str:
    metrics = run.metrics if run.stored_metrics is not None or run.last_checkpoint() is None else _unfinished(run)
    config = _config(run)
    task = find_task(metrics["task"])
    name, model = str(metrics["recipe"]), str(metrics["model"]["name"])
    found = {  # None: not of this task
        "Scores": scores(metrics, task),
        "Seeds": seed_table(metrics, task),
        "Learning curves": learning_curves(
            run.path / "logs", config, task, metrics["headline"], metrics.get("training", {}).get("best_epoch")
        ),
        "Expert load": expert_load(metrics, task),
        "Accuracy by class": class_table(metrics),
        "Data": split_table(metrics, task),
        "Recipe": recipe_text(run.recipe_text),
        "Made with": origin_table(metrics),
    }
    sections = [section(title, content) for title, content in found.items() if content is not None]
    sections = [header(run, metrics, config), facts(run, metrics, task), *sections]
    return page(f"{name} · {model}", "\n".join(sections))


def _unfinished(run: Run) -> dict[str, Any]:
    """Return what can be said of a run that was interrupted."""
    recipe = run.recipe
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "model": {"name": recipe.model.name},
        "headline": [],
        "test": {},
        "interrupted": True,
    }


def _config(run: Run) -> WideNetConfig | None:
    """Return the configuration of a run's model; None where there is none, as beside the runs of several seeds."""
    return run.config if (run.model_folder / "config.json").is_file() else None
