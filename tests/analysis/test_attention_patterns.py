"""What patterns of attention look like: by hand, and in models whose attention is known."""

import math

import pytest
import torch
from families import FAMILIES, run, small

from pellucid.analysis.attention import (
    entropy,
    head_divergence,
    induction_score,
    mean_distance,
    padding_mass,
    previous_token_score,
    repeated_tokens,
    sink_mass,
)
from pellucid.errors import UserError
from pellucid.trace import trace


def looking(length, where):
    """A head in which query t looks at key where(t) alone."""
    weights = torch.zeros(length, length)
    for t in range(length):
        weights[t, where(t)] = 1
    return weights


def heads(*patterns):
    return torch.stack(patterns)[None]


def random_weights(rows=2, heads=3, queries=5, keys=5):
    return torch.randn(rows, heads, queries, keys).softmax(-1)


def test_previous_token_heads():
    before, own = looking(6, lambda t: max(t - 1, 0)), looking(6, lambda t: t)
    half = (before + own) / 2
    assert torch.allclose(previous_token_score(heads(before, own, half)), torch.tensor([[1.0, 0.0, 0.5]]))


def test_previous_token_heads_do_not_count_padding():
    before = looking(6, lambda t: max(t - 1, 0))
    wrong = before.clone()
    wrong[:3] = torch.tensor([0, 0, 0, 0, 0, 1.0])  # what padding looks at, and what the first real token looks at
    keep = torch.tensor([[False, False, True, True, True, True]])
    assert previous_token_score(heads(wrong), keep).item() == 1
    assert previous_token_score(heads(wrong)).item() < 1


