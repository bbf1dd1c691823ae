"""Parameters and FLOPs of a model, exactly, without building it in memory.

A FLOP here is one multiplication or one addition of a matrix product, so a multiply-add counts two.
"Active" is what one token really uses: K experts of E.
"""

from dataclasses import dataclass
from typing import Any

import torch

from widenet.config import WideNetTextConfig, WideNetVisionConfig
from widenet.models.heads import heads_of

ModelConfig = WideNetVisionConfig | WideNetTextConfig


@dataclass(frozen=True)
class Counts:
    """Sizes and costs of one model.

    Attributes:
        parameters: every weight once, shared ones too.
        active_parameters: less the E - K experts of each mixture that a token does not visit.
        tokens: L, the tokens of the image or text that the FLOPs are of.
        flops: of one forward pass if every expert ran on every token.
        active_flops: of one forward pass with K experts a token, none dropped.
    """

    parameters: int
    active_parameters: int
    tokens: int
    flops: int
    active_flops: int


def count(config: ModelConfig, tokens: int | None = None) -> Counts:
    """Count a model's parameters and the FLOPs of one image or text.

    An image model counts with its classifier, a text model without a head (embeddings, encoder and pooler), as
    the paper counts both.

    Args:
        config: an image or a text model.
        tokens: L; by default ``config.num_tokens``, those of an image or of the longest text.
    """
    heads = heads_of(type(config))
    head = heads["features"] if isinstance(config, WideNetTextConfig) else next(iter(heads.values()))
    with torch.device("meta"):
        model = head.model_class(config)
    L = tokens or config.num_tokens
    return Counts(
        # parameters() yields a shared module's weights once: the encoder owns each module once.
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        active_parameters=active_parameters(model),
        tokens=L,
        flops=forward_flops(config, experts_per_token=config.num_experts, tokens=L),
        active_flops=forward_flops(config, experts_per_token=config.num_experts_per_tok, tokens=L),
    )


def active_parameters(model: Any) -> int:
    """Return the parameters of a model of this package less those of the E - K experts that a token does not visit."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    E, K = model.config.num_experts, model.config.num_experts_per_tok
    experts = sum(parameter.numel() for parameter in model.base_model.encoder.experts.parameters())
    return parameters - experts // E * (E - K) if experts else parameters


def forward_flops(config: ModelConfig, experts_per_token: int, tokens: int | None = None) -> int:
    """Return the FLOPs of one image's or text's forward pass (matrix products only); arguments as :func:`count`."""
    D = config.hidden_size
    L = tokens or config.num_tokens
    per_token = 0
    for step in config.depth_plan():
        per_token += 4 * D * D + 2 * L * D  # projections; scores and mixing
        if step.experts is None:
            per_token += 2 * D * config.intermediate_size
        else:
            per_token += 2 * D * (config.expert_intermediate_size or config.intermediate_size) * experts_per_token
        if step.router is not None:
            per_token += D * config.num_experts
    return 2 * (L * per_token + _ends(config, L))


def _ends(config: ModelConfig, L: int) -> int:
    """Multiply-adds before and after the encoder: projection and pooler, or patches and classifier."""
    D = config.hidden_size
    if isinstance(config, WideNetTextConfig):
        return (L * config.embedding_size * D if config.embedding_size != D else 0) + D * D
    patches = config.num_patches * config.num_channels * config.patch_size**2 * D
    return patches + D * len(config.id2label or {}) + (D * D if config.use_representation else 0)
