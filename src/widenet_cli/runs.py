"""Runs: evaluate, predict, compare, report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.options import Json, Overrides, RunFolder
from widenet_cli.show import fail, print_json, print_table, quiet, warn

# What metrics.json holds besides the result of a test.
OF_TRAINING = {
    *("parameters", "active_parameters", "flops", "active_flops", "epochs", "steps", "best_epoch"),
    *("seconds", "outside_step_fraction", "tokens_per_second", "seed"),
}


def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Where metrics.json goes [default: RUN; with KEY=VALUE, nowhere].")
    ] = None,
    json_: Json = False,
) -> None:
    """Test a run on its data set's test part, or on the test part of other data (data=...)."""
    quiet()
    from widenet.training.evaluation import evaluate_run

    metrics = evaluate_run(run, overrides or [], output)
    if json_:
        print_json(metrics)
        return
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    tested = {key: value for key, value in numbers.items() if not key.startswith("validation_")}
    print_table([{key: value for key, value in tested.items() if key not in OF_TRAINING}], False)


def predict(
    run: RunFolder,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Image files, texts or questions.")],
    top: Annotated[int, typer.Option(help="Classes, words or answers to print for each.")] = 3,
    pair: Annotated[str | None, typer.Option(help="The second text, for a model of pairs.")] = None,
    context: Annotated[str | None, typer.Option(help="Where the answer stands: a text, or @FILE.")] = None,
    json_: Json = False,
) -> None:
    """Classify images or texts, fill in [MASK], or answer questions about --context; a line for each."""
    quiet()
    from widenet.convert.folder import task_of

    task = task_of(run)
    for name, value, fitting in (("pair", pair, "text-classification"), ("context", context, "question-answering")):
        if value is not None and task != fitting:
            fail(f"--{name} is for {fitting}, but {run} was trained for {task}")
    if task == "image-classification":
        from widenet.runs.predict import predict_images

        images = predict_images(run, inputs, top)
        rows: list[dict[str, Any]] = [
            {"image": each.image, "classes": _named("label", each.classes)} for each in images
        ]
    elif task == "question-answering":
        if context is None:
            fail(f"{run} answers questions about a text: give it with --context TEXT or --context @FILE")
        from widenet.runs.predict import predict_answers

        answers = predict_answers(run, inputs, text_or_file(str(context)), top)
        rows = [{"question": each.text, "answers": _named("answer", each.classes)} for each in answers]
    elif task == "pretraining":
        from widenet.runs.predict import predict_masks

        texts = predict_masks(run, inputs, top)
        rows = [{"text": each.text, "words": _named("word", each.classes)} for each in texts]
    else:
        from widenet.runs.predict import predict_texts

        texts = predict_texts(run, inputs, pair, top)
        rows = [
            {"text": each.text, "classes": _named("label", each.classes)}
            if each.value is None
            else {"text": each.text, "value": each.value}
            for each in texts
        ]
    if task in ("pretraining", "text-classification") and (cut := len({each.text for each in texts if each.cut})):
        warn(f"{cut} of {len(inputs)} texts are longer than the model reads and were cut")
    if json_:
        print_json(rows)
        return
    for row in rows:
        subject, found = row.values()
        if isinstance(found, list):
            found = "  ".join("{} {:.1%}".format(*each.values()) for each in found)
        else:
            found = f"{found:.4g}"
        print(f"{subject}: {found}")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")], json_: Json = False
) -> None:
    """Put runs on the same data side by side: accuracy, size, cost, time."""
    quiet()
    from widenet.runs.compare import compare_runs

    print_table(compare_runs(runs), json_)


def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write a self-contained HTML page about a run."""
    quiet()
    from widenet.reports import write_report

    print(write_report(run, output))


def _named(name: str, classes: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{name: text, "probability": value} for text, value in classes]


def text_or_file(value: str) -> str:
    """Return a text given as itself, or as @ and the name of its file."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{value[1:]} cannot be read: {error}")
