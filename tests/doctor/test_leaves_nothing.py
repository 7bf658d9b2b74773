"""An examination leaves a model, and the random numbers, as they were: at every level, whatever happens within."""

import random
import weakref

import callable_models as models
import numpy as np
import pytest
import torch
from torch import nn

import pellucid as pl
from pellucid.doctor import checks
from pellucid.doctor.finding import Finding, Status
from pellucid.doctor.keeping import LeftChangedError, digests, kept
from pellucid.doctor.levels import LEVELS
from pellucid.doctor.precision import doubled, widened
from pellucid.doctor.waking import awake
from pellucid.errors import UserError

SLOW = pytest.param("full", marks=pytest.mark.slow)


class Thorough(models.Body):
    """A decoder with everything that could be left otherwise: a tie, zeros, buffers, dropout, a frozen part, a hook."""

    def __init__(self):
        super().__init__()
        self.head.weight = self.tok.weight
        self.drop = nn.Dropout(0.1)
        self.register_buffer("scale", torch.tensor(1.5))
        self.register_buffer("count", torch.tensor(0), persistent=False)
        nn.init.zeros_(self.layers[0].out.weight)
        self.layers[1].n1.requires_grad_(False)
        self.layers[1].eval()
        self.seen, self.table = [], None
        self.norm.register_forward_hook(lambda *_: None)

    def forward(self, ids):
        self.count += 1  # writes to a buffer
        self.table = torch.arange(ids.size(1))  # and to an attribute
        random.random(), np.random.rand()
        return self.drop(self.logits(ids)) * self.scale


def thorough():
    torch.manual_seed(0)
    model = Thorough().train()
    model.layers[1].eval()
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    return model


