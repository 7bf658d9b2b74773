"""Models of ours are healthy: every preset's family in small, every part exchanged, every head, and what we ship."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import CHOICES, FAMILIES, STACK, small

import pellucid as pl
from pellucid.config import PRESETS, parts
from pellucid.config import model as config
from pellucid.doctor.finding import Status
from pellucid.doctor.spec import Batch
from pellucid.models.build import build

SHIPPED = Path(pl.__file__).parent / "explorer" / "model"
KINDS = ("transformer-base", "bert-base", "vit-base", "gpt2", "whisper-tiny")
MORE = ("roberta-base", "distilbert-base", "minilm-l6", "gpt3-175b", "t5-small", "flan-t5-small", "bart-base", "stories-15m",
        "tinyllama-1.1b", "llama-2-70b", "llama-3.1-405b", "mistral-7b", "qwen2-0.5b", "qwen3-0.6b", "gemma-2-2b")  # fmt: skip
HEADS = {
    "classification": config.Classification(labels=("no", "yes")),
    "classification of the mean": config.Classification(labels=("no", "yes"), pooling="mean", projected=False),
    "classification of the largest": config.Classification(labels=("no", "yes"), pooling="max"),
    "embedding": config.Embedding(),
    "embedding of the first": config.Embedding(pooling="first", projected=True, normalized=False),
}


def reduced(stack):
    """The same parts at small sizes: two layers of width 32, four heads."""
    heads = stack.attention
    groups = None if heads.num_kv_heads is None else 2
    attention = replace(heads, num_heads=4, num_kv_heads=groups, head_dim=None, dropout=0.1)
    positions = stack.positions
    if isinstance(positions, parts.Learned):
        positions = replace(positions, max_length=40)
    return replace(
        stack, d_model=32, num_layers=2, attention=attention, feed_forward=replace(stack.feed_forward, d_ff=48),
        positions=positions, windows=tuple(min(window, 7) for window in stack.windows),
    )  # fmt: skip


def front(of):
    match of:
        case config.Tokens():
            return replace(of, vocab_size=61)
        case config.Patches():
            return replace(of, image_size=16, patch_size=4)
        case _:
            return replace(of, mels=8)


def tiny(name):
    """The model of a preset in small."""
    described = PRESETS[name].model
    match described:
        case config.EncoderDecoder():
            described = replace(
                described, source=front(described.source), encoder=reduced(described.encoder),
                target=front(described.target), decoder=reduced(described.decoder),
            )  # fmt: skip
        case config.Encoder(head=config.Classification()):
            head = replace(described.head, labels=("a", "b", "c"))
            described = replace(described, front=front(described.front), stack=reduced(described.stack), head=head)
        case _:
            described = replace(described, front=front(described.front), stack=reduced(described.stack))
    torch.manual_seed(0)
    return build(described)


def healthy(model, level="standard"):
    """Examines it; nothing may fail, and nothing may be left open."""
    described, spec = model.config, None
    if isinstance(described, config.EncoderDecoder) and isinstance(described.source, config.Audio):
        sound = torch.zeros(1, described.source.mels, 64)  # shorter than half a minute
        spec = pl.Spec(example=Batch(ids=torch.zeros(1, 1, dtype=torch.long), source=sound))
    report = pl.doctor(model, spec, level=level)
    wrong = {f.check: f.seen for f in report.of(Status.FAIL, Status.INCONCLUSIVE)}
    assert not wrong, f"{wrong}\n{report}"
    return report


@pytest.mark.parametrize("name", KINDS)
def test_families_quickly(name):
    healthy(tiny(name), "quick")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *MORE])
def test_families_of_all_presets(name):
    report = healthy(tiny(name))
    asked = {finding.check for finding in report.of(Status.PASS, Status.WARN)}
    assert {"batch.independence", "attn.mask", "attn.scale", "params.coverage"} <= asked
    if not isinstance(PRESETS[name].model, config.Encoder):
        assert {"causal.prefix_invariance", "kv.parity", "decode.reorder", "loss.alignment"} <= asked


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_exchanged(family, choice):
    healthy(small(family, **CHOICES[choice]))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_heads_for_a_whole_text(head):
    described = config.Encoder(front=config.Tokens(vocab_size=61), stack=STACK, head=HEADS[head])
    torch.manual_seed(0)
    report = healthy(build(described))
    assert report["pad.invariance"].status is Status.PASS


def test_the_model_that_the_explorer_opens():
    healthy(pl.load(SHIPPED).model, "quick")


@pytest.mark.slow
def test_the_model_that_the_explorer_opens_in_full():
    report = healthy(pl.load(SHIPPED).model, "full")
    assert report["kv.parity"].status is Status.PASS
