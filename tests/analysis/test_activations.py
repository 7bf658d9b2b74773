"""What is predicted to be kept for the backward pass is what autograd saves."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, STACK, VOCAB, describe
from measured import ALL, CPU, IMAGES, SOUND, criterion, live, saved, work_of

from pellucid.analysis import activations, tower
from pellucid.analysis.activations import kept_by
from pellucid.analysis.tower import Means
from pellucid.analysis.work import Work, work_on
from pellucid.config import model as config
from pellucid.config.run import Classify
from pellucid.data.batch import Batch
from pellucid.models.build import build
from pellucid.nn import blocked, kernels
from pellucid.training import cross_entropy
from pellucid.training.objectives import Criterion
from pellucid.training.precision import products

PRECISIONS = ("float32", "bfloat16")
CLOSE = 0.02


def means(precision, checkpointing=False):
    return Means(precision=precision, device="cpu", checkpointing=checkpointing)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_choice(family, precision):
    for name, changes in ALL.items():
        model = describe(family, replace(STACK, num_layers=1), **changes)
        batch, work = work_of(family, rows=2, tokens=24, source=34)
        found = saved(criterion(model, family), batch, precision)
        assert kept_by(model, work, means(precision)).total == pytest.approx(found, rel=CLOSE), name


@pytest.mark.parametrize("length", [5, 16, 63, 64, 130, 300])
def test_blocks_of_attention(length):
    model = describe("decoder")
    batch, work = work_of("decoder", rows=2, tokens=length)
    found = saved(criterion(model, "decoder"), batch, "bfloat16")
    assert kept_by(model, work, means("bfloat16")).total == pytest.approx(found, rel=CLOSE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fronts_and_heads(precision):
    encoder, decoder = describe("encoder"), describe("decoder")
    front = config.Tokens(vocab_size=VOCAB, token_types=2, norm=True, dropout=0.1)
    for model, family in (
        (replace(encoder, front=front), "encoder"),
        (replace(encoder, head=config.MaskedLanguage(bias=False)), "encoder"),
        (replace(decoder, tie=()), "decoder"),
        (replace(decoder, head=config.Language(bias=True, scale=0.5)), "decoder"),
        (replace(decoder, head=config.Language(softcap=5.0)), "decoder"),
        (replace(describe("encoder_decoder"), tie=()), "encoder_decoder"),
    ):
        batch, work = work_of(family)
        found = saved(criterion(model, family), batch, precision)
        assert kept_by(model, work, means(precision)).total == pytest.approx(found, rel=CLOSE), model


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_classifiers(pooling, precision):
    for projected, dropout in ((True, 0.1), (True, 0.0), (False, 0.1), (False, 0.0)):
        head = config.Classification(labels=("a", "b"), pooling=pooling, projected=projected, dropout=dropout)
        model = replace(describe("encoder"), tie=(), head=head)
        tokens, work = torch.randint(VOCAB, (9, 30)), Work(rows=9, tokens=30, source=0, labels=1)
        found = saved(Criterion(build(model).train(), Classify()), Batch(tokens, torch.zeros(9).long()), precision)
        assert kept_by(model, work, means(precision)).total == pytest.approx(found, rel=CLOSE), (projected, dropout)


SOUND_WORK = Work(rows=3, tokens=20, source=64, labels=20, raw=128)
FRONTS = {
    "images": (IMAGES, work_on(IMAGES, batch=8), [(8, 3, 32, 32)]),
    "sound": (SOUND, SOUND_WORK, [(3, 20, 128), (3, 20)]),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("front", FRONTS)
def test_images_and_sound(front, precision):
    """By what is allocated, since the batches of training hold text; nothing is asked of the head."""
    model, work, shapes = FRONTS[front]
    inputs = [torch.randint(61, shape) if len(shape) == 2 else torch.randn(shape) for shape in shapes]
    built = build(model).train()
    with products(CPU, precision), live() as found:
        out = built(*inputs)
    kept = kept_by(model, work, means(precision))
    assert kept.total - kept.head == pytest.approx(found.net - out.nbytes, rel=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "name"), [
    ("decoder", "relative-bias"), ("encoder_decoder", "modern"), ("encoder_decoder", "key-bias"),
])  # fmt: skip
def test_checkpointing(family, name, precision):
    """By what is allocated, since a checkpointed block holds more than autograd saves."""
    model = describe(family, **ALL[name])
    batch, work = work_of(family, rows=16)
    asked = criterion(model, family, checkpointing=True)
    with products(CPU, precision), live() as found:
        loss = asked(batch).total
    kept = kept_by(model, work, means(precision, checkpointing=True))
    states = 5056 * sum(len(part.blocks) for part in asked.modules() if hasattr(part, "blocks"))  # of random numbers
    assert kept.total + states + loss.nbytes == pytest.approx(found.net, rel=CLOSE)


def test_constants_are_those_of_the_kernels():
    assert (tower.BLOCK, tower.VECTOR) == (blocked.BLOCK, blocked.VECTOR)
    assert tower.LONGEST_BLOCKED == kernels.LONGEST_BLOCKED
    assert (activations.ROWS, activations.CELLS) == (cross_entropy.ROWS, cross_entropy.CELLS)


def test_on_a_gpu_less_is_kept():
    """Fused attention keeps no weights, dropout a byte of each number. Worked out; only a GPU can confirm it."""
    model = describe("decoder", dropout=0.1)
    _, work = work_of("decoder", rows=2, tokens=512)
    on_cpu, on_gpu = (kept_by(model, work, Means(device=device)) for device in ("cpu", "cuda"))
    assert on_gpu.blocks < on_cpu.blocks / 2
    assert on_gpu.head == on_cpu.head
