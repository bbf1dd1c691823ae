"""From and to other formats: widen, export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.options import Json, RunFolder
from widenet_cli.show import fail, print_table, quiet
from widenet_cli.train import train_recipe


def widen(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A dense model: a folder, or its name on the hub or in timm.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="With --distill, any value of its recipe."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option(help="The new model folder.")],
    experts: Annotated[int, typer.Option(help="The number of experts.")] = 4,
    top_k: Annotated[int, typer.Option(help="Experts for each token.")] = 2,
    init: Annotated[
        str,
        typer.Option(help="The blocks that become experts: spread, blocks, average, first, middle, last or an index."),
    ] = "spread",
    attention: Annotated[
        str, typer.Option(help="The block whose attention is shared: average, first, middle, last or an index.")
    ] = "middle",
    router: Annotated[
        str,
        typer.Option(
            help="Where tokens go at first: random; blocks, to their block's expert; auto, blocks if possible."
        ),
    ] = "auto",
    group_size: Annotated[
        int | None, typer.Option(help="How many blocks share attention and experts.", show_default="all")
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise on the experts' weights, relative to their size.")] = 0.01,
    normalize_gates: Annotated[bool, typer.Option(help="Divide a token's gates by their sum.")] = True,
    task: Annotated[str | None, typer.Option(help="The task of the new model.", show_default="the source's")] = None,
    seed: Annotated[int, typer.Option(help="The seed of the noise and of the routers' weights.")] = 0,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read weights in pickle format, too.")] = False,
    distill: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Then train it on these texts or images, the source as teacher.", show_default="none"
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Turn a dense BERT, ALBERT, ViT or DeiT into a WideNet."""
    quiet()
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
            fail("--json is for the table of sizes, which --distill leaves out; its figures are in metrics.json")
        from widenet.convert.sources import find_source, reads_images

        recipe = "distill-images" if reads_images(find_source(source)) else "distill-text"
        values = {"data": distill, "model": source, "seed": seed}
        values |= {f"widen.{name}": "null" if value is None else value for name, value in options.items()}
        return train_recipe(recipe, [*(f"{key}={value}" for key, value in values.items()), *(overrides or [])], output)
    if overrides:
        fail(f"{overrides[0]} is for the recipe of --distill, which is not given")
    from widenet.convert.widen import widen_folder

    counts = widen_folder(source, output, **options, seed=seed)
    print_table([{"model": name, **each} for name, each in counts.items()], json_)


def export(
    run: RunFolder,
    output: Annotated[Path, typer.Option(help="The new file, *.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store and multiply large weights in 8 bits.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json_: Json = False,
) -> None:
    """Write a model as one ONNX file, for ONNX Runtime."""
    quiet()
    from widenet.convert.export import export_onnx

    export_onnx(run, output, int8=int8, overwrite=overwrite)
    sizes = {str(output): [output], f"{run}/model.safetensors": list(run.glob("model*.safetensors"))}
    rows = [{"file": name, "bytes": sum(file.stat().st_size for file in files)} for name, files in sizes.items()]
    print_table(rows, json_)
