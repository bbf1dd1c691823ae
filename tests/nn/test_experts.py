"""Eq 1: every way to run tokens through the experts gives the sum that two loops give."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from widenet.config import WideNetConfig
from widenet.nn.backends import WeightCache
from widenet.nn.encoder import Encoder
from widenet.nn.experts import Experts

D, H, E = 16, 24, 4
BACKENDS = ("eager", "widenet_sorted", "widenet_every", "grouped_mm", "batched_mm")


def make_experts(implementation: str = "widenet_sorted", dtype: torch.dtype = torch.float64, **fields: Any) -> Experts:
    config = WideNetConfig(hidden_size=D, num_attention_heads=2, expert_intermediate_size=H, num_experts=E, **fields)
    config._experts_implementation = implementation
    generator = torch.Generator().manual_seed(0)
    experts = Experts(config).to(dtype)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return experts


def assignments(K: int, dtype: torch.dtype, dropped: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Twelve tokens, K distinct experts each but never expert 2, some dropped."""
    generator = torch.Generator().manual_seed(K)
    x = torch.randn(12, D, generator=generator).to(dtype).requires_grad_()
    scores = torch.rand(12, E, generator=generator)
    scores[:, 2] = -1
    index = scores.topk(K).indices
    weights = torch.rand(12, K, generator=generator) + 0.1
    weights[torch.rand(12, K, generator=generator) < dropped] = 0
    weights[0] = 0  # one token is dropped altogether
    return x, index, weights.to(dtype).requires_grad_()


