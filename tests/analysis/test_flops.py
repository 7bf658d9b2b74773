"""Operations from a config are those that torch counts while the built model computes."""

from dataclasses import replace

import pytest
import torch
from families import CHOICES, FAMILIES, STACK, describe
from measured import ALL, IMAGES, SOUND, criterion, work_of
from torch.utils.flop_counter import FlopCounterMode

from pellucid.analysis.flops import flops_of, flops_of_step
from pellucid.analysis.work import Work, work_on
from pellucid.config import PRESETS
from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, prefill, step
from pellucid.models.build import build
from pellucid.nn.masks import Mask, Sites
from pellucid.training.card import flops_per_token

# Not windows, which are masks to the explicit kernel: it multiplies what they hide too.
COUNTED = {"encoder": ("plain",), "decoder": ("grouped", "wide-heads", "gated"), "encoder_decoder": ("modern",)}


def explicit(changes):
    """The kernel whose every product is seen, and none left out."""
    attention = changes.get("attention", STACK.attention)
    return {**changes, "attention": replace(attention, kernel="explicit")}


@pytest.mark.parametrize("family", FAMILIES)
def test_training(family):
    for name in COUNTED[family]:
        model = describe(family, replace(STACK, num_layers=1), **explicit(ALL[name]))
        # 64 labels: the loss fills its last chunk up to so many, which is no work of the model's.
        batch, work = work_of(family, rows=2, tokens=32, source=24)
        with FlopCounterMode(display=False) as counter:
            criterion(model, family)(batch).total.backward()
        assert flops_of(model, work).training * work.rows == counter.get_total_flops(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", ["plain", "window", "windows-differ", "grouped"])
def test_as_on_the_card_of_a_run(family, choice):
    model = describe(family, **CHOICES[choice])
    batch, work = work_of(family)
    flops = flops_of(model, work)
    assert flops.per_token(flops.training) == flops_per_token(build(model), batch)


@pytest.mark.parametrize("model", [IMAGES, SOUND], ids=["images", "sound"])
def test_data_need_no_gradient(model):
    lengths = {} if model is IMAGES else {"length": 20, "source_length": 24}
    work = work_on(model, batch=2, **lengths)
    inputs = [torch.randn(2, 3, 32, 32)] if model is IMAGES else [torch.randn(2, 20, 48), torch.randint(61, (2, 20))]
    with FlopCounterMode(display=False) as counter:
        build(_explicit_towers(model)).train()(*inputs).sum().backward()
    assert flops_of(model, work).training * work.rows == counter.get_total_flops()


def _explicit_towers(model):
    sides = [side for side in ("stack", "encoder", "decoder") if hasattr(model, side)]
    stacks = {side: getattr(model, side) for side in sides}
    return replace(
        model, **{s: replace(k, attention=replace(k.attention, kernel="explicit")) for s, k in stacks.items()}
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 3, 9, 50])
def test_hidden_is_what_the_mask_hides(causal, window):
    model = describe("decoder" if causal else "encoder", windows=(window,))
    flops = flops_of(model, Work(rows=1, tokens=9, source=0, labels=9))
    sites = Sites.of(1, 9, torch.device("cpu"))
    pairs = int(Mask(query=sites, key=sites, causal=causal, window=window or None).allowed().sum())
    assert flops.attention - flops.hidden == 2 * 4 * 32 * pairs


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_a_step_of_writing(family):
    model = describe(family, **explicit({}))
    built = build(model).eval()
    text, source = torch.randint(61, (2, 9)), torch.randint(61, (2, 7))
    with torch.inference_mode():
        _, state = prefill(built, Prompt(text[:, :-1], source=source if family == "encoder_decoder" else None), 1)
        with FlopCounterMode(display=False) as counter:
            step(state, text[:, -1])
    work = Work(rows=2, tokens=9, source=7 if family == "encoder_decoder" else 0, labels=9)
    assert 2 * flops_of_step(model, work) == counter.get_total_flops()


def test_the_rule_of_six_is_near_for_large_decoders_and_far_for_pairs():
    for name, low, high in (("llama-7b", 0.97, 1.03), ("gpt3-175b", 0.97, 1.03), ("t5-3b", 1.4, 2.0)):
        flops = flops_of(PRESETS[name].model, work_on(PRESETS[name].model))
        assert low < flops.six_n / flops.training < high, name


def test_lengths():
    gpt2, vit = PRESETS["gpt2"].model, PRESETS["vit-base"].model
    assert work_on(gpt2).tokens == 1024
    assert work_on(vit, batch=3) == Work(rows=3, tokens=197, source=0, labels=1, raw=196)
    assert work_on(PRESETS["whisper-tiny"].model).source == 1500
    assert work_on(PRESETS["bert-base"].model).labels == 77
    for model, given, said in (
        (gpt2, {"length": 1025}, "from 1 to 1024, as many as the model has learned positions"),
        (gpt2, {"source_length": 3}, "reads no source"),
        (gpt2, {"batch": 0}, "--batch: found 0"),
        (vit, {"length": 8}, "197, the patches of an image of 224 pixels"),
    ):
        with pytest.raises(UserError, match=said):
            work_on(model, **given)


def test_an_encoder_does_not_write():
    with pytest.raises(TypeError, match="token by token"):
        flops_of_step(describe("encoder"), Work(rows=1, tokens=9, source=0, labels=9))
    assert isinstance(describe("encoder"), config.Encoder)
