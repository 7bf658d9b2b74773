"""What a printed report tells somebody who has nothing else: which part, in which line, and a remedy that runs as it is."""

import logging
import re

import faulty
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import caches
from zoo.base import GPT, Attention, gpt_spec

import pellucid as pl
from pellucid.doctor.causes import PATTERNS
from pellucid.doctor.finding import Status
from pellucid.doctor.report.parts import figures


def examined(model, spec, *only, level="standard"):
    return pl.doctor(model, spec, level, only=only)


def text_of(report):
    return " ".join(str(report).split())


# ---- masks -------------------------------------------------------------------------------------


def test_a_mask_that_is_advised_is_boolean():
    report = examined(GPT(caches.TopLeftOfChunks), gpt_spec(), "kv.parity")
    texts = [pattern.fix for pattern in PATTERNS] + [report["kv.parity"].fix, str(report)]
    for text in texts:
        for made in re.findall(r"torch\.ones\(T, S.*?\)", text):
            assert "dtype=torch.bool" in made


@pytest.mark.parametrize(
    ("attention", "how"), [(caches.TopLeftOfChunks, "too much is hidden"), (caches.UnmaskedChunks, "too much is seen")]
)
def test_a_wrong_mask_of_chunks_is_told_in_plain_words(attention, how):
    report = examined(GPT(attention), gpt_spec(), "kv.parity")
    (cause,) = report.diagnoses
    assert "keys and values agree with those of one pass" in cause.why
    assert how in cause.why
    assert "only chunks of several tokens after others fail" in report["kv.parity"].seen


class AddedOnes(Attention):
    """A mask of 0 and 1 that is added to the scores."""

    def forward(self, x, keep=None, past=None):
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        k, v = self.remembered(k, v, past)
        mask = torch.ones(q.size(2), k.size(2)).tril(k.size(2) - q.size(2))
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))), (k, v)


class AddedOnesInSteps(AddedOnes):
    """The same, in steps alone."""

    def forward(self, x, keep=None, past=None):
        return Attention.forward(self, x, keep, past) if past is None else super().forward(x, keep, past)


@pytest.mark.parametrize("attention", [AddedOnes, AddedOnesInSteps])
def test_a_mask_of_zero_and_one_that_is_added_is_named(attention):
    only = ("kv.parity", "attn.mask", "causal.prefix_invariance")
    report = examined(GPT(attention), gpt_spec(), *only)
    assert report.diagnoses[0].name.startswith("a mask of 0 and 1 is added to the scores, and hides nothing")
    assert "bool" in report.diagnoses[0].fix


def test_a_good_mask_is_claimed_of_one_pass_alone():
    finding = examined(faulty.GPT(), pl.Spec(kind="decoder"), "attn.mask")["attn.mask"]
    assert finding.status is Status.PASS
    assert finding.seen.startswith("in one pass, without a cache, ")


# ---- losses ------------------------------------------------------------------------------------


def shifted_twice(model, batch):
    logits, targets = model(batch.ids[:, :-1]), batch.ids[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()), logits


def test_a_wrong_shift_is_placed_and_both_sides_are_offered():
    report = examined(faulty.GPT(), pl.Spec(kind="decoder", loss=shifted_twice), "loss.alignment")
    finding = report["loss.alignment"]
    line = shifted_twice.__code__.co_firstlineno + 2
    assert re.search(rf"test_printed\.py:{line}\b", finding.where)
    assert "the caller gives the ids themselves and the loss shifts" in report.diagnoses[0].fix
    assert "targets that already stand one ahead" in report.diagnoses[0].fix
    assert "F.cross_entropy(logits.flatten(0, 1), targets.flatten())" in finding.fix
    assert "starts twice" not in str(report)


# ---- parameters --------------------------------------------------------------------------------


