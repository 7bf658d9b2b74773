"""Parameters from a config are those of the built model, part by part, and those that are published."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, describe
from measured import ALL, IMAGES, SOUND

from pellucid.analysis.parameters import parameter_count, parts_of
from pellucid.config import PRESETS
from pellucid.config import model as config
from pellucid.models.build import build

ENCODER = describe("encoder")
OTHERS = {
    "images": IMAGES,
    "images-no-class": replace(IMAGES, front=replace(IMAGES.front, class_token=False)),
    "sound": SOUND,
    "untied": replace(describe("decoder"), tie=()),
    "untied-bias": replace(describe("decoder"), tie=(), head=config.Language(bias=True)),
    "tied-bias": replace(describe("decoder"), head=config.Language(bias=True)),
    "pairs-untied": replace(describe("encoder_decoder"), tie=()),
    "pairs-output-apart": replace(describe("encoder_decoder"), tie=("source", "target")),
    "pairs-source-and-output": replace(describe("encoder_decoder"), tie=("source", "output")),
    "front": replace(ENCODER, front=config.Tokens(vocab_size=61, token_types=2, norm=True)),
    "masked-untied": replace(ENCODER, tie=(), head=config.MaskedLanguage(bias=False)),
    "labels": replace(ENCODER, tie=(), head=config.Classification(labels=("a", "b", "c"))),
    "labels-plain": replace(ENCODER, tie=(), head=config.Classification(labels=("a", "b"), projected=False)),
    "embedding": replace(ENCODER, tie=(), head=config.Embedding()),
    "pooler": replace(ENCODER, tie=(), head=config.Embedding(projected=True)),
}


def by_part(model, names):
    """What the built model has, under the names of its parts."""
    with torch.device("meta"):
        built = build(model)
    found = Counter()
    for name, parameter in built.named_parameters():
        name = re.sub(r"\.\d+\.", ".*.", name)
        found[name if name in names else name.rpartition(".")[0]] += parameter.numel()
    return dict(found)


def agree(model):
    parts = parts_of(model)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    assert {part.name: part.parameters for part in parts if part.parameters} == by_part(model, names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_is_that_of_the_built_model(family):
    for name, changes in ALL.items():
        agree(describe(family, **changes)), name


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_fronts_heads_and_ties(model):
    agree(model)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    """With two layers, which the count of the others is a multiple of; tests/models builds them whole."""
    model = PRESETS[name].counted or PRESETS[name].model
    towers = {side: replace(getattr(model, side), num_layers=2) for side in ("stack", "encoder", "decoder")
              if hasattr(model, side)}  # fmt: skip
    agree(replace(model, **towers))
    if PRESETS[name].parameters is not None:
        assert parameter_count(model) == PRESETS[name].parameters


def test_a_published_count_says_what_it_is_of():
    bert = PRESETS["bert-base"]
    assert (parameter_count(bert.model), parameter_count(bert.counted)) == (109_514_298, 109_482_240)
    assert "pooler" in bert.remark
    assert "117M" in PRESETS["gpt2"].remark


def test_no_torch_is_needed():
    code = "import sys; from pellucid.analysis.size import size; size('gpt3-175b'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
