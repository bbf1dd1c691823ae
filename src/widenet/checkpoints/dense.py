"""BERT and ALBERT of transformers as models of ours, and dense models of ours as theirs, weight by weight.

Both are points of our space (post-LN, no mixture), so that a conversion only renames: a :class:`Layout` is the
table of one architecture's names, and both directions read it.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from widenet.config import WideNetTextConfig
from widenet.errors import WideNetError
from widenet.presets import build_config
from widenet.text import (
    WideNetForMaskedLM,
    WideNetForPreTraining,
    WideNetForQuestionAnswering,
    WideNetForSequenceClassification,
    WideNetTextModel,
    WideNetTextPreTrainedModel,
)


class Layout(NamedTuple):
    """Names of one architecture. The dictionaries go from its modules to ours.

    Attributes:
        config_class: its configuration.
        models: its classes, each with ours for the same task.
        prefix: where the encoder sits in a model with a head.
        encoder: the modules around the blocks.
        block: the modules of a block: ``{block}`` of theirs, and of ours those that a :class:`Step` names.
        heads: the modules of all heads; a model has those of its task.
    """

    config_class: type[PreTrainedConfig]
    models: dict[type[PreTrainedModel], type[WideNetTextPreTrainedModel]]
    prefix: str
    encoder: dict[str, str]
    block: dict[str, str]
    heads: dict[str, str]

    def names(self, ours: WideNetTextConfig, blocks: int, with_head: bool) -> dict[str, str]:
        """Return all modules, theirs to ours. Several of theirs may be one of ours, which shares."""
        inner = dict(self.encoder)
        for block, step in enumerate(ours.depth_plan()[:blocks]):
            for theirs, name in self.block.items():
                inner[theirs.format(block=block)] = name.format(**step._asdict())
        if not with_head:
            return inner
        return {**{self.prefix + theirs: f"model.{name}" for theirs, name in inner.items()}, **self.heads}


_OUR_BLOCK = {
    "query": "encoder.attentions.{attention}.q_proj",
    "key": "encoder.attentions.{attention}.k_proj",
    "value": "encoder.attentions.{attention}.v_proj",
    "output": "encoder.attentions.{attention}.o_proj",
    "attention norm": "encoder.norms.{norms}.attention",
    "up": "encoder.feed_forwards.{dense}.up_proj",
    "down": "encoder.feed_forwards.{dense}.down_proj",
    "norm": "encoder.norms.{norms}.feed_forward",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.LayerNorm": "embeddings.norm",
}
_HEADS = {"classifier": "classifier", "qa_outputs": "span"}

BERT = Layout(
    config_class=BertConfig,
    models={
        BertModel: WideNetTextModel,
        BertForPreTraining: WideNetForPreTraining,
        BertForMaskedLM: WideNetForMaskedLM,
        BertForSequenceClassification: WideNetForSequenceClassification,
        BertForQuestionAnswering: WideNetForQuestionAnswering,
    },
    prefix="bert.",
    encoder={**_EMBEDDINGS, "pooler.dense": "pooler"},
    block={
        f"encoder.layer.{{block}}.{theirs}": _OUR_BLOCK[role]
        for role, theirs in {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "output": "attention.output.dense",
            "attention norm": "attention.output.LayerNorm",
            "up": "intermediate.dense",
            "down": "output.dense",
            "norm": "output.LayerNorm",
        }.items()
    },
    heads={
        **_HEADS,
        "cls.predictions.transform.dense": "masked_lm.dense",
        "cls.predictions.transform.LayerNorm": "masked_lm.norm",
        "cls.predictions.decoder": "masked_lm.decoder",
        "cls.predictions": "masked_lm.decoder",  # its bias once more
        "cls.seq_relationship": "sentence_order",
    },
)
ALBERT = Layout(
    config_class=AlbertConfig,
    models={
        AlbertModel: WideNetTextModel,
        AlbertForPreTraining: WideNetForPreTraining,
        AlbertForMaskedLM: WideNetForMaskedLM,
        AlbertForSequenceClassification: WideNetForSequenceClassification,
        AlbertForQuestionAnswering: WideNetForQuestionAnswering,
    },
    prefix="albert.",
    encoder={**_EMBEDDINGS, "encoder.embedding_hidden_mapping_in": "embeddings.projection", "pooler": "pooler"},
    block={
        f"encoder.albert_layer_groups.{{block}}.albert_layers.0.{theirs}": _OUR_BLOCK[role]
        for role, theirs in {
            "query": "attention.query",
            "key": "attention.key",
            "value": "attention.value",
            "output": "attention.dense",
            "attention norm": "attention.LayerNorm",
            "up": "ffn",
            "down": "ffn_output",
            "norm": "full_layer_layer_norm",
        }.items()
    },
    heads={
        **_HEADS,
        "predictions.dense": "masked_lm.dense",
        "predictions.LayerNorm": "masked_lm.norm",
        "predictions.decoder": "masked_lm.decoder",
        "predictions": "masked_lm.decoder",  # its bias once more
        "sop_classifier.classifier": "sentence_order",
    },
)
# Configuration fields that mean the same under the same name.
_SAME_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "tie_word_embeddings",
)
_LABEL_FIELDS = ("id2label", "label2id", "problem_type")


def from_transformers(model: PreTrainedModel) -> WideNetTextPreTrainedModel:
    """Return our model of the same function as a BERT or an ALBERT of transformers, its weights copied.

    Raises:
        WideNetError: another architecture or head, or sharing that our configuration has no word for.
    """
    layout = next((layout for layout in (BERT, ALBERT) if type(model) in layout.models), None)
    if layout is None:
        known = ", ".join(name.__name__ for layout in (BERT, ALBERT) for name in layout.models)
        raise WideNetError(f"{type(model).__name__} cannot be read as a dense text model; these can: {known}")
    theirs: Any = model.config
    blocks = _blocks(theirs)
    if layout is ALBERT and theirs.embedding_size == theirs.hidden_size:
        raise WideNetError(f"embedding_size={theirs.embedding_size} is hidden_size; ours has no projection there")
    fields = {name: getattr(theirs, name) for name in _SAME_FIELDS}
    shared = {f"share_{part}": blocks == 1 for part in ("attention", "ffn", "norm")}
    fields |= {**shared, "moe_layers": "none", "embedding_size": getattr(theirs, "embedding_size", theirs.hidden_size)}
    our_class = layout.models[type(model)]
    if our_class is WideNetForSequenceClassification:
        fields |= {name: getattr(theirs, name) for name in _LABEL_FIELDS}
    ours = our_class(build_config(WideNetTextConfig, fields))
    names = layout.names(ours.config, blocks, with_head=ours.base_model is not ours)
    _copy(model, ours, names)
    return ours


def to_transformers(model: WideNetTextPreTrainedModel) -> PreTrainedModel:
    """Return the BERT or ALBERT of transformers of the same function as our dense model, its weights copied.

    It is a BERT where the embeddings are as wide as the blocks, else an ALBERT: of one group of layers where all is
    shared, else of a group per block, which holds a copy of what our blocks share.

    Raises:
        WideNetError: the model holds a mixture or pre-LN blocks, which neither has.
    """
    ours = model.config
    if ours.moe_blocks:
        raise WideNetError(f"blocks {ours.moe_blocks} hold mixtures; neither BERT nor ALBERT has them")
    if ours.norm_first:
        raise WideNetError("norm_first=True: neither BERT nor ALBERT has pre-LN blocks")
    layout = BERT if ours.embedding_size == ours.hidden_size else ALBERT
    fields: dict[str, Any] = {name: getattr(ours, name) for name in _SAME_FIELDS}
    if isinstance(model, WideNetForSequenceClassification):
        fields |= {name: getattr(ours, name) for name in _LABEL_FIELDS}
    if layout is ALBERT:
        shared = ours.share_attention and ours.share_ffn and ours.share_norm
        groups = 1 if shared else ours.num_hidden_layers
        fields |= {"embedding_size": ours.embedding_size, "num_hidden_groups": groups}
    config = layout.config_class(**fields)
    their_class = next(theirs for theirs, name in layout.models.items() if name is type(model))
    theirs = their_class(config)
    names = layout.names(ours, _blocks(config), with_head=model.base_model is not model)
    _copy(theirs, model, names, backwards=True)
    return theirs


def _blocks(theirs: Any) -> int:
    """Number of blocks with weights of their own."""
    if isinstance(theirs, BertConfig):
        if theirs.is_decoder or theirs.add_cross_attention:
            raise WideNetError("is_decoder and add_cross_attention must be False: a decoder is not a text encoder")
        return theirs.num_hidden_layers
    groups, inner, B = theirs.num_hidden_groups, theirs.inner_group_num, theirs.num_hidden_layers
    if groups not in (1, B) or inner != 1:
        raise WideNetError(
            f"num_hidden_groups={groups} and inner_group_num={inner}: the blocks must share all (1 and 1) or nothing "
            f"({B} and 1)"
        )
    return groups


def _copy(theirs: nn.Module, ours: nn.Module, names: dict[str, str], backwards: bool = False) -> None:
    """Copy every weight of theirs to ours or backwards, and the mode and data type with them."""
    source, target = (ours, theirs) if backwards else (theirs, ours)
    weights = source.state_dict()
    state: dict[str, Tensor] = {}
    for key in theirs.state_dict():
        module, _, parameter = key.rpartition(".")
        name = f"{names[module]}.{parameter}"
        there, here = (name, key) if backwards else (key, name)
        state[here] = weights[there]
    target.to(next(iter(weights.values())).dtype)
    target.load_state_dict(state)
    target.train(source.training)
