"""Text in: invisible padding, losses, heads, sizes, files, checkpointing and mistakes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from widenet import (
    WideNetError,
    WideNetForMaskedLM,
    WideNetForPreTraining,
    WideNetForQuestionAnswering,
    WideNetForSequenceClassification,
    WideNetTextConfig,
    WideNetTextModel,
    create_model,
)
from widenet.models.text import TextEmbeddings

FAMILIES = ["widenet-text-tiny", "albert-tiny", "bert-tiny"]
HEADS = {
    "pretraining": AutoModelForPreTraining,
    "masked-lm": AutoModelForMaskedLM,
    "text-classification": AutoModelForSequenceClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "features": AutoModel,
}
N, L = 3, 9
LENGTHS = torch.tensor([9, 5, 2])


def make(name: str = "widenet-text-tiny", task: str | None = None, **overrides: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, task, **{"vocab_size": 50, "initializer_range": 0.1, **overrides}).eval()


def text(length: int = L) -> dict[str, Tensor]:
    """Three texts of 9, 5 and 2 tokens, padded with token 0."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (N, L), generator=generator)
    segments = torch.randint(0, 2, (N, L), generator=generator)
    mask = (torch.arange(length) < LENGTHS.unsqueeze(1)).long()
    pad = (0, length - L)
    return {
        "input_ids": nn.functional.pad(ids, pad) * mask,
        "token_type_ids": nn.functional.pad(segments, pad) * mask,
        "attention_mask": mask,
    }


