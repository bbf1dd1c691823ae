"""Image classification."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import ViTImageProcessor

from widenet.checkpoints.folder import adapt_classifier, load_model, load_processor
from widenet.data.batches import Batch, Collator, EvalImages, SeededBatches, TrainImages, make_processor
from widenet.data.images import ImageData, ImageSet, load_images
from widenet.errors import WideNetError, unknown
from widenet.presets import create_config, list_models
from widenet.recipes import ImageRecipe, Recipe
from widenet.training.tasks.base import RoutingTally, Task, bounded
from widenet.vision import WideNetForImageClassification


class ImageClassification(Task):
    """Images in, classes out."""

    unit = "images"
    headline = ("accuracy",)
    inputs = ("pixel_values",)

    recipe: ImageRecipe
    model: WideNetForImageClassification

    def __init__(
        self, recipe: ImageRecipe, data: ImageData, model: WideNetForImageClassification, processor: ViTImageProcessor
    ) -> None:
        self.recipe, self.data, self.model, self.processor = recipe, data, model, processor
        self.split = data.split
        self.train_batches = SeededBatches(
            TrainImages(data.train, processor, recipe.data.augment),
            Collator(recipe.training, len(data.class_names)),
            recipe.seed,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        name, overrides = str(recipe.model.name), recipe.model.overrides
        for key in ("num_labels", "id2label", "label2id"):
            if key in overrides:
                raise WideNetError(f"model.{key} follows from the data; leave it out")
        if overrides.get("num_channels", 3) != 3:
            channels = overrides["num_channels"]
            raise WideNetError(f"model.num_channels={channels}: images are read as RGB, so it must be 3")
        if name in list_models():
            create_config(name, **overrides)
        elif Path(name).expanduser().is_dir() or any(mark in name for mark in "./\\~"):
            load_model(Path(name).expanduser(), WideNetForImageClassification)
        else:
            raise unknown("preset", name, list_models())

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(ImageRecipe, recipe)
        data = _read(recipe)
        name, overrides = str(recipe.model.name), recipe.model.overrides
        if name in list_models():
            labels = dict(enumerate(data.class_names))
            names = {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
            model = WideNetForImageClassification(create_config(name, **names, **overrides))
        else:
            source = load_model(Path(name).expanduser(), WideNetForImageClassification)
            model = adapt_classifier(source, data.class_names, overrides)
        return cls(recipe, data, model, make_processor(model.config, data, recipe.data.crop_fraction))

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(ImageRecipe, recipe)
        model = load_model(run, WideNetForImageClassification)
        processor = load_processor(run)
        data = _read(recipe)
        check_labels(str(recipe.data.source), data.class_names, list((model.config.id2label or {}).values()))
        return cls(recipe, data, model, processor)

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        labels = batch["labels"]
        hard = labels.argmax(-1) if labels.dim() == 2 else labels  # soft labels count as their most probable class
        return (outputs.logits.detach().argmax(-1) == hard).sum(), len(hard)

    def validate(self) -> dict[str, float]:
        hits = 0
        surprise = balance = 0.0
        for labels, output in self._outputs(self.data.validation):
            logits = output.logits.float()
            hits += int((logits.argmax(-1) == labels).sum())
            surprise += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            balance += float(output.balance_loss) * len(labels)
        total = len(self.data.validation)
        accuracy, surprise = hits / total, surprise / total
        return {
            "loss": surprise + self.model.config.router_aux_loss_coef * balance / total,
            "accuracy": accuracy,
            "cross_entropy": surprise,
            # A small validation set has many ties, and the first epoch to reach one is rarely the best of them.
            "selection": accuracy - 1e-4 * bounded(surprise),
        }

    def test(self) -> dict[str, Any]:
        """Return the test metrics.

        Returns:
            ``accuracy``, ``top5_accuracy`` (with more than 5 classes), ``loss`` (cross-entropy),
            ``class_accuracy`` by name, and what :meth:`RoutingTally.metrics` returns.
        """
        names = self.data.class_names
        hits = top5 = 0
        loss = 0.0
        correct, total = torch.zeros(len(names)), torch.zeros(len(names))
        tally = RoutingTally(self.model.config)
        for labels, output in self._outputs(self.data.test):
            logits = output.logits.float()
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right = logits.argmax(-1) == labels
            hits += int(right.sum())
            top5 += int((logits.topk(min(5, len(names))).indices == labels[:, None]).sum())
            total += torch.bincount(labels, minlength=len(names)).cpu()
            correct += torch.bincount(labels[right], minlength=len(names)).cpu()
            tally.update(output, len(labels))
        images = len(self.data.test)
        metrics: dict[str, Any] = {"accuracy": hits / images}
        if len(names) > 5:
            metrics["top5_accuracy"] = top5 / images
        metrics["loss"] = loss / images
        metrics["class_accuracy"] = {
            name: float(correct[index] / total[index]) for index, name in enumerate(names) if total[index]
        }
        return metrics | tally.metrics(self.unit)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def _outputs(self, images: ImageSet) -> Iterator[tuple[Tensor, Any]]:
        for batch, output in self.run_through(EvalImages(images, self.processor)):
            yield batch["labels"], output


def check_labels(source: str, data_classes: list[str], model_classes: list[str]) -> None:
    """Raise :class:`WideNetError` where the classes of data and model differ."""
    if data_classes != model_classes:
        raise WideNetError(
            f"the labels of {source} do not match the model: the data have {_shorten(data_classes)}, "
            f"the model {_shorten(model_classes)}"
        )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} classes ({shown}{', …' if len(names) > 5 else ''})"


def _read(recipe: ImageRecipe) -> ImageData:
    section = recipe.data
    return load_images(
        str(section.source),
        validation_fraction=section.validation_fraction,
        test_fraction=section.test_fraction,
        split_seed=section.split_seed,
        cache_dir=section.cache_dir,
        check_files=section.check_files,
        skip_bad_files=section.skip_bad_files,
    )
