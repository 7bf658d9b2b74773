"""Training loops of all kinds under watch: scalers, several optimizers, none, and models that cannot be run for a look."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from watched import Decoder, fresh, hooks, text, train

import pellucid as pl
from pellucid.errors import UserError


def test_a_record_is_frozen_and_goes_through_json():
    watched = train(fresh(layers=4), optimizer=torch.optim.SGD, rate=30.0, warmup=0, every=5, steps=15)
    with pytest.raises(dataclasses.FrozenInstanceError):
        watched.records[0].step = 7
    for record in watched.records:
        told = json.loads(json.dumps(record.as_dict(), allow_nan=False))
        assert told["step"] == record.step
        assert [finding["check"] for finding in told["findings"]] == [finding.check for finding in record.findings]
        assert all(np.isfinite(value) for value in record.figures().values())
        assert str(record).startswith(f"step {record.step}: ")


def test_figures_are_those_of_the_training():
    model, rate = fresh(), 1e-3
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with pl.doctor.watch(model, optimizer, 100) as watched:
        ids = text(0)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        record = watched.step(loss)
    for layer in ("layers.0.", "layers.1."):
        own = [name for name in before if name.startswith(layer)]
        norm = torch.cat([gradients[name].flatten() for name in own]).norm().item()
        size = torch.cat([before[name].flatten() for name in own]).norm().item()
        assert record.update.gradients[layer[:-1]] == pytest.approx(norm, rel=1e-5)
        assert record.update.ratios[layer[:-1]] == pytest.approx(rate * norm / size, rel=1e-2)
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    assert record.update.norm == pytest.approx(whole, rel=1e-5)
    assert record.loss == pytest.approx(loss.item())
    assert record.rate == rate


def test_steps_that_a_scaler_leaves_out_are_waited_for():
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    with pl.doctor.watch(model, optimizer, every=50) as watched:
        for step in range(4):
            loss = model(text(step)[:, :-1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if step == 3:
                optimizer.step()
            record = watched.step(loss)
            assert (record is not None) == (step == 3)
    assert watched.records[0].update.ratios


def test_without_an_optimizer_gradients_are_seen_where_they_still_are():
    model = fresh()
    with pl.doctor.watch(model, every=1) as watched:
        model(text(0)[:, :-1]).square().mean().backward()
        record = watched.step(0.5)
    assert record.update.norm > 0
    assert not record.update.ratios
    assert record.loss == 0.5


def test_a_model_that_cannot_be_run_for_a_look_trains_on():
    class Picky(Decoder):
        def forward(self, ids):
            if not self.training:
                raise ValueError("trains alone")
            return super().forward(ids)

    watched = train(fresh(Picky), steps=12, every=10)
    assert ["trains alone" in record.notes[0] for record in watched.records] == [True, True]
    assert watched.records[-1].update is not None
    assert not watched.findings


def test_a_module_that_the_loop_does_not_call():
    model = fresh()
    with pl.doctor.watch(model, every=1) as watched:
        record = watched.step(1.0)
    assert "probe=" in record.notes[0]


def test_several_optimizers_and_what_holds_one():
    model = fresh()
    parts = [
        torch.optim.SGD(model.layers.parameters(), lr=0.1),
        torch.optim.AdamW([*model.tokens.parameters(), *model.head.parameters()], lr=1e-3),
    ]
    with pl.doctor.watch(model, parts, every=1) as watched:
        model(text(0)[:, :-1]).square().mean().backward()
        for part in parts:
            part.step()
        record = watched.step(1.0)
    assert all(record.update.ratios[name] > 0 for name in ("layers.0", "layers.1", "rest"))
    assert record.rate == 0.1  # of SGD, for which it is not too high
    assert not record.findings
    assert all(hooks(model, part) == 0 for part in parts)
    with pytest.raises(UserError, match=r"one of torch\.optim"):
        pl.doctor.watch(model, 3)
    for wrong in ({"every": 0}, {"vocab_size": 0}):
        with pytest.raises(UserError, match="1 or more"):
            pl.doctor.watch(model, parts, **wrong)
