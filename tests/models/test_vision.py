"""Images in, classes out: invariance, reproducibility, losses, sizes, files, precision and data parallelism."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification

from widenet import WideNetError, WideNetForImageClassification, WideNetVisionConfig, WideNetVisionModel

UNSHARED: dict[str, Any] = {"share_attention": False, "share_ffn": False}
KINDS: dict[str, dict[str, Any]] = {
    "widenet": {},
    "groups": {"num_routing_groups": 1, "share_router": False},
    "vit": {**UNSHARED, "moe_layers": "none", "pooling": "cls"},
    "vit-moe": {**UNSHARED, "moe_layers": [1]},
}


def make_config(**fields: Any) -> WideNetVisionConfig:
    settings: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 16,
        "num_labels": 5,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 24,
        "initializer_range": 0.2,
        **fields,
    }
    return WideNetVisionConfig(**settings)


def make_model(**fields: Any) -> WideNetForImageClassification:
    torch.manual_seed(0)
    return WideNetForImageClassification(make_config(**fields)).eval()


def images(N: int = 4, size: int = 32, channels: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(N, channels, size, size, generator=torch.Generator().manual_seed(seed))


# ---- evaluation does not see the batch ----


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_an_image_alone_and_in_any_batch(fields: dict[str, Any], attention: str) -> None:
    # With an evaluation capacity of the training's 1.2 this would fail: see the last assertion.
    model = make_model(**fields)
    model.set_attn_implementation(attention)
    batch = images(8)
    together = model(batch).logits
    for index in range(8):
        torch.testing.assert_close(model(batch[index : index + 1]).logits[0], together[index], rtol=0, atol=1e-5)
    order = torch.tensor([5, 2, 7])
    torch.testing.assert_close(model(batch[order]).logits, together[order], rtol=0, atol=1e-5)
    crowd = torch.cat([batch[:1].expand(20, -1, -1, -1), batch])  # twenty images that want the same experts
    torch.testing.assert_close(model(crowd).logits[20:], together, rtol=0, atol=1e-5)
    assert torch.equal(model(batch).logits, together)
    if model.config.moe_blocks:
        model.config.eval_capacity_factor = 0.5
        assert (model(crowd).logits[20:] - together).abs().max() > 1e-3


# ---- pooling ----


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_final_norm_before_and_after_pooling(pooling: str) -> None:
    before, after = (make_model(pooling=pooling, norm_after_pooling=late) for late in (False, True))
    state = {key.replace("encoder.final_norm", "norm"): value for key, value in before.state_dict().items()}
    state |= {"model.norm.weight": torch.randn(16), "model.norm.bias": torch.randn(16)}
    after.load_state_dict(state)
    before.model.encoder.final_norm.load_state_dict(after.model.norm.state_dict())
    assert len(list(before.parameters())) == len(list(after.parameters()))
    tokens = after.model(images()).last_hidden_state  # as the last block leaves them
    pooled = tokens[:, 0] if pooling == "cls" else tokens.mean(1)
    centred = pooled - pooled.mean(-1, keepdim=True)
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = expected * state["model.norm.weight"] + state["model.norm.bias"]
    torch.testing.assert_close(after.model(images()).pooler_output, expected, rtol=0, atol=1e-5)
    # of one token the order is no matter, of a mean it is
    same = torch.allclose(before(images()).logits, after(images()).logits, atol=1e-5)
    assert same == (pooling == "cls")


# ---- same seed, same result ----


def two_steps(model: WideNetForImageClassification) -> list[Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(3)
    losses = []
    for step in range(2):
        output = model.train()(images(seed=step), labels=torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.detach())
    return [*losses, *(parameter.detach() for parameter in model.parameters())]


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_the_same_seed_twice_is_the_same_to_the_bit(fields: dict[str, Any]) -> None:
    noisy = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, **fields}
    first, second = make_model(**noisy), make_model(**noisy)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    started = [parameter.clone() for parameter in first.parameters()]
    after = two_steps(first)
    for left, right in zip(after, two_steps(second), strict=True):
        assert torch.equal(left, right)
    assert all(not torch.equal(a, b) for a, b in zip(started, after[2:], strict=True))  # all of it was trained


def test_another_seed_is_another_model() -> None:
    first = make_model()
    torch.manual_seed(1)
    second = WideNetForImageClassification(make_config())
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_the_initial_weights() -> None:
    torch.manual_seed(0)
    model = WideNetForImageClassification(make_config(hidden_size=128, initializer_range=0.02, pooling="cls"))
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            # At least 128 draws each: within 30 % of 0.02.
            assert parameter.std().item() == pytest.approx(0.02, rel=0.3), name


# ---- losses ----


def test_the_loss_is_cross_entropy_plus_lambda_times_the_sum() -> None:
    model = make_model(router_aux_loss_coef=0.3).train()
    labels = torch.tensor([4, 0, 2, 2])
    output = model(images(), labels=labels, output_routing=True)
    balance = torch.stack([record.balance_loss for record in output.routing]).sum()
    assert len(output.routing) == 2 and balance > 1.5  # about 1 for each block: a sum, not a mean
    assert torch.equal(output.balance_loss, balance)
    assert torch.equal(output.loss, nn.functional.cross_entropy(output.logits, labels) + 0.3 * balance)


def test_several_labels_and_numbers() -> None:
    several = make_model(problem_type="multi_label_classification", router_aux_loss_coef=0.3).train()
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
    output = several(images(), labels=labels)
    # -log σ(z) where a label holds, -log (1 - σ(z)) where it does not.
    each = nn.functional.softplus(output.logits * (1 - 2 * labels))
    torch.testing.assert_close(output.loss, each.mean() + 0.3 * output.balance_loss)
    numbers = torch.tensor([0.5, -2.0, 1.0, 3.0])
    for fields in ({"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"}):
        output = make_model(**fields, router_aux_loss_coef=0.3).train()(images(), labels=numbers)
        error = (output.logits[:, 0] - numbers).square().mean()
        torch.testing.assert_close(output.loss, error + 0.3 * output.balance_loss)


def test_lambda_is_one_hundredth_unless_told() -> None:
    model = make_model().train()
    labels = torch.tensor([4, 0, 2, 2])
    output = model(images(), labels=labels)
    main = nn.functional.cross_entropy(output.logits, labels)
    torch.testing.assert_close(output.loss - main, 0.01 * output.balance_loss)
    assert model(images()).loss is None


def test_the_balance_loss_reaches_the_router() -> None:
    model = make_model(router_noise_std=0.0).train()
    (gradient,) = torch.autograd.grad(model(images()).balance_loss, list(model.model.encoder.routers.parameters()))
    assert gradient.abs().max() > 0


def test_soft_labels_are_probabilities() -> None:
    model = make_model()
    labels = torch.tensor([4, 0, 2, 2])
    hard = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(model(images(), labels=hard).loss, model(images(), labels=labels).loss)
    # Cross-entropy is linear in the labels: a mixture of labels costs the mixture of their losses.
    other = nn.functional.one_hot(torch.tensor([1, 1, 3, 0]), 5).float()
    mixed = model(images(), labels=0.7 * hard + 0.3 * other).loss
    parts = 0.7 * model(images(), labels=hard).loss + 0.3 * model(images(), labels=other).loss
    torch.testing.assert_close(mixed, parts)


# ---- sizes ----


def test_wrong_channels_are_named() -> None:
    with pytest.raises(WideNetError, match=r"1 channels.*num_channels=3"):
        make_model()(images(channels=1))
    make_model(num_channels=1)(images(channels=1))


def test_a_wrong_size_is_named_with_the_way_out() -> None:
    with pytest.raises(WideNetError, match=r"48×48.*image_size=32.*interpolate_pos_encoding") as caught:
        make_model()(images(size=48))
    assert "\n" not in str(caught.value)
    with pytest.raises(WideNetError, match=r"patch_size=16.*40×40"):
        make_model()(images(size=40), interpolate_pos_encoding=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_position_embeddings_follow_another_size(pooling: str) -> None:
    model = make_model(pooling=pooling)
    extra = pooling == "cls"
    same = model.model(images(), interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(same, model.model(images()).last_hidden_state)
    larger = model.model(images(size=48), interpolate_pos_encoding=True).last_hidden_state
    assert larger.shape == (4, 9 + extra, 16)
    # Constant position embeddings stay constant at every size; [CLS] has its own and is not interpolated.
    embeddings = model.model.embeddings
    with torch.no_grad():
        embeddings.position_embeddings.fill_(0.25)
        if extra:
            embeddings.position_embeddings[:, 0] = -2
        embedded = embeddings(images(size=48), interpolate_pos_encoding=True)
        patches = embeddings.projection(images(size=48)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded[:, extra:], patches + 0.25)
    if extra:
        torch.testing.assert_close(embedded[:, 0], (embeddings.cls_token[0] - 2).expand(4, -1))


def test_a_rectangular_image_keeps_its_grid() -> None:
    model = make_model()
    wide = torch.randn(2, 3, 32, 64)
    assert model.model(wide, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 8, 16)


def test_patches_are_read_in_rows() -> None:
    # Each patch token is the projection of its own 16×16 pixels: top left, top right, bottom left, …
    model = make_model()
    embeddings, pixels = model.model.embeddings, images(1)
    with torch.no_grad():
        embeddings.position_embeddings.zero_()
        embedded = embeddings(pixels)[0]
        weight = embeddings.projection.weight.flatten(1)
        for index, (row, column) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
            patch = pixels[0, :, row : row + 16, column : column + 16].flatten()
            torch.testing.assert_close(embedded[index], weight @ patch, rtol=1e-4, atol=1e-4)


# ---- outputs ----


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_pooled_output(pooling: str) -> None:
    torch.manual_seed(0)
    model = WideNetVisionModel(make_config(pooling=pooling, use_representation=True)).eval()
    output = model(images())
    tokens = output.last_hidden_state
    pooled = tokens[:, 0] if pooling == "cls" else tokens.sum(1) / 4
    torch.testing.assert_close(output.pooler_output, torch.tanh(model.representation(pooled)))
    torch.manual_seed(0)
    plain = WideNetVisionModel(make_config(pooling=pooling)).eval()
    assert plain.representation is None
    tokens = plain(images()).last_hidden_state
    pooled = tokens[:, 0] if pooling == "cls" else tokens.sum(1) / 4
    torch.testing.assert_close(plain(images()).pooler_output, pooled)


def test_routing_records_have_the_promised_shapes() -> None:
    model = make_model(**UNSHARED, moe_layers=[1], pooling="cls")
    output = model(images(3), output_routing=True)
    dense, record = output.routing
    assert dense is None
    T = 3 * (4 + 1)
    assert record.experts.shape == record.gates.shape == record.kept.shape == (T, 2)
    assert record.probabilities.shape == (T, 4) and record.balance_loss.shape == ()
    assert record.experts.dtype == torch.int64 and record.kept.dtype == torch.bool
    assert record.kept.all()  # dropless at evaluation
    assert (record.experts[:, 0] != record.experts[:, 1]).all()
    assert model(images(3)).routing is None
    assert model(images(3)).balance_loss is not None


def test_hidden_states_and_attentions_on_request() -> None:
    model = make_model()
    output = model(images(), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(4, 4, 16)] * 3
    assert [tuple(state.shape) for state in output.attentions] == [(4, 2, 4, 4)] * 2
    plain = model(images())
    assert plain.hidden_states is None and plain.attentions is None
    torch.testing.assert_close(plain.logits, output.logits)


def test_a_plain_tuple_on_request() -> None:
    model = make_model()
    labels = torch.tensor([0, 1, 2, 3])
    named = model(images(), labels=labels)
    loss, logits, balance = model(images(), labels=labels, return_dict=False)
    assert torch.equal(loss, named.loss) and torch.equal(logits, named.logits)
    assert torch.equal(balance, named.balance_loss)
    assert model(images(), return_dict=False)[0].shape == (4, 5)
    tokens, pooled, balance = model.model(images(), return_dict=False)
    assert tokens.shape == (4, 4, 16) and pooled.shape == (4, 16) and balance.shape == ()


# ---- files ----


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_a_saved_model_is_the_same_model(fields: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(**fields)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    classifier, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(classifier) is WideNetForImageClassification and not classifier.training
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(classifier(images()).logits, model(images()).logits)
    features = AutoModel.from_pretrained(tmp_path)
    assert type(features) is WideNetVisionModel
    torch.testing.assert_close(features(images()).pooler_output, model.model(images()).pooler_output)


def test_a_missing_weight_is_initialised_and_not_left_empty(tmp_path: Path) -> None:
    make_model(num_labels=5).save_pretrained(tmp_path)
    model = WideNetForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model(images()).logits.shape == (4, 7)
    assert model.classifier.weight.isfinite().all() and model.classifier.weight.std() < 1


# ---- precision ----


def test_a_model_loaded_in_bfloat16_keeps_float32_routers(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    model = WideNetForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if ".routers." in name else torch.bfloat16), name
    output = model(images(), labels=torch.tensor([0, 1, 2, 3]), output_routing=True)
    assert output.logits.dtype == torch.bfloat16
    record = output.routing[0]
    assert record.probabilities.dtype == record.gates.dtype == output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(output.logits.float(), make_model()(images()).logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_autocast_leaves_decisions_and_losses_in_float32(attention: str) -> None:
    model = make_model().train()
    model.set_attn_implementation(attention)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(), labels=torch.tensor([0, 1, 2, 3]), output_routing=True)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == output.balance_loss.dtype == torch.float32
    assert all(record.probabilities.dtype == record.gates.dtype == torch.float32 for record in output.routing)
    output.loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("implementation", ["eager", "widenet_every", "grouped_mm", "batched_mm"])
def test_experts_backends_are_switched_by_the_model(implementation: str) -> None:
    def step(model: WideNetForImageClassification) -> list[Tensor]:
        model.train()(images(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    default = make_model(router_noise_std=0.0, capacity_factor=0.8)
    other = make_model(router_noise_std=0.0, capacity_factor=0.8)
    assert default.config._experts_implementation == "widenet_sorted"
    other.set_experts_implementation(implementation)
    assert other.model.encoder.config._experts_implementation == implementation
    for left, right in zip(step(default), step(other), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


# ---- data parallelism ----


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_distributed_data_parallel_without_looking_for_unused_weights(fields: dict[str, Any], tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        plain, wrapped = make_model(**fields).train(), make_model(**fields).train()
        parallel = nn.parallel.DistributedDataParallel(wrapped)
        for step in range(2):  # a weight without gradient stops the second forward pass
            for model in (plain, parallel):
                torch.manual_seed(step)
                model.zero_grad()
                model(images(seed=step), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
            for left, right in zip(plain.parameters(), wrapped.parameters(), strict=True):
                torch.testing.assert_close(left.grad, right.grad)
    finally:
        torch.distributed.destroy_process_group()
