"""Distillation: a widened model learns to do what its dense source does, on text or images without labels.

Axes: N examples, L tokens of each, D hidden size, B blocks, C classes or words.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import ViTImageProcessor

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.convert.folder import load_processor
from widenet.convert.sources import find_source, from_dense, read_source
from widenet.convert.widen import check_free_fields, source_processor, widen
from widenet.data.batch import Batch
from widenet.data.images.batches import Collator, EvalImages, SeededBatches, TrainImages
from widenet.data.images.load import ImageData, ImageSet, load_images
from widenet.data.text.corpus import CorpusData, Segments, load_corpus
from widenet.data.text.masking import PretrainingBatches
from widenet.data.text.padding import SegmentBatches
from widenet.data.text.tokenizer import check_tokenizer, load_tokenizer
from widenet.errors import WideNetError
from widenet.models.presets import build_config, own_fields
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetForMaskedLM, WideNetForPreTraining
from widenet.nn.routing import Routing
from widenet.recipes import DistillationRecipe, ImageDistillationRecipe, Recipe, TextDistillationRecipe, WidenSection
from widenet.tasks.base import RoutingTally, Task, bounded
from widenet.tasks.text import TextTask, check_length, save_tokenizer

LOGITS = ("logits", "sentence_order_logits", "start_logits", "end_logits")  # of any head, the first above all
NEVER = -1e4  # the logit of padding: its probability is zero, and still finite arithmetic


@dataclass
class Comparison:
    """How far a student is from its teacher on a batch.

    Attributes:
        loss: scalar, what is minimised: the weighted hidden error and divergence + λ · ``balance_loss``.
        balance_loss: scalar, Σ l of the student.
        missed: [B] squared distances between the hidden states after each block, summed over the tokens.
        variance: [B] squared distances of the teacher's from their mean over these tokens, summed.
        divergence: scalar, of the logits, the mean over predictions.
        logits, truth: the student's and the teacher's first logits [predictions, C]; None without a head.
        routing: the student's records, if asked for.
    """

    loss: Tensor
    balance_loss: Tensor
    missed: Tensor
    variance: Tensor
    divergence: Tensor
    logits: Tensor | None
    truth: Tensor | None
    routing: tuple[Routing | None, ...] | None


class Distillation(Task):
    """A student and its teacher on the same examples."""

    config_class: ClassVar[type[WideNetConfig]]  # of both
    same_fields: ClassVar[tuple[str, ...]]

    recipe: DistillationRecipe
    data: CorpusData | ImageData

    def __init__(
        self,
        recipe: DistillationRecipe,
        data: CorpusData | ImageData,
        model: WideNetPreTrainedModel,
        teacher: WideNetPreTrainedModel,
    ) -> None:
        self.recipe, self.data, self.model, self.split = recipe, data, model, data.split
        self.teacher = teacher.eval().requires_grad_(False)
        # A head that only one of them has has nothing to teach, or to learn from.
        self.has_head = type(model) is type(teacher) and model.base_model is not model
        self.regression = self.has_head and bool(getattr(model, "is_regression", False))
        classes = self.has_head and not self.regression
        self.headline = ("agreement", "hidden_error") if classes else ("hidden_error",)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        check_free_fields(recipe.model.overrides)

    @classmethod
    def start_models(
        cls, recipe: DistillationRecipe
    ) -> tuple[WideNetPreTrainedModel, WideNetPreTrainedModel, nn.Module, Path]:
        """Return the student, the teacher, and what the student is made from: the model and its folder.

        Raises:
            WideNetError: a model cannot be read or widened, or they do not fit each other.
        """
        folder = find_source(str(recipe.model.name))
        source = read_source(folder, recipe.widen.task, recipe.widen.allow_pickle)
        if _is_wide(source):
            if recipe.distillation.teacher is None:
                raise WideNetError(f"{folder} is wide already; name the dense model it is from: distillation.teacher=")
            for name, default in WidenSection(allow_pickle=recipe.widen.allow_pickle):
                if (value := getattr(recipe.widen, name)) != default:
                    raise WideNetError(f"{folder} is wide already, so that widen.{name}={value} comes too late")
            student = _with_fields(cast(WideNetPreTrainedModel, source), recipe.model.overrides)
        else:
            student = widen(source, **recipe.widen.model_dump(), seed=recipe.seed, **recipe.model.overrides)
        student = student.float()  # half-precision weights are no place to train
        return student, cls._teacher(recipe, student, source), source, folder

    @classmethod
    def reload_models(cls, recipe: DistillationRecipe, run: Path) -> tuple[Any, WideNetPreTrainedModel]:
        """Return the model in a run folder, and the teacher of its recipe.

        Raises:
            WideNetError: one of them cannot be read, or they do not fit each other.
        """
        student: Any = read_source(run)
        name = Path(recipe.distillation.teacher or str(recipe.model.name)).expanduser()
        if not name.is_dir():
            try:
                find_source(name)
            except WideNetError as error:
                raise WideNetError(f"the teacher is needed, too; distillation.teacher= says where: {error}") from error
        return student, cls._teacher(recipe, student)

    @classmethod
    def _teacher(
        cls, recipe: DistillationRecipe, student: WideNetPreTrainedModel, source: nn.Module | None = None
    ) -> WideNetPreTrainedModel:
        """Return the teacher that a recipe names; without a name, the model that is widened, read already or not."""
        named = recipe.distillation.teacher
        name = str(recipe.model.name) if named is None else named
        if source is None or named is not None:
            source = read_source(
                find_source(name), recipe.widen.task if named is None else None, recipe.widen.allow_pickle
            )
        teacher = from_dense(source).float()
        if not isinstance(teacher.config, cls.config_class):
            other = "distill-images" if isinstance(teacher.config, WideNetVisionConfig) else "distill-text"
            raise WideNetError(f"{name} is no model for recipe {recipe.name}; {other} is for models of its kind")
        same = ["num_hidden_layers", "hidden_size", *cls.same_fields]
        same += ["id2label"] if type(teacher) is type(student) and hasattr(teacher, "classifier") else []
        for field in same:
            here, there = getattr(student.config, field, None), getattr(teacher.config, field)
            if here != there:
                raise WideNetError(f"the teacher {name} has {field}={there}, the student {here}; they must be equal")
        return teacher

    def forward(self, model: Any, batch: Batch, **options: Any) -> Comparison:
        inputs = {key: value for key, value in batch.items() if key in self.inputs}
        options["output_hidden_states"] = True
        if "labels" in inputs:  # masked words
            options["only_labelled"] = True
        student, teacher = (model, self.teacher) if self.has_head else (model.base_model, self.teacher.base_model)
        device, precision = self.model.device, self.recipe.training.precision
        half = torch.float16 if precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, half, enabled=precision != "fp32"):
            output = student(**inputs, **options)
            with torch.no_grad():
                truth = teacher.to(device)(**inputs, **{**options, "output_routing": False})
        mask = batch.get("attention_mask")
        missed, variance = compare_hidden(output.hidden_states[1:], truth.hidden_states[1:], mask)
        wanted = self.recipe.distillation
        loss = wanted.hidden_weight * (missed / variance).mean()
        divergence = loss.new_zeros(())
        heads: list[tuple[Tensor, Tensor]] = []
        if self.has_head:
            found = [name for name in LOGITS if output.get(name) is not None]
            heads = [(_logits(output, name, mask), _logits(truth, name, mask)) for name in found]
            divergence = torch.stack([self._divergence(*pair) for pair in heads]).sum()
            loss = loss + wanted.logits_weight * divergence
        return Comparison(
            loss=loss + self.model.config.router_aux_loss_coef * output.balance_loss,
            balance_loss=output.balance_loss,
            missed=missed.detach(),
            variance=variance,
            divergence=divergence.detach(),
            logits=heads[0][0].detach() if heads else None,
            truth=heads[0][1] if heads else None,
            routing=output.get("routing"),
        )

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.regression:
            return nn.functional.mse_loss(student.float(), teacher.float())
        return kl_divergence(student, teacher, self.recipe.distillation.temperature)

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        if not self.has_head or self.regression:
            return torch.zeros(()), 0
        same = outputs.logits.argmax(-1) == outputs.truth.argmax(-1)
        return same.sum(), same.numel()

    def validate(self) -> dict[str, float]:
        found = self._measure("validation")
        del found["hidden_errors"]
        return {**found, "selection": -bounded(found["loss"])}

    def test(self) -> dict[str, Any]:
        """Return the test metrics.

        Returns:
            ``hidden_error``, the share of the variance of the teacher's hidden states that the student misses,
            the mean of ``hidden_errors`` over the blocks: 0 is the same model, 1 no better than a constant.
            With a head: ``divergence`` (Kullback-Leibler, in nats; of a regression the mean squared distance)
            and ``agreement``, the share of predictions that are the teacher's: classes, masked words, or where answers
            begin. On images of the model's own
            classes ``accuracy`` and ``teacher_accuracy``. And what :meth:`RoutingTally.metrics` returns.
        """
        tally = RoutingTally(self.model.config)
        return self._measure("test", tally) | tally.metrics(self.unit)

    def _measure(self, part: str, tally: RoutingTally | None = None) -> dict[str, Any]:
        B = self.model.config.num_hidden_layers
        missed, variance = torch.zeros(B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
        sums: dict[str, float] = defaultdict(float)
        for batch, output in self.run_through(self.batches(part)):
            N = len(next(iter(batch.values())))
            missed, variance = missed + output.missed.cpu(), variance + output.variance.cpu()
            same, predictions = self.score(output, batch)
            seen = {"examples": N, "loss": output.loss * N, "predictions": predictions, "same": same}
            seen |= {"compared": predictions or N, "divergence": output.divergence * (predictions or N)}
            if self.labelled:
                for name, logits in (("accuracy", output.logits), ("teacher_accuracy", output.truth)):
                    seen[name] = (logits.argmax(-1) == batch["labels"]).sum()
            for name, value in seen.items():
                sums[name] += float(value)
            if tally:
                tally.update(output, N, batch.get("attention_mask"))
        errors = missed / variance
        found: dict[str, Any] = {"hidden_error": float(errors.mean()), "hidden_errors": errors.tolist()}
        if self.has_head:
            found["divergence"] = sums["divergence"] / sums["compared"]
        if sums["predictions"]:
            found["agreement"] = sums["same"] / sums["predictions"]
        if self.labelled:
            found |= {name: sums[name] / sums["examples"] for name in ("accuracy", "teacher_accuracy")}
        return {**found, "loss": sums["loss"] / sums["examples"]}

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels of the model's own classes, to score with."""
        return False

    @abstractmethod
    def batches(self, part: str) -> Dataset:
        """Return the batches of a part of the data, as evaluated."""


