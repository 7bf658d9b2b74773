"""Watching a training: what goes wrong is said, what goes well is not, and neither changes a bit of it."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, VOCAB, describe
from torch import nn

import pellucid as pl
from pellucid.cli.watching import Watching
from pellucid.config.defaults import default_run
from pellucid.config.run import LabelledFiles, ParallelFiles, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.doctor.finding import Status
from pellucid.doctor.record import Forward, Record, Update
from pellucid.doctor.trend import Setting, judged
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.training.fit import Remark, fit
from pellucid.training.session import prepare

FOLLOWS = torch.randint(VOCAB, (VOCAB, 3), generator=torch.Generator().manual_seed(5))


class Layer(nn.Module):
    """A decoder layer as people write it, with faults to be chosen."""

    def __init__(self, d_model, *, scale=None, post=False, residual=True, dropout=0.1):
        super().__init__()
        self.first, self.second = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.scale, self.post, self.residual, self.dropout = scale, post, residual, nn.Dropout(dropout)

    def forward(self, x):
        rows, length, width = x.shape
        q, k, v = (
            self.qkv(x if self.post else self.first(x)).view(rows, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x = self.dropout(self.out(seen.transpose(1, 2).reshape(x.shape))) + (x if self.residual else 0)
        x = self.first(x) if self.post else x
        y = self.down(F.relu(self.up(x if self.post else self.second(x))))
        y = self.dropout(y) + (x if self.residual else 0)
        return self.second(y) if self.post else y


class Decoder(nn.Module):
    def __init__(self, d_model=32, layers=2, **faults):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, d_model), nn.Embedding(64, d_model)
        self.layers = nn.ModuleList(Layer(d_model, **faults) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, VOCAB)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Restless(Decoder):
    """Has a state, and draws from every source of random numbers."""

    def __init__(self):
        super().__init__()
        self.balance, self.calls, self.kept = nn.BatchNorm1d(32), 0, []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        self.seen += 1.0
        self.kept.append(float(ids.sum()))
        x = self.tokens(ids) * (1 + 0.01 * random.random() + 0.01 * np.random.rand())
        x = x + 0.01 * torch.rand_like(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.balance(self.norm(x).transpose(1, 2)).transpose(1, 2)) + 1e-3 * self.calls


def text(step, rows=16, length=33):
    """(rows, length + 1) of a language in which three tokens may follow each: its entropy is ln 3."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(VOCAB, (rows, 1), generator=draw)
    for _ in range(length):
        ids = torch.cat([ids, FOLLOWS[ids[:, -1], torch.randint(3, (rows,), generator=draw)][:, None]], dim=1)
    return ids


