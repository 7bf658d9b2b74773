"""Dropout that drops nothing, products of groups in double precision, and noise that shrinks in it."""

import callable_models as models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid as pl
from pellucid.doctor.finding import Status
from pellucid.doctor.grouped import grouped_in_double
from pellucid.doctor.undropped import undropped

ONES = torch.ones(2, 3, 8)
DROPS = {
    "F.dropout": lambda x: F.dropout(x, 0.5),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "nn.Dropout": nn.Dropout(0.5),
    "nn.Dropout1d": nn.Dropout1d(0.5),
    "nn.AlphaDropout": nn.AlphaDropout(0.5),
}


@pytest.mark.parametrize("name", DROPS)
def test_nothing_is_dropped_within_and_as_usual_after(name):
    with undropped():
        assert torch.equal(DROPS[name](ONES), ONES)
    assert not torch.equal(DROPS[name](ONES), ONES)


def test_nor_inside_attention():
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    attend = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True).train()
    with undropped():
        plain = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, None, 0.5, True, scale=0.3), plain)
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, is_causal=True, scale=0.3), plain)
        one, two = (attend(ONES, ONES, ONES)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(attend(ONES, ONES, ONES)[0], one)


class Skipping(nn.Module):
    """Half of the time its layer is skipped."""

    def __init__(self):
        super().__init__()
        self.layerdrop, self.dropout, self.layer = 0.5, 0.5, nn.Linear(8, 8)

    def forward(self, x):
        return x if self.training and torch.rand([]) < self.layerdrop else F.dropout(self.layer(x), self.dropout)


def test_no_layer_is_skipped_and_rates_of_dropout_stay():
    model = Skipping().train()
    with undropped(model):
        assert all(torch.equal(model(ONES), model.layer(ONES)) for _ in range(20))
        assert model.dropout == 0.5
    assert model.layerdrop == 0.5
    assert any(torch.equal(model(ONES), ONES) for _ in range(50))


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped product")
def test_groups_are_multiplied_in_double_precision():
    rows, matrices = torch.randn(7, 16, dtype=torch.float64), torch.randn(3, 16, 8, dtype=torch.float64)
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)
    with grouped_in_double():
        found = F.grouped_mm(rows, matrices, offs=ends)
    assert torch.equal(found, torch.cat([rows[:2] @ matrices[0], rows[2:6] @ matrices[2], torch.zeros(1, 8)]))


class Experts(nn.Module):
    """A decoder whose tokens go to one of two experts, each with dropout of its own; ``leaks``: by the mean of all."""

    def __init__(self, leaks: bool):
        super().__init__()
        self.table, self.places = nn.Embedding(61, 16), nn.Embedding(64, 16)
        self.route = nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.3)) for _ in range(2))
        self.down, self.norm, self.leaks = nn.Linear(32, 16), nn.LayerNorm(16), leaks

    def forward(self, ids):
        x = self.table(ids) + self.places(torch.arange(ids.size(1)))
        q = self.norm(x)
        x = x + F.scaled_dot_product_attention(q[:, None], q[:, None], q[:, None], is_causal=True)[:, 0]
        chosen = self.route(x - x.mean(1, keepdim=True) if self.leaks and self.training else x).argmax(-1)
        hidden = x.new_zeros(*x.shape[:2], 32)
        for number, expert in enumerate(self.experts):
            hidden[chosen == number] = expert(x[chosen == number])  # as many random numbers as it has tokens
        return (x + self.down(hidden)) @ self.table.weight.mT


def causal(leaks):
    torch.manual_seed(0)
    report = pl.doctor(Experts(leaks), pl.Spec(kind="decoder"), only=["causal.prefix_invariance"])
    return report["causal.prefix_invariance"]


def test_random_numbers_that_fall_elsewhere_are_no_leak():
    assert causal(leaks=False).status is Status.PASS


def test_a_leak_in_training_is_one_without_them():
    finding = causal(leaks=True)
    assert finding.status is Status.FAIL
    assert "only in training mode" in finding.seen


class Elsewhere(models.Plain):
    """Draws from NumPy, which no seed of PyTorch rules, while it is trained; ``always``: at any time."""

    always = False

    def forward(self, ids):
        return self.logits(ids) * (1 + np.random.rand() if self.always or self.training else 1.0)


@pytest.mark.parametrize(("always", "status"), [(False, Status.PASS), (True, Status.INCONCLUSIVE)])
def test_a_mode_that_gives_other_outputs_each_time_is_not_said_to_be_compared(always, status):
    model, check = Elsewhere(), "causal.prefix_invariance"
    model.always = always
    spec = pl.Spec(kind="decoder", call=lambda model, batch: model(batch.ids))
    finding = pl.doctor(model, spec, only=[check])[check]
    assert finding.status is status
    assert ("nothing can be compared" in finding.seen) is always
    assert always or "training" not in finding.done


class InAnotherOrder(models.Plain):
    """Its last bits differ from pass to pass, as where kernels add in no fixed order."""

    passes = 1

    def forward(self, ids):
        self.passes += 1
        factor = 1 + self.passes**0.5
        return self.logits(ids) * factor / factor


class Growing(models.Plain):
    """Its outputs differ by hardly more, and that is no rounding."""

    passes = 1

    def forward(self, ids):
        self.passes += 1
        return self.logits(ids) * (1 + 3e-7 * self.passes)


@pytest.mark.parametrize("check", ["eval.deterministic", "forward.stateless"])
def test_noise_that_shrinks_in_double_precision_is_no_fault(check):
    finding = pl.doctor(InAnotherOrder(), pl.Spec(kind="decoder"), only=[check])[check]
    assert finding.status is Status.PASS
    assert "rounding" in finding.seen


def test_what_does_not_shrink_is_one_however_small():
    check = "eval.deterministic"
    finding = pl.doctor(Growing(), pl.Spec(kind="decoder"), only=[check])[check]
    assert finding.status is Status.FAIL
    assert finding.evidence["gap"] < 1e-6
