"""The names that transformers' dense architectures give what we have, too: BERT, ALBERT, ViT and DeiT.

All are points of our space, so that a conversion (``dense.py``) only renames.
"""

from typing import NamedTuple

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
    DeiTConfig,
    DeiTForImageClassification,
    DeiTModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import (
    WideNetForMaskedLM,
    WideNetForPreTraining,
    WideNetForQuestionAnswering,
    WideNetForSequenceClassification,
    WideNetTextModel,
)
from widenet.models.vision import WideNetForImageClassification, WideNetVisionModel


class Layout(NamedTuple):
    """Names of one architecture. The dictionaries go from its modules to ours.

    Attributes:
        config_class: its configuration.
        our_config: ours for it.
        models: its classes, each with ours for the same task; the first is the one without a head.
        fields: configuration fields that mean the same under the same name.
        prefix: where the encoder sits in a model with a head.
        encoder: the modules around the blocks, and parameters that have another name.
        block: the modules of a block: ``{block}`` of theirs, and of ours those that a :class:`Step` names.
        heads: the modules of all heads; a model has those of its task.
    """

    config_class: type[PreTrainedConfig]
    our_config: type[WideNetConfig]
    models: dict[type[PreTrainedModel], type[WideNetPreTrainedModel]]
    fields: tuple[str, ...]
    prefix: str
    encoder: dict[str, str]
    block: dict[str, str]
    heads: dict[str, str]

    def names(self, ours: WideNetConfig, blocks: int, with_head: bool) -> dict[str, str]:
        """Return all modules, theirs to ours. Several of theirs may be one of ours, which shares.

        Args:
            ours: our configuration.
            blocks: how many blocks of theirs have weights of their own.
            with_head: the models have a head around the encoder.
        """
        inner, plan = dict(self.encoder), ours.depth_plan()
        for block in range(blocks):
            step = plan[block * len(plan) // blocks]
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
_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
_TEXT_FIELDS = (
    *_FIELDS,
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "tie_word_embeddings",
)
_IMAGE_FIELDS = (*_FIELDS, "image_size", "patch_size", "num_channels")

BERT = Layout(
    config_class=BertConfig,
    our_config=WideNetTextConfig,
    models={
        BertModel: WideNetTextModel,
        BertForPreTraining: WideNetForPreTraining,
        BertForMaskedLM: WideNetForMaskedLM,
        BertForSequenceClassification: WideNetForSequenceClassification,
        BertForQuestionAnswering: WideNetForQuestionAnswering,
    },
    fields=_TEXT_FIELDS,
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
    our_config=WideNetTextConfig,
    models={
        AlbertModel: WideNetTextModel,
        AlbertForPreTraining: WideNetForPreTraining,
        AlbertForMaskedLM: WideNetForMaskedLM,
        AlbertForSequenceClassification: WideNetForSequenceClassification,
        AlbertForQuestionAnswering: WideNetForQuestionAnswering,
    },
    fields=_TEXT_FIELDS,
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
VIT = Layout(
    config_class=ViTConfig,
    our_config=WideNetVisionConfig,
    models={ViTModel: WideNetVisionModel, ViTForImageClassification: WideNetForImageClassification},
    fields=_IMAGE_FIELDS,
    prefix="vit.",
    encoder={
        "embeddings": "embeddings",
        "embeddings.patch_embeddings.projection": "embeddings.projection",
        "layernorm": "encoder.final_norm",
        "pooler.dense": "representation",
    },
    block={
        f"layers.{{block}}.{theirs}": _OUR_BLOCK[role]
        for role, theirs in {
            "query": "attention.q_proj",
            "key": "attention.k_proj",
            "value": "attention.v_proj",
            "output": "attention.o_proj",
            "attention norm": "layernorm_before",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
            "norm": "layernorm_after",
        }.items()
    },
    heads=_HEADS,
)
DEIT = VIT._replace(
    config_class=DeiTConfig,
    models={DeiTModel: WideNetVisionModel, DeiTForImageClassification: WideNetForImageClassification},
    prefix="deit.",
    encoder={**VIT.encoder, "embeddings.distillation_token": "embeddings.register_tokens"},
)
LAYOUTS = {"bert": BERT, "albert": ALBERT, "vit": VIT, "deit": DEIT}
