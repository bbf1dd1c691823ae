"""Experts: E feed-forwards in two stacks of weights, and the sum over them (Eq 1).

Axes: T tokens, D hidden size, E experts, K experts a token, H hidden size of an expert, R rows of one expert.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

from widenet.config import WideNetConfig
from widenet.nn.backends import BACKENDS, WeightCache


@use_experts_implementation(experts_interface=BACKENDS, has_gate=False, has_bias=True)
class Experts(nn.Module):
    """e_1 … e_E of Eq 1: each D → H → D, GELU between, both layers with bias.

    The authors' release applies a second GELU after the second layer; the paper's FFN and ours do not.

    ``forward`` below is the backend "eager", the reference. ``config._experts_implementation`` picks another one
    of ``backends.py`` in its place, which must agree with it: "widenet_sorted" by default in a model.
    """

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        E, D = config.num_experts, config.hidden_size
        H = config.expert_intermediate_size or config.intermediate_size
        self.num_experts = E
        self.up_proj = nn.Parameter(torch.empty(E, H, D))
        self.up_proj_bias = nn.Parameter(torch.zeros(E, H))
        self.down_proj = nn.Parameter(torch.empty(E, D, H))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D))
        self.act_fn = ACT2FN[config.hidden_act]
        for weight in (self.up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, cache: WeightCache | None = None
    ) -> Tensor:
        """Eq 1: MoE(x) = Σ_i g(x)_i · e_i(x), over the experts that a token was sent to.

        Args:
            hidden_states: x, [T, D].
            top_k_index: [T, K] experts.
            top_k_weights: g(x), [T, K] gates, exactly zero where dropped.
            cache: of the forward pass; this loop needs none.

        Returns:
            [T, D].
        """
        mixed = torch.zeros_like(hidden_states)  # [T, D]
        for e in range(self.num_experts):
            token, k = torch.where((top_k_index == e) & (top_k_weights != 0))  # [R], [R]
            inner = self.act_fn(linear(hidden_states[token], self.up_proj[e], self.up_proj_bias[e]))  # [R, H]
            output = linear(inner, self.down_proj[e], self.down_proj_bias[e])  # [R, D]
            output = output * top_k_weights[token, k].unsqueeze(-1)
            mixed = mixed.index_add(0, token, output.to(mixed.dtype))
        return mixed
