"""What a task is: all that training, testing, predictions, report and card ask of one.

A task is one file in this folder. Its class names itself and is registered by that name when it is defined; another
package can bring tasks, too, by the entry point ``widenet.tasks`` (``docs/add-a-task.md``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from widenet.config import WideNetConfig
from widenet.convert.folder import head_in, read_config, read_description
from widenet.data.batch import Batch, as_is
from widenet.errors import WideNetError, unknown
from widenet.models.heads import head_of, register_head
from widenet.models.presets import create_config, list_models
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.recipes import Recipe, register_recipe
from widenet.tasks.metrics import Metric, Tally

TASKS: dict[str, type["Task"]] = {}  # filled by the definition of each class


@dataclass(frozen=True)
class Words:
    """How report, card and command line speak of a task.

    Attributes:
        examples: what the split and the test count: "questions".
        batch: what a batch holds, where that is something else: "windows".
        one: what the FLOPs are of: "window".
        data: what ``data=`` must name.
        input, answers, answer: the keys of a prediction: "image", "classes", "label".
        loss: caption of the loss in the report.
        usage: lines of Python that use a model in the current folder, for its card.
        sample: what stands behind ``widenet predict .`` in the card.
    """

    examples: str
    one: str
    data: str
    loss: str
    batch: str = ""
    input: str = ""
    answers: str = ""
    answer: str = ""
    usage: str = ""
    sample: str = ""

    @property
    def unit(self) -> str:
        """What a batch holds."""
        return self.batch or self.examples


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input.

    Attributes:
        input: an image's file, a text, or a question.
        answers: classes, words or answers with their probabilities, best first.
        value: the number that a regression predicts.
        cut: whether the input was longer than the model reads, and its end was left out.
    """

    input: str
    answers: list[tuple[str, float]] = field(default_factory=list)
    value: float | None = None
    cut: bool = False