def train(model, *, steps=60, rate=1e-3, warmup=10, every=10, optimizer=torch.optim.AdamW, called=None, **options):
    """Trains it under watch; what was watched. ``every=0``: nobody watches."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(3)
    trains = optimizer(model.parameters(), lr=rate)
    called = model if called is None else called
    watched = pl.doctor.watch(called, trains, every, **options) if every else None
    for step in range(steps):
        for group in trains.param_groups:
            group["lr"] = rate * min(1, (step + 1) / max(1, warmup))
        ids = text(step)
        loss = F.cross_entropy(called(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        trains.zero_grad()
        loss.backward()
        trains.step()
        if watched:
            watched.step(loss)
    if watched:
        watched.close()
    return watched


def fresh(kind=Decoder, seed=0, **given):
    torch.manual_seed(seed)
    return kind(**given)


def found(watched):
    return {(finding.check, finding.status) for finding in watched.findings}


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


def hooks(model, optimizer):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_model = sum(len(getattr(module, name)) for module in model.modules() for name in names)
    everywhere = len(nn.modules.module._has_any_global_hook())
    return of_model + everywhere + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


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


@pytest.mark.parametrize(("warmup", "layers", "warned"), [(0, 6, True), (40, 6, False), (0, 2, False)])
def test_a_post_norm_model_without_warm_up(warmup, layers, warned):
    watched = train(fresh(layers=layers, post=True), steps=41, warmup=warmup)
    assert (("schedule.warmup", Status.WARN) in found(watched)) == warned


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


# ---- trends, without a model --------------------------------------------------------------------


def course(count=8, every=100, **of):
    """Records of a healthy training, with some figures as functions of their number."""
    return [
        Record(
            step=i * every,
            rate=1e-3,
            loss=of.get("loss", lambda i: 3.0 - 0.1 * i)(i),
            losses=every,
            forward=Forward(
                entropy={"a": of.get("entropy", lambda i: (0.6, 0.7, 0.8, 0.02))(i)},
                scores={"a": of.get("scores", lambda i: (9.0, 8.0, 7.0, 60.0))(i)},
                dead={"f": of.get("dead", lambda i: 0.1)(i)},
                tokens=4096,
                residual={"l.0": 1.0, "l.1": of.get("grown", lambda i: 2.0)(i)},
            ),
            update=Update(
                gradients={"l.0": 1.0, "l.1": of.get("gradient", lambda i: 1.1)(i)},
                norm=of.get("norm", lambda i: 1.5)(i),
                ratios={"l.0": 1e-3, "l.1": of.get("ratio", lambda i: 1e-3)(i)},
            ),
        )
        for i in range(1, count + 1)
    ]


BAD = {
    "health.attention": {
        "entropy": lambda i: (0.6, 0.7, 0.8, 0.9) if i < 4 else (0.01, 0.2, 0.7, 0.01),
        "scores": lambda i: (40.0, 90.0, 7.0, 60.0),
    },
    "health.ffn": {"dead": lambda i: 0.1 if i < 4 else 0.4},
    "health.residual": {"grown": lambda i: 2.0 if i < 4 else 400.0},
    "health.gradients": {"norm": lambda i: 1.5 if i < 4 else 400.0},
    "health.updates": {"ratio": lambda i: 1e-3 if i < 4 else 0.5},
    "loss.diverges": {"loss": lambda i: 2.0 if i < 4 else 5.0},
}


@pytest.mark.parametrize("check", BAD)
def test_what_lasts_is_said_and_what_passes_is_not(check):
    records = course(**BAD[check])
    said = [bool(judged(records[:n], Setting())) for n in range(1, 9)]
    assert said == [False] * 5 + [True] * 3  # from the third in a row
    assert {finding.check for finding in judged(records, Setting())} == {check}

    def once(make):
        return lambda i: make(9) if i in (4, 5) else make(1)

    passing = course(**{name: once(make) for name, make in BAD[check].items()})
    assert not any(judged(passing[:n], Setting()) for n in range(1, 9))


def test_few_sharp_heads_are_no_fault():
    sharp = course(entropy=lambda i: (0.001, 0.7, 0.8, 0.02, 0.3), scores=lambda i: (80.0, 8.0, 7.0, 60.0, 5.0))
    assert not judged(sharp, Setting())
    copying = course(entropy=lambda i: (0.001, 0.002, 0.004, 0.02), scores=lambda i: (15.0, 18.0, 17.0, 14.0))
    assert not judged(copying, Setting())  # every head looks at one key, and could still be turned


def test_a_gradient_between_layers_and_heads_that_learn_nothing():
    apart = course(gradient=lambda i: 5e3)
    assert {finding.check for finding in judged(apart, Setting())} == {"health.gradients"}
    even = course(count=12, entropy=lambda i: (0.9999,) * 4)
    assert not judged(even[:10], Setting())
    assert {finding.check for finding in judged(even, Setting())} == {"health.attention"}


def test_a_loss_no_better_than_guessing():
    stuck = course(count=12, loss=lambda i: float(np.log(VOCAB)))
    assert not judged(stuck[:9], Setting(vocab_size=VOCAB))
    assert {finding.check for finding in judged(stuck, Setting(vocab_size=VOCAB))} == {"loss.floor"}
    assert not judged(stuck, Setting())  # nobody said what it is a loss of


# ---- loops of all kinds -------------------------------------------------------------------------


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


# ---- pellucid train --watch ---------------------------------------------------------------------

SMALL = {"d_model": 32, "num_layers": 2, "attention.num_heads": 2}
TRAINING = ["steps=40", "evaluate_every=20", "batch_tokens=256", "precision=float32", "schedule.warmup_steps=10"]


def small_run(family, folder: Path, *more):
    """A run of a family on some lines of text."""
    lines = [
        f"the {a} {b} the {c}" for a in ("cat", "dog", "cow") for b in ("sees", "eats", "has") for c in ("hat", "hay")
    ]
    (folder / "a.txt").write_text("\n".join(lines * 10))
    (folder / "b.txt").write_text("\n".join(line.upper() for line in lines * 10))
    (folder / "c.tsv").write_text("\n".join(f"{line.split()[1]}\t{line}" for line in lines * 3))
    data = {
        "encoder-decoder": ParallelFiles(source=str(folder / "a.txt"), target=str(folder / "b.txt")),
        "classifier": LabelledFiles(train=str(folder / "c.tsv")),
    }.get(family, TextFiles(train=(str(folder / "a.txt"),)))
    stacks = ("encoder", "decoder") if family == "encoder-decoder" else ("stack",)
    settings = [f"model.{stack}.{name}={value}" for stack in stacks for name, value in SMALL.items()]
    settings += [f"training.{setting}" for setting in TRAINING] + ["tokenizer.vocab_size=300", *more]
    return from_dict(type(default_run(family, data)), with_overrides(to_dict(default_run(family, data)), settings))


def followed(run, folder, *, watched):
    """Trains it; what the doctor wrote into the metrics, its remarks, and the weights."""
    session = prepare(run)
    watching = Watching(session.run)
    events = list(fit(session, folder, **({"observer": watching} if watched else {})))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    remarks = [event.text for event in events if isinstance(event, Remark)]
    return [line for line in lines if "doctor" in line], remarks, session.model.state_dict(), watching


@pytest.mark.parametrize("family", ["decoder", "encoder", "encoder-decoder", "classifier"])
def test_the_command_writes_figures_and_changes_no_bit(tmp_path, family):
    run = small_run(family, tmp_path)
    lines, remarks, weights, watching = followed(run, tmp_path / "watched", watched=True)
    plain, _, alone, _ = followed(run, tmp_path / "alone", watched=False)
    assert [line["step"] for line in lines] == [1, 10, 20, 30, 40]
    assert not plain
    assert {"gradient_norm", "update_ratio", "residual_growth", "findings"} <= lines[-1]["doctor"].keys()
    assert ("entropy" in lines[-1]["doctor"]) == (family != "classifier")  # whose texts have fewer than 8 tokens
    assert not remarks
    assert watching.summary() == "watched, every 10 steps: nothing that stayed wrong"
    assert all(torch.equal(value, alone[name]) for name, value in weights.items())


def test_the_command_says_what_it_finds(tmp_path):
    run = small_run("decoder", tmp_path, "training.schedule.peak=0.05")
    lines, remarks, _, watching = followed(run, tmp_path / "run", watched=True)
    said = [remark for remark in remarks if remark.startswith("FAIL schedule.warmup: the learning rate reaches 0.0")]
    assert len(said) == 1  # once, though it goes on
    assert lines[-1]["doctor"]["findings"] >= 1
    assert "schedule.warmup" in watching.summary()
