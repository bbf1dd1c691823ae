"""What the models for images and for text share as models of transformers."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from widenet.config import WideNetConfig
from widenet.models.hub import ModelWithCard
from widenet.nn.backends import SORTED
from widenet.nn.experts import Experts
from widenet.nn.routing import Router


class WideNetPreTrainedModel(ModelWithCard):
    """What every WideNet model shares: its initial weights and the backends it supports."""

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

    def __init__(self, config: WideNetConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if not config.moe_blocks:  # and so no routers
            self._keep_in_fp32_modules_strict = []

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Default to our own sorted backend rather than transformers' grouped product."""
        return super().get_correct_experts_implementation(requested_experts or SORTED)

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
