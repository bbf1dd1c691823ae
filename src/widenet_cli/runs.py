"""Runs: evaluate, predict, compare, report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.inputs import expand, readable_images, text_or_file
from widenet_cli.options import Json, Overrides, RunFolder
from widenet_cli.show import print_json, print_table, quiet, warn


def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where metrics.json goes.", show_default="RUN; with KEY=VALUE, nowhere"),
    ] = None,
    json_: Json = False,
) -> None:
    """Test a run on its data set's test part, or on the test part of other data (data=...)."""
    quiet()
    from widenet.runs.compare import as_text, score_rows
    from widenet.runs.evaluate import evaluate_run
    from widenet.tasks import find_task

    metrics = evaluate_run(run, overrides or [], output)
    if json_:
        return print_json(metrics)
    task = find_task(metrics["task"])
    print_table([as_text(task, row) for row in score_rows(metrics)])


def predict(
    run: RunFolder,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders of them, texts or questions; @FILE: a line each."),
    ],
    top: Annotated[int, typer.Option(help="Classes, words or answers to print for each.")] = 3,
    pair: Annotated[str | None, typer.Option(help="The second text of a pair.", show_default="none")] = None,
    context: Annotated[
        str | None, typer.Option(help="Where the answer stands: a text, or @FILE.", show_default="none")
    ] = None,
    json_: Json = False,
) -> None:
    """Say what a model makes of images, texts or questions; a line for each."""
    quiet()
    from widenet.runs.run import Run

    opened = Run(run)
    words, reads_images = opened.head_task.words, "pixel_values" in opened.head_task.inputs
    chosen = expand(inputs, reads_images)
    if reads_images:
        chosen = readable_images(chosen)
    options: dict[str, Any] = {"pair": pair, "context": context and text_or_file(context)}
    given = {name: value for name, value in options.items() if value is not None}
    found = opened.predict(chosen, top=top, **given)
    if cut := len({each.input for each in found if each.cut}):
        warn(f"{cut} of {len(chosen)} {words.input}s are longer than the model reads and were cut")
    if json_:
        return print_json(
            [
                {words.input: each.input, "value": each.value}
                if each.value is not None
                else {
                    words.input: each.input,
                    words.answers: [{words.answer: name, "probability": value} for name, value in each.answers],
                }
                for each in found
            ]
        )
    for each in found:
        answers = "  ".join(f"{name} {probability:.1%}" for name, probability in each.answers)
        print(f"{each.input}: {answers if each.value is None else format(each.value, '.4g')}")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")], json_: Json = False
) -> None:
    """Put runs on the same data side by side: scores, size, cost, time."""
    quiet()
    from widenet.runs.compare import as_text, compare_runs
    from widenet.runs.run import Run
    from widenet.tasks import find_task

    rows = compare_runs(runs)
    if not json_:
        task = find_task(Run(runs[0]).metrics["task"])
        rows = [as_text(task, row) for row in rows]
    print_table(rows, json_)


def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="The page.", show_default="RUN/report.html")] = None,
) -> None:
    """Write a self-contained HTML page about a run."""
    quiet()
    from widenet.reports import write_report

    print(write_report(run, output))
