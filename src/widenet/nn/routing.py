"""Routing: which experts see which token (Eq 2 to 5 of the paper).

Axes, here and in the other model files:

    N images or sequences    L tokens of each    T = N·L tokens in all    D hidden size
    E experts                K experts a token   H hidden size of an expert    B blocks

Everything that decides is a pure function on small tensors, in float32 or wider.
"""

from contextlib import nullcontext
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from widenet.config import WideNetConfig


class Routing(NamedTuple):
    """One routing operation over T tokens.

    Attributes:
        experts: [T, K] int64, each token's experts, best first.
        gates: [T, K], their probabilities (Eq 2), before any drop.
        kept: [T, K] bool, False where the expert was full or the token is padding.
        probabilities: [T, E], softmax(f(x) + ε) (Eq 5).
        balance_loss: scalar, Eq 3. Zero in a block that reuses an earlier block's routing, so that the
            sum over blocks counts each routing operation once.
    """

    experts: Tensor
    gates: Tensor
    kept: Tensor
    probabilities: Tensor
    balance_loss: Tensor

    @property
    def weights(self) -> Tensor:
        """[T, K] gates as the experts are combined with them: exactly zero where dropped."""
        return self.gates * self.kept

    def reused(self) -> "Routing":
        """The record of a later block in the same routing group: the same choice, no loss of its own."""
        return self._replace(balance_loss=torch.zeros_like(self.balance_loss))


def expert_capacity(num_tokens: int | Tensor, num_experts: int, top_k: int, factor: float) -> int | Tensor:
    """Slots of one expert: ceil(C·K·T / E).

    The paper gives all experts together C·K·N·L slots. Integer arithmetic on C as it is written (1.1 is
    11/10, to six digits) keeps 1.1·10 from becoming 12, and works on a tensor count without leaving
    the device.

    Args:
        num_tokens: T without padding, an int or an int64 scalar tensor.
        num_experts: E.
        top_k: K.
        factor: C, above 0.
    """
    ratio = Fraction(str(factor)).limit_denominator(10**6)
    return (ratio.numerator * top_k * num_tokens + ratio.denominator * num_experts - 1) // (
        ratio.denominator * num_experts
    )


def within_capacity(experts: Tensor, num_experts: int, capacity: int | Tensor, mask: Tensor | None) -> Tensor:
    """Return which assignments [T, K] fit: an expert serves its first ``capacity`` ones.

    Every token's first choice comes before any token's second choice; within a choice, token order (as
    GShard and V-MoE; the paper is silent). A token partly over capacity keeps what fits. Padding takes no
    slot and is never kept.
    """
    T, K = experts.shape
    one_hot = experts.t().unsqueeze(-1) == torch.arange(num_experts, device=experts.device)  # [K, T, E]
    if mask is not None:
        one_hot = one_hot & mask[None, :, None]
    taken = one_hot.reshape(K * T, num_experts).long().cumsum(0).view(K, T, num_experts)  # 1-based slot
    return (one_hot & (taken <= capacity)).any(-1).t()  # [T, K]


def load_balance_loss(probabilities: Tensor, experts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Eq 3: E · Σ_i m_i · P_i, exactly 1 for a balanced router whatever K is.

    m_i is the share of all K·T assignments sent to expert i before any drop (Eq 4, divided by K so that
    Σ m_i = 1) and carries no gradient; P_i is the mean probability of expert i (Eq 5). Padding is in
    neither.

    Args:
        probabilities: [T, E].
        experts: [T, K].
        mask: [T] bool, False for padding.
    """
    E = probabilities.shape[1]
    chosen = (experts.unsqueeze(-1) == torch.arange(E, device=experts.device)).sum(1)  # [T, E]
    chosen = chosen.to(probabilities.dtype)
    if mask is None:
        sent, mean_probability = chosen.mean(0), probabilities.mean(0)  # [E]
    else:
        weight = mask.to(probabilities.dtype).unsqueeze(-1)  # [T, 1]
        tokens = weight.sum().clamp(min=1)
        sent, mean_probability = (chosen * weight).sum(0) / tokens, (probabilities * weight).sum(0) / tokens
    return E * torch.dot(sent / experts.shape[1], mean_probability)


class Router(nn.Module):
    """f of Eq 2, D → E without bias, and the decision that follows from it."""

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        nn.init.normal_(self.weight, std=config.initializer_range)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Routing:
        """Route T tokens.

        Args:
            x: [T, D].
            mask: [T] bool, False for padding; None where every token counts.
        """
        config = self.config
        # Gates decide a discrete choice, so their arithmetic is float32 whatever the autocast or the
        # dtype of the weights (and float64 in a float64 model).
        dtype = torch.promote_types(x.dtype, torch.float32)
        has_autocast = torch.amp.is_autocast_available(x.device.type)  # the meta device has none
        with torch.autocast(x.device.type, enabled=False) if has_autocast else nullcontext():
            logits = nn.functional.linear(x.to(dtype), self.weight.to(dtype))  # [T, E]
            if self.training and config.router_noise_std:
                logits = logits + torch.randn_like(logits) * config.router_noise_std
            probabilities = logits.softmax(-1)
            gates, experts = probabilities.topk(config.num_experts_per_tok, dim=-1)  # [T, K]
            if config.normalize_gates:
                gates = gates / gates.sum(-1, keepdim=True)
            balance = load_balance_loss(probabilities, experts, mask)

        factor = config.capacity_factor if self.training else config.eval_capacity_factor
        if factor is not None:
            tokens = x.shape[0] if mask is None else mask.sum()
            capacity = expert_capacity(tokens, config.num_experts, config.num_experts_per_tok, factor)
            kept = within_capacity(experts, config.num_experts, capacity, mask)
        elif mask is not None:
            kept = mask.unsqueeze(-1).expand_as(experts)
        else:
            kept = torch.ones_like(experts, dtype=torch.bool)
        return Routing(experts, gates, kept, probabilities, balance)