def with_labels(task: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    words = torch.full_like(inputs["input_ids"], -100)
    words[0, 3], words[0, 7], words[1, 2], words[2, 1] = 4, 17, 30, 6
    if task == "pretraining":
        return {**inputs, "labels": words, "sentence_order_label": torch.tensor([0, 1, 0])}
    if task == "masked-lm":
        return {**inputs, "labels": words}
    if task == "question-answering":
        return {**inputs, "start_positions": torch.tensor([2, 0, 1]), "end_positions": torch.tensor([8, 4, 1])}
    return {**inputs, "labels": torch.tensor([1, 0, 1])}


# ---- padding is invisible ----


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_alone_padded_and_in_a_batch(name: str, norm_first: bool, attention: str) -> None:
    model = make(name, norm_first=norm_first)
    model.set_attn_implementation(attention)
    together, wider = model(**text()), model(**text(20))
    for index, length in enumerate(LENGTHS.tolist()):
        part = {key: value[index : index + 1, :length] for key, value in text().items()}
        alone, unmasked = model(**part), model(**{**part, "attention_mask": None})
        for output in (together, wider):
            torch.testing.assert_close(output.logits[index, :length], alone.logits[0], rtol=0, atol=1e-5)
            order = output.sentence_order_logits[index]
            torch.testing.assert_close(order, alone.sentence_order_logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(unmasked.logits, alone.logits, rtol=0, atol=1e-5)
    # What stands in the padding is of no matter either.
    inputs = text()
    inputs["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 7)
    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[tokens], together.logits[tokens], rtol=0, atol=1e-5)


@pytest.mark.parametrize("capacity_factor", [None, 1.2, 0.5])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-LN", "pre-LN"])
def test_padding_is_outside_loss_counts_and_capacity(norm_first: bool, capacity_factor: float | None) -> None:
    # In training mode; the noise is off, since more padding draws other numbers.
    model = make(norm_first=norm_first, capacity_factor=capacity_factor, router_noise_std=0.0).train()
    short, long = (model(**with_labels("pretraining", text(length)), output_routing=True) for length in (L, 30))
    torch.testing.assert_close(short.loss, long.loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(short.balance_loss, long.balance_loss, rtol=0, atol=1e-5)
    tokens = int(LENGTHS.sum())
    for left, right in zip(short.routing, long.routing, strict=True):
        assert left.experts.shape == (N * L, 2) and right.experts.shape == (N * 30, 2)
        here, there = (mask["attention_mask"].bool().view(-1) for mask in (text(), text(30)))
        assert torch.equal(left.experts[here], right.experts[there])
        assert torch.equal(left.kept[here], right.kept[there])
        assert not left.kept[~here].any() and not right.kept[~there].any()
        for record in (left, right):
            served = torch.bincount(record.experts[record.kept], minlength=4)
            assert served.sum() <= 2 * tokens
            if capacity_factor is None:
                assert served.sum() == 2 * tokens
            else:
                # ceil(C·K·T/E) with T = 16 tokens that are no padding: 0.5·2·16/4 = 4; 1.2·2·16/4 = 9.6.
                assert served.max() <= {0.5: 4, 1.2: 10}[capacity_factor]
        if capacity_factor == 0.5:
            assert served.sum() == 16  # every slot is taken, of the tokens' count alone


def test_padding_gets_no_gradient() -> None:
    model = make(router_noise_std=0.0).train()
    inputs = with_labels("pretraining", text(12))
    embedded = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    model(inputs_embeds=embedded, **inputs).loss.backward()
    padding = ~inputs["attention_mask"].bool()
    assert (embedded.grad[padding] == 0).all() and (embedded.grad[~padding] != 0).any(-1).all()


def test_padding_has_no_share_of_the_span_loss() -> None:
    model = make(task="question-answering")
    spans = {"start_positions": torch.tensor([2, 0, 1]), "end_positions": torch.tensor([8, 4, 1])}
    torch.testing.assert_close(model(**text(), **spans).loss, model(**text(40), **spans).loss)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_of_any_type_and_a_text_of_nothing(attention: str) -> None:
    model = make()
    model.set_attn_implementation(attention)
    inputs = text()
    expected = model(**inputs).logits
    for dtype in (torch.bool, torch.float32):
        mask = inputs["attention_mask"].to(dtype)
        torch.testing.assert_close(model(**{**inputs, "attention_mask": mask}).logits, expected)
    # A row of padding alone gives something finite and leaves the other rows as they are.
    more = {key: torch.cat([value, torch.zeros_like(value[:1])]) for key, value in inputs.items()}
    output = model(**more)
    assert output.logits.isfinite().all()
    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[:N][tokens], expected[tokens])
    torch.testing.assert_close(output.balance_loss, model(**inputs).balance_loss)


# ---- losses ----


@pytest.mark.parametrize("task", [task for task in HEADS if task != "features"])
def test_the_loss_has_lambda_times_the_sum_once(task: str) -> None:
    model = make(task=task, router_aux_loss_coef=0.0)
    inputs = with_labels(task, text())
    plain = model(**inputs, output_routing=True)
    model.config.router_aux_loss_coef = 0.3
    output = model(**inputs)
    balance = torch.stack([record.balance_loss for record in plain.routing]).sum()
    assert len(plain.routing) == 2 and balance > 1.5
    torch.testing.assert_close(output.balance_loss, balance)
    torch.testing.assert_close(output.loss, plain.loss + 0.3 * balance)
    unlabelled = model(**text())
    assert unlabelled.loss is None and torch.equal(unlabelled.balance_loss, output.balance_loss)


def test_the_pretraining_loss_by_its_parts() -> None:
    model = make(router_aux_loss_coef=0.3)
    inputs = with_labels("pretraining", text())
    output = model(**inputs)
    words = nn.functional.cross_entropy(output.logits.view(-1, 50), inputs["labels"].view(-1))
    order = nn.functional.cross_entropy(output.sentence_order_logits, inputs["sentence_order_label"])
    torch.testing.assert_close(output.mlm_loss, words)
    torch.testing.assert_close(output.sentence_order_loss, order)
    torch.testing.assert_close(output.loss, words + order + 0.3 * output.balance_loss)
    one = model(**{**inputs, "sentence_order_label": None})
    torch.testing.assert_close(one.loss, words + 0.3 * output.balance_loss)
    assert one.sentence_order_loss is None


@pytest.mark.parametrize("task", ["pretraining", "masked-lm"])
def test_only_labelled_is_the_same_loss_of_fewer_logits(task: str) -> None:
    inputs = with_labels(task, text())
    every, some = make(task=task, router_noise_std=0.0).train(), make(task=task, router_noise_std=0.0).train()
    full, short = every(**inputs), some(**inputs, only_labelled=True)
    assert full.logits.shape == (N, L, 50) and short.logits.shape == (4, 50)
    labelled = inputs["labels"] != -100
    torch.testing.assert_close(full.logits[labelled], short.logits)
    torch.testing.assert_close(full.loss, short.loss)
    for output in (full, short):
        output.loss.backward()
    for left, right in zip(every.parameters(), some.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("only_labelled", [False, True])
def test_a_batch_without_a_label_does_no_harm(only_labelled: bool) -> None:
    model = make(router_aux_loss_coef=0.0).train()
    inputs = {**text(), "labels": torch.full((N, L), -100), "sentence_order_label": torch.full((N,), -100)}
    output = model(**inputs, only_labelled=only_labelled)
    output.loss.backward()
    assert output.loss == output.mlm_loss == output.sentence_order_loss == 0
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in model.parameters())


def test_classification_and_regression() -> None:
    classes = make(task="text-classification", num_labels=3, router_aux_loss_coef=0.0)
    labels = torch.tensor([2, 0, 1])
    output = classes(**text(), labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    soft = nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(classes(**text(), labels=soft).loss, output.loss)
    # One label is a regression, as with transformers; so are several if the configuration says so.
    numbers = torch.tensor([1.5, -0.5, 3.0])
    single = make(task="text-classification", num_labels=1, router_aux_loss_coef=0.0)
    output = single(**text(), labels=numbers)
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - numbers).square().mean())
    both = make(task="text-classification", num_labels=2, problem_type="regression", router_aux_loss_coef=0.0)
    numbers = torch.tensor([[1, 2], [3, 4], [5, 6]])  # integers will do
    output = both(**text(), labels=numbers)
    torch.testing.assert_close(output.loss, (output.logits - numbers).square().mean())
    several = make(task="text-classification", num_labels=2, problem_type="multi_label_classification")
    labels = torch.tensor([[1, 1], [0, 0], [0, 1]])
    output = several(**text(), labels=labels)
    each = nn.functional.softplus(output.logits * (1 - 2 * labels))
    torch.testing.assert_close(output.loss, each.mean() + 0.01 * output.balance_loss)


def test_spans_outside_the_text_bear_on_no_loss() -> None:
    model = make(task="question-answering", router_aux_loss_coef=0.0)
    # Beyond the input, before it, and on padding; the second text's end is the one that remains.
    spans = {"start_positions": torch.tensor([9, -1, 2]), "end_positions": torch.tensor([100, 4, -100])}
    output = model(**text(), **spans)
    end = nn.functional.cross_entropy(output.end_logits[1:2, :5], torch.tensor([4]))
    torch.testing.assert_close(output.loss, end / 2)
    column = {key: value.unsqueeze(1) for key, value in spans.items()}
    torch.testing.assert_close(model(**text(), **column).loss, end / 2)


# ---- outputs ----


@pytest.mark.parametrize("name", FAMILIES)
def test_routing_hidden_states_and_attentions_on_request(name: str) -> None:
    model = make(name, task="features")
    plain = model(**text())
    assert plain.routing is plain.hidden_states is plain.attentions is None
    output = model(**text(), output_routing=True, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(N, L, 64)] * 3
    assert [tuple(state.shape) for state in output.attentions] == [(N, 4, L, L)] * 2
    assert len(output.routing) == 2
    if name.startswith("widenet"):
        for record in output.routing:
            assert record.experts.shape == record.gates.shape == record.kept.shape == (N * L, 2)
            assert record.probabilities.shape == (N * L, 4) and record.balance_loss.shape == ()
            assert torch.equal(record.kept, text()["attention_mask"].bool().view(-1, 1).expand(-1, 2))
    else:
        assert output.routing == (None, None) and output.balance_loss == 0
    # Post-LN: the last block's norm is the end. No attention is paid to padding.
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    padding = ~text()["attention_mask"].bool()
    assert all((state.transpose(1, 3)[padding] == 0).all() for state in output.attentions)
    torch.testing.assert_close(output.pooler_output, model.pooler(output.last_hidden_state[:, 0]).tanh())


def test_a_plain_tuple_on_request() -> None:
    inputs = with_labels("pretraining", text())
    named = make()(**inputs)
    plain = make()(**inputs, return_dict=False)
    assert len(plain) == 6
    for left, right in zip(plain, named.to_tuple(), strict=True):
        assert torch.equal(left, right)
    assert make(task="features")(**text(), return_dict=False)[0].shape == (N, L, 64)


def test_losses_and_records_are_no_predictions() -> None:
    # Trainer collects what an evaluation's batches return, except for the loss and these.
    model = make()
    output = model(**with_labels("pretraining", text()), output_routing=True, output_hidden_states=True)
    predictions = set(output) - {"loss", *model.config.keys_to_ignore_at_inference}
    assert predictions == {"logits", "sentence_order_logits"}


def test_words_embedded_already() -> None:
    model = make()
    inputs = text()
    expected = model(**inputs).logits
    embedded = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert embedded.shape == (N, L, 32)
    assert torch.equal(model(inputs_embeds=embedded, **inputs).logits, expected)


def test_positions_and_segments_count() -> None:
    model = make()
    inputs = text()
    expected = model(**inputs).logits
    positions = torch.arange(L)
    assert torch.equal(model(**inputs, position_ids=positions.unsqueeze(0)).logits, expected)
    assert not torch.allclose(model(**inputs, position_ids=positions.flip(0).unsqueeze(0)).logits, expected)
    first = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    assert torch.equal(model(**{**inputs, "token_type_ids": None}).logits, model(**first).logits)
    assert not torch.allclose(model(**first).logits, expected)


# ---- sizes ----


def test_parameters_by_hand() -> None:
    # widenet-text-tiny: V = 1,000, embeddings 32, D = 64, H = 128, E = 4, 2 blocks, 128 positions.
    features = (
        1000 * 32 + 128 * 32 + 2 * 32 + 2 * 32  # words, positions, segments, norm
        + 32 * 64 + 64  # projection
        + 4 * (64 * 64 + 64)  # one attention
        + 4 * 64  # one router
        + 4 * (64 * 128 + 128 + 128 * 64 + 64)  # four experts
        + 2 * 2 * 2 * 64  # two norms in each of 2 blocks
        + 64 * 64 + 64  # pooler
    )  # fmt: skip
    assert create_model("widenet-text-tiny", task="features").num_parameters() == features == 126_208
    masked_lm = 64 * 32 + 32 + 2 * 32 + 1000  # dense, norm, the decoder's bias; its weight is the words'
    assert create_model("widenet-text-tiny").num_parameters() == features + masked_lm + 2 * 64 + 2
    pooler = 64 * 64 + 64
    assert create_model("widenet-text-tiny", task="masked-lm").num_parameters() == features - pooler + masked_lm
    answering = create_model("widenet-text-tiny", task="question-answering")
    assert answering.num_parameters() == features - pooler + 2 * 64 + 2


def test_no_projection_where_there_is_nothing_to_project() -> None:
    model = make(embedding_size=64)
    assert isinstance(model.model.embeddings.projection, nn.Identity)
    assert not any("projection" in name for name, _ in model.named_parameters())
    assert model(**text()).logits.shape == (N, L, 50)


def test_the_initial_weights() -> None:
    torch.manual_seed(0)
    model = WideNetForPreTraining(WideNetTextConfig(hidden_size=144, vocab_size=500, num_hidden_layers=2))
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.3), name
    assert (model.get_input_embeddings().weight[0] == 0).all()  # padding


