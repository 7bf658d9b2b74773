"""What a loss asks is seen in its gradient; what gathered gradients hold is solved for; what a batch lacks is said."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo.base import GPT, VOCAB

import pellucid as pl
from pellucid.doctor.gathered import gathered
from pellucid.doctor.infer import subject_of
from pellucid.doctor.scripts.data import laws
from pellucid.doctor.spec import Batch, Spec
from pellucid.doctor.xray import UnseenError, xray

PAD, BOS, EOS = 0, 1, 2


def seen(criterion, **more):
    subject, _ = subject_of(GPT(std=0.2), Spec(kind="decoder", criterion=criterion, **more))
    return xray(subject, subject.batch()), subject.batch().ids


def each(outputs, batch):
    return F.cross_entropy(outputs[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_and_weights_are_those_of_the_loss(smoothing):
    weights = torch.rand(3, 23) + 0.1
    weights[1, 5:9] = 0

    def criterion(outputs, batch):
        told = -outputs[:, :-1].log_softmax(-1)
        asked = told.gather(-1, batch.ids[:, 1:, None])[..., 0]
        return (weights * ((1 - smoothing) * asked + smoothing * told.mean(-1))).sum()

    ray, ids = seen(criterion)
    assert torch.equal(ray.asked[:, :-1], weights > 0)
    assert not ray.asked[:, -1].any()
    asked = ray.asked[:, :-1]
    assert torch.equal(ray.labels[:, :-1][asked], ids[:, 1:][asked])
    torch.testing.assert_close(ray.weights[:, :-1].float(), weights, rtol=1e-3, atol=1e-6)
    if not smoothing:
        assert float((ray.weights * ray.losses).sum()) == pytest.approx(ray.loss, rel=1e-4)


def test_a_penalty_asks_nothing():
    ray, _ = seen(
        lambda outputs, batch: each(outputs, batch)[:, :9].mean() + 1e-3 * outputs.logsumexp(-1).square().mean()
    )
    assert ray.asked[:, :9].all()
    assert not ray.asked[:, 9:].any()


def test_outputs_may_be_flat_or_turned():
    flat = lambda outputs, batch: F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())  # noqa: E731
    for change in (lambda x: x.flatten(0, 1), lambda x: x.transpose(1, 2)):

        def loss(model, batch, change=change):
            logits = model(batch.ids)[:, :-1]
            turned = change(logits)
            labels = batch.ids[:, 1:].flatten() if turned.dim() == 2 else batch.ids[:, 1:]
            return F.cross_entropy(turned, labels), turned

        subject, _ = subject_of(GPT(), Spec(kind="decoder", loss=loss))
        ray = xray(subject, subject.batch())
        assert torch.equal(ray.labels, subject.batch().ids[:, 1:])
    assert seen(flat)[0].asked.sum() == 3 * 23


def test_a_loss_of_other_outputs_cannot_be_seen():
    def loss(model, batch):
        return model(batch.ids).mean(), model(batch.ids)

    subject, _ = subject_of(GPT(), Spec(kind="decoder", loss=loss))
    with pytest.raises(UnseenError, match="not those the loss was taken of"):
        xray(subject, subject.batch())


def told(model, batch):
    logits = model(batch.ids)
    labels = batch.ids if batch.labels is None else batch.labels
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (2.0, 2.0), (1.0, 3.0), (0.0, 1.0)])
def test_shares_of_gathered_batches_are_solved_for(first, second):
    def accumulate(model, batches):
        counts = [int((batch.labels[:, 1:] != -100).sum()) for batch in batches]
        for batch, count, share in zip(batches, counts, (first, second), strict=True):
            (share * count / sum(counts) * told(model, batch)[0]).backward()

    subject, _ = subject_of(GPT(dropout=0.1), Spec(kind="decoder", loss=told, accumulate=accumulate))
    found = gathered(subject)
    assert (found.first, found.second) == pytest.approx((first, second), abs=1e-3)
    assert found.left < 1e-4
    assert (found.apart < 1e-4) is (first == second == 1.0)


def texts():
    ids = torch.randint(4, VOCAB, (4, 12), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = BOS
    keep = torch.arange(12) < torch.tensor([12, 12, 9, 6])[:, None]
    for row, length in enumerate((12, 12, 9, 6)):
        ids[row, length - 1] = EOS
    return ids.masked_fill(~keep, PAD), keep


def looked(kind="decoder", **changes):
    ids, keep = texts()
    spec = Spec(kind=kind, vocab_size=VOCAB, pad_id=PAD, bos_id=BOS, eos_id=EOS)
    given = {"ids": ids, "keep": keep, "labels": ids.masked_fill(~keep, -100)} | changes
    return {finding.check: finding.status.value for finding in pl.doctor.batch(Batch(**given), spec)}


def test_a_right_batch_has_nothing():
    assert looked() == {"data.labels": "PASS"}


def test_labels_two_ahead_and_one_behind():
    ids, keep = texts()
    unmasked = ids.masked_fill(~keep, -100)
    ahead = torch.cat([unmasked[:, 2:], torch.full((4, 2), -100)], 1)
    behind = torch.cat([torch.full((4, 1), -100), unmasked[:, :-1]], 1).masked_fill(~keep, -100)
    assert looked(labels=ahead)["data.shifted"] == "FAIL"
    assert looked(labels=behind)["data.shifted"] == "FAIL"
    one = torch.cat([unmasked[:, 1:], torch.full((4, 1), -100)], 1)
    assert "data.shifted" not in looked(labels=one)


def test_a_decoder_needs_no_mask_for_padding_on_its_right():
    ids, keep = texts()
    assert looked(keep=None) == looked(kind="encoder_decoder", keep=None) == {"data.labels": "PASS"}
    assert (
        looked(ids=ids.flip(1), labels=ids.flip(1).masked_fill(~keep.flip(1), -100), keep=None)["data.mask"] == "FAIL"
    )


def test_a_start_that_is_the_padding_is_no_padding():
    """T5, Marian and Pegasus begin what they write at it."""
    ids, keep = texts()
    labels = ids.masked_fill(~keep, -100)
    ids[:, 0] = PAD
    for mask in (keep, None):
        assert looked("encoder_decoder", ids=ids, labels=labels, keep=mask) == {"data.labels": "PASS"}
        assert looked("decoder", ids=ids, labels=labels, keep=mask)["data.mask"] == "FAIL"
    exec(laws(Spec(kind="encoder_decoder", pad_id=PAD, eos_id=EOS)), {"ids": ids, "keep": keep, "labels": labels})


def test_blocks_of_one_long_text_need_no_end():
    ids = torch.randint(4, VOCAB, (4, 12), generator=torch.Generator().manual_seed(3))
    assert looked(ids=ids, keep=None, labels=ids) == {"data.end_asked": "WARN"}
    begun = torch.cat([torch.full((4, 1), BOS), ids[:, 1:]], 1)
    assert looked(ids=begun, keep=None, labels=begun) == {"data.end_asked": "FAIL"}
    _, keep = texts()
    short, asked = ids.masked_fill(~keep, PAD), ids.masked_fill(~keep, -100)
    assert looked(ids=short, labels=asked) == looked(ids=short, keep=None, labels=asked) == {"data.end_asked": "FAIL"}


def test_texts_in_one_row_are_told():
    ids, _ = texts()
    joined = torch.cat([ids[:2], ids[:2].flip(0)], 1)
    found = looked(ids=joined, keep=None, labels=joined)
    assert found == {"data.packed": "WARN"}


def test_holes_and_waste():
    ids, keep = texts()
    holes = keep.clone()
    holes[:, 3] = False
    assert looked(keep=holes)["data.mask"] == "WARN"
    short = torch.arange(12).expand(4, -1) < 3
    assert looked(ids=ids.masked_fill(~short, PAD), keep=short)["data.waste"] == "WARN"


# ---- the source ----------------------------------------------------------------------------------


def with_source(**changes):
    ids, keep = texts()
    return {"source": ids, "source_keep": keep} | changes


SOURCES = {
    "no mask": ({"source_keep": None}, "data.mask"),
    "upside down": ({"source_keep": ~texts()[1]}, "data.mask"),
    "beyond the vocabulary": ({"source": texts()[0] + VOCAB, "source_keep": None}, "data.range"),
}


def test_a_right_source_has_nothing():
    assert looked("encoder_decoder", **with_source()) == {"data.labels": "PASS"}


@pytest.mark.parametrize(("name", "status"), [("no mask", "WARN"), ("upside down", "FAIL")])
def test_a_source_is_looked_at(name, status):
    """Without a mask surely only where a model is there: it may know padding by its id."""
    changes, check = SOURCES[name]
    batch = Batch(ids=texts()[0], keep=texts()[1], **with_source(**changes))
    found = pl.doctor.batch(batch, Spec(kind="encoder_decoder", vocab_size=VOCAB, pad_id=PAD))
    assert found[0].status == status
    assert found[0].check == check
    assert all("source" in finding.seen for finding in found)


@pytest.mark.parametrize("name", SOURCES)
def test_a_script_shows_what_is_wrong_with_a_source(name):
    ids, keep = texts()
    given = {"ids": ids, "keep": keep, "labels": ids.masked_fill(~keep, -100)}
    for changes in ({}, SOURCES[name][0]):
        batch = Batch(**given, **with_source(**changes))
        spec = Spec(kind="encoder_decoder", vocab_size=VOCAB, pad_id=PAD, bos_id=BOS, eos_id=EOS, batch=batch)
        finding = pl.doctor(Translator(), spec, only=["data"])["data.labels"]
        assert (finding.status == "FAIL") is bool(changes), finding.seen
        if changes:
            with pytest.raises(AssertionError):
                exec(finding.script, {"torch": torch})


class Translator(nn.Module):
    """Reads the last vector of its source, and has no mask of its own."""

    def __init__(self):
        super().__init__()
        self.tok, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)

    def forward(self, src, tgt):
        return self.head(self.tok(tgt).cumsum(1) + self.tok(src)[:, -1:])


def test_a_source_has_a_vocabulary_of_its_own():
    model, (ids, keep) = Translator(), texts()
    model.src_tok = nn.Embedding(2 * VOCAB, 16)
    batch = Batch(ids=ids, keep=keep, source=(ids + VOCAB).masked_fill(~keep, PAD), source_keep=keep)
    spec = Spec(kind="encoder_decoder", vocab_size=VOCAB, pad_id=PAD, batch=batch)
    assert pl.doctor(model, spec, only=["data"])["data.labels"].status == "PASS"


def test_how_many_tokens_a_source_has_is_not_known_without_a_model():
    ids, keep = texts()
    source = (ids + VOCAB).masked_fill(~keep, PAD)
    given = {"kind": "encoder_decoder", "vocab_size": VOCAB, "pad_id": PAD}
    call = lambda model, batch: model(batch.source, batch.ids)  # noqa: E731
    for mask, status in ((keep, "PASS"), (None, "WARN")):
        batch = Batch(ids=ids, keep=keep, source=source, source_keep=mask)
        assert {finding.status for finding in pl.doctor.batch(batch, Spec(**given))} == {status}
        asked = pl.doctor(Translator().forward, Spec(**given, call=call, batch=batch), only=["data"])
        assert asked["data.labels"].status == status, asked["data.labels"].seen
