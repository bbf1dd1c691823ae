"""Experts: E feed-forwards in two stacks of weights, and the ways to run tokens through them (Eq 1).

Axes: T tokens, D hidden size, E experts, K experts a token, H hidden size of an expert, S assignments
(token, expert) that are computed, at most T·K.

``config._experts_implementation`` picks the way, and ``model.set_experts_implementation`` switches it:

    "eager"        below: sorted assignments, one matrix product per expert. The default.
    "dense"        below: every expert on every token, static shapes, for export and as the obvious twin.
    "grouped_mm"   transformers' grouped matrix product; no synchronisation with the host on a GPU.
    "batched_mm"   transformers' gathered weights; for a handful of tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        self,
        hidden_states: Tensor,
        top_k_index: Tensor,
        top_k_weights: Tensor,
        slices: list[tuple[Tensor, ...]] | None = None,
    ) -> Tensor:
        """Return Σ_k weight_k · e_{index_k}(x) for every token.

        The S assignments (token, expert) of nonzero weight are sorted by expert, so that each expert
        multiplies one contiguous run of rows. Those of weight zero (dropped, padding) are never computed.

        Args:
            hidden_states: [T, D].
            top_k_index: [T, K] experts.
            top_k_weights: [T, K] gates, zero where dropped.
            slices: an empty list that the first block of a forward pass fills with the experts' weights,
                taken apart, and with copies in autocast's type, and that each block leaves to the next.
                Taking them apart in every block instead would put their gradients together in every
                block, a tenth of a training step.

        Returns:
            [T, D].
        """
        return self._sorted(hidden_states, top_k_index, top_k_weights, [] if slices is None else slices)

    @torch.compiler.disable  # its shapes depend on the data; on forward the mark would pass to the other backends
    def _sorted(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, slices: list) -> Tensor:
        if not slices:
            stacks = (self.up_proj, self.up_proj_bias, self.down_proj, self.down_proj_bias)
            dtype = stacks[0].dtype
            if torch.is_autocast_enabled(hidden_states.device.type) and dtype != torch.float64:
                dtype = torch.get_autocast_dtype(hidden_states.device.type)
            multiplied = [stack.detach().to(dtype) for stack in stacks]  # no copies where the type is the same
            slices.extend(zip(*(stack.unbind() for stack in (*stacks, *multiplied)), strict=True))
        dtype = slices[0][-1].dtype  # that of the products

        kept = top_k_weights != 0  # [T, K]
        expert = torch.where(kept, top_k_index, self.num_experts).reshape(-1)  # [T·K]
        *sizes, dropped = torch.bincount(expert, minlength=self.num_experts + 1).tolist()
        S = expert.numel() - dropped
        if S == 0:
            # No work, but every weight still needs its gradient of zero: under data parallelism the other
            # processes wait for it.
            nothing = top_k_weights.sum() + sum(weight.sum() for weight in self.parameters())
            return torch.zeros_like(hidden_states) + (0 * nothing).to(hidden_states.dtype)
        order = expert.argsort(stable=True)  # sorted row → assignment
        places = torch.empty_like(order)
        places[order] = torch.arange(order.numel(), device=order.device)  # assignment → sorted row
        places = places.clamp(max=S - 1).view_as(top_k_index)  # a dropped one's place is never used

        rows = _Dispatch.apply(hidden_states.to(dtype), order[:S], places, kept)  # [S, D]
        outputs = []
        for e, run in enumerate(rows.split(sizes)):
            up, up_bias, down, down_bias, *copies = slices[e]
            run = _padded(run)
            inner, up, up_bias = _Linear.apply(run, up, up_bias, *copies[:2])  # [rows of this expert, H]
            output, down, down_bias = _Linear.apply(self.act_fn(inner), down, down_bias, *copies[2:])
            slices[e] = up, up_bias, down, down_bias, *copies
            outputs.append(output[: sizes[e]])
        rows = torch.cat(outputs)  # [S, D]
        mixed = _Combine.apply(rows, top_k_weights.to(rows.dtype), order[:S], places, kept)
        return mixed.to(hidden_states.dtype)


def dense_experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
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


def _padded(run: Tensor) -> Tensor:
    """Return the rows of an expert, with rows of zeros up to a multiple of 64 for bfloat16 on a CPU.

    There PyTorch compiles a product anew for every number of rows, in ten times the time that the product
    itself takes, and keeps the last 1,024. Experts have another number of rows in every step.
    """
    few = len(run) < 64
    if few or run.device.type != "cpu" or run.dtype != torch.bfloat16:
        return run
    return nn.functional.pad(run, (0, 0, 0, -len(run) % 64))


class _Linear(torch.autograd.Function):
    """A linear layer that hands its weights on to their next use, in a later block.

    Their gradient comes back the same way, last use first, and each use adds its share in place. Left to
    itself autograd makes a whole gradient for every use and adds them up: most of what the step of a WideNet
    costs beyond that of a dense model of equal FLOPs.

    The product is made with copies of weight and bias in the type of x, one copy for all blocks under autocast;
    the gradients are summed in the type of the weights themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, weight_copy: Tensor, bias_copy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtype = weight.dtype
        ctx.save_for_backward(x, weight_copy)
        ctx.set_materialize_grads(False)  # the last use gets None for weights that nobody used after it
        return nn.functional.linear(x, weight_copy, bias_copy), weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_weight: Tensor | None, grad_bias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, grad_weight, grad_bias, None, None
        x, weight_copy = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        if needs_weight:
            if grad_weight is not None and grad.dtype == ctx.dtype:
                grad_weight.addmm_(grad.t(), x)
            else:
                product = (grad.t() @ x).to(ctx.dtype)  # add_ would convert it, too, but slower
                grad_weight = product if grad_weight is None else grad_weight.add_(product)
        if needs_bias:
            share = grad.sum(0, dtype=ctx.dtype)
            grad_bias = share if grad_bias is None else grad_bias.add_(share)
        return grad @ weight_copy if needs_x else None, grad_weight, grad_bias, None, None


class _Dispatch(torch.autograd.Function):
    """Copy each token [T, D] to its rows [S, D] in the sorted order; the gradient sums them up again.

    Plain indexing would do, but its gradient is a scatter: slow on a CPU and, as index_add, not
    reproducible on a GPU. embedding_bag gathers and sums K rows a token in one pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, places: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(places, kept)
        return x.index_select(0, order // places.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        places, kept = ctx.saved_tensors
        grad_x = nn.functional.embedding_bag(places, grad, mode="sum", per_sample_weights=kept.to(grad.dtype))
        return grad_x, None, None, None


class _Combine(torch.autograd.Function):
    """Weigh and sum each token's rows: the inverse walk of :class:`_Dispatch`, [S, D] to [T, D]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, order: Tensor, places: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, order, places, kept)
        return nn.functional.embedding_bag(places, rows, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, weights, order, places, kept = ctx.saved_tensors
        spread = grad.index_select(0, order // places.shape[1])  # [S, D]
        grad_weights = torch.linalg.vecdot(spread, rows)[places] * kept
        return spread * weights.reshape(-1)[order].unsqueeze(-1), grad_weights, None, None, None
