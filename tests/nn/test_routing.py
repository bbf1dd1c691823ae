"""Eq 2 to 5 by hand: gates, noise, capacity, who is dropped, and the balance loss.

Most routers here have D = E and the identity as weights, so that a token's logits are the token itself
and log(p) gives the probabilities p.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from widenet.config import WideNetConfig
from widenet.nn.routing import Router, Routing, expert_capacity, load_balance_loss, within_capacity


def identity_router(num_experts: int, **fields: Any) -> Router:
    settings: dict[str, Any] = {
        "hidden_size": num_experts,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_experts": num_experts,
        "capacity_factor": None,
        **fields,
    }
    router = Router(WideNetConfig(**settings))
    with torch.no_grad():
        router.weight.copy_(torch.eye(num_experts))
    return router


def small_router(**fields: Any) -> Router:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_experts": 4,
        "capacity_factor": None,
        "router_noise_std": 0.0,
        "initializer_range": 1.0,
        **fields,
    }
    return Router(WideNetConfig(**settings))


def fields_equal(left: Routing, right: Routing) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---- Eq 2: gates ----


def test_gates_are_the_top_probabilities_and_are_not_renormalised() -> None:
    # p = (1/8, 1/2, 1/8 - 1/16, 1/4 + 1/16): best first, expert 1 with 1/2 and expert 3 with 5/16.
    # Their sum, 13/16, is not 1: the paper keeps the softmax over all experts as it is.
    p = torch.tensor([[0.125, 0.5, 0.0625, 0.3125]])
    routing = identity_router(4, num_experts_per_tok=2).eval()(p.log())
    assert routing.experts.tolist() == [[1, 3]]
    torch.testing.assert_close(routing.gates, torch.tensor([[0.5, 0.3125]]))
    torch.testing.assert_close(routing.probabilities, p)
    assert routing.kept.tolist() == [[True, True]]


def test_normalize_gates_divides_by_the_sum_of_the_chosen() -> None:
    # 1/2 and 5/16 of 13/16: 8/13 and 5/13.
    p = torch.tensor([[0.125, 0.5, 0.0625, 0.3125]])
    routing = identity_router(4, num_experts_per_tok=2, normalize_gates=True).eval()(p.log())
    torch.testing.assert_close(routing.gates, torch.tensor([[8 / 13, 5 / 13]]))
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(1))
    torch.testing.assert_close(routing.probabilities, p)  # Eq 5 still sees the whole softmax


def test_logits_are_a_bias_free_product_with_the_tokens() -> None:
    # f(0) = 0 for a layer without bias: a zero token sees every expert alike.
    router = small_router().eval()
    torch.testing.assert_close(router(torch.zeros(1, 8)).probabilities, torch.full((1, 4), 0.25))
    assert [name for name, _ in router.named_parameters()] == ["weight"]


# ---- Eq 2: noise ----


@pytest.mark.parametrize(
    ("num_experts", "fields", "std"), [(4, {}, 1 / 4), (8, {}, 1 / 8), (4, {"router_noise_std": 0.5}, 0.5)]
)
def test_training_noise_has_standard_deviation_one_over_E(
    num_experts: int, fields: dict[str, Any], std: float
) -> None:
    # With zero tokens the logits are the noise itself. Softmax forgets their mean, so what log p shows is
    # ε - mean(ε) over E experts, of variance σ²·(1 - 1/E).
    torch.manual_seed(0)
    T = 20_000
    probabilities = identity_router(num_experts, **fields).train()(torch.zeros(T, num_experts)).probabilities
    noise = probabilities.log() - probabilities.log().mean(-1, keepdim=True)
    expected = std**2 * (1 - 1 / num_experts)
    # T·(E - 1) ≥ 60,000 degrees of freedom: the estimate's own relative error is √(2 / 60,000) = 0.6 %.
    assert noise.square().mean().item() == pytest.approx(expected, rel=0.03)
    # The mean per expert is 0 within 5 standard errors σ/√T; drawn fresh, no two tokens are alike.
    assert noise.mean(0).abs().max().item() < 5 * std / T**0.5
    assert probabilities.unique(dim=0).shape[0] == T
    # Fresh for every expert too: the centred noises of two experts correlate with -1/(E - 1) only.
    correlation = torch.corrcoef(noise.t())[0, 1].item()
    assert correlation == pytest.approx(-1 / (num_experts - 1), abs=0.03)


def test_evaluation_has_no_noise_at_all() -> None:
    router = small_router(router_noise_std=None).eval()
    x = torch.randn(50, 8)
    assert fields_equal(router(x), router(x))
    assert torch.equal(router(x).probabilities, (x @ router.weight.t()).softmax(-1))
    router.train()
    assert not torch.equal(router(x).probabilities, router(x).probabilities)


def test_noise_of_zero_switches_it_off_in_training() -> None:
    router = small_router(router_noise_std=0.0)
    x = torch.randn(50, 8)
    state = torch.get_rng_state()
    trained = router.train()(x)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert fields_equal(trained, router.eval()(x))


# ---- capacity ----

CAPACITIES = [
    # T, E, K, C      C·K·T / E, rounded up
    (5, 4, 2, 1.2, 3),  # 12 / 4 = 3 exactly
    (196, 4, 2, 1.2, 118),  # 470.4 / 4 = 117.6
    (6, 4, 1, 1.25, 2),  # 7.5 / 4 = 1.875
    (3, 4, 1, 0.5, 1),  # 1.5 / 4 = 0.375
    (4, 4, 2, 2, 4),  # an int C: 16 / 4
    (4, 3, 2, 0.75, 2),  # 6 / 3
    (10, 1, 1, 1.1, 11),  # 1.1·10 is 11.000000000000002 in floating point, and would round up to 12
    (100, 1, 1, 1.1, 110),  # as is 1.1·100
    (0, 4, 2, 1.2, 0),
]


@pytest.mark.parametrize(("T", "E", "K", "C", "slots"), CAPACITIES)
def test_capacity_is_C_K_T_over_E_rounded_up(T: int, E: int, K: int, C: float, slots: int) -> None:
    assert expert_capacity(T, E, K, C) == slots
    counted = expert_capacity(torch.tensor(T), E, K, C)
    assert isinstance(counted, Tensor) and counted.dtype == torch.int64 and counted.item() == slots


# Three experts A, B, C of two slots each, four tokens, two choices each. Slots are given out first choices
# first, in token order:
#
#     token   first              second
#     0       A  slot 1, kept    B  slot 2, kept (the last one)
#     1       A  slot 2, kept    C  slot 1, kept
#     2       A  full            B  full: token 3's first choice and token 0's second came before
#     3       B  slot 1, kept    A  full
#
# Token by token instead, token 2 would get B's second slot, and token 3 none.
A, B, C = 0, 1, 2
CHOICES = torch.tensor([[A, B], [A, C], [A, B], [B, A]])
KEPT = torch.tensor([[True, True], [True, True], [False, False], [True, False]])


def test_first_choices_come_before_second_choices() -> None:
    assert torch.equal(within_capacity(CHOICES, 3, 2, None), KEPT)
    assert torch.equal(within_capacity(CHOICES, 3, torch.tensor(2), None), KEPT)


def test_the_last_slot_is_used() -> None:
    # Expert A is asked 4 times: 3 slots serve 3, 4 slots serve all, 1 slot serves 1.
    for slots in (1, 2, 3, 4):
        kept = within_capacity(CHOICES, 3, slots, None)
        assert int((kept & (CHOICES == A)).sum()) == min(slots, 4)
        assert int((kept & (CHOICES == B)).sum()) == min(slots, 3)


def probabilities_of(choices: Tensor) -> Tensor:
    """Probabilities 0.5 for the first choice, 0.3 for the second, 0.2 for the third of three experts."""
    return torch.full((len(choices), 3), 0.2).scatter(1, choices, torch.tensor([[0.5, 0.3]]).expand(len(choices), 2))


def test_the_router_drops_by_the_table() -> None:
    # C = 0.75: ceil(0.75·2·4 / 3) = 2 slots each, as in the table.
    router = identity_router(3, num_experts_per_tok=2, capacity_factor=0.75, router_noise_std=0.0).train()
    routing = router(probabilities_of(CHOICES).log())
    assert torch.equal(routing.experts, CHOICES)
    assert torch.equal(routing.kept, KEPT)
    # A partly dropped token keeps the gate of what fits (0.5, not 0.8 or 1); a dropped gate weighs zero.
    expected = torch.tensor([[0.5, 0.3], [0.5, 0.3], [0.0, 0.0], [0.5, 0.0]])
    torch.testing.assert_close(routing.weights, expected)
    assert (routing.weights[~KEPT] == 0).all()
    torch.testing.assert_close(routing.gates, torch.tensor([[0.5, 0.3]]).expand(4, 2))


def test_evaluation_drops_only_where_a_capacity_is_set() -> None:
    x = probabilities_of(CHOICES).log()
    assert identity_router(3, num_experts_per_tok=2, capacity_factor=0.75).eval()(x).kept.all()
    limited = identity_router(3, num_experts_per_tok=2, capacity_factor=None, eval_capacity_factor=0.75)
    assert torch.equal(limited.eval()(x).kept, KEPT)
    assert limited.train()(x).kept.all()


def test_capacity_never_exceeds_the_slots_and_never_wastes_one() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        experts = torch.rand(30, 4).topk(2).indices
        kept = within_capacity(experts, 4, 12, None)
        for expert in range(4):
            asked = int((experts == expert).sum())
            assert int((kept & (experts == expert)).sum()) == min(asked, 12)


# ---- Eq 3 to 5: the balance loss ----


@pytest.mark.parametrize("K", [1, 2, 3])
def test_a_balanced_router_gives_exactly_one(K: int) -> None:
    # Four tokens, four experts, each token's probabilities shifted by one expert: P_i = 1/4 for every i,
    # and every expert is chosen K times of 4·K, so m_i = 1/4. l = 4·(4·1/4·1/4) = 1, whatever K is.
    p = torch.tensor([0.5, 0.25, 0.1875, 0.0625])
    probabilities = torch.stack([p.roll(shift) for shift in range(4)])
    experts = probabilities.topk(K).indices
    assert load_balance_loss(probabilities, experts).item() == 1.0
    assert load_balance_loss(probabilities, experts, torch.ones(4, dtype=torch.bool)).item() == 1.0


def test_a_collapsed_router_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).expand(6, 4)
    # K = 1: m = (1, 0, 0, 0), l = 4·(1·0.7) = 2.8.
    one = load_balance_loss(probabilities, torch.zeros(6, 1, dtype=torch.int64))
    assert one.item() == pytest.approx(2.8)
    # K = 2, always experts 0 and 1: m = (1/2, 1/2, 0, 0), l = 4·(0.35 + 0.05) = 1.6.
    two = load_balance_loss(probabilities, torch.tensor([[0, 1]]).expand(6, 2))
    assert two.item() == pytest.approx(1.6)
    # The worst there is: certain of one expert, l = E.
    certain = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(6, 4)
    assert load_balance_loss(certain, torch.zeros(6, 1, dtype=torch.int64)).item() == 4.0


def test_balance_counts_assignments_before_any_drop() -> None:
    # The table of drops above: A is chosen 4 times, B 3 times, C once, of 8: m = (4, 3, 1)/8.
    # P: A is first for 3 tokens and second for one, (3·0.5 + 0.3)/4 = 0.45; B first for one, second for
    # two, third for one, (0.5 + 0.6 + 0.2)/4 = 0.325; C (0.3 + 3·0.2)/4 = 0.225.
    # l = 3·(0.5·0.45 + 0.375·0.325 + 0.125·0.225) = 3·(0.225 + 0.121875 + 0.028125) = 1.125
    for factor in (0.75, None):
        router = identity_router(3, num_experts_per_tok=2, capacity_factor=factor, router_noise_std=0.0)
        assert router.train()(probabilities_of(CHOICES).log()).balance_loss.item() == pytest.approx(1.125)


def test_only_the_probabilities_carry_gradient() -> None:
    # l = E·Σ m_i·P_i with P_i a mean over T tokens: ∂l/∂p_ti = E·m_i / T, the same for every token.
    # m = (4, 3, 1)/8, E = 3, T = 4: 3·(0.5, 0.375, 0.125)/4.
    probabilities = probabilities_of(CHOICES).requires_grad_()
    load_balance_loss(probabilities, CHOICES).backward()
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad, torch.tensor([[0.375, 0.28125, 0.09375]]).expand(4, 3))


def test_the_loss_of_a_reused_routing_is_zero_and_the_rest_is_the_same() -> None:
    routing = small_router(num_experts_per_tok=2).eval()(torch.randn(5, 8))
    again = routing.reused()
    assert again.balance_loss.item() == 0.0 and routing.balance_loss.item() > 0
    assert again[:4] == routing[:4]  # the very same tensors


# ---- padding ----


def test_padding_is_outside_balance_counts_and_capacity() -> None:
    # Real tokens with padding in between, before and after, against the same tokens alone.
    router = small_router(num_experts_per_tok=2, capacity_factor=0.8).train()
    mask = torch.tensor([False, True, True, False, True, True, True, False, False, True])
    x = torch.randn(10, 8)
    x[~mask] = 100 * router.weight[0]  # all padding would crowd expert 0
    padded, alone = router(x, mask), router(x[mask])
    assert not padded.kept[~mask].any()
    assert torch.equal(padded.kept[mask], alone.kept)
    assert not alone.kept.all()  # the capacity bites: ceil(0.8·2·6 / 4) = 3 slots each
    assert alone.kept.long().sum() <= 12
    assert torch.equal(padded.experts[mask], alone.experts)
    torch.testing.assert_close(padded.gates[mask], alone.gates)
    torch.testing.assert_close(padded.balance_loss, alone.balance_loss)
    assert padded.balance_loss.item() != pytest.approx(router(x).balance_loss.item(), rel=0.05)


def test_padding_gets_no_gradient_from_the_balance_loss() -> None:
    mask = torch.tensor([True, False, True, False])
    probabilities = probabilities_of(CHOICES).requires_grad_()
    load_balance_loss(probabilities, CHOICES, mask).backward()
    # Tokens 0 and 2 are left, both A then B: m = (1/2, 1/2, 0), T = 2, 3·(0.5, 0.5, 0)/2 each.
    row = [0.75, 0.75, 0.0]
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad, torch.tensor([row, [0.0] * 3, row, [0.0] * 3]))


def test_nothing_but_padding_is_no_loss_and_not_nan() -> None:
    mask = torch.zeros(5, dtype=torch.bool)
    for training in (True, False):
        routing = small_router(capacity_factor=1.2).train(training)(torch.randn(5, 8), mask)
        assert routing.balance_loss.item() == 0.0
        assert not routing.kept.any() and (routing.weights == 0).all()


def test_a_mask_of_ones_is_no_mask() -> None:
    router = small_router(capacity_factor=0.8).train()
    x = torch.randn(9, 8)
    masked, plain = router(x, torch.ones(9, dtype=torch.bool)), router(x)
    assert torch.equal(masked.kept, plain.kept)
    torch.testing.assert_close(masked.balance_loss, plain.balance_loss)


# ---- precision ----


def test_the_router_stays_in_float32_under_autocast() -> None:
    router = small_router().eval()
    x = torch.randn(20, 8)
    plain = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.linear(x, router.weight).dtype == torch.bfloat16  # autocast is on
        inside = router(x)
    assert inside.probabilities.dtype == inside.gates.dtype == inside.balance_loss.dtype == torch.float32
    assert fields_equal(inside, plain)  # to the bit: bfloat16 was nowhere


def test_a_bfloat16_router_computes_in_float32() -> None:
    router = small_router().eval().bfloat16()
    x = torch.randn(20, 8).bfloat16()
    routing = router(x)
    assert routing.probabilities.dtype == routing.gates.dtype == routing.balance_loss.dtype == torch.float32
    assert torch.equal(routing.probabilities, (x.float() @ router.weight.float().t()).softmax(-1))


def test_float64_stays_float64() -> None:
    router = small_router().eval().double()
    x = torch.randn(20, 8, dtype=torch.float64)
    routing = router(x)
    assert routing.probabilities.dtype == routing.gates.dtype == routing.balance_loss.dtype == torch.float64
    torch.testing.assert_close(routing.probabilities, (x @ router.weight.t()).softmax(-1), rtol=1e-14, atol=1e-14)
