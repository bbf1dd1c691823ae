"""Multi-head self-attention over any backend of transformers' attention interface.

Axes: N images or sequences, L tokens of each, D hidden size, A attention heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from widenet.config import WideNetConfig


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention written out; the slow twin of the fused backends, and the one with probabilities.

    Args:
        query, key, value: [N, A, L, D/A].
        attention_mask: [N, 1, 1, L] bool, False for padding, or None.

    Returns:
        The mixed values [N, L, A, D/A] and the probabilities [N, A, L, L].
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    dtype = torch.promote_types(query.dtype, torch.float32)
    probabilities = scores.softmax(-1, dtype=dtype).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, dropout, module.training)
    return (probabilities @ value).transpose(1, 2), probabilities


class Attention(nn.Module):
    """Multi-head self-attention (MHA of Eq 6)."""

    is_causal = False

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.config = config
        D = config.hidden_size
        self.head_size = D // config.num_attention_heads
        self.q_proj = nn.Linear(D, D)
        self.k_proj = nn.Linear(D, D)
        self.v_proj = nn.Linear(D, D)
        self.o_proj = nn.Linear(D, D)

    def forward(self, x: Tensor, attention_mask: Tensor | None, backend: str) -> tuple[Tensor, Tensor | None]:
        """Mix tokens [N, L, D]; also return the probabilities [N, A, L, L] where the backend has them.

        Args:
            x: [N, L, D].
            attention_mask: in the backend's own form.
            backend: "eager" or a name in transformers' attention interface.
        """
        N, L, D = x.shape
        heads = (N, L, -1, self.head_size)
        query = self.q_proj(x).view(heads).transpose(1, 2)  # [N, A, L, D/A]
        key = self.k_proj(x).view(heads).transpose(1, 2)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        mixed, probabilities = attend(
            self, query, key, value, attention_mask, scaling=self.head_size**-0.5, dropout=dropout
        )
        return self.o_proj(mixed.reshape(N, L, D)), probabilities
