"""BERT, ALBERT, ViT and DeiT of transformers and ours: the same hidden states, both ways, with padding."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertForPreTraining,
    AlbertModel,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    ViTForImageClassification,
    ViTModel,
)

from widenet import (
    WideNetError,
    WideNetForImageClassification,
    WideNetForPreTraining,
    WideNetTextModel,
    WideNetVisionModel,
    create_model,
)
from widenet.convert.dense import from_transformers, to_transformers
from widenet.convert.layouts import ALBERT, BERT

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3},
    "one head": {"hidden_size": 24, "num_attention_heads": 1, "intermediate_size": 100, "num_hidden_layers": 2},
    "wide": {"hidden_size": 96, "num_attention_heads": 12, "intermediate_size": 48, "num_hidden_layers": 1},
}
LAST = torch.tensor([11, 4, 1])  # lengths of the three texts


def make(model_class: type[PreTrainedModel], **fields: Any) -> PreTrainedModel:
    """A model of theirs with weights as large as trained ones, the norms' and biases' too."""
    texts, images = {"vocab_size": 50, "max_position_embeddings": 16}, {"image_size": 12, "patch_size": 4}
    sizes = images if model_class.main_input_name == "pixel_values" else texts
    pooling = {key: fields.pop(key) for key in ["add_pooling_layer"] if key in fields}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(initializer_range=0.2, **{**sizes, **fields}), **pooling).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def text() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (3, 11), generator=generator)
    mask = (torch.arange(11) < LAST.unsqueeze(1)).long()
    segments = torch.randint(0, 2, (3, 11), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": segments}


def image(size: int = 12) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))}


@torch.no_grad()
def assert_same(first: PreTrainedModel, second: PreTrainedModel, attention: str) -> None:
    """All hidden states on tokens, and the pooled output, to 1e-5."""
    for model in (first, second):
        model.set_attn_implementation(attention)
    images = first.main_input_name == "pixel_values"
    inputs = image() if images else text()
    left, right = (model(**inputs, output_hidden_states=True) for model in (first, second))
    tokens = slice(None) if images else inputs["attention_mask"].bool()
    assert len(left.hidden_states) == len(right.hidden_states) == first.config.num_hidden_layers + 1
    for one, other in zip(left.hidden_states, right.hidden_states, strict=True):
        torch.testing.assert_close(one[tokens], other[tokens], rtol=0, atol=1e-5)
    torch.testing.assert_close(left.last_hidden_state[tokens], right.last_hidden_state[tokens], rtol=0, atol=1e-5)
    if left.pooler_output is not None:
        torch.testing.assert_close(left.pooler_output, right.pooler_output, rtol=0, atol=1e-5)


def assert_same_weights(first: PreTrainedModel, second: PreTrainedModel) -> None:
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_bert_and_back(shape: dict[str, Any], attention: str) -> None:
    bert = make(BertModel, **shape)
    ours = from_transformers(bert)
    assert type(ours) is WideNetTextModel and not ours.training
    assert ours.config.embedding_size == shape["hidden_size"]
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in bert.parameters())
    assert_same(bert, ours, attention)
    back = to_transformers(ours)
    assert type(back) is BertModel
    assert_same_weights(bert, back)
    assert_same(back, ours, attention)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("embedding_size", [8, 40])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_albert_and_back(shape: dict[str, Any], embedding_size: int, attention: str) -> None:
    albert = make(AlbertModel, **shape, embedding_size=embedding_size)
    ours = from_transformers(albert)
    assert ours.config.hidden_act == "gelu_new" and ours.config.embedding_size == embedding_size
    assert len(ours.encoder.norms) == len(ours.encoder.attentions) == 1
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in albert.parameters())
    assert_same(albert, ours, attention)
    back = to_transformers(ours)
    assert type(back) is AlbertModel
    assert_same_weights(albert, back)


def test_an_albert_of_a_group_per_block_is_a_factorised_bert() -> None:
    albert = make(AlbertModel, **SHAPES["small"], embedding_size=8, num_hidden_groups=3)
    ours = from_transformers(albert)
    assert len(ours.encoder.norms) == len(ours.encoder.attentions) == len(ours.encoder.feed_forwards) == 3
    assert_same(albert, ours, "sdpa")
    assert_same_weights(albert, to_transformers(ours))


def test_an_albert_of_groups_has_sharing_groups() -> None:
    fields = {**SHAPES["small"], "num_hidden_layers": 6, "embedding_size": 8, "num_hidden_groups": 2}
    albert = make(AlbertModel, **fields)
    ours = from_transformers(albert)
    assert ours.config.num_sharing_groups == 2 and len(ours.encoder.norms) == len(ours.encoder.attentions) == 2
    assert_same(albert, ours, "sdpa")
    assert_same_weights(albert, to_transformers(ours))


def test_a_bert_without_its_pooler() -> None:
    bert = make(BertModel, **SHAPES["small"], add_pooling_layer=False)
    ours = from_transformers(bert)
    assert ours(**text()).pooler_output is None
    assert_same(bert, ours, "sdpa")
    assert_same_weights(bert, to_transformers(ours))


# ---- images ----


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooled", [True, False], ids=["pooler", "no pooler"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("model_class", [ViTModel, DeiTModel])
def test_images_and_back(model_class: Any, shape: dict[str, Any], pooled: bool, attention: str) -> None:
    theirs = make(model_class, **shape, add_pooling_layer=pooled)
    ours = from_transformers(theirs)
    assert type(ours) is WideNetVisionModel and not ours.training
    assert (ours.config.pooling, ours.config.use_representation) == ("cls", pooled)
    assert ours.config.num_register_tokens == (model_class is DeiTModel)  # the distillation token
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert_same(theirs, ours, attention)
    back = to_transformers(ours)
    assert type(back) is model_class
    assert_same_weights(theirs, back)


@torch.no_grad()
@pytest.mark.parametrize("model_class", [ViTForImageClassification, DeiTForImageClassification])
def test_image_classifiers_and_back(model_class: Any) -> None:
    names = {0: "ant", 1: "bee", 2: "cat"}
    fields = {"image_size": 16, "patch_size": 8, "num_channels": 1, "qkv_bias": False, "hidden_act": "gelu_new"}
    theirs = make(model_class, **SHAPES["small"], **fields, id2label=names)
    ours = from_transformers(theirs)
    assert type(ours) is WideNetForImageClassification and ours.config.id2label == names
    pixels = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(ours(pixels).logits, theirs(pixels).logits, rtol=0, atol=1e-5)
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(ours(pixels, labels=labels).loss, theirs(pixels, labels=labels).loss)
    back = to_transformers(ours)
    assert type(back) is model_class and back.config.id2label == names
    torch.testing.assert_close(back(pixels).logits, theirs(pixels).logits, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("model_class", [ViTModel, DeiTModel])
def test_other_sizes_of_image(model_class: Any) -> None:
    theirs = make(model_class, **SHAPES["small"])
    ours = from_transformers(theirs)
    # bicubic both, but timm's resampling (ours) is antialiased: the same only where nothing is resampled
    left = theirs(**image(), interpolate_pos_encoding=True).last_hidden_state
    right = ours(**image(), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    assert ours(**image(20), interpolate_pos_encoding=True).last_hidden_state.shape == (
        theirs(**image(20), interpolate_pos_encoding=True).last_hidden_state.shape
    )


def test_shared_image_models_can_leave() -> None:
    torch.manual_seed(0)
    shared = {"share_attention": True, "share_ffn": True, "share_norm": True, "use_representation": False}
    ours = create_model("vit-digits", task="features", image_size=12, patch_size=4, **shared).eval()
    assert_same(to_transformers(ours), ours, "sdpa")


@pytest.mark.parametrize("name", ["albert-tiny", "bert-tiny"])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"embedding_size": 64}, {"share_norm": False}, {"share_attention": True, "share_ffn": False}],
    ids=str,
)
def test_every_dense_sharing_can_leave(name: str, overrides: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = create_model(name, task="features", vocab_size=50, **overrides).eval()
    theirs = to_transformers(ours)
    assert type(theirs) is (BertModel if overrides.get("embedding_size") == 64 else AlbertModel)
    assert_same(ours, theirs, "sdpa")


# ---- heads ----


@torch.no_grad()
@pytest.mark.parametrize("layout", [BERT, ALBERT], ids=["bert", "albert"])
def test_every_head_and_back(layout: Any) -> None:
    extra = {} if layout is BERT else {"embedding_size": 8}
    for model_class, our_class in layout.models.items():
        theirs = make(model_class, **SHAPES["small"], **extra)
        ours = from_transformers(theirs)
        assert type(ours) is our_class
        left, right = theirs(**text()), ours(**text())
        tokens = text()["attention_mask"].bool()
        compared = 0
        for name, key in [
            ("logits", "logits"),
            ("prediction_logits", "logits"),
            ("seq_relationship_logits", "sentence_order_logits"),
            ("sop_logits", "sentence_order_logits"),
            ("start_logits", "start_logits"),
            ("end_logits", "end_logits"),
            ("last_hidden_state", "last_hidden_state"),
        ]:
            if name in left:
                one, other = left[name], right[key]
                if one.shape[:2] == tokens.shape:
                    one, other = one[tokens], other[tokens]
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
                compared += 1
        assert compared == {"ForPreTraining": 2, "ForQuestionAnswering": 2}.get(
            model_class.__name__.removeprefix("Bert").removeprefix("Albert"), 1
        )
        assert_same_weights(theirs, to_transformers(ours))


def test_the_decoder_stays_tied() -> None:
    ours = from_transformers(make(AlbertForPreTraining, **SHAPES["small"], embedding_size=8))
    assert isinstance(ours, WideNetForPreTraining)
    assert ours.masked_lm.decoder.weight is ours.model.embeddings.word_embeddings.weight
    back = to_transformers(from_transformers(make(BertForMaskedLM, **SHAPES["small"])))
    assert back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight


def test_losses_agree() -> None:
    theirs = make(BertForQuestionAnswering, **SHAPES["small"])
    ours = from_transformers(theirs)
    ids = {"input_ids": text()["input_ids"]}  # without padding, which has a share of their softmax
    spans = {"start_positions": torch.tensor([2, 0, 11]), "end_positions": torch.tensor([3, 10, 40])}
    torch.testing.assert_close(ours(**ids, **spans).loss, theirs(**ids, **spans).loss)
    theirs = make(BertForSequenceClassification, **SHAPES["small"], num_labels=3)
    ours = from_transformers(theirs)
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(ours(**text(), labels=labels).loss, theirs(**text(), labels=labels).loss)
    theirs = make(BertForSequenceClassification, **SHAPES["small"], num_labels=1)
    ours = from_transformers(theirs)
    numbers = torch.tensor([0.5, -2.0, 1.0])
    torch.testing.assert_close(ours(**text(), labels=numbers).loss, theirs(**text(), labels=numbers).loss)


def test_data_type_and_mode_come_along() -> None:
    theirs = make(BertModel, **SHAPES["small"]).to(torch.float64).train()
    ours = from_transformers(theirs)
    assert ours.training and {p.dtype for p in ours.parameters()} == {torch.float64}


# ---- what cannot be converted ----


def line(function: Any, model: PreTrainedModel) -> str:
    with pytest.raises(WideNetError) as caught:
        function(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_come_in() -> None:
    gpt = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    assert "GPT2Model" in line(from_transformers, gpt)
    albert = {"embedding_size": 8, **SHAPES["small"]}
    assert "num_hidden_groups=2" in line(from_transformers, make(AlbertModel, **albert, num_hidden_groups=2))
    assert "inner_group_num=2" in line(from_transformers, make(AlbertModel, **albert, inner_group_num=2))
    assert "embedding_size=32" in line(from_transformers, make(AlbertModel, **{**albert, "embedding_size": 32}))
    assert "is_decoder" in line(from_transformers, make(BertModel, **SHAPES["small"], is_decoder=True))
    relative = make(BertModel, **SHAPES["small"], position_embedding_type="relative_key")
    assert "'relative_key'" in line(from_transformers, relative)
    assert "pooler_act='relu'" in line(from_transformers, make(ViTModel, **SHAPES["small"], pooler_act="relu"))
    tall = make(ViTModel, **SHAPES["small"], image_size=(16, 8), patch_size=4)
    assert "image_size=16×8" in line(from_transformers, tall)
    teacher = make(DeiTForImageClassificationWithTeacher, **SHAPES["small"])
    assert "task='features'" in line(from_transformers, teacher)


def test_what_cannot_leave() -> None:
    assert "mixtures" in line(to_transformers, create_model("widenet-text-tiny"))
    assert "norm_first" in line(to_transformers, create_model("bert-tiny", norm_first=True))
    assert "norm_first" in line(to_transformers, create_model("vit-digits", norm_first=False))
    assert "pooling='mean'" in line(to_transformers, create_model("vit-digits", pooling="mean"))
    assert "num_register_tokens=4" in line(to_transformers, create_model("vit-digits", num_register_tokens=4))
    assert "use_representation" in line(to_transformers, create_model("vit-digits", use_representation=True))
    assert "norm_after_pooling" in line(to_transformers, create_model("vit-digits", norm_after_pooling=True))


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("theirs", [BertForSequenceClassification, ViTForImageClassification])
def test_what_a_classifier_is_for_is_carried_over(theirs: type[PreTrainedModel], problem: str) -> None:
    source = make(theirs, **SHAPES["small"], num_labels=2, problem_type=problem)
    ours = from_transformers(source)
    assert ours.config.problem_type == to_transformers(ours).config.problem_type == problem
    inputs = image() if theirs is ViTForImageClassification else text()
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs, labels=labels).loss, source(**inputs, labels=labels).loss)
