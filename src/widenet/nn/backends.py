"""Faster backends for the experts, each with the arguments and result of :meth:`Experts.forward`, the plain loop.

Axes: as in ``experts.py``, and S assignments (token, expert) of nonzero weight, at most T·K.

``model.set_experts_implementation(...)`` switches between them:

    "widenet_sorted"   sorted assignments, one matrix product per expert and layer. The default.
    "widenet_every"    every expert on every token: static shapes, for ``torch.export`` and graphs without a break.
    "grouped_mm"       transformers' grouped matrix product; no synchronisation with the host on a GPU.
    "batched_mm"       transformers' gathered weights; for a handful of tokens.
    "eager"            the plain loop itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward

SORTED = "widenet_sorted"


class WeightCache:
    """The weights of a mixture, taken apart by expert once per forward pass for all blocks that share them.

    Selecting ``up_proj[e]`` in each block instead would build a gradient of the whole stack in each, a tenth of a
    training step. A block takes the weights from here and leaves those that :class:`_Linear` hands on. Under autocast
    the copies in its type are made once, too.

    Args:
        keep: False under gradient checkpointing, where no block may depend on what another one computed: each call
            takes the weights apart anew.
    """

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep
        self._parts: list[tuple[Tensor, ...]] = []

    def parts(self, experts: nn.Module, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        """Return per expert (up, its bias, down, its bias), then the four as copies of this type.

        The caller puts the weights for the next block into the list.
        """
        if self._parts:
            return self._parts
        stacks: Any = (experts.up_proj, experts.up_proj_bias, experts.down_proj, experts.down_proj_bias)
        copies = [stack.detach().to(dtype) for stack in stacks]  # no copies where the type is the same
        parts = list(zip(*(stack.unbind() for stack in (*stacks, *copies)), strict=True))
        if self._keep:
            self._parts = parts
        return parts


@torch.compiler.disable  # its shapes depend on the data
def sorted_experts(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, cache: WeightCache | None = None
) -> Tensor:
    """Sort the S assignments of nonzero weight by expert, so that each multiplies one contiguous run of rows.

    Those of weight zero (dropped, padding) are never computed.
    """
    if hidden_states.is_meta:  # nothing to sort by
        return every_expert(self, hidden_states, top_k_index, top_k_weights)
    dtype, device = self.up_proj.dtype, hidden_states.device  # dtype: that of the products
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device.type)
    parts = (cache or WeightCache()).parts(self, dtype)

    kept = top_k_weights != 0  # [T, K]
    expert = torch.where(kept, top_k_index, self.num_experts).reshape(-1)  # [T·K]
    *sizes, dropped = torch.bincount(expert, minlength=self.num_experts + 1).tolist()
    S = expert.numel() - dropped
    if S == 0:
        # Every weight still needs its gradient of zero: under data parallelism the other processes wait for it.
        nothing = top_k_weights.sum() + sum(weight.sum() for weight in self.parameters())
        return torch.zeros_like(hidden_states) + (0 * nothing).to(hidden_states.dtype)
    order = expert.argsort(stable=True)  # sorted row → assignment
    places = torch.empty_like(order)
    places[order] = torch.arange(order.numel(), device=device)  # assignment → sorted row
    places = places.clamp(max=S - 1).view_as(top_k_index)  # a dropped one's place is never used

    rows = _Dispatch.apply(hidden_states.to(dtype), order[:S], places, kept)  # [S, D]
    outputs = []
    for e, run in enumerate(rows.split(sizes)):
        up, up_bias, down, down_bias, *copies = parts[e]
        run = _padded(run)
        inner, up, up_bias = _Linear.apply(run, up, up_bias, *copies[:2])  # [rows of this expert, H]
        output, down, down_bias = _Linear.apply(self.act_fn(inner), down, down_bias, *copies[2:])
        parts[e] = up, up_bias, down, down_bias, *copies
        outputs.append(output[: sizes[e]])
    rows = torch.cat(outputs)  # [S, D]
    mixed = _Combine.apply(rows, top_k_weights.to(rows.dtype), order[:S], places, kept)
    return mixed.to(hidden_states.dtype)


def every_expert(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, cache: WeightCache | None = None
) -> Tensor:
    """Run every expert on every token and weigh the results: E/K times the work, no data-dependent shape."""
    inner = torch.einsum("td,ehd->eth", hidden_states, self.up_proj) + self.up_proj_bias.unsqueeze(1)
    outputs = torch.einsum("eth,edh->etd", self.act_fn(inner), self.down_proj)  # [E, T, D]
    outputs = outputs + self.down_proj_bias.unsqueeze(1)
    experts = torch.arange(self.num_experts, device=top_k_index.device)
    gates = ((top_k_index.unsqueeze(-1) == experts) * top_k_weights.unsqueeze(-1)).sum(1)  # [T, E]
    return torch.einsum("etd,te->td", outputs, gates.to(outputs.dtype)).to(hidden_states.dtype)


def grouped_experts(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, cache: WeightCache | None = None
) -> Tensor:
    """Run transformers' grouped product, or :func:`sorted_experts` where PyTorch's kernel has no product.

    The kernel needs rows that are multiples of 16 bytes (D and H multiples of 8 in bfloat16, of 4 in float32), and
    knows no float64.
    """
    weight = self.up_proj
    aligned = all(width * weight.element_size() % 16 == 0 for width in weight.shape[1:])
    if weight.dtype == torch.float64 or not aligned:
        return sorted_experts(self, hidden_states, top_k_index, top_k_weights, cache)
    return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)


class _Backends(ExpertsInterface):
    """transformers' registry of backends, each of which here also takes a :class:`WeightCache`."""

    def get_interface(self, experts_implementation: str, default: Callable) -> Callable:
        """Return a backend by its name, ``default`` for "eager"; theirs are handed no cache."""
        backend = super().get_interface(experts_implementation, default)
        if backend in (default, sorted_experts, every_expert, grouped_experts):
            return backend
        return lambda self, hidden_states, index, weights, cache=None: backend(self, hidden_states, index, weights)


BACKENDS = _Backends()
BACKENDS["grouped_mm"] = grouped_experts  # in our table alone; other models keep transformers'
ExpertsInterface.register(SORTED, sorted_experts)
ExpertsInterface.register("widenet_every", every_expert)


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