def state(model):
    """All that must be the same afterwards, as what can be compared."""
    modules = list(model.modules())
    return {
        "tensors": digests({**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}),
        "identities": [id(x) for x in (*model.parameters(), *model.buffers())],
        "gradients": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in modules],
        "hooks": [
            [list(getattr(m, n)) for n in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")] for m in modules
        ],
        "parts": [[(name, id(part)) for name, part in module._modules.items()] for module in modules],
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


@pytest.mark.parametrize("level", [*LEVELS[:-1], SLOW])
def test_nothing_is_left_behind(level):
    model = thorough()
    before = state(model)
    pl.doctor(model, level=level)
    after = state(model)
    assert all(before[part] == after[part] for part in before), [part for part in before if before[part] != after[part]]
    assert model.head.weight is model.tok.weight
    assert model.head.weight.data_ptr() == model.tok.weight.data_ptr()
    assert model.table is None
    assert model.seen == []


def test_nor_when_a_check_raises(monkeypatch):
    def breaks(subject):
        subject.module.train(not subject.module.training)
        subject.module.norm.weight.grad = None
        for parameter in subject.module.parameters():
            parameter.requires_grad_(False)
        torch.manual_seed(7)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(checks.eval_deterministic.CHECK, "answer", breaks)
    model = thorough()
    before = state(model)
    report = pl.doctor(model, only=["eval.deterministic", "batch.independence"])
    assert report["eval.deterministic"].status is Status.INCONCLUSIVE
    assert "in the middle" in report["eval.deterministic"].seen
    assert report["batch.independence"].status is not Status.INCONCLUSIVE  # others are asked all the same
    assert state(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_nor_when_it_is_interrupted(monkeypatch, error):
    def stops(subject):
        raise error

    monkeypatch.setattr(checks.eval_deterministic.CHECK, "answer", stops)
    model = thorough()
    before = state(model)
    with pytest.raises(error):
        pl.doctor(model, level="quick")
    assert state(model) == before


def test_nor_when_the_model_cannot_be_called():
    class Broken(Thorough):
        def forward(self, ids):
            super().forward(ids)
            raise ValueError("no")

    torch.manual_seed(0)
    model = Broken()
    before = state(model)
    with pytest.raises(UserError, match="does not run"):
        pl.doctor(model)
    assert state(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_to_the_bit(dtype):
    model = thorough().to(dtype)
    before = state(model)
    report = pl.doctor(model)
    assert state(model) == before
    assert report.healthy, str(report)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.head.weight.data_ptr() == model.tok.weight.data_ptr()


def test_parts_that_share_one_storage_share_it_afterwards():
    whole = torch.randn(2, models.WIDTH, models.WIDTH)
    model = models.Plain()
    model.layers[0].out.weight = nn.Parameter(whole[0])
    model.layers[1].out.weight = nn.Parameter(whole[1])
    pl.doctor(model)
    first, second = model.layers[0].out.weight, model.layers[1].out.weight
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert torch.equal(torch.stack([first, second]), whole)


@pytest.mark.parametrize("within", [doubled, widened])
def test_parameters_lie_afterwards_where_they_lay(within):
    model = models.Plain().to(torch.bfloat16).share_memory()
    before = [parameter.data_ptr() for parameter in model.parameters()]
    with within(model):
        assert all(parameter.dtype is not torch.bfloat16 for parameter in model.parameters())
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert all(parameter.is_shared() and parameter.dtype is torch.bfloat16 for parameter in model.parameters())


def test_zeros_keep_their_sign_and_are_woken_whatever_the_default_device():
    model = models.Plain()
    with torch.no_grad():
        model.head.weight.copy_(-torch.zeros_like(model.head.weight))
    before = state(model)
    with torch.device("meta"), awake(model, 0) as woken:
        assert woken
        assert model.head.weight.any()
    assert state(model) == before
    pl.doctor(model, level="quick")
    assert state(model) == before


def test_random_states_of_all_devices_in_use_are_kept(monkeypatch):
    states = {0: "zero", 1: "one"}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    with kept(None):
        states.update({0: "seeded", 1: "seeded"})  # as torch.manual_seed does, wherever the model is
    assert states == {0: "zero", 1: "one"}


def test_a_part_that_is_exchanged_comes_back():
    class Exchanging(models.Plain):
        def forward(self, ids):
            self.norm = nn.LayerNorm(models.WIDTH)
            return self.logits(ids)

    model = Exchanging()
    before = state(model)
    pl.doctor(model, level="quick")
    assert state(model) == before


class Turning:
    """What turns queries, and is no module: its tables are cast when it meets another precision."""

    def __init__(self):
        self.tables, self.lengths, self.read = {}, [], torch.zeros(1)

    def __call__(self, x):
        length = x.size(1)
        self.lengths.append(length)
        self.read += 1  # in place
        table = self.tables.get("turn")
        if table is None or table.size(0) < length:
            table = torch.outer(torch.arange(length) + 1.0, torch.ones(models.WIDTH) / 3).sin()
        if table.dtype != x.dtype:
            table = table.to(x.dtype)
        self.tables["turn"] = table
        return x * (1 + table[:length])


class TurningModule(nn.Module):
    """The same in a module that is registered nowhere."""

    def __init__(self):
        super().__init__()
        Turning.__init__(self)

    forward = Turning.__call__


class Turned(models.Body):
    def __init__(self, kind):
        super().__init__()
        self.helpers = [kind()]  # an object in a container
        self.norm.register_forward_pre_hook(lambda _, given: self.helpers[0](given[0]))

    def forward(self, ids):
        return self.logits(ids)


@pytest.mark.parametrize("kind", [Turning, TurningModule])
@pytest.mark.parametrize("used", [True, False])
def test_what_an_object_that_is_no_part_keeps_comes_back(used, kind):
    torch.manual_seed(0)
    model = Turned(kind).eval()
    ids = torch.randint(0, models.VOCAB, (2, 12))
    turning = model.helpers[0]
    with torch.no_grad():
        before = model(ids) if used else None
    held, lengths, read = dict(turning.tables), list(turning.lengths), turning.read.clone()
    assert pl.doctor(model)["precision.drift"].status is Status.PASS
    assert model.helpers == [turning]
    assert turning.tables.keys() == held.keys()
    assert all(turning.tables[name] is held[name] for name in held)
    assert turning.lengths == lengths
    assert torch.equal(turning.read, read)
    with torch.no_grad():
        assert not used or torch.equal(model(ids), before)


def test_who_trains_a_model_is_left_alone():
    class Trainer:
        pass

    trainer, model = Trainer(), models.Plain()
    trainer.steps = []
    model.trainer = weakref.proxy(trainer)
    model.layers[0].register_forward_hook(lambda *_: trainer.steps.append(1))
    assert pl.doctor(model, level="quick").healthy
    assert trainer.steps


def test_a_model_in_torchscript_is_examined():
    traced = torch.jit.trace(models.Plain().eval(), torch.zeros(1, 8, dtype=torch.long))
    digest = digests(dict(traced.named_parameters()))
    report = pl.doctor(traced, level="quick")
    assert report.healthy
    assert report["prefix.length_invariance"].status is Status.PASS
    assert digests(dict(traced.named_parameters())) == digest


def test_the_same_twice_and_after_another():
    model = thorough()
    first = pl.doctor(model, level="quick").as_dict() | {"seconds": 0}
    pl.doctor(model, level="quick", seed=3)
    assert pl.doctor(model, level="quick").as_dict() | {"seconds": 0} == first


def test_attention_of_transformers_is_what_it_was():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    for implementation in ("eager", "sdpa"):
        model = transformers.GPT2LMHeadModel._from_config(config, attn_implementation=implementation)
        before = state(model)
        report = pl.doctor(model, only=["backend.parity", "attn.mask"])
        assert report["backend.parity"].status is Status.PASS
        assert model.config._attn_implementation == implementation
        assert state(model) == before


def test_what_cannot_be_put_back_is_told():
    model = models.Plain()
    with pytest.raises(LeftChangedError, match="head"), kept(model), torch.no_grad():
        model.head.weight.add_(1)


def test_a_callable_is_left_alone():
    model = models.Plain().train()
    before = state(model)
    pl.doctor(lambda ids: model.logits(ids), pl.Spec(vocab_size=models.VOCAB), level="quick")
    assert state(model) == before


def test_findings_are_in_the_order_of_the_checks():
    report = pl.doctor(models.Plain(), level="quick")
    names = [check.name for check in checks.CHECKS]
    assert all(isinstance(finding, Finding) for finding in report)
    assert [f.check for f in report] == sorted((f.check for f in report), key=names.index)


# ---- what a pass itself changes ----------------------------------------------------------------


class DoubleForAll(models.Plain):
    def forward(self, ids):
        torch.set_default_dtype(torch.float64)
        return self.logits(ids)


@pytest.mark.parametrize("level", ["quick", SLOW])
def test_the_type_of_number_that_is_made_stays_what_it_was(level):
    before = torch.get_default_dtype()
    try:
        report = pl.doctor(DoubleForAll(), pl.Spec(kind="decoder"), level=level)
        assert torch.get_default_dtype() == before
        assert "the type of number" in report["forward.stateless"].seen
    finally:
        torch.set_default_dtype(before)


def test_a_table_that_its_own_pass_scales_is_put_back():
    model = models.Plain()
    model.tok = nn.Embedding(models.VOCAB, models.WIDTH, max_norm=1.0)
    before = model.tok.weight.detach().clone()
    report = pl.doctor(model, pl.Spec(kind="decoder"), level="quick")
    assert torch.equal(model.tok.weight, before)
    assert report.healthy
    assert report["forward.stateless"].status is Status.WARN
    assert "writes to tok.weight" in report["forward.stateless"].seen


@pytest.mark.parametrize("kind", [2.0, 1.0])
def test_a_table_that_no_pass_scales_is_written_to_by_none(kind):
    model = models.Plain()
    model.tok = nn.Embedding(models.VOCAB, models.WIDTH, max_norm=10.0, norm_type=kind)  # norms are about 6, or 26
    found = pl.doctor(model, pl.Spec(kind="decoder"), only=["forward"])["forward.stateless"]
    assert found.status is (Status.PASS if kind == 2 else Status.WARN), found.seen


# ---- weights that are not there ----------------------------------------------------------------


def test_a_model_without_numbers_is_refused_and_one_that_lacks_some_is_not():
    with torch.device("meta"):
        model = models.Plain()
    with pytest.raises(UserError, match=r"meta.*to_empty"):
        pl.doctor(model)
    part = models.Plain()
    part.unused = nn.Linear(3, 3, device="meta")
    part.register_buffer("away", torch.zeros(3, device="meta"))
    assert pl.doctor(part, only=["causal"]).healthy


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_quantised_by_the_range_of_a_batch_is_refused():
    model = torch.ao.quantization.quantize_dynamic(models.Plain(), {nn.Linear})
    with pytest.raises(UserError, match=r"tokens move one another.*before quantize_dynamic"):
        pl.doctor(model)
