"""Parameters and FLOPs of a model, exactly, without building it in memory.

A FLOP here is one multiplication or one addition of a matrix product, so a multiply-add counts two.
"Active" is what one token really uses: K experts of E.
"""

from dataclasses import dataclass

import torch

from widenet.config import WideNetVisionConfig
from widenet.vision import WideNetForImageClassification


@dataclass(frozen=True)
class Counts:
    """Sizes and costs of one model.

    Attributes:
        parameters: every weight once, shared ones too.
        active_parameters: less the E - K experts of each mixture that a token does not visit.
        flops: of one image's forward pass if every expert ran on every token.
        active_flops: of one image's forward pass with K experts a token, none dropped.
    """

    parameters: int
    active_parameters: int
    flops: int
    active_flops: int


def count(config: WideNetVisionConfig) -> Counts:
    """Count an image classifier's parameters and the FLOPs of one image."""
    with torch.device("meta"):
        model = WideNetForImageClassification(config)
    # parameters() yields a shared module's weights once: the encoder owns each module once.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    E, K = config.num_experts, config.num_experts_per_tok
    experts = sum(parameter.numel() for parameter in model.model.encoder.experts.parameters())
    return Counts(
        parameters=parameters,
        active_parameters=parameters - experts // E * (E - K) if experts else parameters,
        flops=image_flops(config, experts_per_token=E),
        active_flops=image_flops(config, experts_per_token=K),
    )


def image_flops(config: WideNetVisionConfig, experts_per_token: int) -> int:
    """Return the FLOPs of one image's forward pass (matrix products only)."""
    D = config.hidden_size
    L = config.num_patches + (config.pooling == "cls")
    per_token = 0
    for step in config.depth_plan():
        per_token += 4 * D * D + 2 * L * D  # projections; scores and mixing
        if step.experts is None:
            per_token += 2 * D * config.intermediate_size
        else:
            per_token += 2 * D * (config.expert_intermediate_size or config.intermediate_size) * experts_per_token
        if step.router is not None:
            per_token += D * config.num_experts
    patches = config.num_patches * config.num_channels * config.patch_size**2 * D
    head = D * len(config.id2label or {}) + (D * D if config.use_representation else 0)
    return 2 * (L * per_token + patches + head)
