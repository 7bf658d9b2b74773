"""Watching a training: what goes wrong is said, what goes well is not, and neither changes a bit of it."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, VOCAB, describe
from watched import Decoder, Restless, found, fresh, hooks, text, train

import pellucid as pl
from pellucid.doctor.finding import Status
from pellucid.models.build import build

# ---- what goes well -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"layers": 6, "post": True}, {"d_model": 64, "dropout": 0.0}])
def test_a_healthy_training_gets_no_word(given):
    watched = train(fresh(**given), steps=120, rate=2e-3, warmup=60, vocab_size=VOCAB, floor=np.log(3))
    assert not watched.findings
    assert [record.step for record in watched.records] == [1, *range(10, 121, 10)]
    first, last = watched.records[0], watched.records[-1]
    assert first.loss == pytest.approx(np.log(VOCAB), abs=0.5)
    assert last.loss < first.loss - 1
    assert len(last.forward.entropy) == len(last.forward.residual) == len(last.forward.dead) == given.get("layers", 2)
    assert all(0 < value <= 1 for value in last.forward.entropies)
    assert set(last.update.gradients) == set(last.update.ratios) == {*last.forward.residual, "rest"}
    assert not any(record.notes for record in watched.records)


def batch_of(family, step):
    ids = text(step)
    if family == "encoder_decoder":
        return {"source": ids[:, 3:20].flip(1), "target": ids[:, :-1]}, ids[:, 1:]
    return {"inputs" if family == "encoder" else "tokens": ids[:, :-1]}, ids[:, (0 if family == "encoder" else 1) :][
        :, :33
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_families(family):
    torch.manual_seed(0)
    model = build(describe(family))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pl.doctor.watch(model, optimizer, 10, vocab_size=VOCAB) as watched:
        for step in range(41):
            given, labels = batch_of(family, step)
            loss = F.cross_entropy(model(**given).flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watched.step(loss)
    assert not watched.findings
    sites = {"encoder": 2, "decoder": 2, "encoder_decoder": 6}[family]
    forward = watched.records[-1].forward
    assert len(forward.entropy) == sites
    assert len(forward.residual) == (4 if family == "encoder_decoder" else 2)
    assert set(forward.dead) >= {f"{layer}.feed_forward" for layer in forward.residual}
    assert forward.width == VOCAB


# ---- it changes nothing, and leaves nothing ------------------------------------------------------


@pytest.mark.parametrize("kind", [Decoder, Restless])
@pytest.mark.parametrize("probe", [None, text(9)[:, :-1]])
def test_the_weights_are_the_same_bits_with_and_without(kind, probe):
    watched, alone = fresh(kind), fresh(kind)
    records = train(watched, steps=25, every=4, probe=probe).records
    train(alone, steps=25, every=0)
    assert len(records) == 7
    assert all(record.forward is not None for record in records)
    for name, value in watched.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
    assert {name: value for name, value in vars(watched).items() if not name.startswith("_")} == {
        name: value for name, value in vars(alone).items() if not name.startswith("_")
    }


def test_hooks_are_there_for_the_steps_that_are_measured_alone():
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    modes, there = [module.training for module in model.modules()], []
    with pl.doctor.watch(model, optimizer, every=5) as watched:
        for step in range(14):
            there.append(hooks(model, optimizer) > 0)
            loss = model(text(step)[:, :-1]).square().mean()
            loss.backward()
            optimizer.step()
            watched.step(loss)
    assert [step + 1 for step, any_there in enumerate(there) if any_there] == [1, 5, 10]
    assert hooks(model, optimizer) == 0  # step 15 would have been measured
    assert [module.training for module in model.modules()] == modes


def test_an_error_on_the_way_leaves_nothing_either():
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(RuntimeError, match="out of memory"), pl.doctor.watch(model, optimizer, every=1):
        raise RuntimeError("out of memory")
    assert hooks(model, optimizer) == 0


@dataclass
class Packed:
    """What ``dataclasses.replace`` cannot copy."""

    ids: torch.Tensor
    length: int = field(init=False)

    def __post_init__(self):
        self.length = self.ids.size(1)


class Unpacking(Decoder):
    def forward(self, packed):
        return super().forward(packed.ids)


def test_what_cannot_be_kept_ends_no_training():
    model = fresh(Unpacking)
    optimizer = torch.optim.AdamW(model.parameters())
    with pl.doctor.watch(model, optimizer, every=1) as watched:
        loss = model(Packed(text(0)[:, :-1])).square().mean()
        loss.backward()
        optimizer.step()
        record = watched.step(loss)
    assert record.forward is None
    assert "what the model reads cannot be kept" in record.notes[0]
    assert record.notes[0].endswith("or give probe=…")


def test_a_probe_that_fails_ends_no_training():
    def broken():
        raise KeyError("gone")

    watched = train(fresh(), steps=2, every=1, probe=broken)
    assert [record.forward for record in watched.records] == [None, None]
    assert "could not be run for a look: KeyError: 'gone'" in watched.records[0].notes[0]


@pytest.mark.compiles
def test_a_compiled_model_is_watched_and_not_compiled_again():
    from torch import _dynamo as dynamo

    graphs, states = [], []
    for every in (5, 0):
        dynamo.reset()
        dynamo.utils.counters.clear()
        model = fresh()
        watched = train(model, steps=12, every=every, called=torch.compile(model, backend="eager"))
        graphs.append(dynamo.utils.counters["stats"]["unique_graphs"])
        states.append(model.state_dict())
        if every:
            assert [len(record.forward.entropy) for record in watched.records] == [2, 2, 2]
    assert graphs[0] == graphs[1]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


# ---- what goes wrong ----------------------------------------------------------------------------


def test_units_that_die():
    model = fresh()
    with torch.no_grad():
        model.layers[1].up.bias.fill_(-20.0)
    watched = train(model, probe=lambda: text(7, rows=128)[:, :-1])
    assert found(watched) == {("health.ffn", Status.FAIL)}
    (finding,) = watched.findings
    assert finding.where == "layers.1"
    assert finding.evidence["dead"]["layers.1"] == 1
    assert finding.evidence["dead"]["layers.0"] < 0.3
    assert next(record.step for record in watched.records if record.new) >= 20  # not at the first sight


def test_units_need_tokens_before_they_are_called_dead():
    model = fresh()
    with torch.no_grad():
        model.layers[1].up.bias.fill_(-20.0)
    few = train(model, probe=text(7, rows=4)[:, :-1])
    assert not few.findings
    assert {record.forward.tokens for record in few.records} == {4 * 33}
    many = train(model, steps=100)  # of other batches each time: they add up
    assert many.records[-1].forward.tokens >= 4096
    assert found(many) == {("health.ffn", Status.FAIL)}


def test_attention_that_saturates():
    watched = train(fresh(d_model=64, scale=1.0, dropout=0.0), steps=160, rate=8e-3, warmup=0)
    assert ("health.attention", Status.WARN) in found(watched)
    middle = [np.median(record.forward.entropies) for record in watched.records]
    assert middle[0] > 0.5
    assert middle[-1] < 0.05
    finding = next(finding for finding in watched.findings if finding.check == "health.attention")
    assert "1/√head_dim is missing" in finding.cause


def test_gradients_that_vanish_with_depth():
    watched = train(fresh(layers=8, residual=False, dropout=0.0))
    assert ("health.gradients", Status.WARN) in found(watched)
    assert watched.records[-1].update.spread > 1e3


def test_a_training_that_explodes():
    watched = train(fresh(layers=4), optimizer=torch.optim.SGD, rate=30.0, warmup=0, every=5, steps=40)
    first = watched.findings[0]
    assert (first.check, first.status) == ("health.finite", Status.FAIL)
    assert len(watched.findings) == 1  # all else is a consequence
    assert "parameter" in first.seen or "loss" in first.seen


def test_a_rate_that_is_far_too_high():
    watched = train(fresh(), rate=0.3, warmup=0, vocab_size=VOCAB)
    assert ("schedule.warmup", Status.FAIL) in found(watched)
    assert watched.records[0].findings  # at once


def test_nor_is_it_hidden_where_weights_lie_flat():
    model = fresh()
    flat = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    optimizer = torch.optim.AdamW([flat], lr=0.3)
    with pl.doctor.watch(model, optimizer) as watched:
        loss = model(text(0)[:, :-1]).square().mean()
        loss.backward()
        flat.grad = torch.zeros_like(flat)
        optimizer.step()
        watched.step(loss)
    assert ("schedule.warmup", Status.FAIL) in found(watched)


@pytest.mark.parametrize(("warmup", "layers", "warned"), [(0, 6, True), (40, 6, False), (0, 2, False)])
def test_a_post_norm_model_without_warm_up(warmup, layers, warned):
    watched = train(fresh(layers=layers, post=True), steps=41, warmup=warmup)
    assert (("schedule.warmup", Status.WARN) in found(watched)) == warned


def test_a_training_that_goes_on_has_its_warm_up_behind_it():
    watched = train(fresh(layers=6, post=True), steps=41, warmup=0, after=1000)
    assert ("schedule.warmup", Status.WARN) not in found(watched)
    watched = train(fresh(), rate=0.3, warmup=0, vocab_size=VOCAB, after=1000)
    assert ("schedule.warmup", Status.FAIL) in found(watched)


def test_a_model_that_sees_what_it_is_asked_for():
    class Leaking(Decoder):
        def forward(self, ids):
            return super().forward(ids) + 8 * F.one_hot(ids.roll(-1, 1), VOCAB)

    watched = train(fresh(Leaking), steps=40, floor=np.log(3), vocab_size=VOCAB)
    assert ("loss.floor", Status.FAIL) in found(watched)


def test_parameters_that_the_optimizer_does_not_have():
    model = fresh()
    optimizer = torch.optim.AdamW([p for name, p in model.named_parameters() if not name.startswith("layers.1.")])
    with pl.doctor.watch(model, optimizer, 10) as watched:
        for step in range(40):
            ids = text(step)
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watched.step(loss)
    (finding,) = watched.findings
    assert (finding.check, finding.where) == ("health.updates", "layers.1")
