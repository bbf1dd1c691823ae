"""What the models for images and for text share as models of transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from widenet.config import WideNetConfig
from widenet.models.card import CARD, complete_upload
from widenet.nn.backends import SORTED
from widenet.nn.experts import Experts
from widenet.nn.routing import Router


class WideNetPreTrainedModel(PreTrainedModel):
    """What every WideNet model shares: its initial weights, the backends it supports, a model card when uploaded."""

    config_class: type[WideNetConfig] = WideNetConfig
    config: WideNetConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch; Trainer must not rescale it by item counts it passes elsewhere.
    accepts_loss_kwargs = False
    _no_split_modules = ["Attention", "FeedForward", "Experts"]  # noqa: RUF012 (transformers' own type)
    _keep_in_fp32_modules_strict = ["routers"]  # noqa: RUF012 (transformers' own type)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _card: bytes | None = None  # of the folder that was last saved to

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Default to our own sorted backend rather than transformers' grouped product."""
        return super().get_correct_experts_implementation(requested_experts or SORTED)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does; with ``push_to_hub=True`` a folder keeps the card that it has, and uploads it."""
        card = Path(save_directory) / CARD
        self._card = card.read_bytes() if card.is_file() else None
        super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Upload a model card, too; this is the last step of transformers' ``push_to_hub`` and ``save_pretrained``."""
        complete_upload(self, Path(working_dir), repo_id, self._card, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Router):
            init.normal_(module.weight, std=std)
        elif isinstance(module, Experts):
            for weight in (module.up_proj, module.down_proj):
                init.normal_(weight, std=std)
            for bias in (module.up_proj_bias, module.down_proj_bias):
                init.zeros_(bias)
