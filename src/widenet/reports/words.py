"""What the page calls things: by the task of the run, and by the metric."""

from dataclasses import dataclass
from typing import Any, Literal

PRETRAINING_LOSS = (
    "The loss that is minimised: of the masked words and of the sentence order, plus the weighted balance loss."
)
DISTILLATION_LOSS = (
    "The loss that is minimised: the hidden error and the divergence of the predictions from the teacher's, where "
    "there are any, plus the weighted balance loss."
)


@dataclass(frozen=True)
class TaskWords:
    """How to speak of a task.

    Attributes:
        examples: what the split and the test count.
        one: what the FLOPs are of.
        routed: what the experts shared at the test.
        loss: caption of the loss.
    """

    examples: str
    one: str
    routed: str
    loss: str


IMAGES = TaskWords(
    "images",
    "image",
    "images",
    "The loss that is minimised: cross-entropy plus the weighted balance loss. In training it also "
    "feels augmentation, mixup and label smoothing, where the recipe uses them.",
)
TASKS = {
    "pretraining": TaskWords("segments", "text", "segments", PRETRAINING_LOSS),
    "text-classification": TaskWords(
        "texts",
        "text",
        "texts",
        "In training cross-entropy, or of numbers the squared error, plus the weighted balance loss, with dropout; "
        "in validation without either.",
    ),
    "question-answering": TaskWords(
        "questions",
        "window",
        "windows",
        "The loss that is minimised: cross-entropy of the answer's first and last token, plus the weighted balance "
        "loss. In validation only answers are scored.",
    ),
    "text-distillation": TaskWords("segments", "text", "segments", DISTILLATION_LOSS),
    "image-distillation": TaskWords("images", "image", "images", DISTILLATION_LOSS),
}


@dataclass(frozen=True)
class Metric:
    """A metric's name within a sentence, and whether it is a share of 1, in percent already, or a plain number."""

    label: str
    kind: Literal["share", "percent", "number"] = "number"

    @property
    def title(self) -> str:
        """The name at the beginning of a line."""
        return self.label[0].upper() + self.label[1:]

    def text(self, value: float) -> str:
        """Return a value as a person reads it."""
        if self.kind == "number":
            return f"{value:.3f}"
        return f"{100 * value if self.kind == 'share' else value:.2f}%"


METRICS = {
    "agreement": Metric("agreement with the teacher", "share"),
    "hidden_error": Metric("hidden error", "share"),
    "divergence": Metric("divergence"),
    "accuracy": Metric("accuracy", "share"),
    "teacher_accuracy": Metric("accuracy of the teacher", "share"),
    "top5_accuracy": Metric("top-5 accuracy", "share"),
    "macro_f1": Metric("macro F1", "share"),
    "loss": Metric("loss"),
    "pearson": Metric("Pearson correlation"),
    "spearman": Metric("Spearman correlation"),
    "mlm_loss": Metric("MLM loss"),
    "unigram_loss": Metric("unigram loss"),
    "mlm_accuracy": Metric("MLM accuracy", "share"),
    "sentence_order_loss": Metric("sentence-order loss"),
    "sentence_order_accuracy": Metric("sentence-order accuracy", "share"),
    "exact_match": Metric("exact match", "percent"),
    "exact": Metric("exact match", "percent"),
    "f1": Metric("F1", "percent"),
}


def words_of(metrics: dict[str, Any]) -> TaskWords:
    """Return the words for a run's task; runs from before there were tasks are of images."""
    return TASKS.get(str(metrics.get("task")), IMAGES)


def headline_of(metrics: dict[str, Any]) -> list[str]:
    """Return the metrics that tell how good a run's model is, the first above all."""
    return list(metrics.get("headline") or ["accuracy"])


def metric(name: str) -> Metric:
    """Return how to speak of a metric, also of one that is not known here."""
    return METRICS.get(name) or Metric(name.replace("_", " "))
