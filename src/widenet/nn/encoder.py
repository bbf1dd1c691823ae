"""The encoder: a walk through depth over shared or unshared modules (Eq 6 to 8 of the paper).

Read top to bottom: the leaf modules, then :class:`Encoder`, which owns every module once and follows
``config.depth_plan()``. Shared weights therefore exist once in the state dict, have one parent, and are
counted once.

Axes: N images or sequences, L tokens of each, T = N·L, D hidden size, A attention heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from widenet.config import Step, WideNetConfig
from widenet.nn.experts import Experts
from widenet.nn.routing import Router, Routing


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
        mixed, probabilities = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_size**-0.5,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        return self.o_proj(mixed.reshape(N, L, D)), probabilities


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
    """What a block keeps for itself: LayerNorm^att and LayerNorm^moe of Eq 6."""

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
    """B blocks over lists of modules as long as the config says: 1 where shared, one per use where not."""

    _gradient_checkpointing_func: Callable[..., Any]  # set by transformers with gradient_checkpointing

    def __init__(self, config: WideNetConfig) -> None:
        super().__init__()
        self.config = config
        self.plan = config.depth_plan()
        self.attentions = nn.ModuleList(Attention(config) for _ in range(self._count("attention")))
        self.feed_forwards = nn.ModuleList(FeedForward(config) for _ in range(self._count("dense")))
        self.routers = nn.ModuleList(Router(config) for _ in range(self._count("router")))
        self.experts = nn.ModuleList(Experts(config) for _ in range(self._count("experts")))
        self.norms = nn.ModuleList(Norms(config) for _ in range(self._count("norms")))
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
            output_attentions: return attention probabilities, by the "eager" backend, the only one that
                has them.
            num_blocks: stop after the first so many blocks.
        """
        backend = "eager" if output_attentions else self.config._attn_implementation or "eager"
        attention_mask: Any = None  # in the backend's own form
        flat_mask: Tensor | None = None
        if token_mask is not None:
            flat_mask = token_mask.reshape(-1).bool()  # [T]
            if backend == "eager":
                attention_mask = token_mask[:, None, None, :].bool()
            else:
                attention_mask = create_bidirectional_mask(
                    config=self.config, inputs_embeds=x, attention_mask=token_mask
                )
        hidden_states, attentions = [x], []
        records: list[Routing | None] = []
        routing: Routing | None = None
        # Per mixture, the extra argument of Experts.forward: a list that its first block fills and the others
        # read. Not for other backends, which take the stacks whole, nor under checkpointing, where a block
        # must not depend on what another one computed.
        whole = self._checkpointing or self.config._experts_implementation != "eager"
        slices: list[tuple[list, ...]] = [() if whole else ([],) for _ in self.experts]
        for step in self.plan[:num_blocks]:
            x, probabilities = self._checkpoint(self._attend, x, attention_mask, backend, step)
            if step.dense is not None:
                x = self._checkpoint(self._dense, x, step.dense, step)
                records.append(None)
            elif step.experts is not None:
                # The decision stays outside the checkpoint: recomputed it could fall otherwise, and its
                # loss must count once.
                tokens = self._feed_forward_input(x, step)
                if step.router is not None:
                    routing = self.routers[step.router](tokens, flat_mask)
                elif routing is not None:
                    routing = routing.reused()
                assert routing is not None  # a group's first mixture has a router
                choice = routing.experts, routing.weights
                experts = self.experts[step.experts]
                x = self._checkpoint(self._mixture, x, tokens, *choice, experts, slices[step.experts], step)
                records.append(routing)
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(probabilities)
        losses = [record.balance_loss for record in records if record is not None]
        return EncoderOutput(
            last_hidden_state=self.final_norm(x),
            balance_loss=torch.stack(losses).sum() if losses else x.new_zeros((), dtype=torch.float32),
            routing=tuple(records),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _attend(
        self, x: Tensor, attention_mask: Tensor | None, backend: str, step: Step
    ) -> tuple[Tensor, Tensor | None]:
        """x ← MHA(LN_att(x)) + x, or LN_att(MHA(x) + x) in a post-LN encoder."""
        norm, attention = self._norms(step).attention, self.attentions[step.attention]
        mixed, probabilities = attention(norm(x) if self.config.norm_first else x, attention_mask, backend)
        x = x + self.dropout(mixed)
        return (x if self.config.norm_first else norm(x)), probabilities

    def _feed_forward_input(self, x: Tensor, step: Step) -> Tensor:
        """The tokens as router and experts see them: [T, D]."""
        if self.config.norm_first:
            x = self._norms(step).feed_forward(x)
        return x.reshape(-1, x.shape[-1])

    def _add_residual(self, x: Tensor, update: Tensor, step: Step) -> Tensor:
        x = x + self.dropout(update.view_as(x))
        return x if self.config.norm_first else self._norms(step).feed_forward(x)

    def _dense(self, x: Tensor, index: int, step: Step) -> Tensor:
        """x ← FFN(LN_moe(x)) + x."""
        return self._add_residual(x, self.feed_forwards[index](self._feed_forward_input(x, step)), step)

    def _mixture(
        self,
        x: Tensor,
        tokens: Tensor,
        index: Tensor,
        weights: Tensor,
        experts: nn.Module,
        slices: tuple[list, ...],
        step: Step,
    ) -> Tensor:
        """x ← MoE(LN_moe(x)) + x (Eq 1); a dropped or padding token is carried by the residual alone.

        Tensors rather than a record: checkpointing with ``use_reentrant=True`` sees no others.
        """
        return self._add_residual(x, experts(tokens, index, weights, *slices), step)

    def _norms(self, step: Step) -> Norms:
        return cast(Norms, self.norms[step.norms])

    @property
    def _checkpointing(self) -> bool:
        return self.gradient_checkpointing and self.training

    def _checkpoint(self, function: Any, *args: Any) -> Any:
        if self._checkpointing:
            return self._gradient_checkpointing_func(function, *args)
        return function(*args)

    def _count(self, field: str) -> int:
        used = [getattr(step, field) for step in self.plan if getattr(step, field) is not None]
        return max(used) + 1 if used else 0
