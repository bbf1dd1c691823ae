"""What can be trained, by the name of its task."""

from widenet.training.tasks.base import Task
from widenet.training.tasks.distillation import ImageDistillation, TextDistillation
from widenet.training.tasks.images import ImageClassification
from widenet.training.tasks.pretraining import Pretraining
from widenet.training.tasks.questions import QuestionAnswering
from widenet.training.tasks.sentences import SentenceClassification

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "image-classification": ImageClassification,
    "pretraining": Pretraining,
    "text-classification": SentenceClassification,
    "question-answering": QuestionAnswering,
    "text-distillation": TextDistillation,
    "image-distillation": ImageDistillation,
}
