"""The script of a finding, run: it fails on the model that has the fault, and passes on its healthy twin."""

import math
import subprocess
import sys
from pathlib import Path

import faulty
import pytest
import torch

import pellucid as pl
from pellucid.doctor.scripts.literals import literal
from pellucid.doctor.scripts.models import model_lines
from pellucid.doctor.scripts.sources import source_of
from pellucid.doctor.spec import Batch

DECODER = {"kind": "decoder"}


def looped(model, batch, cache):
    return model.step(batch.ids, cache, batch.keep)


def with_loss(model, batch):
    logits, loss = model(batch.ids, batch.ids)
    return loss, logits


def gathered_means(model, batches):
    for batch in batches:
        labels = batch.labels
        logits = model(batch.ids)[:, :-1].flatten(0, 1)
        (torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten()) / len(batches)).backward()


def gathered_sums(model, batches):
    asked = sum((batch.labels[:, 1:] != -100).sum() for batch in batches)
    for batch in batches:
        logits = model(batch.ids)[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), reduction="sum")
        (loss / asked).backward()


def next_tokens(outputs, batch):
    labels = batch.ids if batch.labels is None else batch.labels
    return torch.nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def reordered(cache, rows):
    return [(k[rows], v[rows]) for k, v in cache]


def keys_reordered(cache, rows):
    return [(k[rows], v) for k, v in cache]


STEPS = {**DECODER, "step": looped}
LOSS = {**DECODER, "loss": with_loss, "pad_id": faulty.PAD}
KEEP = {"call": lambda model, batch: model(batch.ids, keep=batch.keep), "masked": True}
CASES = [
    ("GPT", "leak", "causal.prefix_invariance", DECODER),
    ("GPT", "training leak", "causal.prefix_invariance", DECODER),
    ("GPT", "time norm", "causal.prefix_invariance", DECODER),
    ("GPT", "view", "prefix.length_invariance", DECODER),
    ("GPT", "leak", "attn.mask", DECODER),
    ("GPT", "fill", "attn.mask", DECODER),
    ("GPT", "scale", "attn.scale", DECODER),
    ("GPT", "scale of all", "attn.scale", DECODER),
    ("GPT", "axis", "attn.softmax_axis", DECODER),
    ("GPT", "dropout", "eval.deterministic", DECODER),
    ("GPT", "state", "forward.stateless", DECODER),
    ("GPT", "batch norm", "batch.independence", DECODER),
    ("GPT", "positions along the batch", "pos.axis", DECODER),
    ("GPT", "no positions", "pos.present", DECODER),
    ("GPT", "list", "params.coverage", DECODER),
    ("GPT", "unused", "params.coverage", DECODER),
    ("GPT", "one layer", "params.sharing", DECODER),
    ("GPT", "wide", "loss.init", DECODER),
    ("GPT", "softmax", "loss.init", DECODER),
    ("GPT", "training leak", "backend.parity", DECODER),
    ("GPT", "restart", "kv.parity", STEPS),
    ("GPT", "top left", "kv.parity", STEPS),
    ("GPT", "left positions", "pad.invariance", {**STEPS, **KEEP, "pad_sides": ("left",)}),
    ("GPT", "padding", "pad.invariance", {**STEPS, **KEEP}),
    ("GPT", "unshifted", "loss.alignment", LOSS),
    ("GPT", "shifted twice", "loss.alignment", LOSS),
    ("GPT", "padding asked", "loss.alignment", LOSS),
    ("BERT", "padding", "pad.invariance", {"kind": "encoder"}),
    ("BERT", "causal", "influence.map", {"kind": "encoder"}),
    ("BERT", "causal", "attn.mask", {"kind": "encoder"}),
    ("BERT", "no positions", "pos.present", {"kind": "encoder"}),
    ("Translator", "leak", "causal.prefix_invariance", {}),
    ("Translator", "ignored", "cross.source", {}),
    ("Translator", "cut source", "cross.source", {}),
    ("Translator", "memory", "cross.memory", {}),
    ("Translator", "target in the encoder", "cross.encoder_alone", {}),
    ("Sinusoidal", "exponent", "pos.sinusoid", DECODER),
]


def model_of(kind, fault):
    torch.manual_seed(0)
    return getattr(faulty, kind)(fault)


def build(kind, fault):
    return f"from faulty import {kind}\n\ntorch.manual_seed(0)\nmodel = {kind}({fault!r})"


def run(script):
    exec(compile(script, "repro", "exec"), {"__name__": "repro"})


def held(script, kind, fault):
    """Fails on the fault, passes without it."""
    with pytest.raises(AssertionError):
        run(script.repro(build(kind, fault)))
    run(script.repro(build(kind, "")))