# ---- transformers' manners ----


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_the_same_model(name: str, task: str, tmp_path: Path) -> None:
    model = make(name, task)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    loaded, info = HEADS[task].from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(loaded(**text())[0], model(**text())[0])


@pytest.mark.parametrize("task", ["pretraining", "masked-lm"])
def test_the_decoder_is_the_word_embeddings(task: str, tmp_path: Path) -> None:
    model = make(task=task)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for each in (model, loaded, copy.deepcopy(model)):
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight
        assert each.get_input_embeddings() is each.model.embeddings.word_embeddings
    untied = make(task=task, tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    untied.save_pretrained(tmp_path)
    again = type(untied).from_pretrained(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, untied.get_output_embeddings().weight)


@pytest.mark.parametrize("task", HEADS)
def test_the_vocabulary_grows(task: str, tmp_path: Path) -> None:
    model = make(task=task)
    before = model(**text())[0]
    model.resize_token_embeddings(60, mean_resizing=False)
    assert model.config.vocab_size == 60 and model.get_input_embeddings().weight.shape == (60, 32)
    after = model(**text())[0]
    if task in ("pretraining", "masked-lm"):
        assert after.shape == (N, L, 60)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert model.get_output_embeddings().bias.shape == (60,)
        after = after[..., :50]
    torch.testing.assert_close(after, before)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).get_input_embeddings().weight.shape == (60, 32)


