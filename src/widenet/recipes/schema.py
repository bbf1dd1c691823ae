"""What a recipe may hold: one class per section, one recipe class per task."""

from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from widenet.data.images.section import ImagesSection
from widenet.data.section import AtLeastOne, AtLeastZero, Count, DataSection, Probability, Section, Share
from widenet.data.text.corpus import CorpusSection
from widenet.data.text.questions import QuestionsSection
from widenet.data.text.sentences import SentencesSection


class TrainingSection(Section):
    """Optimiser, schedule, regularisation and hardware."""

    epochs: Annotated[float, Field(gt=0)]
    """Passes over the training examples."""
    max_steps: Count = 0
    """Optimiser steps after which to stop, whatever epochs says; 0: epochs decide."""
    batch_size: AtLeastOne = 128
    """Examples of a training batch."""
    gradient_accumulation_steps: AtLeastOne = 1
    """Batches whose gradients are summed before each optimiser step."""
    eval_batch_size: AtLeastOne = 256
    """Examples of a batch in validation and testing."""
    eval_steps: Count = 0
    """Optimiser steps between validations, each with a checkpoint; 0: once an epoch."""
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    """Optimiser."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate, reached after warmup."""
    weight_decay: AtLeastZero = 0.05
    """Weight decay of matrices; biases and norms have none."""
    momentum: Probability = 0.9
    """Momentum of SGD."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments of AdamW and LAMB."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warmup."""
    warmup_epochs: AtLeastZero = 0.0
    """Epochs over which the learning rate rises from 0."""
    warmup_steps: Count = 0
    """Optimiser steps over which the learning rate rises from 0, instead of warmup_epochs."""
    max_grad_norm: AtLeastZero = 1.0
    """Norm that gradients are clipped to; 0: no clipping."""
    early_stopping_patience: Count = 0
    """Validations without improvement after which training stops; 0: never."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the matrix products; weights stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints that are kept, the best and the last among them."""


class ImageTrainingSection(TrainingSection):
    """Training with soft labels, too."""

    label_smoothing: Share = 0.0
    """Share of each label that is spread over all classes."""
    mixup: AtLeastZero = 0.0
    """α of the Beta distribution that mixes pairs of images; 0: off."""
    cutmix: AtLeastZero = 0.0
    """α of the Beta distribution of the area that one image takes from another; 0: off."""


class ImageDistillationTrainingSection(ImageTrainingSection):
    """Training without labels."""

    label_smoothing: Annotated[float, Field(ge=0, le=0)] = 0.0
    """Always 0: there are no labels to smooth."""


class ModelSection(BaseModel):
    """A preset or a model folder to start from, and any config field as an override."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)

    name: str | None
    """A preset, or the folder of a model to start from; null: the user must say."""

    @property
    def overrides(self) -> dict[str, Any]:
        """The config fields given besides the name."""
        return dict(self.model_extra or {})


class WidenSection(Section):
    """How a dense model is widened: the arguments of :func:`widenet.widen`, which also has their ranges."""

    num_experts: int = 4
    """Experts of every mixture."""
    num_experts_per_tok: int = 2
    """Experts that each token is sent to."""
    experts: str | int = "spread"
    """Feed-forwards the experts are made of: spread, blocks, average, first, middle, last or a block's number."""
    attention: str | int = "middle"
    """Attention that is shared: average, first, middle, last or a block's number."""
    router: str = "auto"
    """How the router starts: blocks (each block keeps its own feed-forward), random, or auto, one of the two."""
    group_size: AtLeastOne | None = None
    """Blocks in a row that share their weights; null: all of them."""
    noise: AtLeastZero = 0.01
    """Standard deviation of the noise added to copied experts, relative to that of their weights."""
    normalize_gates: bool = True
    """Whether the gates of a token's chosen experts sum to 1."""
    task: str | None = None
    """What the model is for; null: what the source is for."""
    allow_pickle: bool = False
    """Whether to read weights that are a pickle, which can run code."""


class DistillationSection(Section):
    """What a widened model learns from its dense teacher."""

    teacher: str | None = None
    """Folder or public name of the teacher; null: the model that is widened."""
    hidden_weight: AtLeastZero = 1.0
    """Weight of the error of the hidden states after every block."""
    logits_weight: AtLeastZero = 1.0
    """Weight of the divergence of the head's logits, where there is a head."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """What the logits are divided by before they are compared."""


class Recipe(Section):
    """One experiment, validated. Each task's recipe says what its ``data`` and ``training`` hold."""

    name: str
    """What the recipe is called."""
    description: str = ""
    """What it does, in a line."""
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Settles the weights at the start, the order of the examples, augmentation and dropout."""
    data: DataSection
    model: ModelSection
    training: TrainingSection

    text: ClassVar[bool] = True  # whether tokens, rather than pixels, go in

    def dump(self) -> str:
        """Return the recipe as YAML with every value that is in force."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class ImageRecipe(Recipe):
    """Images in, classes out."""

    task: Literal["image-classification"] = "image-classification"
    data: ImagesSection
    training: ImageTrainingSection

    text: ClassVar[bool] = False


class PretrainingRecipe(Recipe):
    """Masked language modelling and sentence order."""

    task: Literal["pretraining"] = "pretraining"
    data: CorpusSection


class SentencesRecipe(Recipe):
    """A class or a number for a sentence or a pair."""

    task: Literal["text-classification"] = "text-classification"
    data: SentencesSection


class QuestionsRecipe(Recipe):
    """The span of a context that answers a question."""

    task: Literal["question-answering"] = "question-answering"
    data: QuestionsSection


class DistillationRecipe(Recipe):
    """A dense model is widened and learns from what it was."""

    widen: WidenSection = WidenSection()
    distillation: DistillationSection = DistillationSection()


class TextDistillationRecipe(DistillationRecipe):
    """Distillation on running text."""

    task: Literal["text-distillation"] = "text-distillation"
    data: CorpusSection


class ImageDistillationRecipe(DistillationRecipe):
    """Distillation on images; nothing is learnt from labels."""

    task: Literal["image-distillation"] = "image-distillation"
    data: ImagesSection
    training: ImageDistillationTrainingSection

    text: ClassVar[bool] = False


RECIPES: dict[str, type[Recipe]] = {
    str(recipe.model_fields["task"].default): recipe
    for recipe in (
        *(ImageRecipe, PretrainingRecipe, SentencesRecipe, QuestionsRecipe),
        *(TextDistillationRecipe, ImageDistillationRecipe),
    )
}