@pytest.mark.parametrize(("kind", "fault", "check", "told"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_scripts_fail_with_the_fault_and_pass_without(kind, fault, check, told):
    report = pl.doctor(model_of(kind, fault), pl.Spec(vocab_size=faulty.V, **told), only=[check])
    assert report[check].status == "FAIL", report[check].seen
    held(report[check], kind, fault)
    code = report[check].repro()
    assert "pellucid" not in code
    assert "fill in" not in code, code


def test_a_script_of_a_training_fails_with_the_fault_and_passes_without():
    report = pl.doctor(model_of("GPT", "leak"), pl.Spec(kind="decoder", vocab_size=20), only=["loss.random_floor"])
    held(report["loss.random_floor"], "GPT", "leak")


def test_a_script_is_a_program_of_its_own(tmp_path):
    report = pl.doctor(model_of("Translator", "ignored"), pl.Spec(vocab_size=faulty.V), only=["cross.source"])
    (tmp_path / "faulty.py").write_text(Path(faulty.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pellucid.py").write_text("raise ImportError('torch alone')", encoding="utf-8")
    for fault, code in (("ignored", 1), ("", 0)):
        (tmp_path / "show.py").write_text(report["cross.source"].repro(build("Translator", fault)), encoding="utf-8")
        done = subprocess.run([sys.executable, "show.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert ("AssertionError: source position 0" in done.stderr) is bool(code)


def test_the_healthy_twins_are_healthy():
    for kind in ("GPT", "BERT", "Translator"):  # the fourth is drawn too large, which loss.init says
        report = pl.doctor(model_of(kind, ""), pl.Spec(vocab_size=faulty.V), level="quick")
        assert report.healthy, str(report)


# ---- what a script says of the model ----------------------------------------------------------


def test_a_model_is_made_again_as_far_as_it_says_how():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=None)
    lines = model_lines(transformers.GPT2LMHeadModel(config))
    space = {"torch": torch}
    exec(lines, space)
    assert space["model"].config.to_dict() == config.to_dict()

    space = {"torch": torch}
    exec(model_lines(faulty.GPT("leak")), space)
    assert space["model"].fault == "leak"


def test_what_cannot_be_known_is_marked():
    assert "# fill in" in model_lines(lambda ids: ids)
    assert "# fill in: width" in model_lines(Hidden(3))


class Hidden(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide = width


def add(model, batch):
    return model(batch.ids) + SHIFT


SHIFT = 2.0


def test_the_source_of_a_function_comes_with_what_it_needs():
    depth = 3
    inner = lambda x: x * depth  # noqa: E731
    both = (lambda a: a + 1, lambda a: inner(a) + math.pi)  # two on a line
    space = {"torch": torch}
    for function, name in ((add, "f"), (both[0], "g"), (both[1], "h")):
        found = source_of(function, name)
        assert found is not None
        exec("\n".join([*found.imports, found.lines()]), space)
    assert space["g"](1) == 2
    assert space["h"](2) == 6 + math.pi
    assert space["f"](lambda ids: ids, Batch(ids=torch.ones(1))) == 3.0


def test_what_has_no_source_is_not_made_up():
    table = torch.ones(3)
    assert source_of(print, "f") is None
    assert source_of(lambda model, batch: table, "f") is None
    assert source_of(eval("lambda a: a"), "f") is None


@pytest.mark.parametrize(
    "call",
    [
        lambda model, batch: model(batch.ids, keep=batch.keep),
        lambda model, batch: model(batch.ids, keep=None if batch.keep is None else batch.keep.long().bool()),
        lambda model, batch: torch.nn.functional.log_softmax(model(batch.ids, keep=batch.keep), -1),
    ],
)
def test_how_a_mask_is_given_is_found_by_watching_or_copied(call):
    spec = pl.Spec(kind="decoder", call=call, masked=True, pad_sides=("left",))
    report = pl.doctor(model_of("GPT", "padding"), spec, only=["pad"])
    held(report["pad.invariance"], "GPT", "padding")
    assert "fill in" not in report["pad.invariance"].repro(build("GPT", "padding"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        ((1,), "(1,)"),
        ({"a": [None, True]}, "{'a': [None, True]}"),
        (float("-inf"), "float('-inf')"),
        (torch.float16, "torch.float16"),
        (Batch, None),
        (torch.ones(2), None),
    ],
)
def test_literals_give_what_they_stand_for(value, text):
    found = literal(value)
    assert (found and found.text) == text
    if found is not None:
        assert eval(found.text, {"torch": torch}) == value


def zoo_bugs():
    import importlib
    import pkgutil

    import zoo

    names = [found.name for found in pkgutil.iter_modules(zoo.__path__) if not found.name.startswith("test_")]
    return [bug for name in names for bug in getattr(importlib.import_module(f"zoo.{name}"), "BUGS", ())]


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("bug", zoo_bugs(), ids=lambda bug: bug.name)
@pytest.mark.filterwarnings("ignore")
def test_the_scripts_of_the_zoo_fail_with_its_bugs(bug):
    model, spec = bug.made()
    for finding in pl.doctor(model, spec, level=bug.level, only=bug.checks).failed:
        script = finding.repro("pass")
        model, _ = bug.made()
        if "fill in" in script:
            continue
        with pytest.raises(AssertionError):
            exec(compile(script, "repro", "exec"), {"model": model, "__name__": "repro"})
