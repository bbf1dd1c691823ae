"""What a recipe may hold: one class per section, one recipe class per task."""

from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
AtLeastZero = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


# What timm's policies understand; it skips the sections that it does not know.
AUTO_AUGMENT = (
    r"^(rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?|-t[a-z]+)*|augmix(-(m|w|d|a|b|mstd)\d+(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?)$"
)


def _ascending(area: tuple[float, float]) -> tuple[float, float]:
    if area[0] > area[1]:
        raise PydanticCustomError("order", "the smaller fraction must come first")
    return area


CropArea = Annotated[tuple[Fraction, Annotated[float, Field(gt=0, le=1)]], AfterValidator(_ascending)]


class Section(BaseModel):
    """Values that are checked, complete and fixed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Augmentation(Section):
    """What training images go through; everything off by default.

    The first six work on the whole batch as one tensor and cost next to nothing. The others decode and
    transform image by image, with timm's transforms.
    """

    warp: Probability = 1.0  # probability that an image is shifted, rotated and zoomed at all
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0  # up to this fraction of the side, in x and y
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # up to so many degrees, either way
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0  # side scaled by 1 ± this
    flip: Probability = 0.0  # probability of a left-right flip
    erase: Probability = 0.0  # probability that a random rectangle becomes noise
    crop_area: CropArea | None = None  # random-resized crop
    auto_augment: Annotated[str, Field(pattern=AUTO_AUGMENT)] | None = None  # timm's policy, e.g. rand-m9-mstd0.5
    color_jitter: AtLeastZero = 0.0  # timm leaves it out beside auto_augment

    @property
    def per_image(self) -> bool:
        """Whether images must be decoded one by one."""
        return bool(self.crop_area or self.auto_augment or self.color_jitter)


class DataSection(Section):
    """Where the examples come from and how they are split."""

    source: str | None  # None: the user must name one
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    split_seed: int = 0
    cache_dir: str | None = None
    num_workers: Count = 0


class ImagesSection(DataSection):
    """Labelled images."""

    check_files: bool = True
    skip_bad_files: bool = False
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # centre crop at evaluation
    augment: Augmentation = Augmentation()


class TextSection(DataSection):
    """Text of any kind, in tokens."""

    tokenizer: str | None = None  # folder or public name; None: the start model's, else WordPiece is trained
    lowercase: bool = True  # of a WordPiece tokenizer that is trained
    max_length: Annotated[int, Field(ge=8)] = 128  # tokens of a sequence, [CLS] and [SEP] included


class CorpusSection(TextSection):
    """Running text for pretraining."""

    documents: Literal["file", "blank-line", "line"] = "file"  # what ends a document
    validation_fraction: Fraction = 0.01
    test_fraction: Fraction = 0.01
    masking: Literal["ngram", "token"] = "ngram"  # ALBERT's, BERT's
    mask_rate: Fraction = 0.15
    max_ngram: AtLeastOne = 3
    sentence_order: bool = True


class SentencesSection(TextSection):
    """Sentences, or pairs of them, with labels or numbers."""

    test: str | None = None  # a separate test file
    validation: str | None = None  # a separate validation file
    text_column: str | None = None  # None: found by name
    pair_column: str | None = None
    label_column: str | None = None
    regression: bool = False


class QuestionsSection(TextSection):
    """Questions about contexts, in SQuAD's format."""

    test: str | None = None  # a separate test file
    max_length: Annotated[int, Field(ge=8)] = 384
    doc_stride: AtLeastOne = 128  # tokens from the start of a window to that of the next
    n_best: AtLeastOne = 20
    max_answer_length: AtLeastOne = 30  # tokens
    skip_bad_answers: bool = False


class TrainingSection(Section):
    """Optimiser, schedule, regularisation and hardware."""

    epochs: Annotated[float, Field(gt=0)]
    max_steps: Count = 0  # stop after so many optimiser steps, whatever epochs says; 0: epochs decide
    batch_size: AtLeastOne = 128
    gradient_accumulation_steps: AtLeastOne = 1
    eval_batch_size: AtLeastOne = 256
    eval_steps: Count = 0  # validate and save every so many steps; 0: every epoch
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: AtLeastZero = 0.05
    momentum: Probability = 0.9  # SGD only
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # AdamW and LAMB only
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: AtLeastZero = 0.0
    warmup_steps: Count = 0  # instead of warmup_epochs
    max_grad_norm: AtLeastZero = 1.0  # 0: no clipping
    early_stopping_patience: Count = 0  # validations without improvement; 0: never stop
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu"] = "auto"
    save_total_limit: Annotated[int, Field(ge=2)] = 2


class ImageTrainingSection(TrainingSection):
    """Training with soft labels, too."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: AtLeastZero = 0.0  # α of the Beta distribution
    cutmix: AtLeastZero = 0.0


class ImageDistillationTrainingSection(ImageTrainingSection):
    """Training without labels."""

    label_smoothing: Annotated[float, Field(ge=0, le=0)] = 0.0  # there is nothing to smooth


class ModelSection(BaseModel):
    """A preset or a model folder to start from, and any config field as an override."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str | None  # None: the user must name one

    @property
    def overrides(self) -> dict[str, Any]:
        """The config fields given besides the name."""
        return dict(self.model_extra or {})


class WidenSection(Section):
    """How a dense model is widened: the arguments of :func:`widenet.widen`, which also has their ranges."""

    num_experts: int = 4
    num_experts_per_tok: int = 2
    experts: str | int = "spread"
    attention: str | int = "middle"
    router: str = "auto"
    group_size: AtLeastOne | None = None  # None: all blocks are one group
    noise: AtLeastZero = 0.01
    normalize_gates: bool = True
    task: str | None = None
    allow_pickle: bool = False  # read weights that are a pickle


class DistillationSection(Section):
    """What a widened model learns from its dense teacher."""

    teacher: str | None = None  # folder or public name; None: the model that is widened
    hidden_weight: AtLeastZero = 1.0  # of the hidden states after every block
    logits_weight: AtLeastZero = 1.0  # of the head's, where there is one
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the logits


class Recipe(Section):
    """One experiment, validated. Each task's recipe says what its ``data`` and ``training`` hold."""

    name: str
    description: str = ""
    task: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
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
