"""Parameters and FLOPs of a model, exactly, without building it in memory.

A FLOP here is one multiplication or one addition of a matrix product, so a multiply-add counts two.
"Active" is what one token really uses: K experts of E.
"""

from dataclasses import dataclass

import torch

from widenet.config import WideNetTextConfig, WideNetVisionConfig
from widenet.models.text import WideNetTextModel
from widenet.models.vision import WideNetForImageClassification

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
        tokens: length of the text; by default the longest, ``config.max_position_embeddings``. An image's
            follows from its size.
    """
    model: WideNetTextModel | WideNetForImageClassification
    with torch.device("meta"):
        if isinstance(config, WideNetTextConfig):
            model = WideNetTextModel(config)
            encoder = model.encoder
        else:
            model = WideNetForImageClassification(config)
            encoder = model.model.encoder
    # parameters() yields a shared module's weights once: the encoder owns each module once.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    E, K = config.num_experts, config.num_experts_per_tok
    experts = sum(parameter.numel() for parameter in encoder.experts.parameters())
    L = _tokens(config, tokens)
    return Counts(
        parameters=parameters,
        active_parameters=parameters - experts // E * (E - K) if experts else parameters,
        tokens=L,
        flops=forward_flops(config, experts_per_token=E, tokens=L),
        active_flops=forward_flops(config, experts_per_token=K, tokens=L),
    )


def forward_flops(config: ModelConfig, experts_per_token: int, tokens: int | None = None) -> int:
    """Return the FLOPs of one image's or text's forward pass (matrix products only); arguments as :func:`count`."""
    D = config.hidden_size
    L = _tokens(config, tokens)
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


def _tokens(config: ModelConfig, tokens: int | None) -> int:
    if isinstance(config, WideNetTextConfig):
        return tokens or config.max_position_embeddings
    return config.num_prefix_tokens + config.num_patches


def _ends(config: ModelConfig, L: int) -> int:
    """Multiply-adds before and after the encoder: projection and pooler, or patches and classifier."""
    D = config.hidden_size
    if isinstance(config, WideNetTextConfig):
        return (L * config.embedding_size * D if config.embedding_size != D else 0) + D * D
    patches = config.num_patches * config.num_channels * config.patch_size**2 * D
    return patches + D * len(config.id2label or {}) + (D * D if config.use_representation else 0)
