"""Image classification."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import ViTImageProcessor

from widenet.config import WideNetVisionConfig
from widenet.convert.folder import adapt_classifier, load_model, load_processor
from widenet.data.batch import Batch
from widenet.data.images.batches import Collator, EvalImages, SeededBatches, TrainImages, make_processor
from widenet.data.images.load import ImageData, ImageSet, load_images
from widenet.errors import WideNetError
from widenet.models.vision import WideNetForImageClassification
from widenet.recipes import ImageRecipe, Recipe
from widenet.tasks.base import (
    RoutingTally,
    Task,
    bounded,
    check_labels,
    check_labels_open,
    is_folder,
    label_names,
    preset_config,
)


class ImageClassification(Task):
    """Images in, classes out."""

    unit = examples = "images"
    headline = ("accuracy",)
    inputs = ("pixel_values",)
    batch_multiple = 2  # mixup pairs images

    recipe: ImageRecipe
    model: WideNetForImageClassification

    def __init__(
        self, recipe: ImageRecipe, data: ImageData, model: WideNetForImageClassification, processor: ViTImageProcessor
    ) -> None:
        self.recipe, self.data, self.model, self.processor = recipe, data, model, processor
        self.split, training = data.split, recipe.training
        self.train_batches = SeededBatches(
            TrainImages(data.train, processor, recipe.data.augment),
            Collator(len(data.class_names), training.label_smoothing, training.mixup, training.cutmix),
            recipe.seed,
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        check_labels_open(recipe)
        channels = recipe.model.overrides.get("num_channels", 3)
        if channels != 3:
            raise WideNetError(f"model.num_channels={channels}: images are read as RGB, so it must be 3")
        if is_folder(name := str(recipe.model.name)):
            load_model(Path(name).expanduser(), WideNetForImageClassification)
        else:
            preset_config(recipe, WideNetVisionConfig)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(ImageRecipe, recipe)
        data = load_images(recipe.data)
        if is_folder(name := str(recipe.model.name)):
            source = load_model(Path(name).expanduser(), WideNetForImageClassification)
            model = adapt_classifier(source, data.class_names, recipe.model.overrides)
        else:
            config = preset_config(recipe, WideNetVisionConfig, **label_names(data.class_names))
            model = WideNetForImageClassification(config)
        return cls(recipe, data, model, make_processor(model.config, data, recipe.data.crop_fraction))

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(ImageRecipe, recipe)
        model = load_model(run, WideNetForImageClassification)
        processor = load_processor(run)
        data = load_images(recipe.data)
        check_labels(str(recipe.data.source), data.class_names, model.config)
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
