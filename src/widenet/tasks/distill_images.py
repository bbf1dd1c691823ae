"""Distillation on images."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field
from torch.utils.data import Dataset
from transformers import ViTImageProcessor

from widenet.config import WideNetVisionConfig
from widenet.convert.folder import load_processor
from widenet.convert.widen import source_processor
from widenet.data.images.batches import EvalImages
from widenet.data.images.load import ImageData, load_images
from widenet.data.images.section import ImagesSection
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.recipes import Recipe
from widenet.tasks.base import Words
from widenet.tasks.distillation import LOSS_WORDS, Distillation, DistillationRecipe
from widenet.tasks.images import ImageTrainingSection, train_batches


class ImageDistillationTrainingSection(ImageTrainingSection):
    """Training without labels."""

    label_smoothing: Annotated[float, Field(ge=0, le=0)] = 0.0
    """Always 0: there are no labels to smooth."""


class ImageDistillationRecipe(DistillationRecipe):
    """Distillation on images; nothing is learnt from labels."""

    task: Literal["image-distillation"] = "image-distillation"
    data: ImagesSection
    training: ImageDistillationTrainingSection


class ImageDistillation(Distillation):
    """On images."""

    name = "image-distillation"
    recipe_class = ImageDistillationRecipe
    words = Words("images", one="image", data="a folder of images", loss=LOSS_WORDS)
    inputs = ("pixel_values",)
    config_class = WideNetVisionConfig
    same_fields = ("image_size", "patch_size", "num_prefix_tokens")

    recipe: ImageDistillationRecipe
    data: ImageData

    def __init__(
        self,
        recipe: ImageDistillationRecipe,
        data: ImageData,
        model: WideNetPreTrainedModel,
        teacher: WideNetPreTrainedModel,
        processor: ViTImageProcessor,
    ) -> None:
        super().__init__(recipe, data, model, teacher)
        self.processor = processor
        self.train_batches = train_batches(recipe, data, processor)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(ImageDistillationRecipe, recipe)
        model, teacher, source, folder = cls.start_models(recipe)
        data = load_images(recipe.data, labelled=False)
        processor = source_processor(folder, source, cast(WideNetVisionConfig, model.config))
        return cls(recipe, data, model, teacher, processor)

    @classmethod
    def load_processor(cls, folder: Path) -> ViTImageProcessor:
        return load_processor(folder)

    @classmethod
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(ImageDistillationRecipe, recipe)
        teacher = cls.reload_teacher(recipe, model)
        return cls(recipe, load_images(recipe.data, labelled=False), model, teacher, processor)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    @property
    def batch_multiple(self) -> int:
        return 2 if self.recipe.training.mixup or self.recipe.training.cutmix else 1  # these pair images

    @property
    def labelled(self) -> bool:
        return self.has_head and self.data.class_names == list((self.model.config.id2label or {}).values())

    def batches(self, part: str) -> Dataset:
        return EvalImages(getattr(self.data, part or "test"), self.processor)
