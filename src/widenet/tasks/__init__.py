"""What can be trained: a file per task. Importing this room registers every one of them.

Tasks of other packages come through the entry point ``widenet.tasks``, which names their modules.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from widenet.tasks.base import TASKS, Prediction, Task, Words, find_task, metric_of, task_of
from widenet.tasks.metrics import Metric, Tally

__all__ = ["TASKS", "Metric", "Prediction", "Tally", "Task", "Words", "find_task", "metric_of", "task_of"]

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
for _entry in entry_points(group="widenet.tasks"):
    _entry.load()