class Holder(nn.Module):
    """Parts that are kept where nothing is registered."""

    def __init__(self, how):
        super().__init__()
        self.table, self.head = nn.Embedding(31, 16), nn.Linear(16, 31)
        parts = [nn.Linear(16, 16), nn.Linear(16, 16)]
        if how == "list":
            self.parts = parts
        elif how == "dict":
            self.parts = {"a": parts[0], "b": parts[1]}
        else:
            self.parts = torch.randn(16, 16, requires_grad=True)

    def forward(self, ids):
        x = self.table(ids)
        if isinstance(self.parts, torch.Tensor):
            return self.head(x @ self.parts)
        for part in self.parts.values() if isinstance(self.parts, dict) else self.parts:
            x = part(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("how", "remedy"), [("list", "nn.ModuleList"), ("dict", "nn.ModuleDict"), ("tensor", "nn.Parameter")]
)
def test_what_is_not_registered_is_placed_with_its_own_remedy(how, remedy):
    report = examined(Holder(how), pl.Spec(kind="encoder", pretrained=False), "params.coverage", "init.stats")
    finding = report["params.coverage"]
    at = Holder.__init__.__code__.co_firstlineno + 5  # where it is first assigned
    assert re.search(rf"test_printed\.py:{at}\b", finding.where)
    others = {"nn.ModuleList", "nn.ModuleDict", "nn.Parameter"} - {remedy}
    assert remedy in finding.fix
    assert not [other for other in others if other in finding.fix]
    block = text_of(report).split("FAIL params.coverage")[1].split("found out")[0]
    assert f"fix: {finding.fix}" in block
    if how != "tensor":
        assert "1 more" in finding.seen
        assert "not registered" in report["init.stats"].seen


# ---- half precision, reordering ----------------------------------------------------------------


def test_what_did_not_run_in_half_precision_is_not_passed():
    report = examined(Holder("list"), pl.Spec(kind="encoder"), "precision.drift")
    finding = report["precision.drift"]
    assert finding.status is Status.SKIP
    assert "RuntimeError" in finding.seen


def test_the_part_of_a_cache_that_keeps_its_rows_is_named_and_placed():
    reorder = caches.reorder_keys_alone
    report = examined(GPT(), gpt_spec(reorder=reorder), "decode.reorder")
    finding = report["decode.reorder"]
    assert "cache[0][1] (and 1 more)" in report.diagnoses[0].name
    assert "kept" in finding.seen
    assert "cache[0][0]" in finding.seen
    assert re.search(rf"caches\.py:{reorder.__code__.co_firstlineno}\b", finding.where)
    assert re.search(r"of the largest, where rounding gives \S*e-\d+", finding.seen)
    block = text_of(report).split("FAIL decode.reorder")[1]
    assert "usual cause:" in block
    assert "fix:" in block


# ---- words -------------------------------------------------------------------------------------


def test_figures_have_readable_names_and_do_not_say_again_what_was_seen():
    told = figures({"in_double": 0.97, "why": "masked", "what": "no scale", "asked": 66, "apart": 2, "some_other": 3})
    assert told == "in double precision: 0.97; positions asked: 66; some other: 3"


def test_a_fault_of_every_layer_says_how_many():
    class Unscaled(Attention):
        def scores(self, q, k):
            return q @ k.mT

    finding = examined(GPT(Unscaled), gpt_spec(), "attn.scale")["attn.scale"]
    assert re.search(r"in (\d+) of \1 attentions, first \S+", finding.seen)


def test_references_stand_once():
    text = str(examined(GPT(caches.TopLeftOfChunks), gpt_spec(), "kv.parity"))
    found = re.findall(r"[\w.-]+/[\w.-]+#\d+", text)
    assert found
    assert len(found) == len(set(found))


def test_transformers_is_silent_for_a_while():
    pytest.importorskip("transformers")
    heard, logger, whole = [], logging.getLogger("transformers.models.some"), logging.getLogger("transformers")
    before = whole.level
    whole.setLevel(logging.WARNING)  # whoever ran before may have silenced it

    class Hears(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    class Talks(faulty.GPT):
        def forward(self, *given, **named):
            logger.warning("it is incompatible")
            return super().forward(*given, **named)

    handler = Hears()
    logger.addHandler(handler)
    try:
        examined(Talks(), pl.Spec(kind="decoder"), "eval.deterministic")
        assert not heard
        logger.warning("after")
        assert whole.level == logging.WARNING
    finally:
        logger.removeHandler(handler)
        whole.setLevel(before)
    assert heard == ["after"]
