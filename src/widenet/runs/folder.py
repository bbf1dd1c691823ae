"""What a run folder holds, apart from the model: recipe, metrics, checkpoints."""

import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from widenet.errors import WideNetError
from widenet.recipes import Recipe, build_recipe, parse_yaml


def read_recipe(run: Path, overrides: list[str] | None = None) -> Recipe:
    """Return the recipe recorded in a run folder, with overrides applied.

    Raises:
        WideNetError: the folder holds no run, or an override does not fit.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        raise WideNetError(f"{run} is not a run folder: it has no recipe.yaml")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WideNetError(f"{file} cannot be read: {error}") from error
    return build_recipe(parse_yaml(text, str(file)), overrides or [])


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None."""
    found = {path.name.removeprefix("checkpoint-"): path for path in output.glob("checkpoints/checkpoint-*")}
    steps = sorted((step for step in found if step.isdecimal()), key=int, reverse=True)
    return next((found[step] for step in steps if _is_complete(found[step])), None)


def relocate(checkpoint: Path) -> None:
    """Let a checkpoint name the best one where it lies now: the run folder may have been moved."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] is not None:
        state["best_model_checkpoint"] = str(checkpoint.with_name(Path(state["best_model_checkpoint"]).name))
        write_json(file, state)


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)


def _is_complete(checkpoint: Path) -> bool:
    """Whether weights, optimizer and state can all be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt") as weights:
            weights.keys()
        return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"))
    except (OSError, ValueError, SafetensorError):
        return False
