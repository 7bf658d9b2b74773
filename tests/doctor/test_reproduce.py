"""The script of a finding, run: it fails on the model that has the fault, and passes on its healthy twin."""

import faulty
import pytest
import torch

import pellucid as pl

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
