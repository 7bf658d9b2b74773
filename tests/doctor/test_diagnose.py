"""Findings that fail together become one cause, the right one, whose name, fix and reference stand in the report."""

import pytest
from zoo import caches, decoders, encoder_decoders, losses, published
from zoo.entry import Bug

import pellucid as pl
from pellucid.doctor.causes import PATTERNS
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.diagnose import diagnosed
from pellucid.doctor.finding import Finding, Status

BUGS = {bug.name: bug for zoo in (caches, decoders, encoder_decoders, losses, published) for bug in zoo.BUGS}
CAUSES = {
    "nn.Transformer without tgt_mask": "a layer has no causal mask",
    "no causal mask in one head of four": "a layer has no causal mask",
    "the mask is one off to the right: tril(1)": "the causal mask is off by one: a query sees the next key",
    "GPT-2: no mask on the path of training": "the causal mask is lost on the path that training takes",
    "GPT-2: the last norm is over time": "a norm takes its statistics over time",
    "Llama: the mask is upside down": "the causal mask is upside down",
    "Llama: experts choose over the sequence": "experts choose their tokens from the whole sequence",
    "Mistral: the window is ignored": "the window is not applied",
    "the encoder is given the target": "the target is encoded in place of the source",
    "the encoder is told the mean of the target": "the encoder is told the target",
    "the source is cut to the length of the target": "the source is cut to the length of the target",
    "cross-attention reads the decoder itself": "the decoder never looks at the source",
    "a causal mask on cross-attention": "a mask hides some of the source from the decoder",
    "T5: the mask of the memory is lost": "the decoder sees padding of the source",
    "the encoder sees padding, the decoder does not": "the encoder sees padding of the source",
    "a padding mask takes the place of the causal one": "a padding mask takes the place of the causal mask",
    "BERT: the padding mask is upside down": "the padding mask is upside down",
    "GPT-2: positions of padded texts are ignored": "positions are counted from the left edge, padding included",
    "Llama: rotation restarts at every step": "positions of a step do not go on from the cache",
    "Llama: a layer does not store its keys": "keys of the past are lost, or in the wrong slot of the cache",
    "the causal mask is aligned with the first key": "the mask of a step hides what it may see, or shows what it may not",
    "the cache keeps the source of one row for all": "a step reads another source than one pass",
    "GPT-2: dropout is always on": "dropout, or another random choice, is on in evaluation mode",
    "keys are kept in the module": "something of one call is kept in the module, and changes the next",
    "labels are not shifted": "labels are not shifted: each position is asked for what it reads",
    "Llama: labels are shifted by the caller": "labels are shifted twice",
    "small batches: a mean of means": "tokens of short texts or small batches weigh more",
    "Llama: layers in a plain list": "parts are not registered in the model",
    "Llama: no scale": "scores have the wrong scale",
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_bug_has_one_cause_and_it_is_named(name):
    bug: Bug = BUGS[name]
    report = pl.doctor(*bug.made(), level=bug.level)
    assert [diagnosis.name for diagnosis in report.diagnoses] == [CAUSES[name]]
    (cause,) = report.diagnoses
    assert sorted(cause.explains) == sorted(finding.check for finding in report.failed)
    assert cause.why
    assert cause.fix
    text = " ".join(str(report).split())
    assert cause.name in text
    assert all(reference in text for reference in cause.references)


def test_patterns_speak_of_checks_that_exist():
    known = {check.name for check in CHECKS}
    spoken = {check for pattern in PATTERNS for check in (*pattern.begins, *pattern.explains)}
    assert spoken <= known
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)


def finding(check, status=Status.FAIL, **more):
    return Finding(check=check, status=status, seen=f"{check} saw something", cause=f"{check} has a cause", **more)


def test_what_no_pattern_explains_is_a_cause_of_its_own():
    found = diagnosed([finding("pos.rope"), finding("init.stats", Status.WARN)], pl.Spec())
    assert [(cause.name, cause.explains) for cause in found] == [("pos.rope has a cause", ("pos.rope",))]


def test_two_faults_have_two_causes():
    leak = finding("causal.prefix_invariance", evidence={"only_in_training": True})
    found = diagnosed([leak, finding("influence.map"), finding("attn.scale")], pl.Spec())
    assert [cause.explains for cause in found] == [("causal.prefix_invariance", "influence.map"), ("attn.scale",)]


def test_each_failure_is_explained_once():
    checks = [check.name for check in CHECKS]
    found = diagnosed([finding(check) for check in checks], pl.Spec(kind="decoder"))
    explained = [check for cause in found for check in cause.explains]
    assert sorted(explained) == sorted(checks)


def test_nothing_is_said_against_what_was_not_looked_at():
    """That the future is seen by something besides attention takes a look at the masks."""
    leak = Finding(
        check="causal.prefix_invariance", status=Status.FAIL, seen="outputs moved", cause="a mask is missing"
    )
    masks = Finding(check="attn.mask", status=Status.PASS)
    assert [cause.name for cause in diagnosed([leak], pl.Spec(kind="decoder"))] == ["a mask is missing"]
    looked = diagnosed([leak, masks], pl.Spec(kind="decoder"))
    assert [cause.name for cause in looked] == ["something besides attention mixes over time"]
