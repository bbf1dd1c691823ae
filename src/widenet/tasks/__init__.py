"""What can be trained, by the name of its task."""

from transformers import (
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from widenet.models.heads import register_head
from widenet.models.text import WideNetForPreTraining, WideNetForQuestionAnswering, WideNetForSequenceClassification
from widenet.models.vision import WideNetForImageClassification
from widenet.tasks.base import Task
from widenet.tasks.distillation import ImageDistillation, TextDistillation
from widenet.tasks.images import ImageClassification
from widenet.tasks.pretraining import Pretraining
from widenet.tasks.questions import QuestionAnswering
from widenet.tasks.sentences import SentenceClassification

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "image-classification": ImageClassification,
    "pretraining": Pretraining,
    "text-classification": SentenceClassification,
    "question-answering": QuestionAnswering,
    "text-distillation": TextDistillation,
    "image-distillation": ImageDistillation,
}

register_head(
    "image-classification",
    WideNetForImageClassification,
    pipeline="image-classification",
    auto_class=AutoModelForImageClassification,
    default=True,
)
register_head(
    "pretraining",
    WideNetForPreTraining,
    pipeline="fill-mask",
    auto_class=AutoModelForPreTraining,
    default=True,
)
register_head(
    "text-classification",
    WideNetForSequenceClassification,
    pipeline="text-classification",
    auto_class=AutoModelForSequenceClassification,
)
register_head(
    "question-answering",
    WideNetForQuestionAnswering,
    pipeline="question-answering",
    auto_class=AutoModelForQuestionAnswering,
)