def two_loops(experts: Experts, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Eq 1 as written: Σ_k g_k · e_k(x), token by token, leaving out what was dropped."""
    rows = []
    for t in range(x.shape[0]):
        total = torch.zeros(x.shape[1], dtype=x.dtype)
        for k in range(index.shape[1]):
            if weights[t, k] != 0:
                e = int(index[t, k])
                inner = gelu(experts.up_proj[e] @ x[t] + experts.up_proj_bias[e])
                total = total + weights[t, k] * (experts.down_proj[e] @ inner + experts.down_proj_bias[e])
        rows.append(total)
    return torch.stack(rows)


def parts_of(experts: Experts, cache: WeightCache) -> list[tuple[Tensor, ...]]:
    """What the last call left for the next one."""
    return list(cache.parts(experts, torch.float64))


def gradients(output: Tensor, x: Tensor, weights: Tensor, experts: Experts) -> list[Tensor]:
    """Gradients of a weighted sum of the output, with respect to everything that can have one."""
    scale = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    # A dropped gate is a constant zero to the model: its gradient stops at Routing.weights.
    grads = torch.autograd.grad((output * scale).sum(), [x, weights, *experts.parameters()])
    return [grads[0], grads[1] * (weights != 0), *grads[2:]]


def cases() -> list[Any]:
    every = itertools.product(BACKENDS, (torch.float64, torch.float32, torch.bfloat16))
    return [pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}") for name, dtype in every]


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize(("implementation", "dtype"), cases())
def test_every_implementation_agrees_with_two_loops(implementation: str, dtype: torch.dtype, K: int) -> None:
    slow = make_experts(dtype=torch.float64)
    x, index, weights = assignments(K, dtype)
    wide_x, wide_weights = (part.detach().double().requires_grad_() for part in (x, weights))
    if dtype == torch.bfloat16:  # the loops shall start from the rounded weights
        slow = slow.bfloat16().double()
    expected = two_loops(slow, wide_x, index, wide_weights)
    fast = make_experts(implementation, dtype)
    output = fast(x, index, weights)
    assert output.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    wanted = gradients(expected, wide_x, wide_weights, slow)
    for got, want in zip(gradients(output, x, weights, fast), wanted, strict=True):
        scale = max(1.0, want.abs().max().item())
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_a_dropped_token_gets_exactly_zero(implementation: str) -> None:
    experts = make_experts(implementation, torch.float32)
    x, index, weights = assignments(2, torch.float32)
    output = experts(x, index, weights)
    assert (output[0] == 0).all()  # token 0 has no gate left, though the experts have biases
    assert (output[weights.sum(-1) > 0] != 0).any(-1).all()


def test_a_dropped_gate_gets_no_gradient() -> None:
    # Its row does not exist in the sorted loop; another token's must not stand in for it.
    experts = make_experts()
    x, index, weights = assignments(2, torch.float64)
    experts(x, index, weights).square().sum().backward()
    assert ((weights.grad != 0) == (weights != 0)).all()


def test_a_partly_dropped_token_keeps_what_fits() -> None:
    experts = make_experts()
    x = torch.randn(1, D, dtype=torch.float64)
    both = torch.tensor([[1, 3]])
    partly = experts(x, both, torch.tensor([[0.0, 0.25]], dtype=torch.float64))
    only = experts(x, torch.tensor([[3]]), torch.tensor([[0.25]], dtype=torch.float64))
    torch.testing.assert_close(partly, only, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_experts_without_tokens_get_zero_gradients_not_none(implementation: str) -> None:
    experts = make_experts(implementation, torch.float32)
    x, index, weights = assignments(2, torch.float32)
    assert not (index == 2).any()
    experts(x, index, weights).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[2] == 0).all()
        assert (parameter.grad[0] != 0).any()


@pytest.mark.parametrize("implementation", BACKENDS)
@pytest.mark.parametrize("tokens", [0, 5])
def test_nothing_to_compute_still_gives_gradients(implementation: str, tokens: int) -> None:
    # All tokens dropped or padding, or none at all. Under data parallelism the other processes wait for
    # the gradients of every weight.
    experts = make_experts(implementation, torch.float32)
    x = torch.randn(tokens, D, requires_grad=True)
    weights = torch.zeros(tokens, 2, requires_grad=True)
    output = experts(x, torch.zeros(tokens, 2, dtype=torch.int64), weights)
    assert output.shape == x.shape and (output == 0).all()
    (output.sum() + x.sum()).backward()
    assert weights.grad is not None
    for parameter in experts.parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all()


def test_the_order_of_tokens_does_not_matter() -> None:
    experts = make_experts()
    x, index, weights = assignments(2, torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        experts(x[order], index[order], weights[order]),
        experts(x, index, weights)[order],
        rtol=1e-13,
        atol=1e-13,
    )


def test_weights_taken_apart_once_serve_several_blocks() -> None:
    experts = make_experts()
    x, index, weights = assignments(2, torch.float64)
    cache = WeightCache()
    once = experts(x, index, weights, cache)
    assert len(parts_of(experts, cache)) == E
    twice = experts(x, index, weights, cache)
    assert torch.equal(once, twice)
    shared = torch.autograd.grad((once + 2 * twice).sum(), list(experts.parameters()))
    alone = torch.autograd.grad(3 * experts(x, index, weights).sum(), list(experts.parameters()))
    for got, want in zip(shared, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_a_cache_that_keeps_nothing_ties_no_block_to_another() -> None:
    experts, cache = make_experts(), WeightCache(keep=False)
    x, index, weights = assignments(2, torch.float64)
    for first, second in zip(parts_of(experts, cache), parts_of(experts, cache), strict=True):
        assert all(one is not other for one, other in zip(first[:4], second[:4], strict=True))
    once, twice = experts(x, index, weights, cache), experts(x, index, weights, cache)
    alone = torch.autograd.grad(once.sum(), list(experts.parameters()), retain_graph=True)
    both = torch.autograd.grad((once + twice).sum(), list(experts.parameters()))
    for got, want in zip(both, alone, strict=True):
        torch.testing.assert_close(got, 2 * want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("width", "hidden"), [(6, 24), (16, 10), (6, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_mm_gives_way_where_rows_are_no_multiple_of_16_bytes(
    dtype: torch.dtype, width: int, hidden: int
) -> None:
    fields = {"hidden_size": width, "num_attention_heads": 2, "expert_intermediate_size": hidden, "num_experts": E}
    config = WideNetConfig(**fields)
    experts = Experts(config).to(dtype)
    _, index, weights = assignments(2, dtype)
    x = torch.randn(12, width).to(dtype)
    results = []
    for config._experts_implementation in ("eager", "grouped_mm"):
        experts.zero_grad()
        output = experts(x, index, weights)
        output.sum().backward()
        results.append([output, *(parameter.grad.clone() for parameter in experts.parameters())])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=5e-2, atol=5e-2 if dtype == torch.bfloat16 else 1e-5)


def test_our_backends_have_names_of_their_own() -> None:
    ours = {name for name, backend in ALL_EXPERTS_FUNCTIONS.items() if backend.__module__.startswith("widenet")}
    assert ours == {"widenet_sorted", "widenet_every"}


def test_autocast_copies_the_weights_once_and_sums_their_gradients_in_float32() -> None:
    experts = make_experts(dtype=torch.float32)
    x = torch.randn(300, D, requires_grad=True)  # enough rows for each expert's to be padded in bfloat16
    _, index, weights = assignments(2, torch.float32)
    index, weights = index.repeat(25, 1), weights.detach().repeat(25, 1).requires_grad_()
    sizes = torch.bincount(index[weights != 0], minlength=E)
    assert sizes.max() > 64
    assert (sizes % 64 != 0).any()
    want = experts(x, index, weights)
    exact = gradients(want + experts(x, index, weights), x, weights, experts)
    cache = WeightCache()
    with torch.autocast("cpu", torch.bfloat16):
        got = experts(x, index, weights, cache)
        copies = [copy for expert in parts_of(experts, cache) for copy in expert[4:]]
        again = experts(x, index, weights, cache)
        kept = [copy for expert in parts_of(experts, cache) for copy in expert[4:]]
    assert got.dtype == torch.float32
    assert {copy.dtype for copy in copies} == {torch.bfloat16}
    assert all(new is old for new, old in zip(kept, copies, strict=True))
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02 * want.abs().max().item())
    for half, full in zip(gradients(got + again, x, weights, experts), exact, strict=True):
        assert half.dtype == torch.float32
        assert (half - full).norm() <= 0.03 * full.norm()


def test_repeated_runs_are_bit_for_bit_the_same() -> None:
    def run() -> list[Tensor]:
        experts = make_experts(dtype=torch.float32)
        x, index, weights = assignments(3, torch.float32)
        output = experts(x, index, weights)
        return [output, *gradients(output, x, weights, experts)]

    assert all(torch.equal(first, second) for first, second in zip(run(), run(), strict=True))


def test_gradients_by_finite_differences() -> None:
    experts = make_experts()
    x, index, weights = assignments(2, torch.float64, dropped=0.0)
    weights = (weights.detach() + 0.2).requires_grad_()
    few = index[:3]
    inputs = (x[:3].detach().requires_grad_(), weights[:3].detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda tokens, gates: experts(tokens, few, gates), inputs)


def test_every_parameter_starts_small_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    config = WideNetConfig(hidden_size=64, num_attention_heads=1, expert_intermediate_size=128, num_experts=E)
    experts = Experts(config)
    assert experts.up_proj.shape == (E, 128, 64) and experts.down_proj.shape == (E, 64, 128)
    # 32,768 draws: their standard deviation is 0.02 within 2 %.
    assert experts.up_proj.std().item() == pytest.approx(0.02, rel=0.02)
    assert experts.down_proj.std().item() == pytest.approx(0.02, rel=0.02)
    assert not experts.up_proj_bias.any() and not experts.down_proj_bias.any()


# ---- weights handed from block to block ----


def shared_encoder() -> Encoder:
    torch.manual_seed(0)
    fields = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
    return Encoder(WideNetConfig(**fields, router_noise_std=0.0)).double()


def expert_gradients(encoder: Encoder) -> list[torch.Tensor]:
    gradients = [parameter.grad for parameter in encoder.experts.parameters()]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def test_a_second_backward_pass_through_the_same_graph_adds_the_same_again() -> None:
    encoder, x = shared_encoder(), torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    loss = encoder(x).last_hidden_state.square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)  # must leave nothing behind for the next
    loss.backward(retain_graph=True)
    once = expert_gradients(encoder)
    loss.backward()
    assert len(once) == 4
    for first, both in zip(once, expert_gradients(encoder), strict=True):
        assert first.abs().sum() > 0
        assert torch.allclose(both, 2 * first, rtol=1e-12)


def test_frozen_experts_get_no_gradient_and_let_it_through() -> None:
    encoder, x = shared_encoder(), torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    encoder(x).last_hidden_state.square().sum().backward()
    assert x.grad is not None
    expected = x.grad.clone()
    encoder.zero_grad()
    x.grad = None
    encoder.experts.requires_grad_(False)
    encoder(x).last_hidden_state.square().sum().backward()
    assert expert_gradients(encoder) == []
    assert torch.allclose(x.grad, expected, rtol=1e-12)