def test_a_pretrained_model_gets_another_head(tmp_path: Path) -> None:
    pretrained = make()
    pretrained.save_pretrained(tmp_path)
    for model_class in (WideNetTextModel, WideNetForSequenceClassification, WideNetForQuestionAnswering):
        model = model_class.from_pretrained(tmp_path)
        states = model(**text(), output_hidden_states=True).hidden_states
        assert torch.equal(states[-1], pretrained(**text(), output_hidden_states=True).hidden_states[-1])
        assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_nothing(name: str, reentrant: bool) -> None:
    def step(model: PreTrainedModel) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(3)
        loss = model.train()(**with_labels("pretraining", text())).loss
        loss.backward()
        return loss, [parameter.grad for parameter in model.parameters()]

    plain, checkpointed = (make(name, hidden_dropout_prob=0.1) for _ in range(2))
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert checkpointed.model.encoder.gradient_checkpointing
    (loss, gradients), (other_loss, other_gradients) = step(plain), step(checkpointed)
    torch.testing.assert_close(loss, other_loss)
    for left, right in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_every_head_gets_a_gradient(name: str, task: str) -> None:
    # A weight that gets none stops data-parallel training.
    model = make(name, task).train()
    if task == "features":
        output = model(**text())
        loss = output.last_hidden_state.square().mean() + output.pooler_output.mean() + output.balance_loss
    else:
        loss = model(**with_labels(task, text())).loss
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_autocast_leaves_losses_in_float32() -> None:
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**with_labels("pretraining", text()), output_routing=True)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == output.mlm_loss.dtype == output.balance_loss.dtype == torch.float32
    assert all(record.gates.dtype == torch.float32 for record in output.routing)
    output.loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


