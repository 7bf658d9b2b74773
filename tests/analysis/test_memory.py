"""Predicted peaks are those of what is allocated while a step is taken; caches are as large as those that are made."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from families import STACK, describe
from measured import ALL, CPU, criterion, live, work_of

from pellucid.analysis.memory import inference_memory, training_memory
from pellucid.analysis.parameters import parameter_count
from pellucid.analysis.tower import Means
from pellucid.analysis.work import Work, work_on
from pellucid.config import PRESETS, parts
from pellucid.config.optimisation import AdamW
from pellucid.inference.decode import Prompt, prefill
from pellucid.models.build import build
from pellucid.training.optim import optimizer
from pellucid.training.precision import products

WIDE = replace(
    STACK,
    d_model=64,
    num_layers=3,
    feed_forward=parts.FeedForward(d_ff=256, activation="gelu"),
)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "name", "precision"),
    [
        ("decoder", "plain", "float32"),
        ("decoder", "modern", "bfloat16"),
        ("encoder", "plain", "bfloat16"),
        ("encoder_decoder", "plain", "bfloat16"),
        ("encoder_decoder", "relative-bias", "float32"),
    ],
)
def test_the_peak_of_a_step(family, name, precision, checkpointing):
    model = describe(family, WIDE, **{key: value for key, value in ALL[name].items() if key != "feed_forward"})
    batch, work = work_of(family, rows=8, tokens=128, source=128)
    asked = criterion(model, family, checkpointing)
    taking = optimizer(asked, AdamW())

    def step(watch):
        with products(CPU, precision), watch() as forward:
            loss = asked(batch).total
        with watch() as backward:
            loss.backward()
        torch.nn.utils.clip_grad_norm_(asked.parameters(), 1.0)
        taking.step()
        taking.zero_grad()
        return forward, backward

    step(nullcontext)  # makes the moments
    forward, backward = step(live)
    memory = training_memory(model, work, Means(precision=precision, device="cpu", checkpointing=checkpointing))
    most = max(forward.peak, forward.net + backward.peak)
    assert memory.peak == pytest.approx(memory.weights + memory.optimizer + most, rel=0.1)


def test_the_state_is_sixteen_bytes_a_parameter():
    model = PRESETS["gpt2"].model
    memory = training_memory(model, work_on(model), Means())
    assert memory.state == 16 * parameter_count(model)
    assert memory.state <= memory.peak < memory.state + memory.activations


def test_checkpointing_keeps_the_inputs_of_blocks():
    model = PRESETS["gpt2-xl"].model
    work = work_on(model, batch=8)
    kept, checkpointed = (training_memory(model, work, Means(checkpointing=c)) for c in (False, True))
    inputs = 48 * 8 * 1024 * 1600 * 4
    assert checkpointed.activations - checkpointed.copies < 1.6 * inputs
    assert kept.activations > 5 * checkpointed.activations


@pytest.mark.parametrize("windows", [(0,), (6,), (6, 0)])
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_caches(family, windows):
    model = describe(family, windows=windows, attention=parts.Attention(num_heads=4, num_kv_heads=2))
    text, source = torch.randint(61, (3, 8)), torch.randint(61, (3, 11))
    with torch.inference_mode():
        built = build(model).eval()
        _, state = prefill(built, Prompt(text, source=source if family == "encoder_decoder" else None), 4)
    _, work = work_of(family, rows=3, tokens=12, source=11)
    memory = inference_memory(model, work, "float32")
    held = [tensor for drawer in state.cache.drawers for tensor in (drawer.keys, drawer.values)]
    assert memory.cache == sum(tensor[:, :-1].numel() * 4 for tensor in held)  # one slot swallows padding
    sources = [tensor for part in state.cache.sources for tensor in (part.keys, part.values)]
    assert memory.source_cache == sum(tensor.numel() * 4 for tensor in sources)
    assert memory.cache_per_token == 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head_dim, bytes


def test_the_cache_of_a_token():
    for name, expected in (("llama-7b", 512 * 1024), ("llama-3-8b", 128 * 1024), ("mistral-7b", 128 * 1024)):
        model = PRESETS[name].model
        assert inference_memory(model, work_on(model), "bfloat16").cache_per_token == expected
    mistral = PRESETS["mistral-7b"].model
    at = [inference_memory(mistral, work_on(mistral, length=n), "bfloat16").cache for n in (4096, 32_768)]
    assert at[0] == at[1] == 4096 * 128 * 1024


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "name"),
    [("decoder", "plain"), ("decoder", "modern"), ("encoder", "alibi"), ("encoder_decoder", "relative-bias")],
)
def test_the_peak_of_reading(family, name, dtype):
    model = describe(family, WIDE, **{key: value for key, value in ALL[name].items() if key != "feed_forward"})
    batch, work = work_of(family, rows=4, tokens=128, source=128)
    built = build(model).to(getattr(torch, dtype)).eval()
    with torch.inference_mode(), live() as found:
        out = (
            built(batch.tokens) if family == "encoder" else prefill(built, Prompt(batch.tokens, source=batch.source), 1)
        )
    assert out is not None
    memory = inference_memory(model, work, dtype)
    assert memory.peak == pytest.approx(memory.weights + found.peak, rel=0.1)


def test_nothing_is_remembered_by_an_encoder():
    memory = inference_memory(describe("encoder"), Work(rows=2, tokens=9, source=0, labels=9), "float32")
    assert memory.cache == memory.source_cache == memory.cache_per_token == 0
