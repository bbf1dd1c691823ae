"""What the models return, for images and text alike, and the losses they share.

Axes: N images or sequences, L tokens of each, D hidden size, A attention heads, B blocks, V vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils.generic import ModelOutput

from widenet.nn.routing import Routing

Output = TypeVar("Output", bound=ModelOutput)


@dataclass
class WideNetModelOutput(ModelOutput):
    """Features of N images or sequences.

    Attributes:
        last_hidden_state: [N, L, D] after the last block, and after the final LayerNorm where there is one.
        pooler_output: [N, D]. Images: the [CLS] token or the mean of the patch tokens, through the
            representation layer where there is one. Text: the first token through the tanh pooler, where
            the model has one.
        balance_loss: scalar, Σ_t l_t over the routing operations. None in plain inference: without gradients,
            labels and ``output_routing``.
        routing: one record per block (None for dense blocks), with ``output_routing=True``.
        hidden_states: B + 1 tensors [N, L, D], with ``output_hidden_states=True``.
        attentions: B tensors [N, A, L, L], with ``output_attentions=True``.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    balance_loss: Tensor | None = None
    routing: tuple[Routing | None, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class WideNetPredictionOutput(ModelOutput):
    """Classes of N images or sequences, or words of their tokens.

    Attributes:
        loss: scalar, the task's loss + λ · ``balance_loss`` (Eq 8), where labels were given.
        logits: [N, num_labels]; masked-LM: [N, L, V], or [labelled tokens, V] with ``only_labelled``.
        balance_loss, routing, hidden_states, attentions: as in :class:`WideNetModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    balance_loss: Tensor | None = None
    routing: tuple[Routing | None, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class WideNetPreTrainingOutput(ModelOutput):
    """Masked words and the order of two segments.

    Attributes:
        loss: scalar, ``mlm_loss`` + ``sentence_order_loss`` + λ · ``balance_loss`` (Eq 8), of the two main
            losses those whose labels were given.
        logits: [N, L, V], or [labelled tokens, V] with ``only_labelled``.
        sentence_order_logits: [N, 2].
        mlm_loss, sentence_order_loss: scalars, where their labels were given.
        balance_loss, routing, hidden_states, attentions: as in :class:`WideNetModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    sentence_order_logits: Tensor | None = None
    mlm_loss: Tensor | None = None
    sentence_order_loss: Tensor | None = None
    balance_loss: Tensor | None = None
    routing: tuple[Routing | None, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class WideNetQuestionAnsweringOutput(ModelOutput):
    """Where the answers begin and end.

    Attributes:
        loss: scalar, the mean of both cross-entropies + λ · ``balance_loss`` (Eq 8), where positions were
            given.
        start_logits, end_logits: [N, L].
        balance_loss, routing, hidden_states, attentions: as in :class:`WideNetModelOutput`.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    balance_loss: Tensor | None = None
    routing: tuple[Routing | None, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def records(features: WideNetModelOutput) -> dict[str, Any]:
    """Return what a head passes on from the model below it unchanged."""
    names = ("balance_loss", "routing", "hidden_states", "attentions")
    return {name: getattr(features, name) for name in names}


def returned(output: Output, return_dict: bool | None, config: PreTrainedConfig) -> Output | tuple:
    """Return ``output``, or a plain tuple of its values where the caller or else the configuration wants one.

    A plain call without gradients, labels and records, as transformers' pipelines make it, gets no balance
    loss: they take every item of an output apart by sample, and it has none.
    """
    asked = [return_dict, output.get("loss"), output.get("routing")]
    if not torch.is_grad_enabled() and all(item is None for item in asked):
        output = replace(cast(Any, output), balance_loss=None)
    return output if chosen(return_dict, config.return_dict) else output.to_tuple()


def chosen(value: bool | None, fallback: bool | None) -> bool:
    """Return the caller's choice, or the configuration's where the caller made none."""
    return bool(fallback if value is None else value)


def problem_type(config: PreTrainedConfig) -> str:
    """Return what a classifier is for, by transformers' word: as configured, else regression for one label."""
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def label_loss(logits: Tensor, labels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return the loss of a classifier, in float32 or wider.

    Args:
        logits: [N, num_labels].
        labels: one label of several: [N] class indices, or [N, num_labels] class probabilities (mixup, label
            smoothing). Several labels: [N, num_labels], 1 where one holds and 0 elsewhere. Regression: [N] or
            [N, num_labels] numbers.
        config: of the model; see :func:`problem_type`.
    """
    problem = problem_type(config)
    if problem == "single_label_classification":
        return cross_entropy(logits, labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.dtype).view_as(logits)
    if problem == "regression":
        return nn.functional.mse_loss(logits, labels)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in float32 or wider.

    Args:
        logits: [M, classes].
        labels: [M] class indices, -100 where there is none, or [M, classes] class probabilities. Without any
            label the loss is zero, where PyTorch's mean is not a number and would ruin the weights.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.is_floating_point():
        return nn.functional.cross_entropy(logits, labels)
    total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)
