"""Patching, guessing and removing: exact where the model is linear, and the laws that hold in every model."""

import pytest
import torch
from families import FAMILIES, describe, run, small

from pellucid.analysis.causal import (
    Site,
    ablation,
    activation_patching,
    attribution_patching,
    mean_activations,
    recovered,
    sites,
)
from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.trace import Tapped, trace

TOWER = {"encoder": "", "decoder": "", "encoder_decoder": "decoder."}


class Heads(Tapped):
    """Two heads of which the output is a weighted sum: out = Σ weight · context."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, context):
        return self.tap("logits", (self.tap("context", context) * self.weight).sum((1, 2, 3)))


def one(output):
    return output


def logit(position, token):
    return lambda logits: logits[:, position, token]


def recording(model, text, watch="*"):
    with torch.no_grad(), trace(model, watch=watch) as tape:
        logits = run(model, text)
    return tape.tensors, logits


def text():
    return torch.randint(0, 61, (2, 6))


def test_on_a_linear_function_patching_is_its_terms_and_attribution_finds_them_at_once():
    weight, clean, corrupted = torch.randn(2, 3, 4), torch.randn(5, 2, 3, 4), torch.randn(5, 2, 3, 4)
    model = Heads(weight)
    tape = {"context": clean}
    where = sites(tape, "context", heads=True, positions=True)
    assert where[:4] == [Site("context", 0, 0), Site("context", 0, 1), Site("context", 0, 2), Site("context", 1, 0)]
    patched = activation_patching(model, lambda: model(corrupted), tape, where, one)
    expected = ((clean - corrupted) * weight).sum(-1).flatten(1).T
    assert torch.allclose(patched, expected, atol=1e-5)
    assert torch.allclose(attribution_patching(model, lambda: model(corrupted), tape, where, one), expected, atol=1e-5)


def test_ablation_on_a_linear_function():
    weight, context = torch.randn(2, 3, 4), torch.randn(5, 2, 3, 4)
    model = Heads(weight)
    where = sites({"context": context}, "context", heads=True)
    by_zero = ablation(model, lambda: model(context), where, one)
    assert torch.allclose(by_zero, -(context * weight).sum((2, 3)).T, atol=1e-5)
    means = mean_activations({"context": context}, "*")
    assert torch.allclose(means["context"], context.mean((0, 2), keepdim=True))
    by_mean = ablation(model, lambda: model(context), where, one, means=means)
    assert torch.allclose(by_mean, ((means["context"] - context) * weight).sum((2, 3)).T, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_a_stream_carries_all_of_the_difference(family):
    """Whatever comes after the last state comes from it; and nothing comes of putting in what is there."""
    model, clean, corrupted = small(family), text(), text()
    tape, logits = recording(model, clean)
    other, before = recording(model, corrupted)
    (last,) = sites(tape, f"{TOWER[family]}blocks.1.residual_post")
    metric = logit(4, 3)
    effect = activation_patching(model, lambda: run(model, corrupted), tape, [last], metric)
    assert torch.allclose(effect[0], metric(logits) - metric(before), atol=1e-5)
    assert torch.allclose(recovered(effect, metric(logits), metric(before)), torch.ones(1, 2), atol=1e-4)
    same = sites(other, "*residual*", positions=True) + sites(other, "*.weights", heads=True)
    assert activation_patching(model, lambda: run(model, corrupted), other, same, metric).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_over_layers_and_positions(family):
    """At the last state only the position that is asked matters, and it alone is all; the future never does."""
    model, clean, corrupted, heard = small(family), text(), text(), []
    tape, logits = recording(model, clean, f"{TOWER[family]}blocks.*.residual_post")
    _, before = recording(model, corrupted)
    where = sites(tape, "*", positions=True)
    metric = logit(3, 8)
    effects = activation_patching(
        model, lambda: run(model, corrupted), tape, where, metric, progress=lambda *at: heard.append(at)
    ).unflatten(0, (2, 6))
    assert torch.allclose(effects[1, 3], metric(logits) - metric(before), atol=1e-5)
    assert effects[1, [0, 1, 2, 4, 5]].abs().max() < 1e-6
    assert bool((effects[0, :4].abs() > 1e-6).all())
    assert (effects[0, 4:].abs().max() > 1e-6) == (family == "encoder")
    assert heard[-1] == (12, 12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["context", "weights"])
def test_patching_a_head_is_editing_it_by_hand(family, part):
    model, clean, corrupted = small(family), text(), text()
    tape, _ = recording(model, clean)
    name = f"{TOWER[family]}blocks.1.self_attention.{part}"

    def swap(tensor):
        tensor = tensor.clone()
        tensor[:, 2, 4] = tape[name][:, 2, 4]
        return tensor

    with torch.no_grad():
        with trace(model, watch="*.weights"):
            before = run(model, corrupted)
        with trace(model, watch="*.weights", edits={name: swap}):
            by_hand = run(model, corrupted)
    where = sites(tape, name, heads=True, positions=True)
    effects = activation_patching(model, lambda: run(model, corrupted), tape, where, logit(4, 3)).unflatten(0, (4, 6))
    assert torch.allclose(effects[2, 4], (by_hand - before)[:, 4, 3], atol=1e-5)
    assert effects[2, 4].abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_patching_is_right_about_small_changes(family):
    model, corrupted = small(family).double(), text()
    other, _ = recording(model, corrupted)
    tape = {
        name: tensor + 1e-5 * torch.randn_like(tensor) for name, tensor in other.items() if tensor.is_floating_point()
    }
    where = sites(tape, "*residual_pre", positions=True) + sites(tape, "*.context", heads=True)
    where += sites(tape, "*.weights", heads=True) + sites(tape, "*.scores", heads=True) + sites(tape, "*.hidden")
    call = lambda: run(model, corrupted)  # noqa: E731
    exact = activation_patching(model, call, tape, where, logit(5, 3))
    guess = attribution_patching(model, call, tape, where, logit(5, 3))
    assert exact.abs().max() > 1e-6
    assert torch.allclose(guess, exact, rtol=1e-2, atol=1e-3 * exact.abs().max())


def test_attribution_patching_is_exact_where_all_that_follows_is_linear():
    settings = describe("decoder", final_norm=False)
    model = build(config.Decoder(front=settings.front, stack=settings.stack)).double().eval()
    clean, corrupted = text(), text()
    tape, _ = recording(model, clean)
    where = sites(tape, "blocks.1.residual_post", positions=True) + sites(tape, "blocks.1.feed_forward.hidden")
    where += sites(tape, "blocks.1.feed_forward.out", positions=True)
    call = lambda: model(corrupted)  # noqa: E731
    exact = activation_patching(model, call, tape, where, logit(5, 3))
    assert exact.abs().max() > 1e-4
    assert torch.allclose(attribution_patching(model, call, tape, where, logit(5, 3)), exact, atol=1e-12)


def test_attribution_patching_where_no_weight_wants_a_gradient():
    model, clean, corrupted = small("decoder"), text(), text()
    tape, _ = recording(model, clean)
    where = sites(tape, "*.residual_post", positions=True)
    call = lambda: model(corrupted)  # noqa: E731
    before = attribution_patching(model, call, tape, where, logit(5, 3))
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.allclose(attribution_patching(model, call, tape, where, logit(5, 3)), before, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_what_was_copied_to_the_cpu_is_patched_where_the_model_is():
    model, given = small("decoder").cuda(), text().cuda()
    tape = trace(model, given, watch="*.residual_post", keep="cpu").tensors
    effects = attribution_patching(model, lambda: model(given), tape, sites(tape, "*"), logit(5, 3))
    assert effects.abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_is_not_read_is_of_no_importance(family):
    model, given = small(family), text()
    prefix = TOWER[family]
    attention = model.get_submodule(f"{prefix}blocks.1.self_attention")
    with torch.no_grad():
        attention.out.weight[:, 8:16] = 0  # of head 1, which has eight coordinates
    tape, _ = recording(model, given)
    where = sites(tape, f"{prefix}blocks.*.self_attention.context", heads=True)
    effects = ablation(model, lambda: run(model, given), where, logit(4, 2)).unflatten(0, (2, 4))
    assert effects[1, 1].abs().max() < 1e-6
    assert bool((effects[1, [0, 2, 3]].abs() > 1e-5).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_says_the_same_to_all_is_its_mean(family):
    """Its zero is a change, its mean is none."""
    model, given = small(family), text()
    attention = model.get_submodule(f"{TOWER[family]}blocks.1.self_attention")
    with torch.no_grad():
        attention.value.weight[16:24] = 0  # of head 2: what is left is its bias
    tape, _ = recording(model, given)
    means = mean_activations(tape, "*self_attention.context")
    where = [Site(f"{TOWER[family]}blocks.1.self_attention.context", head=2)]
    metric = logit(4, 2)
    assert ablation(model, lambda: run(model, given), where, metric, means=means).abs().max() < 1e-5
    assert ablation(model, lambda: run(model, given), where, metric).abs().max() > 1e-3


def test_means_leave_padding_out():
    tensors = {"x": torch.tensor([[[1.0], [3.0], [100.0]]]), "heads": torch.tensor([[[[1.0], [3.0], [100.0]]]])}
    means = mean_activations(tensors, "*", keep=torch.tensor([[True, True, False]]))
    assert means["x"].shape == (1, 1, 1)
    assert means["x"].item() == means["heads"].item() == 2


def test_means_of_both_sides_leave_their_own_padding_out():
    values = torch.tensor([[[1.0], [3.0], [100.0]]])
    names = ("encoder.blocks.0.residual_post", "decoder.blocks.0.cross_attention.k", "decoder.blocks.0.residual_post")
    tensors = {name: values[:, None] if name.endswith(".k") else values for name in names}
    target, source = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    means = mean_activations(tensors, "*", keep=target, source_keep=source)
    assert [means[name].item() for name in names] == [2.0, 2.0, 1.0]


def test_what_does_not_fit_is_told():
    model, given = small("decoder"), text()
    tape, _ = recording(model, given)
    call = lambda: model(given)  # noqa: E731
    with pytest.raises(UserError, match=r'"blocks.0.residual_past".*Watch it: .*did you mean "blocks.0.residual_post"'):
        sites(tape, "blocks.0.residual_past")
    with pytest.raises(UserError, match="has no heads; expected tensors with heads"):
        sites(tape, "*.residual_pre", heads=True)
    longer, _ = recording(model, torch.randint(0, 61, (2, 8)))
    where = sites(longer, "*.residual_pre", positions=True)
    for function in (activation_patching, attribution_patching):
        with pytest.raises(UserError, match=r"\(2, 8, 32\) put into \(2, 6, 32\); expected the same shape"):
            function(model, call, longer, where, logit(0, 0))
    with pytest.raises(UserError, match="Give one number for each row"):
        ablation(model, call, where, lambda logits: logits.mean())
    with pytest.raises(UserError, match="was not recorded"):
        ablation(model, call, where, logit(0, 0), means={})
    with pytest.raises(UserError, match=r"keep: shape \(2, 5\); expected \(2, 6\)"):
        mean_activations(tape, "*.residual_pre", keep=torch.ones(2, 5, dtype=torch.bool))
