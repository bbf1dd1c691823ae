"""Image classification: images in, classes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForImageClassification, ViTImageProcessor

from widenet.config import WideNetConfig, WideNetVisionConfig
from widenet.convert.folder import adapt_classifier, load_model, load_processor, start_config
from widenet.data.batch import Batch
from widenet.data.images.batches import Collator, EvalImages, SeededBatches, TrainImages, make_processor
from widenet.data.images.load import ImageData, load_images
from widenet.data.images.section import ImagesSection
from widenet.data.images.sets import open_image
from widenet.data.section import AtLeastZero
from widenet.errors import WideNetError
from widenet.models.vision import WideNetForImageClassification
from widenet.recipes import Recipe, TrainingSection
from widenet.tasks.base import (
    Prediction,
    Task,
    Words,
    best,
    bounded,
    check_labels,
    check_labels_open,
    check_top,
    is_folder,
    label_names,
    preset_config,
)
from widenet.tasks.metrics import BALANCE, LOSS, Metric, Tally


class ImageTrainingSection(TrainingSection):
    """Training with soft labels, too."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label that is spread over all classes."""
    mixup: AtLeastZero = 0.0
    """α of the Beta distribution by which two images are blended; 0: off."""
    cutmix: AtLeastZero = 0.0
    """α of the Beta distribution by which a rectangle of another image is pasted in; 0: off."""


class ImageRecipe(Recipe):
    """Images in, classes out."""

    task: Literal["image-classification"] = "image-classification"
    data: ImagesSection
    training: ImageTrainingSection


