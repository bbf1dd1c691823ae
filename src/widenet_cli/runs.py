"""Runs: evaluate, predict, compare, report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.inputs import read_inputs, text_or_file
from widenet_cli.options import Json, Overrides, RunFolder
from widenet_cli.show import print_json, print_table, quiet, warn


def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder for metrics.json.", show_default="RUN; with KEY=VALUE, none"),
    ] = None,
    json_: Json = False,
) -> None:
    """Test a run on its own test data, or on other data (data=...)."""
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
        typer.Argument(metavar="INPUT", help="Images, texts or questions; folders of them; @FILE with one a line."),
    ],
    top: Annotated[int, typer.Option(help="How many classes, words or answers to print for each input.")] = 3,
    pair: Annotated[
        str | None, typer.Option(help="The second text, for a model of text pairs.", show_default="none")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="The text that holds the answers, or @FILE.", show_default="none")
    ] = None,
    json_: Json = False,
) -> None:
    """Classify images or texts, fill in [MASK], answer questions."""
    quiet()
    from widenet.runs.run import Run

    opened = Run(run)
    words, reads_images = opened.head_task.words, "pixel_values" in opened.head_task.inputs
    chosen = read_inputs(inputs, reads_images)
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
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")], json_: Json = False
) -> None:
    """Put runs on the same data side by side."""
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
