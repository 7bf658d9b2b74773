"""Probes find what is there, do not find what is not, and know how much they learned by heart."""

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, run, small

from pellucid.analysis.probe import control_labels, fit_probe, probing
from pellucid.errors import UserError
from pellucid.trace import trace


def test_what_lies_apart_is_told_apart():
    labels = torch.randint(0, 3, (300,))
    centres = torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, -5.0]])
    found = probing(centres[labels] + 0.3 * torch.randn(300, 2), labels)
    assert found.accuracy == 1
    assert 0.2 < found.majority < 0.6
    assert found.control is None
    assert found.selectivity is None


def test_noise_says_nothing():
    labels = (torch.rand(600) < 0.7).long()
    found = probing(torch.randn(600, 5), labels)
    assert found.majority == pytest.approx(0.7, abs=0.1)
    assert found.accuracy == pytest.approx(found.majority, abs=0.07)


def test_the_fit_is_at_the_minimum():
    """There the gradient of mean cross-entropy and penalty, in standardised features, is zero."""
    features, labels = torch.randn(80, 4).double() * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 7, torch.randint(0, 3, (80,))
    probe = fit_probe(features, labels, penalty=0.01)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    x = (features - mean) / deviation
    weight = (probe.weight * deviation).requires_grad_()
    bias = (probe.bias + probe.weight @ mean).requires_grad_()
    loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.005 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert gradient.abs().max() < 1e-4


def test_the_majority_is_that_of_the_examples_learned_from():
    """Of three and three, where two of a kind are held out, the others are more and always wrong."""
    features, labels = torch.randn(6, 2), torch.tensor([0, 0, 0, 1, 1, 1])
    found = {probing(features, labels, held_out=1 / 3, seed=seed).majority for seed in range(12)}
    assert found == {0.0, 0.5}


def test_two_labels_of_one_feature_by_hand():
    """Two of three right of zero: without a slope, the log-odds of the frequencies."""
    probe = fit_probe(torch.ones(3, 1), torch.tensor([1, 1, 0]))
    assert (probe.bias[1] - probe.bias[0]).item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert torch.equal(probe.predict(torch.ones(2, 1)), torch.tensor([1, 1]))


def test_what_half_precision_holds_is_read_as_it_is():
    """The probe of rounded features is not rounded itself."""
    labels = torch.randint(0, 2, (400,))
    features = (100 + 2 * labels[:, None] + 2 * torch.randn(400, 8)).bfloat16()
    found, expected = probing(features, labels), probing(features.float(), labels)
    assert found.accuracy == expected.accuracy > 0.8
    assert torch.equal(found.probe.predict(features), expected.probe.predict(features.float()))


def test_what_only_names_the_word_has_no_selectivity():
    """From a vector for each word, any labels of words are learned by heart."""
    types = torch.arange(400) % 10
    found = probing(torch.eye(10)[types], types % 2, types=types)
    assert found.accuracy == found.control == 1
    assert found.selectivity == 0


def test_what_names_only_the_label_is_selective():
    types = torch.arange(400) % 40
    labels = types % 2
    found = probing(torch.eye(2)[labels], labels, types=types)
    assert found.accuracy == 1
    assert found.control < 0.8
    assert found.selectivity == found.accuracy - found.control > 0.2


def test_control_labels_are_one_for_each_type_and_as_frequent():
    types, labels = torch.arange(6000) // 2, (torch.arange(6000) % 4 == 0).long()
    drawn = control_labels(types, labels, torch.Generator().manual_seed(1))
    assert torch.equal(drawn[0::2], drawn[1::2])
    assert drawn.double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_seed_decides():
    features, labels = torch.randn(200, 3), torch.randint(0, 2, (200,))
    one, again, two = (probing(features, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.probe.weight, again.probe.weight)
    assert not torch.equal(one.probe.weight, two.probe.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_knows_its_own_tokens(family):
    """Whether a token is even can be read where it is embedded; what the previous one was cannot, but after a layer
    that looks there it can."""
    model, text = small(family), torch.randint(0, 10, (40, 8))
    prefix = "decoder." if family == "encoder_decoder" else ""
    before = lambda w: torch.eye(8).roll(1, 0).expand_as(w)  # noqa: E731
    edits = {f"{prefix}blocks.0.self_attention.weights": before}
    with torch.inference_mode(), trace(model, watch="*", edits=edits) as tape:
        run(model, text)
    first, second = (tape[f"{prefix}blocks.{at}"].flatten(0, 1) for at in ("0.residual_pre", "0.residual_mid"))
    own, previous = text.flatten() % 2, text.roll(1, 1).flatten() % 2
    assert probing(first, own).accuracy > 0.95
    assert probing(second, previous).accuracy > 0.95
    assert probing(first, previous).accuracy < 0.7


def test_what_does_not_fit_is_told():
    features = torch.randn(10, 3)
    with pytest.raises(UserError, match=r"lengths \[10, 9\]"):
        fit_probe(features, torch.zeros(9, dtype=torch.long))
    with pytest.raises(UserError, match=r"found -100; expected 0 or more. Leave out positions"):
        fit_probe(features, torch.full((10,), -100))
    with pytest.raises(UserError, match=r"0\.01 of 10 examples is 0"):
        probing(features, torch.zeros(10, dtype=torch.long), held_out=0.01)