# ---- mistakes ----


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"input_ids": torch.ones(1, 129, dtype=torch.long)}, ["129", "max_position_embeddings=128"]),
        ({"inputs_embeds": torch.ones(1, 129, 32)}, ["129", "max_position_embeddings=128"]),
        ({}, ["input_ids or inputs_embeds"]),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long), "inputs_embeds": torch.ones(1, 2, 32)}, ["exclude"]),
        ({"input_ids": torch.ones(2, dtype=torch.long)}, ["(2,)", "[sequences, tokens]"]),
        ({"inputs_embeds": torch.ones(1, 2, 64)}, ["(1, 2, 64)", "32"]),
        (
            {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 4)},
            ["(2, 4)", "(2, 5)"],
        ),
        ({"input_ids": torch.ones(2, 5, dtype=torch.long), "only_labelled": True}, ["only_labelled", "labels"]),
    ],
    ids=str,
)
def test_a_wrong_input_is_one_line(inputs: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(WideNetError) as caught:
        make(task="masked-lm")(**inputs)
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line


def test_the_longest_text_fits() -> None:
    assert make()(input_ids=torch.ones(1, 128, dtype=torch.long)).logits.shape == (1, 128, 50)
    embeddings = TextEmbeddings(WideNetTextConfig(vocab_size=5, hidden_size=24, max_position_embeddings=4))
    assert embeddings(torch.ones(2, 4, dtype=torch.long)).shape == (2, 4, 24)


def test_the_classes_of_the_tasks() -> None:
    classes = [
        WideNetForPreTraining,
        WideNetForMaskedLM,
        WideNetForSequenceClassification,
        WideNetForQuestionAnswering,
        WideNetTextModel,
    ]
    assert [type(make(task=task)) for task in HEADS] == classes
    assert type(make()) is WideNetForPreTraining
