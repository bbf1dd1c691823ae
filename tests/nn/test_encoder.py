"""The walk through depth against a slow reference, and what sharing, groups, masks and checkpoints must keep."""

import copy
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from widenet import WideNetForImageClassification, WideNetVisionConfig
from widenet.config import WideNetConfig
from widenet.nn.encoder import Encoder, EncoderOutput
from widenet.nn.experts import Experts
from widenet.nn.routing import load_balance_loss

D, HEADS = 8, 2
UNSHARED: dict[str, Any] = {"share_attention": False, "share_ffn": False}


def make_encoder(seed: int = 0, attention: str = "eager", **fields: Any) -> Encoder:
    """A four-block encoder in float64 whose weights are large enough for every term to count."""
    settings: dict[str, Any] = {
        "hidden_size": D,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 4,
        "intermediate_size": 12,
        "expert_intermediate_size": 10,
        "num_experts": 4,
        "router_noise_std": 0.0,
        "capacity_factor": None,
        **fields,
    }
    config = WideNetConfig(**settings)
    config._attn_implementation = attention
    config._experts_implementation = "widenet_sorted"
    encoder = Encoder(config).double()
    randomise(encoder, seed)
    return encoder


def randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + 0.3 * noise)


def tokens(N: int = 2, L: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(N, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(encoder: Encoder, x: Tensor, output: EncoderOutput) -> dict[str, Tensor]:
    """Gradients of a weighted sum of the output and the balance loss, for the input and every weight."""
    last = output.last_hidden_state
    scale = torch.linspace(-1, 1, last.numel(), dtype=last.dtype).view_as(last)
    parts = {"x": x, **dict(encoder.named_parameters())}
    grads = torch.autograd.grad((last * scale).sum() + 0.7 * output.balance_loss, list(parts.values()))
    return dict(zip(parts, grads, strict=True))


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---- the reference: Eq 1 to 8 in loops over tokens, heads and experts ----


def layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / (variance + 1e-6) ** 0.5 * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def affine(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def slow_attention(attention: nn.Module, x: list[Tensor], real: list[bool]) -> list[Tensor]:
    size = D // HEADS
    queries, keys, values = (
        [affine(layer, t) for t in x] for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = []
    for query in queries:
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = [torch.exp(query[part] @ key[part] / math.sqrt(size)) for key in keys]
            seen = [score for score, is_real in zip(scores, real, strict=True) if is_real]
            total = torch.zeros(size, dtype=query.dtype)
            for score, value, is_real in zip(scores, values, real, strict=True):
                if is_real:
                    total = total + score / sum(seen) * value[part]
            heads.append(total)
        mixed.append(affine(attention.o_proj, torch.cat(heads)))
    return mixed


def slow_routing(
    config: WideNetConfig, weight: Tensor, x: list[Tensor], real: list[bool]
) -> tuple[list[list[tuple[int, Tensor]]], Tensor]:
    """Eq 2 to 5. For each token the (expert, gate) pairs that are computed; and the balance loss."""
    E, K, C = config.num_experts, config.num_experts_per_tok, config.capacity_factor
    probabilities = []
    for t in x:
        exponentials = [torch.exp(weight[e] @ t) for e in range(E)]
        probabilities.append([value / sum(exponentials) for value in exponentials])
    ranked = [sorted(range(E), key=lambda e, p=p: -p[e].item())[:K] for p in probabilities]
    T = sum(real)
    slots = T if C is None else math.ceil(Fraction(str(C)) * K * T / E)
    used = [0] * E
    sent = [0] * E
    kept: list[list[tuple[int, Tensor]]] = [[] for _ in x]
    for k in range(K):  # every first choice before any second choice
        for t in range(len(x)):
            if not real[t]:
                continue
            expert = ranked[t][k]
            sent[expert] += 1
            if used[expert] < slots:
                used[expert] += 1
                gate = probabilities[t][expert]
                if config.normalize_gates:
                    gate = gate / sum(probabilities[t][e] for e in ranked[t])
                kept[t].append((expert, gate))
    loss = torch.zeros((), dtype=weight.dtype)
    for e in range(E):
        P = sum(p[e] for p, is_real in zip(probabilities, real, strict=True) if is_real) / T
        loss = loss + E * sent[e] / (K * T) * P
    return kept, loss


def reference(encoder: Encoder, x: Tensor, mask: Tensor | None) -> EncoderOutput:
    """Eq 6 and 8: which module a block uses is worked out here, not taken from the depth plan."""
    config, (N, L, _) = encoder.config, x.shape
    B = config.num_hidden_layers
    real = [[mask is None or bool(mask[n, t]) for t in range(L)] for n in range(N)]
    rows = [[x[n, t] for t in range(L)] for n in range(N)]
    mixtures = range(B) if config.moe_layers == "all" else config.moe_layers
    mixtures = [] if config.moe_layers == "none" else mixtures
    dense = moe = routings = 0
    last_group = None
    kept: list[list[tuple[int, Tensor]]] = []
    balance = torch.zeros((), dtype=x.dtype)
    for block in range(B):
        norms = encoder.norms[0 if config.share_norm else block]
        attention = encoder.attentions[0 if config.share_attention else block]

        def around(function: Any, norm: nn.Module) -> None:
            """x ← f(LN(x)) + x, or LN(f(x) + x) in a post-LN encoder; f sees all sequences."""
            inputs = [[layer_norm(norm, t) if config.norm_first else t for t in row] for row in rows]
            for n, update in enumerate(function(inputs)):
                rows[n] = [t + u for t, u in zip(rows[n], update, strict=True)]
                if not config.norm_first:
                    rows[n] = [layer_norm(norm, t) for t in rows[n]]

        around(
            lambda inputs, attention=attention: [
                slow_attention(attention, row, real[n]) for n, row in enumerate(inputs)
            ],
            norms.attention,
        )
        if block not in mixtures:
            ffn = encoder.feed_forwards[0 if config.share_ffn else dense]
            dense += 1
            around(
                lambda inputs, ffn=ffn: [
                    [affine(ffn.down_proj, gelu(affine(ffn.up_proj, t))) for t in row] for row in inputs
                ],
                norms.feed_forward,
            )
            continue
        experts = encoder.experts[0 if config.share_ffn else moe]
        moe += 1
        group = block // (B // config.num_routing_groups)

        def mixture(inputs: list[list[Tensor]], experts: Any = experts, group: int = group) -> list[list[Tensor]]:
            nonlocal kept, balance, last_group, routings
            flat = [t for row in inputs for t in row]
            if group != last_group:
                router = encoder.routers[0 if config.share_router else routings]
                kept, loss = slow_routing(config, router.weight, flat, [r for row in real for r in row])
                balance = balance + loss
                last_group, routings = group, routings + 1
            outputs = []
            for t, pairs in zip(flat, kept, strict=True):
                total = torch.zeros_like(t)
                for e, gate in pairs:
                    inner = gelu(experts.up_proj[e] @ t + experts.up_proj_bias[e])
                    total = total + gate * (experts.down_proj[e] @ inner + experts.down_proj_bias[e])
                outputs.append(total)
            return [outputs[n * L : (n + 1) * L] for n in range(N)]

        around(mixture, norms.feed_forward)
    if config.norm_first:
        rows = [[layer_norm(encoder.final_norm, t) for t in row] for row in rows]
    return EncoderOutput(torch.stack([torch.stack(row) for row in rows]), balance, (), None, None)


CASES: dict[str, dict[str, Any]] = {
    "widenet": {},
    "widenet with drops": {"capacity_factor": 0.9},
    "K=1 with drops": {"num_experts_per_tok": 1, "capacity_factor": 0.7},
    "K=3, E=3": {"num_experts": 3, "num_experts_per_tok": 3, "capacity_factor": 1.1},
    "unshared": {**UNSHARED, "num_experts_per_tok": 3, "capacity_factor": 0.8},
    "vit": {**UNSHARED, "moe_layers": "none"},
    "vit-moe": {**UNSHARED, "moe_layers": [2, 3], "capacity_factor": 1.2},
    "albert": {"share_norm": True, "moe_layers": "none", "norm_first": False},
    "two groups": {"num_routing_groups": 2, "capacity_factor": 0.9},
    "two groups, nothing shared": {**UNSHARED, "num_routing_groups": 2, "moe_layers": [1, 2, 3]},
    "router per block": {"share_router": False, "capacity_factor": 0.9},
    "post-LN, normalised gates": {"norm_first": False, "normalize_gates": True, "capacity_factor": 0.9},
    "mixture and dense, both shared": {"moe_layers": [1, 3], "share_norm": True},
}
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "padded"])
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_the_encoder_agrees_with_the_reference(fields: dict[str, Any], mask: Tensor | None, attention: str) -> None:
    encoder = make_encoder(attention=attention, **fields).train()
    x = tokens().requires_grad_()
    fast, slow = encoder(x, mask), reference(encoder, x, mask)
    torch.testing.assert_close(fast.last_hidden_state, slow.last_hidden_state, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast.balance_loss, slow.balance_loss.to(fast.balance_loss.dtype))
    if fast.balance_loss.requires_grad:
        assert fast.balance_loss.dtype == torch.float64
    if encoder.config.capacity_factor and encoder.config.capacity_factor < 1:
        dropped = [~record.kept for record in fast.routing if record is not None]
        real = torch.ones(10, dtype=torch.bool) if mask is None else mask.reshape(-1).bool()
        assert any(drop[real].any() for drop in dropped)  # or the case shows nothing
    assert_same(gradients(encoder, x, fast), gradients(encoder, x, slow))


@pytest.mark.parametrize("implementation", ["widenet_sorted", "widenet_every", "grouped_mm", "batched_mm"])
def test_every_backend_agrees_with_the_plain_loop_in_the_whole_walk(implementation: str) -> None:
    encoder = make_encoder(capacity_factor=0.9, num_routing_groups=2).train()
    x = tokens().requires_grad_()
    encoder.config._experts_implementation = "eager"
    expected = gradients(encoder, x, encoder(x, MASK))
    encoder.config._experts_implementation = implementation
    assert_same(gradients(encoder, x, encoder(x, MASK)), expected)


# ---- sharing ----


def test_one_block_is_a_plain_mixture_block_written_out() -> None:
    encoder = make_encoder(num_hidden_layers=1).eval()
    x = tokens(N=1)
    norms, attention, experts = encoder.norms[0], encoder.attentions[0], encoder.experts[0]
    # x ← MHA(LN_att(x)) + x, with PyTorch's own attention module
    twin = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    with torch.no_grad():
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        twin.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        twin.out_proj.weight.copy_(attention.o_proj.weight)
        twin.out_proj.bias.copy_(attention.o_proj.bias)
    inner = norms.attention(x)
    x1 = x + twin(inner, inner, inner, need_weights=False)[0]
    # x ← MoE(LN_moe(x)) + x, every expert on every token, the gates zero but for the two best
    tokens_in = norms.feed_forward(x1)
    probabilities = (tokens_in @ encoder.routers[0].weight.t()).softmax(-1)
    gates = probabilities * (probabilities >= probabilities.topk(2).values[..., -1:])
    update = torch.zeros_like(x1)
    for e in range(4):
        up = nn.functional.gelu(tokens_in @ experts.up_proj[e].t() + experts.up_proj_bias[e])
        update += gates[..., e : e + 1] * (up @ experts.down_proj[e].t() + experts.down_proj_bias[e])
    expected = encoder.final_norm(x1 + update)
    torch.testing.assert_close(encoder(x).last_hidden_state, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("moe_layers", ["all", [1, 3], "none"])
def test_an_unshared_encoder_with_copied_weights_is_the_shared_one(moe_layers: str | list[int]) -> None:
    shared = make_encoder(moe_layers=moe_layers, share_norm=True, capacity_factor=0.9).train()
    unshared = make_encoder(seed=9, moe_layers=moe_layers, capacity_factor=0.9, **UNSHARED).train()
    assert len(unshared.attentions) == len(unshared.norms) == 4
    assert len(unshared.experts) == len(unshared.routers) == {"all": 4, "none": 0}.get(str(moe_layers), 2)
    x = tokens().requires_grad_()
    before = unshared(x, MASK).last_hidden_state
    for name in ("attentions", "feed_forwards", "routers", "experts", "norms"):
        for module in getattr(unshared, name):
            module.load_state_dict(getattr(shared, name)[0].state_dict())
    unshared.final_norm.load_state_dict(shared.final_norm.state_dict())
    left, right = shared(x, MASK), unshared(x, MASK)
    torch.testing.assert_close(left.last_hidden_state, right.last_hidden_state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left.balance_loss, right.balance_loss)
    assert not torch.allclose(before, right.last_hidden_state)
    # The gradient of a shared weight is the sum over the blocks that use it.
    one, many = gradients(shared, x, left), gradients(unshared, x, right)
    for name, gradient in one.items():
        kind, *rest = name.split(".")  # "experts.0.up_proj" collects "experts.0.up_proj", "experts.1.up_proj", …
        parts = [many[name]] if kind in ("x", "final_norm") else []
        if not parts:
            parts = [
                grad for key, grad in many.items() if [key.split(".")[0], *key.split(".")[2:]] == [kind, *rest[1:]]
            ]
        torch.testing.assert_close(gradient, torch.stack(parts).sum(0), rtol=1e-9, atol=1e-9)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_shared_weights_are_counted_and_stored_once() -> None:
    shared = make_encoder()
    # attention 4·(8·8 + 8) = 288, router 4·8 = 32, experts 4·(10·8 + 10 + 8·10 + 8) = 712,
    # norms 4 blocks·2·(8 + 8) = 128, final norm 16: 1,176
    assert count(shared) == 288 + 32 + 712 + 128 + 16
    # Unshared: four times attention, router and experts.
    assert count(make_encoder(**UNSHARED)) == 4 * (288 + 32 + 712) + 128 + 16
    # share_norm leaves one pair, (4 - 1)·2·16 = 96 fewer.
    assert count(make_encoder(share_norm=True)) == count(shared) - 96
    state = shared.state_dict()
    assert sum(value.numel() for value in state.values()) == 1176
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    parents = [id(child) for module in shared.modules() for child in module.children()]
    assert len(parents) == len(set(parents))  # every module has one parent


def test_post_ln_has_no_final_norm() -> None:
    assert count(make_encoder(norm_first=False)) == 1176 - 16


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_every_parameter_receives_a_gradient(fields: dict[str, Any]) -> None:
    encoder = make_encoder(**fields).train()
    output = encoder(tokens())
    (output.last_hidden_state.square().sum() + output.balance_loss).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


# ---- routing groups ----


def test_a_group_routes_once_and_reuses_it() -> None:
    encoder = make_encoder(num_routing_groups=2).train()
    calls: list[int] = []
    encoder.routers[0].register_forward_hook(lambda *_: calls.append(1))
    output = encoder(tokens())
    assert len(calls) == 2
    first, second, third, fourth = output.routing
    for leader, follower in ((first, second), (third, fourth)):
        assert all(torch.equal(a, b) for a, b in zip(leader[:4], follower[:4], strict=True))
        assert leader.balance_loss > 0 and follower.balance_loss == 0
    assert not torch.equal(first.probabilities, third.probabilities)
    # T of Eq 8 is G: two losses, not four.
    torch.testing.assert_close(output.balance_loss, first.balance_loss + third.balance_loss)


@pytest.mark.parametrize(("groups", "operations"), [(1, 1), (2, 2), (4, 4), (None, 4)])
def test_eq_8_sums_one_loss_per_group(groups: int | None, operations: int) -> None:
    # A router of zeros sees every expert alike: P_i = 1/4, so l = 4·Σ m_i/4 = 1 exactly per operation.
    encoder = make_encoder(num_routing_groups=groups).train()
    with torch.no_grad():
        encoder.routers[0].weight.zero_()
    assert encoder(tokens()).balance_loss.item() == operations
    assert len(encoder.routers) == 1


def test_own_routers_exist_only_where_a_routing_is_computed() -> None:
    encoder = make_encoder(num_routing_groups=2, **UNSHARED)
    assert (len(encoder.routers), len(encoder.experts), len(encoder.attentions)) == (2, 4, 4)
    assert len(make_encoder(share_router=False).routers) == 4
    assert len(make_encoder(moe_layers=[0, 3], share_router=False).routers) == 2


def test_one_group_per_block_is_the_standard_model() -> None:
    x = tokens()
    assert torch.equal(make_encoder(num_routing_groups=4)(x).last_hidden_state, make_encoder()(x).last_hidden_state)


def test_dense_blocks_leave_no_record() -> None:
    output = make_encoder(moe_layers=[1, 3])(tokens())
    assert [record is None for record in output.routing] == [True, False, True, False]
    nothing = make_encoder(moe_layers="none")(tokens())
    assert nothing.routing == (None,) * 4 and nothing.balance_loss.item() == 0


def test_records_carry_what_their_loss_is_made_of() -> None:
    output = make_encoder(capacity_factor=0.9).train()(tokens(), MASK)
    for record in output.routing:
        loss = load_balance_loss(record.probabilities, record.experts, MASK.reshape(-1).bool())
        torch.testing.assert_close(record.balance_loss, loss)
    total = torch.stack([record.balance_loss for record in output.routing]).sum()
    assert torch.equal(output.balance_loss, total)  # a sum and not a mean


# ---- dropped tokens ----


def test_a_dropped_token_passes_the_block_by_its_residual() -> None:
    # One expert slot per expert for ten tokens: most are dropped. The block's output for them is what
    # attention left, to the bit.
    encoder = make_encoder(num_hidden_layers=1, capacity_factor=0.1).train()
    x = tokens()
    output = encoder(x, output_hidden_states=True)
    (record,) = output.routing
    gone = ~record.kept.any(-1).view(2, 5)
    assert 0 < gone.sum() < 10
    residual = x + encoder.attentions[0](encoder.norms[0].attention(x), None, "eager")[0]
    after = output.hidden_states[1]
    assert torch.equal(after[gone], residual[gone])
    assert (after[~gone] != residual[~gone]).any(-1).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_padding_is_all_residual(attention: str, training: bool) -> None:
    encoder = make_encoder(attention=attention, capacity_factor=1.2).train(training)
    x = tokens()
    output = encoder(x, torch.zeros(2, 5, dtype=torch.int64))
    assert output.last_hidden_state.isfinite().all() and output.balance_loss.item() == 0
    assert not any(record.kept.any() for record in output.routing)
    (output.last_hidden_state.sum() + output.balance_loss).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for parameter in (*encoder.experts.parameters(), *encoder.routers.parameters()):
        assert (parameter.grad == 0).all()


# ---- padding ----


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_sequence_is_the_same_alone_padded_and_in_a_batch(attention: str) -> None:
    encoder = make_encoder(attention=attention).eval().float()
    short, other = tokens(N=1, L=3, seed=2).float(), tokens(N=1, L=6, seed=3).float()
    alone = encoder(short).last_hidden_state
    for filler in (0.0, 50.0):
        padded = torch.cat([short, torch.full((1, 3, D), filler)], 1)
        mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
        by_itself = encoder(padded, mask).last_hidden_state
        batch = encoder(torch.cat([other, padded]), torch.cat([torch.ones(1, 6, dtype=torch.int64), mask]))
        torch.testing.assert_close(by_itself[:, :3], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(batch.last_hidden_state[1:, :3], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(batch.last_hidden_state[:1], encoder(other).last_hidden_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_no_capacity_and_no_loss_in_training(attention: str) -> None:
    # 6 real tokens: ceil(0.8·2·6 / 4) = 3 slots each; with the 4 of padding it would be ceil(4.0) = 4.
    encoder = make_encoder(attention=attention, capacity_factor=0.8).train()
    short = tokens(N=1, L=6, seed=2)
    padded = torch.cat([short, 9 * tokens(N=1, L=4, seed=3)], 1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    alone, with_padding = encoder(short), encoder(padded, mask)
    torch.testing.assert_close(with_padding.last_hidden_state[:, :6], alone.last_hidden_state)
    torch.testing.assert_close(with_padding.balance_loss, alone.balance_loss)
    for record, expected in zip(with_padding.routing, alone.routing, strict=True):
        assert torch.equal(record.kept[:6], expected.kept) and not record.kept[6:].any()
    assert not all(record.kept.all() for record in alone.routing)


# ---- attention ----


@pytest.mark.parametrize("mask", [None, MASK, torch.ones_like(MASK)], ids=["none", "padded", "ones"])
def test_eager_and_sdpa_attention_agree(mask: Tensor | None) -> None:
    eager, sdpa = make_encoder(), make_encoder(attention="sdpa")
    x = tokens().requires_grad_()
    left, right = eager(x, mask), sdpa(x, mask)
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask.bool()
    torch.testing.assert_close(left.last_hidden_state[real], right.last_hidden_state[real], rtol=1e-10, atol=1e-10)


def test_attention_probabilities_are_a_distribution_over_real_tokens() -> None:
    for attention in ("eager", "sdpa"):  # sdpa has none; it gives way
        encoder = make_encoder(attention=attention).eval()
        x = tokens()
        output = encoder(x, MASK, output_attentions=True)
        assert len(output.attentions) == 4
        for probabilities in output.attentions:
            assert probabilities.shape == (2, HEADS, 5, 5)
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, HEADS, 5, dtype=torch.float64))
            assert (probabilities[0, :, :, 3:] == 0).all() and (probabilities[1, :, :, 0] == 0).all()
        real = MASK.bool()
        plain = encoder(x, MASK).last_hidden_state
        torch.testing.assert_close(output.last_hidden_state[real], plain[real])
        assert encoder(x, MASK).attentions is None


def test_hidden_states_are_those_around_every_block() -> None:
    encoder = make_encoder().eval()
    x = tokens()
    output = encoder(x, output_hidden_states=True)
    assert len(output.hidden_states) == 5
    assert torch.equal(output.hidden_states[0], x)
    assert torch.equal(encoder.final_norm(output.hidden_states[-1]), output.last_hidden_state)
    assert encoder(x).hidden_states is None


def test_a_walk_stops_where_it_is_told() -> None:
    encoder = make_encoder(num_routing_groups=2).eval()
    x = tokens()
    whole = encoder(x, output_hidden_states=True)
    part = encoder(x, num_blocks=3)
    assert torch.equal(part.last_hidden_state, encoder.final_norm(whole.hidden_states[3]))
    assert len(part.routing) == 3
    torch.testing.assert_close(part.balance_loss, whole.balance_loss)  # the second group routes in its first block
    assert encoder(x, num_blocks=2).balance_loss == whole.routing[0].balance_loss


# ---- gradient checkpointing ----


def checkpointed(model: WideNetForImageClassification, use_reentrant: bool) -> WideNetForImageClassification:
    # The newer name is transformers 5.23's; the older one is deprecated there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    return model


def classifier(**fields: Any) -> WideNetForImageClassification:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 2,
        "num_labels": 5,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "intermediate_size": 24,
        "initializer_range": 0.2,
        "capacity_factor": 0.8,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        **fields,
    }
    return WideNetForImageClassification(WideNetVisionConfig(**settings)).train()


def training_step(model: WideNetForImageClassification) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(7)
    output = model(pixels, labels=torch.tensor([0, 1, 4]))
    output.loss.backward()
    return output.loss.detach(), output.balance_loss.detach(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_routing_groups": 2},
        {"num_routing_groups": 2, "moe_layers": [1, 2], **UNSHARED},
        {"moe_layers": "none"},
    ],
    ids=["widenet", "groups", "unshared groups", "dense"],
)
def test_checkpointing_changes_nothing(fields: dict[str, Any], use_reentrant: bool) -> None:
    # With dropout, router noise and drops: the recomputation must make the same draws and decisions.
    loss, balance, grads = training_step(classifier(**fields))
    again_loss, again_balance, again = training_step(checkpointed(classifier(**fields), use_reentrant))
    assert torch.equal(again_loss, loss) and torch.equal(again_balance, balance)
    assert_same(again, grads, tolerance=1e-6)


def test_checkpointing_recomputes_experts_but_no_decision() -> None:
    def calls(model: WideNetForImageClassification) -> tuple[int, int]:
        counts = {"experts": 0, "router": 0}

        def counter(name: str) -> Any:
            def hook(*_: Any) -> None:
                counts[name] += 1

            return hook

        model.model.encoder.experts[0].register_forward_pre_hook(counter("experts"))
        model.model.encoder.routers[0].register_forward_pre_hook(counter("router"))
        training_step(model)
        return counts["experts"], counts["router"]

    assert calls(classifier(num_routing_groups=2)) == (4, 2)
    assert calls(checkpointed(classifier(num_routing_groups=2), False)) == (8, 2)


# ---- torch.compile ----


@pytest.mark.parametrize("sharing", [{}, {"num_routing_groups": 2, **UNSHARED}], ids=["widenet", "groups unshared"])
@pytest.mark.parametrize(
    ("backend", "dropout"),
    [("eager", 0.1), ("aot_eager", 0.0)],  # aot_eager and dropout do not go together on transposed patches
)
def test_compiling_changes_nothing(backend: str, dropout: float, sharing: dict[str, Any]) -> None:
    fields = {"hidden_dropout_prob": dropout, **sharing}
    loss, balance, grads = training_step(classifier(**fields))
    model = classifier(**fields)
    torch._dynamo.reset()
    model.compile(backend=backend)
    again_loss, again_balance, again = training_step(model)
    assert torch.allclose(again_loss, loss) and torch.allclose(again_balance, balance)
    assert_same(again, grads, tolerance=1e-6)


# ---- nothing is left behind ----


def test_no_loss_or_record_is_kept_on_a_module() -> None:
    encoder = make_encoder(capacity_factor=0.9).train()
    encoder(tokens())
    copy.deepcopy(encoder)  # refuses tensors that carry a graph
    for module in encoder.modules():
        assert not any(isinstance(value, Tensor) for value in vars(module).values())


def test_dropout_acts_in_training_only() -> None:
    encoder = make_encoder(hidden_dropout_prob=0.5)
    x = tokens()
    assert not torch.equal(encoder.train()(x).last_hidden_state, encoder(x).last_hidden_state)
    assert torch.equal(encoder.eval()(x).last_hidden_state, encoder(x).last_hidden_state)


def test_dropout_is_on_every_branch_and_not_on_the_residual() -> None:
    # Dropped almost surely (10 tokens·8 numbers·8 branches at 1e-9 each): only the residual stream is left.
    for moe_layers in ("all", "none"):
        encoder = make_encoder(hidden_dropout_prob=1 - 1e-9, moe_layers=moe_layers).train()
        x = tokens()
        assert all(torch.equal(state, x) for state in encoder(x, output_hidden_states=True).hidden_states)


def test_attention_dropout_is_on_the_probabilities() -> None:
    # Without probabilities the values count for nothing: attention adds its output bias alone.
    for attention in ("eager", "sdpa"):
        encoder = make_encoder(
            num_hidden_layers=1, attention=attention, attention_probs_dropout_prob=1 - 1e-9, moe_layers="none"
        )
        module, x = encoder.attentions[0], tokens()
        mixed = module.train()(x, None, attention)[0]
        torch.testing.assert_close(mixed, module.o_proj.bias.expand_as(mixed))
        assert not torch.allclose(module.eval()(x, None, attention)[0], mixed)


def test_experts_are_one_module_for_all_blocks() -> None:
    encoder = make_encoder()
    found = [module for module in encoder.modules() if isinstance(module, Experts)]
    calls: list[int] = []
    found[0].register_forward_pre_hook(lambda *_: calls.append(1))
    encoder(tokens())
    assert len(found) == 1 and len(calls) == 4
