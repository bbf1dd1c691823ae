"""The encoder: a walk through depth over shared or unshared modules (Eq 6 to 8 of the paper).

Read top to bottom: the leaf modules, then :class:`Encoder`, which owns every module once and follows
``config.depth_plan()``. Shared weights therefore exist once in the state dict, have one parent, and count once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask

from widenet.config import WideNetConfig
from widenet.nn.attention import Attention
from widenet.nn.backends import WeightCache
from widenet.nn.experts import Experts
from widenet.nn.routing import Router, Routing


class FeedForward(nn.Module):
    """A dense FFN: D → intermediate → D."""

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens [..., D] one by one."""
        return self.down_proj(self.act_fn(self.up_proj(x)))


class Norms(nn.Module):
    """What a block keeps for itself: LayerNorm^att and LayerNorm^moe of Eq 6, each Eq 7."""

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.attention = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


@dataclass
class EncoderOutput:
    """What the walk returns.

    Attributes:
        last_hidden_state: [N, L, D].
        balance_loss: scalar, Σ_t l_t over the routing operations (Eq 8, without λ).
        routing: one record per block, None for a dense block.
        hidden_states: [N, L, D] before the first and after every block, if asked for.
        attentions: [N, A, L, L] per block, if asked for.
    """

    last_hidden_state: Tensor
    balance_loss: Tensor
    routing: tuple[Routing | None, ...]
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class Encoder(nn.Module):
    """B blocks over lists of modules as long as the config says: 1 where shared, one per use where not.

    Gradient checkpointing recomputes the two halves of a block. They are methods and not transformers'
    ``GradientCheckpointingLayer``: a block owns no module that it shares, and its routing decision stays outside.
    """

    _gradient_checkpointing_func: Callable[..., Any]  # set by transformers with gradient_checkpointing

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.config = config
        self.plan = config.depth_plan()
        self.attentions = self._modules_of(Attention, "attention")
        self.feed_forwards = self._modules_of(FeedForward, "dense")
        self.routers = self._modules_of(Router, "router")
        self.experts = self._modules_of(Experts, "experts")
        self.norms = self._modules_of(Norms, "norms")
        # Pre-LN leaves the residual stream unnormalised at the end; post-LN does not.
        self.final_norm: nn.Module = nn.Identity()
        if config.norm_first:
            self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gradient_checkpointing = False

    def forward(
        self,
        x: Tensor,
        token_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        num_blocks: int | None = None,
    ) -> EncoderOutput:
        """Walk through all blocks.

        Args:
            x: [N, L, D] embedded tokens.
            token_mask: [N, L], nonzero for tokens and zero for padding. Padding is outside attention, the
                balance loss, the expert counts and the capacity.
            output_hidden_states: return the hidden states around every block.
            output_attentions: return the attention probabilities, which the backend "eager" alone has.
            num_blocks: stop after the first so many blocks.
        """
        backend = "eager" if output_attentions else self.config._attn_implementation or "eager"
        attention_mask = self._attention_mask(x, token_mask, backend)
        flat_mask = None if token_mask is None else token_mask.reshape(-1).bool()  # [T]
        caches = [WeightCache(keep=not (self.gradient_checkpointing and self.training)) for _ in self.experts]
        hidden_states, attentions = [x], []
        records: list[Routing | None] = []
        routing: Routing | None = None
        for step in self.plan[:num_blocks]:
            norms: Any = self.norms[step.norms]
            attention = self.attentions[step.attention]
            x, probabilities = self._checkpoint(self._attend, x, norms, attention, attention_mask, backend)
            if step.dense is not None:
                x = self._checkpoint(self._dense, x, norms, self.feed_forwards[step.dense])
                records.append(None)
            elif step.experts is not None:
                # Outside the checkpoint: recomputed, the decision could fall otherwise, and its loss must count once.
                tokens = self._feed_forward_input(x, norms)  # [T, D]
                if step.router is not None:
                    routing = self.routers[step.router](tokens, flat_mask)
                elif routing is not None:
                    routing = routing.reused()  # Fig 3
                assert routing is not None  # a group's first mixture has a router
                # Tensors rather than the record: checkpointing with use_reentrant=True sees no others.
                inputs = tokens, routing.experts, routing.weights, caches[step.experts]
                x = self._checkpoint(self._mixture, x, norms, self.experts[step.experts], *inputs)
                records.append(routing)
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(probabilities)
        losses = [record.balance_loss for record in records if record is not None]
        return EncoderOutput(
            last_hidden_state=self.final_norm(x),
            # Eq 8: Σ_t l_t; a model with a head adds λ times this to its main loss.
            balance_loss=torch.stack(losses).sum() if losses else x.new_zeros((), dtype=torch.float32),
            routing=tuple(records),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _attend(self, x: Tensor, norms: Norms, attention: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Eq 6, first half: x ← MHA(LN_att(x)) + x, or LN_att(MHA(x) + x) in a post-LN encoder."""
        norm_first = self.config.norm_first
        mixed, probabilities = attention(norms.attention(x) if norm_first else x, *inputs)
        x = x + self.dropout(mixed)
        return (x if norm_first else norms.attention(x)), probabilities

    def _mixture(self, x: Tensor, norms: Norms, experts: nn.Module, *inputs: Any) -> Tensor:
        """Eq 6, second half: x ← MoE(LN_moe(x)) + x; the residual alone carries a dropped or padding token."""
        return self._add_residual(x, experts(*inputs), norms)

    def _dense(self, x: Tensor, norms: Norms, feed_forward: nn.Module) -> Tensor:
        """Eq 6, second half, with a dense FFN in the place of the mixture: x ← FFN(LN_moe(x)) + x."""
        return self._add_residual(x, feed_forward(self._feed_forward_input(x, norms)), norms)

    def _feed_forward_input(self, x: Tensor, norms: Norms) -> Tensor:
        """The tokens as router and experts see them: [T, D]."""
        if self.config.norm_first:
            x = norms.feed_forward(x)
        return x.reshape(-1, x.shape[-1])

    def _add_residual(self, x: Tensor, update: Tensor, norms: Norms) -> Tensor:
        x = x + self.dropout(update.view_as(x))
        return x if self.config.norm_first else norms.feed_forward(x)

    def _attention_mask(self, x: Tensor, token_mask: Tensor | None, backend: str) -> Any:
        """Return the mask in the backend's own form."""
        if token_mask is None:
            return None
        if backend == "eager":
            return token_mask[:, None, None, :].bool()
        return create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=token_mask)

    def _checkpoint(self, function: Any, *args: Any) -> Any:
        recomputed = self.gradient_checkpointing and self.training
        return self._gradient_checkpointing_func(function, *args) if recomputed else function(*args)

    def _modules_of(self, kind: Callable[[WideNetConfig], nn.Module], field: str) -> nn.ModuleList:
        used = {getattr(step, field) for step in self.plan} - {None}
        return nn.ModuleList(kind(self.config) for _ in used)