class ImageClassification(Task):
    """Images in, classes out."""

    name = "image-classification"
    recipe_class = ImageRecipe
    model_class = WideNetForImageClassification
    auto_class = AutoModelForImageClassification
    pipeline = "image-classification"
    is_default = True
    metrics = (
        Metric(
            "accuracy",
            "accuracy",
            "share",
            note="Training accuracy is measured on the images as trained on, while the weights move.",
            like_training=True,
        ),
        Metric("top5_accuracy", "top-5 accuracy", "share"),
        LOSS,
        Metric("cross_entropy", "cross-entropy", "loss"),
        BALANCE,
    )
    words = Words(
        examples="images",
        one="image",
        data="one sub-folder of images per class",
        loss="The loss that is minimised: cross-entropy plus the weighted balance loss. In training it also "
        "feels augmentation, mixup and label smoothing, where the recipe uses them.",
        input="image",
        answers="classes",
        answer="label",
        usage="from PIL import Image\nfrom transformers import pipeline\n\n"
        'classify = pipeline("image-classification", model=".")\nprint(classify(Image.open("photo.png"), top_k=3))',
        sample="photo.png",
    )
    inputs = ("pixel_values",)
    headline = ("accuracy",)

    recipe: ImageRecipe
    model: WideNetForImageClassification

    def __init__(
        self, recipe: ImageRecipe, data: ImageData, model: WideNetForImageClassification, processor: ViTImageProcessor
    ) -> None:
        self.recipe, self.data, self.model, self.processor = recipe, data, model, processor
        self.split = data.split
        self.train_batches = train_batches(recipe, data, processor)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        check_labels_open(recipe)
        channels = recipe.model.overrides.get("num_channels", 3)
        if channels != 3:
            raise WideNetError(f"model.num_channels={channels}: images are read as RGB, so it must be 3")
        if is_folder(name := str(recipe.model.name)):
            start_config(Path(name).expanduser(), WideNetVisionConfig)
        else:
            preset_config(recipe, WideNetVisionConfig)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(ImageRecipe, recipe)
        data = load_images(recipe.data)
        if is_folder(name := str(recipe.model.name)):
            source = cls.load(Path(name).expanduser())
            model = adapt_classifier(source, data.class_names, recipe.model.overrides)
        else:
            config = preset_config(recipe, WideNetVisionConfig, **label_names(data.class_names))
            model = WideNetForImageClassification(config)
        return cls(recipe, data, model, make_processor(model.config, data, recipe.data.crop_fraction))

    @classmethod
    def load(cls, folder: Path) -> WideNetForImageClassification:
        return load_model(folder, WideNetForImageClassification)

    @classmethod
    def load_processor(cls, folder: Path) -> ViTImageProcessor:
        return load_processor(folder)

    @classmethod
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(ImageRecipe, recipe)
        data = load_images(recipe.data)
        check_labels(str(recipe.data.source), data.class_names, model.config)
        return cls(recipe, data, model, processor)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    @property
    def batch_multiple(self) -> int:
        return 2 if self.recipe.training.mixup or self.recipe.training.cutmix else 1  # these pair images

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        labels = batch["labels"]
        hard = labels.argmax(-1) if labels.dim() == 2 else labels  # soft labels count as their most probable class
        return (outputs.logits.detach().argmax(-1) == hard).sum(), len(hard)

    def batches(self, part: str) -> Dataset:
        return EvalImages(getattr(self.data, part or "test"), self.processor)

    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        logits, labels = output.logits.float(), batch["labels"]
        C = len(self.data.class_names)
        right = logits.argmax(-1) == labels
        found.add(
            hits=right.sum(),
            top5=(logits.topk(min(5, C)).indices == labels[:, None]).sum(),
            surprise=torch.nn.functional.cross_entropy(logits, labels, reduction="sum"),
            of_class=torch.bincount(labels, minlength=C),
            right_of_class=torch.bincount(labels[right], minlength=C),
        )

    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the scores of a part.

        Returns:
            Validation: ``accuracy``, ``cross_entropy`` and ``loss``, which is it with the weighted balance loss. Test:
            ``accuracy``, ``top5_accuracy`` (with more than 5 classes), ``loss`` (cross-entropy) and
            ``class_accuracy`` by name.
        """
        accuracy, surprise = found.mean("hits"), found.mean("surprise")
        if part == "validation":
            weighted = self.model.config.router_aux_loss_coef * found.total("balance") / found.total("batched")
            return {"loss": surprise + weighted, "accuracy": accuracy, "cross_entropy": surprise}
        names, right, total = self.data.class_names, found.sums["right_of_class"], found.sums["of_class"]
        return {
            "accuracy": accuracy,
            **({"top5_accuracy": found.mean("top5")} if len(names) > 5 else {}),
            "loss": surprise,
            "class_accuracy": {
                name: float(right[index] / total[index]) for index, name in enumerate(names) if total[index]
            },
        }

    def select(self, scores: dict[str, Any]) -> float:
        # A small validation set has many ties, and the first epoch to reach one is rarely the best of them.
        return float(scores["accuracy"]) - 1e-4 * bounded(scores["cross_entropy"])

    @classmethod
    @torch.inference_mode()
    def predict(
        cls, model: Any, processor: Any, inputs: Sequence[str], *, top: int = 5, batch_size: int = 64
    ) -> list[Prediction]:
        """Classify image files of any size."""
        check_top(top)
        names = list(model.config.id2label.values())
        found = []
        for start in range(0, len(inputs), batch_size):
            files = [str(file) for file in inputs[start : start + batch_size]]
            pixels = processor([open_image(Path(file)) for file in files], return_tensors="pt")["pixel_values"]
            probabilities = model(pixels.to(model.device)).logits.float().softmax(-1).cpu()  # [N, C]
            found += [Prediction(file, best(row, names, top)) for file, row in zip(files, probabilities, strict=True)]
        return found

    @classmethod
    def limits(cls, metrics: dict[str, Any], config: WideNetConfig) -> list[str]:
        lines = [f"It says one of {len(config.id2label or {})} classes of any image, whatever the image shows."]
        for scores in metrics["test"].values():
            if classes := scores.get("class_accuracy"):
                worst = min(classes, key=classes.__getitem__)
                lines.append(f"The class it knows worst is `{worst}`: {classes[worst]:.1%} of its test images.")
        return lines


def train_batches(recipe: Any, data: ImageData, processor: ViTImageProcessor) -> SeededBatches:
    """Return the augmented and mixed training batches of a recipe on images."""
    training = recipe.training
    mixing = Collator(len(data.class_names), training.label_smoothing, training.mixup, training.cutmix)
    return SeededBatches(TrainImages(data.train, processor, recipe.data.augment), mixing, recipe.seed)