class Task(ABC):
    """One recipe at work: its model, its batches, how they are scored, tested and used.

    Attributes:
        name: as recipes and ``metrics.json`` call it; a class without one is a base of others.
        recipe_class: what its recipes hold.
        model_class: what it trains; None where that depends on the model it starts from.
        auto_class: the Auto class of transformers that makes such a model.
        pipeline: the hub's name for what the model does.
        is_default: this is the head that ``create_model`` makes of a preset without ``task=``.
        metrics: all that its test and validation return, in the order in which they are shown.
        words: how to speak of it.
        recipe: what was asked for.
        model: what is trained.
        train_batches: a dataset whose ``__getitems__`` returns a whole batch of tensors.
        split: the record of how the data were split: ``source``, ``sizes``, ``digest`` and more.
        headline: names of the metrics that tell how good a model is, the first above all.
    """

    name: ClassVar[str]
    recipe_class: ClassVar[type[Recipe]]
    model_class: ClassVar[type[WideNetPreTrainedModel] | None] = None
    auto_class: ClassVar[Any] = None
    pipeline: ClassVar[str | None] = None
    is_default: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]]
    words: ClassVar[Words]
    inputs: ClassVar[tuple[str, ...]]  # what of a batch the model sees when it is tested
    options: ClassVar[dict[str, Any]] = {}  # what else the model is called with

    recipe: Recipe
    model: WideNetPreTrainedModel
    train_batches: Dataset
    split: dict[str, Any]
    headline: tuple[str, ...]
    test_parts: tuple[str, ...] = ("",)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            return
        if (there := TASKS.get(cls.name)) and there.__qualname__ != cls.__qualname__:
            raise WideNetError(f"the task {cls.name!r} is {there.__qualname__}; {cls.__qualname__} needs another name")
        TASKS[cls.name] = cls
        register_recipe(cls.name, cls.recipe_class)
        if cls.model_class is not None and head_of(cls.model_class) is None:
            register_head(
                cls.name, cls.model_class, pipeline=cls.pipeline, auto_class=cls.auto_class, default=cls.is_default
            )

    # ---- before and around training ----

    @classmethod
    @abstractmethod
    def check(cls, recipe: Recipe) -> None:
        """Find a mistake in the model's part of a recipe before data or weights are read."""

    @classmethod
    @abstractmethod
    def start(cls, recipe: Recipe) -> Self:
        """Read the data and make the model that the recipe names."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> WideNetPreTrainedModel:
        """Return the model in a folder.

        Raises:
            WideNetError: it is missing, damaged, or not of this task.
        """

    @classmethod
    @abstractmethod
    def load_processor(cls, folder: Path) -> Any:
        """Return the image processor or tokenizer in a folder.

        Raises:
            WideNetError: it is missing or damaged.
        """

    @classmethod
    @abstractmethod
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        """Read the data to test a model on.

        Raises:
            WideNetError: they do not fit the model.
        """

    @abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Save what turns raw input into the model's: image processor or tokenizer."""

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data before training starts, a line each."""
        return []

    @property
    def batch_multiple(self) -> int:
        """A training batch holds so many examples, or a multiple."""
        return 1

    # ---- training ----

    def forward(self, model: Any, batch: Batch, **options: Any) -> Any:
        """Return what a model makes of a batch, with ``loss`` and ``balance_loss`` in training."""
        return model(**batch, **self.options, **options)

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return how many predictions of a training batch are right, and of how many; of 0 where none can be."""
        return torch.zeros(()), 0

    def speed(self, examples: int, seconds: float) -> dict[str, Any]:
        """Return what else can be said of training with so many examples in so many seconds."""
        return {}

    # ---- validation and test ----

    @abstractmethod
    def batches(self, part: str) -> Dataset:
        """Return the batches of "validation" or of one of ``test_parts``, as evaluated."""

    @abstractmethod
    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        """Add a batch and what the model made of it to the sums or rows of a part."""

    @abstractmethod
    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the metrics of a part from what was added up."""

    @abstractmethod
    def select(self, scores: dict[str, Any]) -> float:
        """Return a number, the higher the better, that picks the checkpoint by its validation scores."""

    def evaluate(self, part: str) -> tuple[dict[str, Any], Tally]:
        """Run through a part of the data once: its scores, and all that was added up."""
        found = Tally(self.model.config)
        for batch, output in self.run_through(self.batches(part)):
            found.add_routing(output, len(next(iter(batch.values()))), batch.get("attention_mask"))
            self.measure(found, batch, output)
        return self.scores(found, part), found

    def validate(self) -> dict[str, float]:
        """Return the validation metrics; ``selection``, higher is better, picks the checkpoint."""
        scores, _ = self.evaluate("validation")
        return {**scores, "selection": self.select(scores)}

    def test(self) -> dict[str, dict[str, Any]]:
        """Return the metrics of each part of the test, "" where there is one, with the experts' load and speed."""
        tested = {}
        for part in self.test_parts:
            scores, found = self.evaluate(part)
            sizes = self.split["sizes"]
            tested[part] = {**scores, "examples": sizes[part or "test"], **found.routing()}
        return tested

    def run_through(self, batches: Dataset) -> Iterator[tuple[Batch, Any]]:
        """Yield every batch of a part, on the model's device, with the model's output for it.

        Batches are made by as many processes, and products in the precision, as in training.
        """
        self.model.eval()
        training, device = self.recipe.training, self.model.device
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
        loader = DataLoader(
            batches,
            training.eval_batch_size,
            num_workers=self.recipe.data.num_workers,
            collate_fn=as_is,
            generator=torch.Generator(),  # its own, or it would draw from the model's random numbers
        )
        for batch in loader:
            there = {key: value.to(device) for key, value in batch.items()}
            with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
                inputs = {key: there[key] for key in self.inputs if key in there}
                output = self.forward(self.model, inputs, output_routing=True)
            yield there, output

    def write_predictions(self, folder: Path) -> None:  # noqa: B027 (most tasks have none)
        """Write the last test's predictions, where a task has files for them."""

    # ---- use ----

    @classmethod
    @abstractmethod
    def predict(cls, model: Any, processor: Any, inputs: Sequence[str], *, top: int = 5) -> list[Prediction]:
        """Return what a model says of raw inputs; a task may take further keywords.

        Raises:
            WideNetError: an input cannot be read, or ``top`` is below 1.
        """

    @classmethod
    def prediction_options(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords of :meth:`predict` that follow from what a run recorded."""
        return {}

    @classmethod
    def limits(cls, metrics: dict[str, Any], config: WideNetConfig) -> list[str]:
        """Return what the card of a run says of its limits beyond what is true of every run, a line each."""
        return []


def find_task(name: object) -> type[Task]:
    """Return a task by its name.

    Raises:
        WideNetError: there is no such task.
    """
    if str(name) not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[str(name)]


def task_of(folder: Path) -> type[Task]:
    """Return the task that the model in a folder was made for, by its class.

    Raises:
        WideNetError: the folder is missing or damaged, or no task trains such a model.
    """
    read_config(folder)  # that it is one of ours
    kind = head_in(folder, read_description(folder)).model_class
    found = next((task for task in TASKS.values() if task.model_class is kind), None)
    if found is None:
        known = ", ".join(sorted({each.model_class.__name__ for each in TASKS.values() if each.model_class}))
        raise WideNetError(f"{folder} holds a {kind.__name__}; models for a task are {known}")
    return found


def metric_of(task: type[Task], name: str) -> Metric:
    """Return a task's metric by its name; one that it does not declare is shown as a plain number."""
    return next((metric for metric in task.metrics if metric.name == name), Metric(name, name.replace("_", " ")))


def preset_config(recipe: Recipe, config_class: type[WideNetConfig], **fields: Any) -> Any:
    """Return the configuration of the preset that a recipe names, with the recipe's and other overrides.

    Raises:
        WideNetError: there is no such preset, it is of another kind, or an override does not fit it.
    """
    name = str(recipe.model.name)
    if not isinstance(create_config(name), config_class):
        fitting = [preset for preset in list_models() if isinstance(create_config(preset), config_class)]
        raise WideNetError(f"recipe {recipe.name} cannot train {name}; it can train {', '.join(fitting)}")
    return create_config(name, **fields, **recipe.model.overrides)


def check_labels_open(recipe: Recipe) -> None:
    """Raise :class:`WideNetError` where a recipe sets what follows from the data."""
    for key in ("num_labels", "id2label", "label2id", "problem_type"):
        if key in recipe.model.overrides:
            raise WideNetError(f"model.{key} follows from the data; leave it out")


def label_names(class_names: list[str]) -> dict[str, Any]:
    """Return the config fields that name the classes."""
    return {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}


def check_labels(source: str, data_classes: list[str], config: WideNetConfig) -> None:
    """Raise :class:`WideNetError` where the classes of the data are not the model's."""
    model_classes = list((config.id2label or {}).values())
    if data_classes != model_classes:
        raise WideNetError(
            f"the labels of {source} do not match the model: the data have {_shorten(data_classes)}, "
            f"the model {_shorten(model_classes)}"
        )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} classes ({shown}{', …' if len(names) > 5 else ''})"


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder rather than a preset."""
    return name not in list_models() and (Path(name).expanduser().is_dir() or any(mark in name for mark in "./\\~"))


def bounded(loss: float) -> float:
    """Return a loss to break ties with: finite also in a run that diverged."""
    return loss if loss < 100 else 100.0


def best(probabilities: Tensor, names: list[str], top: int) -> list[tuple[str, float]]:
    """Return the most probable names of one prediction [C], best first."""
    found = probabilities.topk(min(top, len(names)))
    return [(names[index], value) for index, value in zip(found.indices.tolist(), found.values.tolist(), strict=True)]


def check_top(top: int) -> None:
    """Raise :class:`WideNetError` unless ``top`` is a number of answers."""
    if top < 1:
        raise WideNetError(f"top={top} must be at least 1")
