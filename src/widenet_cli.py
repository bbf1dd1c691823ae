"""The command line: parse, call, print.

It lives beside the package, not in it, because importing ``widenet`` registers models with transformers
and so loads PyTorch; ``widenet --help`` must not wait for that. Commands import what they need.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="widenet",
    help="WideNet: transformers that go wider instead of deeper. Train, evaluate and use them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Any value of the recipe: data=, model=, seed=, epochs=, a.b.c="),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run or model folder.")]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run a command; a user's mistake becomes one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        from widenet.errors import WideNetError

        if not isinstance(error, WideNetError):
            raise
        print(f"widenet: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


@app.command()
def models(
    json_: Json = False,
    paper: Annotated[bool, typer.Option("--paper", help="Every row of the paper's Tables 1, 3, 4 and 5.")] = False,
) -> None:
    """List every preset: exact parameters, the published figure, FLOPs per image."""
    from widenet.analysis.tables import describe_paper, describe_presets

    _table(describe_paper() if paper else describe_presets(), json_)


@app.command()
def recipes(json_: Json = False) -> None:
    """List what can be trained."""
    from widenet.recipes import list_recipes, load_recipe

    found = [load_recipe(name) for name in list_recipes()]
    _table([{"recipe": r.name, "model": r.model.name, "description": r.description} for r in found], json_)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run folder [default: runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
) -> None:
    """Train a recipe into a run folder."""
    _quiet()
    from widenet.recipes import load_recipe
    from widenet.training.folder import last_checkpoint
    from widenet.training.run import Interrupted
    from widenet.training.run import train as train_recipe

    loaded = load_recipe(recipe, overrides or [])
    folder = output or Path("runs") / loaded.name
    try:
        metrics = train_recipe(loaded, folder, resume=resume, overwrite=overwrite, console=_console())
    except (Interrupted, KeyboardInterrupt):
        words = ["widenet", "train", recipe, *(overrides or []), "--output", str(folder), "--resume"]
        hint = f"the run is saved. To go on: {shlex.join(words)}" if last_checkpoint(folder) else "nothing was saved"
        print(f"interrupted; {hint}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    from widenet.analysis.report import write_report

    write_report(folder)
    print(
        f"test accuracy {metrics['accuracy']:.2%} on {metrics['test_images']:,} images, "
        f"{metrics['parameters']:,} parameters, {metrics['seconds']:.0f} s; the run is in {folder}"
    )


@app.command()
def evaluate(
    run: Run,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Where metrics.json goes [default: RUN; with KEY=VALUE, nowhere].")
    ] = None,
    json_: Json = False,
) -> None:
    """Test a run on its data set's test part, or on the test part of other data (data=...)."""
    _quiet()
    from widenet.training.evaluation import evaluate_run

    metrics = evaluate_run(run, overrides or [], output)
    if json_:
        print(json.dumps(metrics, indent=2, ensure_ascii=False))
        return
    wanted = ("accuracy", "top5_accuracy", "loss", "balance_loss", "test_images", "images_per_second")
    _table([{key: metrics[key] for key in wanted if metrics.get(key) is not None}], False)


@app.command()
def predict(
    run: Run,
    inputs: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(help="Classes to print for each image.")] = 3,
    json_: Json = False,
) -> None:
    """Classify images: the top classes with their probabilities, one line per image."""
    _quiet()
    from widenet.predict import predict_images

    found = predict_images(run, inputs, top)
    if json_:
        rows = [
            {
                "image": p.image,
                "classes": [{"label": name, "probability": value} for name, value in p.classes],
            }
            for p in found
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for prediction in found:
        classes = "  ".join(f"{name} {value:.1%}" for name, value in prediction.classes)
        print(f"{prediction.image}: {classes}")


@app.command()
def report(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write a self-contained HTML page about a run."""
    _quiet()
    from widenet.analysis.report import write_report

    print(write_report(run, output))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")], json_: Json = False
) -> None:
    """Put runs on the same data side by side: accuracy, size, cost, time."""
    _quiet()
    from widenet.analysis.compare import compare_runs

    _table(compare_runs(runs), json_)


def _table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    _console().print(table)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2%}" if column.endswith("accuracy") else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console() -> Any:
    from rich.console import Console

    # In a file or a pipe a line must not be cut at 80 columns.
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _quiet() -> None:
    """Keep libraries' progress bars and deprecation notes out of a person's terminal."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    main()
