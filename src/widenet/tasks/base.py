"""What the training loop asks of a task, and what all tasks share in testing a model."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from widenet.config import WideNetConfig
from widenet.data.batch import Batch, as_is
from widenet.errors import WideNetError
from widenet.models.presets import create_config, list_models
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.recipes import Recipe


class Task(ABC):
    """One recipe at work: its model, its batches, how they are scored and tested.

    Attributes:
        recipe: what was asked for.
        model: what is trained.
        train_batches: a dataset whose ``__getitems__`` returns a whole batch of tensors.
        split: the record of how the data were split: ``source``, ``sizes``, ``digest`` and more.
    """

    unit: ClassVar[str]  # what a batch holds, in words: "images"
    examples: ClassVar[str]  # what the split counts, mostly the same
    headline: tuple[str, ...]  # the metrics that tell how good a model is, the first above all
    inputs: ClassVar[tuple[str, ...]]  # what of a batch the model sees when it is tested
    options: ClassVar[dict[str, Any]] = {}  # what else the model is called with
    batch_multiple: ClassVar[int] = 1  # a training batch holds so many, or a multiple

    recipe: Recipe
    model: WideNetPreTrainedModel
    train_batches: Dataset
    split: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data before training starts, a line each."""
        return []

    @classmethod
    @abstractmethod
    def check(cls, recipe: Recipe) -> None:
        """Find a mistake in the model's part of a recipe before the data are read."""

    @classmethod
    @abstractmethod
    def start(cls, recipe: Recipe) -> Self:
        """Read the data and make the model that the recipe names."""

    @classmethod
    @abstractmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        """Read the data and load the model from a run or model folder, to test it.

        Raises:
            WideNetError: they do not fit each other.
        """

    def forward(self, model: Any, batch: Batch, **options: Any) -> Any:
        """Return what a model makes of a batch, with ``loss`` and ``balance_loss`` in training."""
        return model(**batch, **self.options, **options)

    @abstractmethod
    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return how many predictions of a training batch are right, and of how many."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return the validation metrics; ``selection``, higher is better, picks the checkpoint."""

    @abstractmethod
    def test(self) -> dict[str, Any]:
        """Return the test metrics."""

    @abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Save what turns raw input into the model's: image processor or tokenizer."""

    def speed(self, examples: int, seconds: float) -> dict[str, Any]:
        """Return what else can be said of training with so many examples in so many seconds."""
        return {}

    def write_predictions(self, folder: Path) -> None:  # noqa: B027 (most tasks have none)
        """Write the last test's predictions, where a task has files for them."""

    def run_through(self, batches: Dataset) -> Iterator[tuple[Batch, Any]]:
        """Yield every batch of a part, on the model's device, with the model's output for it."""
        self.model.eval()
        # With a generator of its own, or it would draw from the model's random numbers.
        size, generator = self.recipe.training.eval_batch_size, torch.Generator()
        for batch in DataLoader(batches, size, collate_fn=as_is, generator=generator):
            there = {key: value.to(self.model.device) for key, value in batch.items()}
            with torch.no_grad():
                inputs = {key: there[key] for key in self.inputs if key in there}
                output = self.forward(self.model, inputs, output_routing=True)
            yield there, output


class RoutingTally:
    """How the experts share the work of many batches."""

    def __init__(self, config: WideNetConfig) -> None:
        self.config = config
        self.examples = 0
        self.balance = 0.0
        self.load: dict[int, Tensor] = {}  # block → assignments per expert [E]
        self.started = time.perf_counter()

    def update(self, output: Any, examples: int, mask: Tensor | None = None) -> None:
        """Add a batch of so many examples; ``mask`` [N, L] is zero for padding."""
        self.examples += examples
        self.balance += float(output.balance_loss) * examples
        for block, record in enumerate(output.routing):
            if record is not None:
                chosen = record.experts if mask is None else record.experts[mask.reshape(-1).bool()]
                sent = torch.bincount(chosen.flatten(), minlength=self.config.num_experts).cpu().double()
                self.load[block] = self.load.get(block, 0) + sent

    def metrics(self, unit: str) -> dict[str, Any]:
        """Return ``balance_loss`` (mean per routing operation; 1 is balanced), ``expert_load``, size and speed."""
        seconds = time.perf_counter() - self.started
        operations = sum(step.router is not None for step in self.config.depth_plan())
        shares = {block: (sent / sent.sum()).tolist() for block, sent in self.load.items()}
        return {
            "balance_loss": self.balance / self.examples / operations if operations else None,
            "expert_load": [shares.get(block) for block in range(self.config.num_hidden_layers)],
            f"test_{unit}": self.examples,
            f"{unit}_per_second": round(self.examples / seconds, 1),
        }


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