def test_entropy_and_distance():
    one, spread = looking(8, lambda t: 0), torch.full((8, 8), 1 / 8)
    assert torch.allclose(entropy(heads(one, spread)), torch.tensor([[0.0, math.log(8)]]))
    assert torch.allclose(mean_distance(heads(one, looking(8, lambda t: t))), torch.tensor([[3.5, 0.0]]))
    keep = torch.tensor([[True, True, True] + [False] * 5])
    assert torch.allclose(mean_distance(heads(one), keep), torch.tensor([[1.0]]))  # of 0, 1 and 2
    assert mean_distance(heads(one), torch.zeros(1, 8, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("first", [False, True])
def test_induction_heads(first):
    period, length = 4, 12 + first
    after = looking(length, lambda t: max(t - period + 1, 0))
    again = looking(length, lambda t: max(t - period, 0))
    earliest = looking(
        length, lambda t: t - (2 * period if t >= 2 * period + first else period) + 1 if t >= period else 0
    )
    beginning = looking(length, lambda t: 0)
    scores = induction_score(heads(after, again, earliest, (after + again) / 2, beginning), period=period, first=first)
    expected = [[1.0, 0.0, 1.0, 0.5, 0.0]]
    assert torch.allclose(scores, torch.tensor(expected))


def test_an_induction_head_on_the_tokens_themselves():
    """A head that looks at whatever stands behind the same token, made from the tokens, scores 1."""
    tokens = repeated_tokens(3, period=7, repeats=3, vocab_size=50, first=2)
    assert tokens.shape == (3, 22)
    assert bool((tokens[:, 0] == 2).all())
    assert torch.equal(tokens[:, 1:8], tokens[:, 15:])
    assert all(len(set(row.tolist())) == 7 for row in tokens[:, 1:8])
    found = (tokens[:, :, None] == tokens[:, None, :-1]) & (
        torch.arange(21) > 0
    )  # the token at key s - 1 is the query's
    weights = torch.zeros(3, 22, 22)
    weights[:, :, 1:] = found.float()
    weights = weights.tril()
    weights[:, :, 0] += weights.sum(-1) == 0
    weights = (weights / weights.sum(-1, keepdim=True))[:, None]
    assert torch.allclose(induction_score(weights, period=7, first=True), torch.ones(3, 1))


def test_repeated_tokens_come_from_the_generator():
    draw = lambda seed: repeated_tokens(  # noqa: E731
        2, period=5, repeats=2, vocab_size=4, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_sinks_and_padding():
    first, second = looking(4, lambda t: 0), looking(4, lambda t: 1)
    weights = heads(first, (first + second) / 2)
    assert torch.allclose(sink_mass(weights), torch.tensor([[1.0, 0.5]]))
    left = torch.tensor([[False, True, True, True]])
    assert torch.allclose(sink_mass(weights, source_keep=left), torch.tensor([[0.0, 0.5]]))
    assert torch.allclose(padding_mass(weights, left), torch.tensor([[1.0, 0.5]]))
    assert torch.allclose(padding_mass(weights, ~left), torch.tensor([[0.0, 0.5]]))


def test_divergence_of_heads():
    first, second, spread = looking(4, lambda t: 0), looking(4, lambda t: 1), torch.full((4, 4), 0.25)
    found = head_divergence(heads(first, second, spread))[0]
    assert torch.allclose(found.diagonal(), torch.zeros(3), atol=1e-6)
    assert torch.allclose(found, found.T)
    assert found[0, 1].item() == pytest.approx(math.log(2))
    mixed = torch.tensor([0.625, 0.125, 0.125, 0.125])
    assert found[0, 2].item() == pytest.approx(torch.special.entr(mixed).sum().item() - math.log(4) / 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_queries_a_model_looks_everywhere_alike(family):
    """With its queries at zero, every score is the same and every number is known."""
    model, tokens = small(family), torch.randint(0, 61, (2, 7))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".query." in name:
                parameter.zero_()
        with trace(model, watch="*.weights") as tape:
            run(model, tokens)
    for name in tape:
        weights, causal = tape[name], "self" in name and family != "encoder" and not name.startswith("encoder")
        seen = [t + 1 if causal else 7 for t in range(7)]
        expected = sum(math.log(n) for n in seen) / 7
        assert torch.allclose(entropy(weights), torch.full((2, 4), expected), atol=1e-5)
        assert torch.allclose(sink_mass(weights), torch.full((2, 4), sum(1 / n for n in seen) / 7), atol=1e-5)
        assert head_divergence(weights).max() < 1e-5
    assert len(tape) == (6 if family == "encoder_decoder" else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_model_looks_at_padding(family):
    model, tokens = small(family), torch.randint(0, 61, (2, 7))
    keep = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad(), trace(model, watch="*.weights") as tape:
        run(model, tokens, keep=keep)
    for name in tape:
        source = keep.flip(1) if name.startswith("encoder") or "cross" in name else keep
        queries = keep.flip(1) if name.startswith("encoder") else keep
        assert padding_mass(tape[name], source, queries).max() == 0
        assert padding_mass(tape[name], ~source, queries).min() > 0.99


def test_weights_in_half_precision_are_added_up_in_single():
    weights, real = random_weights(queries=40, keys=40).bfloat16(), torch.rand(2, 40) < 0.7
    for measure in (
        entropy, mean_distance, previous_token_score, sink_mass, head_divergence,
        lambda w: padding_mass(w, real), lambda w: induction_score(w, period=9),
    ):  # fmt: skip
        assert torch.equal(measure(weights), measure(weights.float()))


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match=r"shape \(5, 5\); expected \(B, H, T, S\)"):
        entropy(torch.zeros(5, 5))
    with pytest.raises(UserError, match="Only there a distance can be told"):
        mean_distance(random_weights(keys=4))
    with pytest.raises(UserError, match=r"keep: shape \(2, 4\); expected \(2, 5\)"):
        entropy(random_weights(), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"source_keep: shape"):
        padding_mass(random_weights(), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UserError, match="3 in a text of 5 tokens; expected 2 to 2"):
        induction_score(random_weights(), period=3)
    with pytest.raises(UserError, match="2 or more"):
        repeated_tokens(1, period=3, repeats=1, vocab_size=9)
