"""Experts: E feed-forwards in two stacks of weights, and the ways to run tokens through them (Eq 1).

Axes: T tokens, D hidden size, E experts, K experts a token, H hidden size of an expert, S = T·K
assignments (token, expert).

``config._experts_implementation`` picks the way, and ``model.set_experts_implementation`` switches it:

    "eager"        below: sorted assignments, one matrix product per expert. The default.
    "dense"        below: every expert on every token, static shapes, for export and as the obvious twin.
    "grouped_mm"   transformers' grouped matrix product; no synchronisation with the host on a GPU.
    "batched_mm"   transformers' gathered weights; for a handful of tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation

from widenet.config import WideNetConfig


@use_experts_implementation(has_gate=False, has_bias=True)
class Experts(nn.Module):
    """e_1 … e_E of Eq 1: each D → H → D, GELU between, both layers with bias.

    The authors' release applies a second GELU after the second layer; the paper's FFN and ours do not.
    """

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        E, D, H = config.num_experts, config.hidden_size, config.expert_intermediate_size
        self.num_experts = E
        self.up_proj = nn.Parameter(torch.empty(E, H, D))
        self.up_proj_bias = nn.Parameter(torch.zeros(E, H))
        self.down_proj = nn.Parameter(torch.empty(E, D, H))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D))
        self.act_fn = ACT2FN[config.hidden_act]
        for weight in (self.up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(
        self,
        hidden_states: Tensor,
        top_k_index: Tensor,
        top_k_weights: Tensor,
        slices: list[tuple[Tensor, ...]] | None = None,
    ) -> Tensor:
        """Return Σ_k weight_k · e_{index_k}(x) for every token.

        Assignments are sorted by expert, so each expert multiplies one contiguous run of rows. Those of
        weight zero (dropped, or padding) are sorted last and never computed.

        Args:
            hidden_states: [T, D].
            top_k_index: [T, K] experts.
            top_k_weights: [T, K] gates, zero where dropped.
            slices: an empty list that the first block of a forward pass fills with the experts' weights,
                taken apart, for the later blocks to use. Taking them apart in every block instead would
                put their gradients together in every block, a tenth of a training step.

        Returns:
            [T, D].
        """
        if slices is None:
            slices = []
        if not slices:
            stacks = (self.up_proj, self.up_proj_bias, self.down_proj, self.down_proj_bias)
            slices.extend(zip(*(stack.unbind() for stack in stacks), strict=True))

        T, K = top_k_index.shape
        expert = torch.where(top_k_weights != 0, top_k_index, self.num_experts).reshape(-1)  # [S]
        order = expert.argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(T * K, device=order.device)
        sizes = torch.bincount(expert, minlength=self.num_experts + 1).tolist()

        *runs, dropped = _Dispatch.apply(hidden_states, order, inverse, K).split(sizes)  # [S, D]
        outputs = []
        for run, (up, up_bias, down, down_bias) in zip(runs, slices, strict=True):
            inner = self.act_fn(nn.functional.linear(run, up, up_bias))  # [rows of this expert, H]
            outputs.append(nn.functional.linear(inner, down, down_bias))
        outputs.append(torch.zeros_like(dropped, dtype=outputs[0].dtype))
        rows = _Permute.apply(torch.cat(outputs), inverse, order).view(T, K, -1)
        # A sum over K rather than index_add, which is not reproducible on a GPU.
        return torch.einsum("tkd,tk->td", rows, top_k_weights.to(rows.dtype)).to(hidden_states.dtype)


def dense_experts_forward(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Run every expert on every token and weigh the results: E/K times the work, no data-dependent shape.

    Arguments and result as :meth:`Experts.forward`.
    """
    inner = torch.einsum("td,ehd->eth", hidden_states, self.up_proj) + self.up_proj_bias.unsqueeze(1)
    outputs = torch.einsum("eth,edh->etd", self.act_fn(inner), self.down_proj)  # [E, T, D]
    outputs = outputs + self.down_proj_bias.unsqueeze(1)
    experts = torch.arange(self.num_experts, device=top_k_index.device)
    gates = ((top_k_index.unsqueeze(-1) == experts) * top_k_weights.unsqueeze(-1)).sum(1)  # [T, E]
    return torch.einsum("etd,te->td", outputs, gates.to(outputs.dtype)).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts_forward)


class _Dispatch(torch.autograd.Function):
    """Copy each token [T, D] to its K places in the sorted order [S, D]; the gradient sums them up again.

    Indexing would do, but its gradient is a scatter: slow on a CPU and, as index_add, not reproducible on
    a GPU.
    """

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor, K: int) -> Tensor:
        return x.index_select(0, order // K)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        _, _, ctx.inverse, ctx.K = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows = grad.index_select(0, ctx.inverse)
        return rows.view(-1, ctx.K, rows.shape[-1]).sum(1), None, None, None


class _Permute(torch.autograd.Function):
    """Reorder rows; the gradient is the inverse reordering instead of a scatter."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(0, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.inverse = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.inverse), None, None
