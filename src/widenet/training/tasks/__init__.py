"""What can be trained, by the name of its task."""

from widenet.training.tasks.base import Task
from widenet.training.tasks.images import ImageClassification

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "image-classification": ImageClassification,
}
