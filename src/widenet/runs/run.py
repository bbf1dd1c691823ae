"""A run on disk: the one place that knows what a run folder holds, reads it and writes it.

    config.json, model.safetensors                 the model, in Hugging Face format
    preprocessor_config.json or tokenizer.json …   what turns raw input into the model's
    recipe.yaml                                    every value in force
    metrics.json                                   what it reached (``docs/runs.md``)
    README.md, report.html                         the model card and the report
    logs/, checkpoints/                            TensorBoard's, and resumable ones

A folder with a model alone is a run, too, as far as it goes: it has no recipe and no metrics. So is one whose training
was interrupted: its best checkpoint is its model.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from widenet.config import WideNetConfig
from widenet.convert.folder import read_config
from widenet.errors import WideNetError
from widenet.files import write_json, write_text
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.recipes import Recipe, build_recipe, parse_yaml
from widenet.tasks import TASKS, Prediction, Task, find_task, task_of

STATE = "trainer_state.json"  # in a checkpoint
COMMAND = "# made by: "  # what the first line of recipe.yaml begins with


class Run:
    """A run or model folder.

    Args:
        path: the folder. That it exists is checked when something is read from it.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # ---- what it holds ----

    @property
    def recipe(self) -> Recipe:
        """The recipe, with every value that was in force.

        Raises:
            WideNetError: the folder holds none, or it cannot be read.
        """
        return self.read_recipe()

    def read_recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """Return the recipe with ``key=value`` changes.

        Raises:
            WideNetError: the folder holds none, it cannot be read, or a change does not fit.
        """
        text = self.recipe_text
        if text is None:
            raise WideNetError(f"{self.path} is not a run folder: it has no recipe.yaml")
        return build_recipe(parse_yaml(text, str(self.path / "recipe.yaml")), overrides)

    @property
    def recipe_text(self) -> str | None:
        """``recipe.yaml`` as it stands there; None where there is none.

        Raises:
            WideNetError: it cannot be read.
        """
        file = self.path / "recipe.yaml"
        if not file.is_file():
            return None
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WideNetError(f"{file} cannot be read: {error}") from error

    @property
    def command(self) -> str | None:
        """The command line that began the run, where one did."""
        first = (self.recipe_text or "").partition("\n")[0]
        return first.removeprefix(COMMAND) if first.startswith(COMMAND) else None

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds.

        Raises:
            WideNetError: the folder or its metrics are missing, damaged, or of another form.
        """
        if not self.path.is_dir():
            raise WideNetError(f"run folder {self.path} does not exist")
        metrics = self.stored_metrics
        if metrics is None:
            hint = f"`widenet evaluate {self.path}` tests it and writes one"
            raise WideNetError(f"{self.path} has no metrics.json; {hint}")
        if "test" not in metrics:
            raise WideNetError(
                f"{self.path}/metrics.json has no key 'test': it is of the flat form that widenet 0.1 began with; "
                f"`widenet evaluate {self.path}` tests the run again and writes today's form"
            )
        return metrics

    @property
    def stored_metrics(self) -> dict[str, Any] | None:
        """``metrics.json`` in whatever form it has; None where there is none.

        Raises:
            WideNetError: it is damaged.
        """
        file = self.path / "metrics.json"
        if not file.is_file():
            return None
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WideNetError(f"{file} cannot be read: {error}") from error
        if not isinstance(metrics, dict):
            raise WideNetError(f"{file} holds no metrics: it must be a JSON object, not {type(metrics).__name__}")
        return metrics

    @property
    def task(self) -> type[Task]:
        """What the run was trained for, by its recipe; of a model folder, what the model's class is for."""
        return self.head_task if self.recipe_text is None else find_task(self.recipe.task)

    @property
    def head_task(self) -> type[Task]:
        """What its model can be used for: of a distilled model, the task of its head."""
        task = None if self.recipe_text is None else find_task(self.recipe.task)
        return task if task is not None and task.model_class is not None else task_of(self.model_folder)

    @property
    def config(self) -> WideNetConfig:
        """The model's configuration.

        Raises:
            WideNetError: it is missing or damaged.
        """
        return read_config(self.model_folder)

    @cached_property
    def model_folder(self) -> Path:
        """Where the model lies: the folder itself, or the best checkpoint of a run that was interrupted.

        Raises:
            WideNetError: there is neither.
        """
        if not self.path.is_dir():
            raise WideNetError(f"run folder {self.path} does not exist")
        if any(self.path.glob("model*.safetensors")) or not (self.path / "checkpoints").is_dir():
            return self.path
        last = self.last_checkpoint()
        if last is None:
            raise WideNetError(
                f"{self.path} has no model: training stopped before the first checkpoint; --overwrite starts it anew"
            )
        best = json.loads((last / STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
        return last if best is None else last.with_name(Path(best).name)

    @property
    def is_finished(self) -> bool:
        """Whether training went to its end, so that the folder itself holds the model."""
        return self.model_folder == self.path

    def model(self) -> WideNetPreTrainedModel:
        """Return the trained model, in evaluation mode; a distilled one with the head that it has.

        Raises:
            WideNetError: it is missing or damaged.
        """
        return self.task.load(self.model_folder).eval()

    def processor(self) -> Any:
        """Return the image processor or tokenizer.

        Raises:
            WideNetError: it is missing or damaged.
        """
        return self.task.load_processor(self.path)

    def predict(self, inputs: Sequence[str | Path], **options: Any) -> list[Prediction]:
        """Return what the model says of raw inputs, on an accelerator where there is one.

        Args:
            inputs: image files, texts or questions.
            **options: ``top``, how many answers to each (5); of pairs ``pair``, the second text; of questions
                ``context``, where the answer stands; and what else the task's ``predict`` takes.

        Raises:
            WideNetError: the run or an input cannot be read, or an option is not the task's.
        """
        task = self.head_task
        for name in options:
            if name not in signature(task.predict).parameters:
                fitting = [each.name for each in _tasks_with(name)]
                whose = f"{name} is for {' and '.join(fitting)}" if fitting else f"predict has no option {name}"
                raise WideNetError(f"{whose}, but {self.path} was trained for {task.name}")
        known = task.prediction_options(self.stored_metrics or {})
        model: Any = task.load(self.model_folder).eval()
        if torch.accelerator.is_available():
            model = model.to(torch.accelerator.current_accelerator())
        return task.predict(model, task.load_processor(self.path), [str(each) for each in inputs], **known | options)

    # ---- checkpoints ----

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here: a folder of the user's own may hold a ``recipe.yaml``, too."""
        begun = (self.path / "logs").is_dir() or (self.path / "config.json").exists()
        return (self.path / "recipe.yaml").exists() and begun

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that was written to its end, or None."""
        found = {path.name.removeprefix("checkpoint-"): path for path in self.path.glob("checkpoints/checkpoint-*")}
        steps = sorted((step for step in found if step.isdecimal()), key=int, reverse=True)
        return next((found[step] for step in steps if _is_complete(found[step])), None)

    # ---- writing ----

    def begin(self, recipe: Recipe, overwrite: bool = False, command: str | None = None) -> None:
        """Make the folder, in place of a run that it holds, and record the recipe.

        Args:
            recipe: what is trained.
            overwrite: replace the run that the folder holds.
            command: the command line that asked for it; one that began the run stays when it is resumed.

        Raises:
            OSError: it cannot be written.
        """
        if overwrite and self.path.exists():
            shutil.rmtree(self.path.resolve())  # of a link, what it points to
        self.path.resolve().mkdir(parents=True, exist_ok=True)
        first = (None if overwrite else self.command) or command
        write_text(self.path / "recipe.yaml", (f"{COMMAND}{first}\n" if first else "") + recipe.dump())
        self.__dict__.pop("model_folder", None)

    def save_model(self, model: Any) -> None:
        """Save the trained model.

        Raises:
            OSError: it cannot be written.
        """
        model.save_pretrained(self.path)
        mask = os.umask(0)
        os.umask(mask)
        for file in self.path.glob("model*.safetensors"):
            file.chmod(0o666 & ~mask)  # safetensors makes it for its owner alone
        self.__dict__.pop("model_folder", None)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Record what the run reached.

        Raises:
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "metrics.json", metrics)

    @staticmethod
    def relocate(checkpoint: Path) -> None:
        """Let a checkpoint name the best one where it lies now: the run folder may have been moved."""
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if state["best_model_checkpoint"] is not None:
            state["best_model_checkpoint"] = str(checkpoint.with_name(Path(state["best_model_checkpoint"]).name))
            write_json(checkpoint / STATE, state)


def _tasks_with(option: str) -> list[type[Task]]:
    return [task for task in TASKS.values() if option in signature(task.predict).parameters]


def _is_complete(checkpoint: Path) -> bool:
    """Whether weights, optimizer and state can all be read."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt") as weights:
            weights.keys()
        return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"))
    except (OSError, ValueError, SafetensorError):
        return False
