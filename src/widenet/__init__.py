"""WideNet: transformers that go wider instead of deeper (Xue et al., AAAI 2022, arXiv 2107.11817).

Importing the package registers its models with transformers' Auto classes, so that
``pipeline(task, model=RUN)`` and ``AutoModel.from_pretrained(RUN)`` know them, and the image
models with timm, so that ``timm.create_model("widenet_base_patch16_224")`` does.
"""

from widenet import tasks as tasks  # a task registers its model class
from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.convert.dense import to_transformers
from widenet.convert.export import export_onnx
from widenet.convert.sources import from_dense
from widenet.convert.timm_vit import to_timm
from widenet.convert.widen import widen
from widenet.errors import WideNetError
from widenet.models.presets import create_config, create_model, list_models
from widenet.models.text import (
    WideNetForMaskedLM,
    WideNetForPreTraining,
    WideNetForQuestionAnswering,
    WideNetForSequenceClassification,
    WideNetTextModel,
)
from widenet.models.timm import WideNetTimmModel
from widenet.models.vision import WideNetForImageClassification, WideNetVisionModel
from widenet.nn.routing import Routing
from widenet.runs.run import Run

__version__ = "0.1.0"

__all__ = [
    "Routing",
    "Run",
    "WideNetConfig",
    "WideNetError",
    "WideNetForImageClassification",
    "WideNetForMaskedLM",
    "WideNetForPreTraining",
    "WideNetForQuestionAnswering",
    "WideNetForSequenceClassification",
    "WideNetTextConfig",
    "WideNetTextModel",
    "WideNetTimmModel",
    "WideNetVisionConfig",
    "WideNetVisionModel",
    "__version__",
    "create_config",
    "create_model",
    "export_onnx",
    "from_dense",
    "list_models",
    "to_timm",
    "to_transformers",
    "widen",
]
