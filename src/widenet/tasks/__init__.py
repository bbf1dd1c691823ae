"""What can be trained, by the name of its task."""

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
