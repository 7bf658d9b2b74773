"""Four kernels, one answer; and a query that sees nothing."""

import pytest
import torch
import torch._dynamo

from pellucid.nn.kernels import blocked, explicit, flex, sdpa
from pellucid.nn.masks import Mask, Sites
from pellucid.nn.positions import ALiBiBias

pytestmark = pytest.mark.compiles  # flex does, inside
close = {"atol": 3e-6, "rtol": 1e-4}
S = 12


def sites(first=0, keep=None, segments=None):
    all_sites = Sites.of(2, S, torch.device("cpu"), keep=keep, segments=segments)
    kept = all_sites.segments
    return Sites(all_sites.positions[:, first:], None if kept is None else kept[:, first:])


LEFT = torch.tensor([[True] * S, [False] * 3 + [True] * 9])
RIGHT = torch.tensor([[True] * S, [True] * 10 + [False] * 2])
PACKED = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 2 + [2] * 8])
RULES = {
    "full": {},
    "causal": {"causal": True},
    "causal-window": {"causal": True, "window": 3},
    "window": {"window": 2},
    "wide-window": {"causal": True, "window": 100},
    "left-padded": {"causal": True, "keep": LEFT},
    "right-padded": {"keep": RIGHT},
    "packed": {"causal": True, "segments": PACKED},
    "biased": {"causal": True, "bias": ALiBiBias(4)},
    "biased-padded": {"bias": ALiBiBias(4), "keep": LEFT},
}


def mask(rule, T):
    rule = dict(rule)
    places = {name: rule.pop(name, None) for name in ("keep", "segments")}
    return Mask(query=sites(S - T, **places), key=sites(**places), **rule)


def untapped(name, tensor, *operands):
    return tensor


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("T", [S, 5, 1])
@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_kernels_agree(rule, T, groups, softcap):
    q, k, v = torch.randn(2, 4, T, 16), torch.randn(2, groups, S, 16), torch.randn(2, groups, S, 16)
    settings = {"scale": 0.3, "softcap": softcap, "dropout": 0.0, "tap": untapped}
    expected = explicit(q, k, v, mask(RULES[rule], T), **settings)
    torch.testing.assert_close(flex(q, k, v, mask(RULES[rule], T), **settings), expected, **close)
    torch.testing.assert_close(blocked(q, k, v, mask(RULES[rule], T), **settings), expected, **close)
    if softcap is None:
        torch.testing.assert_close(sdpa(q, k, v, mask(RULES[rule], T), **settings), expected, **close)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("T", [S, 5])
@pytest.mark.parametrize("rule", RULES)
def test_gradients_agree(rule, T, groups):
    shapes = (2, 4, T, 16), (2, groups, S, 16), (2, groups, S, 16)
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    settings = {"scale": 0.3, "softcap": None, "dropout": 0.0, "tap": untapped}
    weight = torch.randn(2, 4, T, 16)
    expected, *others = (
        torch.autograd.grad((kernel(*inputs, mask(RULES[rule], T), **settings) * weight).sum(), inputs)
        for kernel in (explicit, blocked, sdpa, flex)
    )
    for gradients in others:
        for gradient, right in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("T", "keys", "causal"), [(300, 300, True), (300, 70, False), (300, 50, False), (130, 300, True)]
)
def test_several_blocks_are_as_one(T, keys, causal, dtype):
    shapes = (2, 2, T, 16), (2, 2, keys, 16), (2, 2, keys, 16)
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    last = Sites.of(2, keys, torch.device("cpu"))
    rule = Mask(query=Sites.of(2, T, torch.device("cpu")), key=last, causal=causal)
    settings = {"scale": 0.25, "softcap": None, "dropout": 0.0, "tap": untapped}
    weight = torch.randn(q.shape, dtype=dtype)
    near = {"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {"atol": 1e-12, "rtol": 1e-10}
    one, many = (kernel(q, k, v, rule, **settings) for kernel in (explicit, blocked))
    torch.testing.assert_close(many, one, **near)
    for expected, found in zip(*(torch.autograd.grad(x, (q, k, v), weight) for x in (one, many)), strict=True):
        torch.testing.assert_close(found, expected, **near)


def test_blocked_attention_refuses_a_second_derivative():
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    rule = Mask(query=Sites.of(1, 4, torch.device("cpu")), key=Sites.of(1, 4, torch.device("cpu")), causal=True)
    out = blocked(q, q, q, rule, scale=1.0, softcap=None, dropout=0.0, tap=untapped)
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), q)


@pytest.mark.parametrize("kernel", [explicit, blocked, sdpa, flex])
@torch.no_grad()
def test_a_query_that_sees_nothing_yields_zeros(kernel):
    q = k = v = torch.randn(2, 1, S, 8)
    out = kernel(q, k, v, mask(RULES["left-padded"], S), scale=1.0, softcap=None, dropout=0.0, tap=untapped)
    assert torch.equal(out[1, :, :3], torch.zeros(1, 3, 8))


def test_sdpa_refuses_what_it_cannot_compute():
    q = torch.randn(1, 1, 2, 8)
    with pytest.raises(ValueError, match="squash"):
        sdpa(q, q, q, Mask(query=sites(), key=sites()), scale=1.0, softcap=2.0, dropout=0.0, tap=untapped)


def test_dropout_keeps_the_mean():
    q, k = torch.randn(2, 4, S, 16), torch.randn(2, 4, S, 16)
    v = torch.ones(2, 4, S, 16)
    for kernel in (explicit, blocked, sdpa, flex):
        rule = mask(RULES["causal"], S)
        runs = [kernel(q, k, v, rule, scale=0.3, softcap=None, dropout=0.5, tap=untapped) for _ in range(300)]
        torch.testing.assert_close(torch.stack(runs).mean(0), v, atol=0.35, rtol=0)
        assert runs[0].std() > 0.1