class TextDistillation(Distillation):
    """On running text."""

    unit = examples = "segments"
    inputs = (*TextTask.inputs, "labels")
    config_class = WideNetTextConfig
    same_fields = ("vocab_size", "max_position_embeddings", "type_vocab_size")

    recipe: TextDistillationRecipe
    data: CorpusData

    def __init__(
        self,
        recipe: TextDistillationRecipe,
        data: CorpusData,
        model: WideNetPreTrainedModel,
        teacher: WideNetPreTrainedModel,
    ) -> None:
        super().__init__(recipe, data, model, teacher)
        self.tokenizer = data.tokenizer
        self.guesses_words = self.has_head and isinstance(model, WideNetForMaskedLM | WideNetForPreTraining)
        self.train_batches = self.batches("train")

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(TextDistillationRecipe, recipe)
        model, teacher, _, folder = cls.start_models(recipe)
        check_length(recipe.data, model.config.max_position_embeddings)
        tokenizer = load_tokenizer(recipe.data.tokenizer or folder)
        check_tokenizer(tokenizer, model.config.vocab_size, recipe.data.tokenizer or str(folder))
        named = recipe.distillation.teacher
        if named is not None and load_tokenizer(find_source(named)).get_vocab() != tokenizer.get_vocab():
            raise WideNetError(f"the teacher {named} reads other tokens than {recipe.data.tokenizer or folder}")
        return cls(recipe, load_corpus(recipe.data, tokenizer), model, teacher)

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(TextDistillationRecipe, recipe)
        model, teacher = cls.reload_models(recipe, run)
        return cls(recipe, load_corpus(recipe.data, load_tokenizer(run)), model, teacher)

    def batches(self, part: str) -> Dataset:
        """Return segments as they are, or for a model that guesses words, with some of them masked."""
        segments: Segments = getattr(self.data, part)
        if not self.guesses_words:
            return SegmentBatches(segments, self.tokenizer)
        has_order = isinstance(self.model, WideNetForPreTraining) and self.model.config.type_vocab_size > 1
        seed = self.recipe.seed if part == "train" else None
        section = self.recipe.data
        if not has_order:
            section = section.model_copy(update={"sentence_order": False})
        return PretrainingBatches(segments, self.tokenizer, section, seed)

    def save_processor(self, folder: Path) -> None:
        save_tokenizer(self.tokenizer, self.recipe.data.max_length, folder)


