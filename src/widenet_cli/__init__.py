"""The command line: parse, call, print.

It lives beside the package, not in it, because importing ``widenet`` registers models with transformers
and so loads PyTorch; ``widenet --help`` must not wait for that. Commands import what they need.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

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

# What metrics.json holds besides the result of a test.
OF_TRAINING = {
    *("parameters", "active_parameters", "flops", "active_flops", "epochs", "steps", "best_epoch"),
    *("seconds", "outside_step_fraction", "tokens_per_second", "seed"),
}
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run a command; a user's mistake becomes one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except ValueError as error:
        from widenet.errors import WideNetError

        if not isinstance(error, WideNetError):
            raise
        _stop(str(error), EXIT_USER_ERROR)
    except Exception as error:
        # What the command line itself refuses. Its exceptions moved from click into typer, so by what they can do.
        if type(error).__name__ == "Abort":
            _stop("interrupted", EXIT_INTERRUPTED)
        if not hasattr(error, "format_message"):
            raise
        if not (message := error.format_message().strip()):  # no arguments: the help has been shown
            sys.exit(EXIT_USER_ERROR)
        _stop(" ".join(message.split()), EXIT_USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int) -> NoReturn:
    print(f"widenet: {message}", file=sys.stderr)
    sys.exit(code)


@app.command()
def models(
    json_: Json = False,
    paper: Annotated[bool, typer.Option("--paper", help="Every row of the paper's Tables 1 to 5.")] = False,
) -> None:
    """List every preset: exact parameters, the published figure, FLOPs per image or text."""
    from widenet.models.tables import describe_paper, describe_presets

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
    seeds: Annotated[int, typer.Option(help="Train so many seeds, from seed= upwards, and report medians.")] = 1,
) -> None:
    """Train a recipe into a run folder."""
    _train(recipe, overrides or [], output, resume, overwrite, seeds)


def _train(
    recipe: str,
    overrides: list[str],
    output: Path | None,
    resume: bool = False,
    overwrite: bool = False,
    seeds: int = 1,
) -> None:
    _quiet()
    from widenet.recipes import load_recipe
    from widenet.runs.folder import last_checkpoint
    from widenet.training.progress import format_metrics
    from widenet.training.run import Interrupted
    from widenet.training.run import train as train_recipe
    from widenet.training.seeds import train_seeds

    loaded = load_recipe(recipe, overrides)
    folder = output or Path("runs") / loaded.name
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "console": _console()}
    try:
        metrics = train_recipe(loaded, folder, **how) if seeds == 1 else train_seeds(loaded, folder, seeds, **how)
    except (Interrupted, KeyboardInterrupt):
        words = ["widenet", "train", recipe, *overrides, "--output", str(folder)]
        words += ["--resume"] if seeds == 1 else ["--seeds", str(seeds), "--resume"]
        saved = any(last_checkpoint(run) for run in (folder, *folder.glob("seed-*")))
        hint = f"the run is saved. To go on: {shlex.join(words)}" if saved else "nothing was saved"
        print(f"interrupted; {hint}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    from widenet.reports import write_report

    for run in [folder] if seeds == 1 else [folder / f"seed-{seed}" for seed in metrics["seeds"]]:
        write_report(run)
    unit = next(key for key in metrics if key.startswith("test_")).removeprefix("test_")
    parts = [part for part in metrics["split"]["sizes"] if f"{part}_loss" in metrics] or [""]  # of MNLI, two
    reached = "  ".join(
        format_metrics({f"{part} {key}".strip(): metrics[f"{part}_{key}".strip("_")] for key in metrics["headline"]})
        for part in parts
    )
    print(
        f"test {reached} on {metrics[f'test_{unit}']:,} {unit}, {metrics['parameters']:,} parameters, "
        f"{metrics['seconds']:.0f} s{f' (medians of {seeds} seeds)' if seeds > 1 else ''}; the run is in {folder}"
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
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    tested = {key: value for key, value in numbers.items() if not key.startswith("validation_")}
    _table([{key: value for key, value in tested.items() if key not in OF_TRAINING}], False)


@app.command()
def predict(
    run: Run,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Image files, texts or questions.")],
    top: Annotated[int, typer.Option(help="Classes, words or answers to print for each.")] = 3,
    pair: Annotated[str | None, typer.Option(help="The second text, for a model of pairs.")] = None,
    context: Annotated[str | None, typer.Option(help="Where the answer stands: a text, or @FILE.")] = None,
    json_: Json = False,
) -> None:
    """Classify images or texts, fill in [MASK], or answer questions about --context; a line for each."""
    _quiet()
    from widenet.convert.folder import task_of

    task = task_of(run)
    for name, value, fitting in (("pair", pair, "text-classification"), ("context", context, "question-answering")):
        if value is not None and task != fitting:
            _fail(f"--{name} is for {fitting}, but {run} was trained for {task}")
    if task == "image-classification":
        from widenet.runs.predict import predict_images

        images = predict_images(run, inputs, top)
        rows: list[dict[str, Any]] = [
            {"image": each.image, "classes": _named("label", each.classes)} for each in images
        ]
    elif task == "question-answering":
        if context is None:
            _fail(f"{run} answers questions about a text: give it with --context TEXT or --context @FILE")
        from widenet.runs.predict import predict_answers

        answers = predict_answers(run, inputs, _text_or_file(str(context)), top)
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
        print(f"widenet: {cut} of {len(inputs)} texts are longer than the model reads and were cut", file=sys.stderr)
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        subject, found = row.values()
        if isinstance(found, list):
            found = "  ".join("{} {:.1%}".format(*each.values()) for each in found)
        else:
            found = f"{found:.4g}"
        print(f"{subject}: {found}")


@app.command()
def widen(
    source: Annotated[str, typer.Argument(help="A dense model: a folder, or its name on the hub or in timm.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --distill, any value of its recipe."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option(help="The new model folder.")],
    experts: Annotated[int, typer.Option(help="Experts.")] = 4,
    top_k: Annotated[int, typer.Option(help="Experts for each token.")] = 2,
    init: Annotated[
        str,
        typer.Option(
            help="What experts are made of: spread, blocks, average, first, middle, last or a block's index."
        ),
    ] = "spread",
    attention: Annotated[
        str, typer.Option(help="Which attention is shared: average, first, middle, last or a block's index.")
    ] = "middle",
    router: Annotated[
        str, typer.Option(help="Where tokens go: random, or blocks: to their block's. auto: blocks where they can.")
    ] = "auto",
    group_size: Annotated[
        int | None, typer.Option(help="Blocks that share attention and experts [default: all].")
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise on the experts' weights, relative to theirs.")] = 0.01,
    normalize_gates: Annotated[bool, typer.Option(help="Let a token's gates sum to 1.")] = True,
    task: Annotated[str | None, typer.Option(help="What for [default: what the source is for].")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and the routers.")] = 0,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read weights that are a pickle.")] = False,
    distill: Annotated[
        str | None, typer.Option(metavar="DATA", help="Then let it learn from the source, on text or images.")
    ] = None,
    json_: Json = False,
) -> None:
    """Turn a dense BERT, ALBERT, ViT or DeiT into a WideNet, ready to be fine-tuned."""
    _quiet()
    options: dict[str, Any] = {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "experts": int(init) if init.isdecimal() else init,
        "attention": int(attention) if attention.isdecimal() else attention,
        "router": router,
        "group_size": group_size,
        "noise": noise,
        "normalize_gates": normalize_gates,
        "task": task,
        "allow_pickle": allow_pickle,
    }
    if distill is not None:
        if json_:
            _fail("--json is for the table of sizes, which --distill leaves out; its figures are in metrics.json")
        from widenet.convert.sources import find_source, reads_images

        recipe = "distill-images" if reads_images(find_source(source)) else "distill-text"
        values = {"data": distill, "model": source, "seed": seed}
        values |= {f"widen.{name}": "null" if value is None else value for name, value in options.items()}
        return _train(recipe, [*(f"{key}={value}" for key, value in values.items()), *(overrides or [])], output)
    if overrides:
        _fail(f"{overrides[0]} is for the recipe of --distill, which is not given")
    from widenet.convert.widen import widen_folder

    counts = widen_folder(source, output, **options, seed=seed)
    _table([{"model": name, **each} for name, each in counts.items()], json_)


@app.command()
def export(
    run: Run,
    output: Annotated[Path, typer.Option(help="The ONNX file, *.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store large weights in 8 bits, and multiply in 8.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json_: Json = False,
) -> None:
    """Write a model as one ONNX file, each shared weight once, for ONNX Runtime."""
    _quiet()
    from widenet.convert.export import export_onnx

    export_onnx(run, output, int8=int8, overwrite=overwrite)
    sizes = {str(output): [output], f"{run}/model.safetensors": list(run.glob("model*.safetensors"))}
    rows = [{"file": name, "bytes": sum(file.stat().st_size for file in files)} for name, files in sizes.items()]
    _table(rows, json_)


@app.command()
def report(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="The page [default: RUN/report.html].")] = None,
) -> None:
    """Write a self-contained HTML page about a run."""
    _quiet()
    from widenet.reports import write_report

    print(write_report(run, output))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")], json_: Json = False
) -> None:
    """Put runs on the same data side by side: accuracy, size, cost, time."""
    _quiet()
    from widenet.runs.compare import compare_runs

    _table(compare_runs(runs), json_)


def _named(name: str, classes: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{name: text, "probability": value} for text, value in classes]


def _text_or_file(value: str) -> str:
    """Return a text given as itself, or as @ and the name of its file."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{value[1:]} cannot be read: {error}")


def _fail(message: str) -> NoReturn:
    from widenet.errors import WideNetError

    raise WideNetError(message)


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
        return f"{value:.2%}" if column.endswith(("accuracy", "macro_f1")) else f"{value:,.4g}"
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
