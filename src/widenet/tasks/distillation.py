"""Distillation: a widened model learns to do what its dense source does, on examples without labels.

What is the same on text (``distill_text.py``) and on images (``distill_images.py``).

Axes: N examples, L tokens of each, D hidden size, B blocks, C classes or words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from widenet.config import WideNetConfig
from widenet.convert.sources import find_source, from_dense, read_source
from widenet.convert.widen import check_free_fields, widen
from widenet.data.batch import Batch
from widenet.data.images.load import ImageData
from widenet.data.section import AtLeastOne, AtLeastZero, Place, Section
from widenet.data.text.corpus import CorpusData
from widenet.errors import WideNetError
from widenet.models.presets import build_config, own_fields
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.nn.routing import Routing
from widenet.recipes import Recipe
from widenet.tasks.base import Prediction, Task, bounded
from widenet.tasks.metrics import BALANCE, LOSS, Metric, Tally

LOGITS = ("logits", "sentence_order_logits", "start_logits", "end_logits")  # of any head, the first above all
NEVER = -1e4  # the logit of padding: its probability is zero, and still finite arithmetic


LOSS_WORDS = (
    "The loss that is minimised: the hidden error and the divergence of the predictions from the teacher's, where "
    "there are any, plus the weighted balance loss."
)


class WidenSection(Section):
    """How a dense model is widened: the arguments of :func:`widenet.widen`, which also has their ranges."""

    num_experts: int = 4
    """Experts of each mixture."""
    num_experts_per_tok: int = 2
    """Experts that a token visits."""
    experts: str | int = "spread"
    """What experts are made of: spread, blocks, average, first, middle, last or a block's index."""
    attention: str | int = "middle"
    """Which attention is shared: average, first, middle, last or a block's index."""
    router: str = "auto"
    """Where tokens go: random, or blocks: to their block's expert; auto: blocks where they can."""
    group_size: AtLeastOne | None = None
    """Blocks that share attention and experts; null: all."""
    noise: AtLeastZero = 0.01
    """Noise on the experts' weights, relative to theirs."""
    normalize_gates: bool = True
    """Whether a token's gates sum to 1."""
    task: str | None = None
    """The head; null: the source's own."""
    allow_pickle: bool = False
    """Read weights that are a pickle."""


class DistillationSection(Section):
    """What a widened model learns from its dense teacher."""

    teacher: Place | None = None
    """Folder or public name of the teacher; null: the model that is widened."""
    hidden_weight: AtLeastZero = 1.0
    """Weight of the hidden states after every block."""
    logits_weight: AtLeastZero = 1.0
    """Weight of the head's predictions, where there is a head."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Both models' logits are divided by it."""


class DistillationRecipe(Recipe):
    """A dense model is widened and learns from what it was."""

    widen: WidenSection = WidenSection()
    """How the model is widened."""
    distillation: DistillationSection = DistillationSection()
    """What it learns from its source."""


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

    metrics = (
        Metric(
            "agreement",
            "agreement with the teacher",
            "share",
            note="Share of the predictions that are the teacher's.",
            like_training=True,
        ),
        Metric(
            "hidden_error",
            "hidden error",
            "share",
            higher_is_better=False,
            note="Share of the variance of the teacher's hidden states that is missed, the mean over the blocks: at "
            "0% the two models are the same, at 100% a constant would be as good.",
        ),
        Metric("divergence", "divergence", "loss"),
        Metric("accuracy", "accuracy", "share"),
        Metric("teacher_accuracy", "accuracy of the teacher", "share"),
        LOSS,
        BALANCE,
    )
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
    def load(cls, folder: Path) -> Any:
        return read_source(folder)

    @classmethod
    def predict(cls, model: Any, processor: Any, inputs: Sequence[str], *, top: int = 5) -> list[Prediction]:
        """Raise: a student predicts as what it is, by the task of its head, and without one it predicts nothing."""
        raise WideNetError(f"{model.name_or_path} has no head to predict with; fine-tune it first: model=FOLDER")

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
    def reload_teacher(cls, recipe: DistillationRecipe, student: Any) -> WideNetPreTrainedModel:
        """Return the teacher of a recipe, for a student that is to be tested.

        Raises:
            WideNetError: it cannot be read, or does not fit the student.
        """
        name = Path(recipe.distillation.teacher or str(recipe.model.name)).expanduser()
        if not name.is_dir():
            try:
                find_source(name)
            except WideNetError as error:
                raise WideNetError(f"the teacher is needed, too; distillation.teacher= says where: {error}") from error
        return cls._teacher(recipe, student)

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
            kinds = (task for task in Distillation.__subclasses__() if task.config_class is type(teacher.config))
            raise WideNetError(
                f"{name} is no model for recipe {recipe.name}; a recipe of the task {next(kinds).name} is for its kind"
            )
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

    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        N = len(next(iter(batch.values())))
        same, predictions = self.score(output, batch)
        found.add(
            missed=output.missed,
            variance=output.variance,
            total=float(output.loss * N),
            predictions=predictions,
            same=same,
            compared=predictions or N,
            divergence=float(output.divergence * (predictions or N)),
        )
        if self.labelled:
            for name, logits in (("accuracy", output.logits), ("teacher_accuracy", output.truth)):
                found.add(**{name: (logits.argmax(-1) == batch["labels"]).sum()})

    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the scores of a part.

        Returns:
            ``hidden_error``, the share of the variance of the teacher's hidden states that the student misses,
            the mean of ``hidden_errors`` over the blocks: 0 is the same model, 1 no better than a constant.
            With a head: ``divergence`` (Kullback-Leibler, in nats; of a regression the mean squared distance)
            and ``agreement``, the share of predictions that are the teacher's: classes, masked words, or where
            answers begin. On images of the model's own classes ``accuracy`` and ``teacher_accuracy``.
        """
        errors = found.sums["missed"] / found.sums["variance"]  # [B]
        scores: dict[str, Any] = {"hidden_error": float(errors.mean())}
        if part != "validation":
            scores["hidden_errors"] = errors.tolist()
        if self.has_head:
            scores["divergence"] = found.mean("divergence", "compared")
        if found.total("predictions"):
            scores["agreement"] = found.mean("same", "predictions")
        if self.labelled:
            scores |= {name: found.mean(name) for name in ("accuracy", "teacher_accuracy")}
        return {**scores, "loss": found.mean("total")}

    def select(self, scores: dict[str, Any]) -> float:
        return -bounded(scores["loss"])

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels of the model's own classes, to score with."""
        return False


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