class ImageDistillation(Distillation):
    """On images."""

    unit = examples = "images"
    inputs = ("pixel_values",)
    batch_multiple = 2  # mixup pairs images
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
        images, training = TrainImages(data.train, processor, recipe.data.augment), recipe.training
        mix = Collator(len(data.class_names), training.label_smoothing, training.mixup, training.cutmix)
        self.train_batches = SeededBatches(images, mix, recipe.seed)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(ImageDistillationRecipe, recipe)
        model, teacher, source, folder = cls.start_models(recipe)
        data = load_images(recipe.data, labelled=False)
        processor = source_processor(folder, source, cast(WideNetVisionConfig, model.config))
        return cls(recipe, data, model, teacher, processor)

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(ImageDistillationRecipe, recipe)
        return cls(
            recipe, load_images(recipe.data, labelled=False), *cls.reload_models(recipe, run), load_processor(run)
        )

    @property
    def labelled(self) -> bool:
        return self.has_head and self.data.class_names == list((self.model.config.id2label or {}).values())

    def batches(self, part: str) -> Dataset:
        images: ImageSet = getattr(self.data, part)
        return EvalImages(images, self.processor)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)


def compare_hidden(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return, block by block, what a student misses of its teacher and what there is to miss.

    Args:
        student, teacher: B tensors [N, L, D].
        mask: [N, L], zero for padding, which does not count.

    Returns:
        Squared distances between the two, and of the teacher's tokens from their mean, both summed: [B], float32.
    """
    missed, variance = [], []
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = ours.float(), theirs.float()
        keep = torch.ones_like(ours[..., :1]) if mask is None else mask.unsqueeze(-1).to(ours.dtype)  # [N, L, 1]
        mean = (theirs * keep).sum((0, 1)) / keep.sum()  # [D]
        missed.append(((ours - theirs).square() * keep).sum())
        variance.append(((theirs - mean).square() * keep).sum())
    return torch.stack(missed), torch.stack(variance)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of a student's predictions from its teacher's, in nats, the mean over predictions.

    Args:
        student, teacher: logits [..., C].
        temperature: both are divided by it, and the result multiplied by its square (Hinton et al., 2015).
    """
    ours, theirs = ((logits.float() / temperature).log_softmax(-1).flatten(0, -2) for logits in (student, teacher))
    return nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def _logits(output: Any, name: str, mask: Tensor | None) -> Tensor:
    """Return the logits of a head; of one that picks tokens [N, L], without padding."""
    logits: Tensor = output[name]
    picks = name in ("start_logits", "end_logits") and mask is not None
    return logits.masked_fill(mask == 0, NEVER) if picks and mask is not None else logits


def _is_wide(model: nn.Module) -> bool:
    return isinstance(model, WideNetPreTrainedModel) and bool(model.config.moe_blocks)


def _with_fields(model: WideNetPreTrainedModel, fields: dict[str, Any]) -> WideNetPreTrainedModel:
    """Return a model with other values of config fields that its weights do not depend on."""
    kind = type(model.config)
    kept = {key: value for key, value in model.config.to_diff_dict().items() if key in own_fields(kind)}
    names = {key: getattr(model.config, key) for key in ("id2label", "label2id") if getattr(model.config, key)}
    changed = cast(Any, type(model))(build_config(kind, {**kept, **names, **fields}))
    if getattr(model.base_model, "pooler", True) is None:
        changed.base_model.pooler = None
    changed.load_state_dict(model.state_dict())
    return changed
