"""Texts that are long enough for plain products are read as the model reads them, whoever stands beside them."""

import pytest
import torch
from families import CHOICES, VOCAB, small
from writing import near

from pellucid.inference.engine import Engine, looking
from pellucid.inference.engine.encoder import EncoderEngine
from pellucid.inference.reader import Padded
from pellucid.inference.writer import Plain

LENGTHS = (33, 40, 33, 37, 7, 33)


def text(length, seed):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


TEXTS = [text(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("scores", [looking.SCORES, 1])  # all at once, and one by one
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_prompts_and_sources_are_read_as_the_model_reads_them(monkeypatch, family, choice, scores):
    monkeypatch.setattr(looking, "SCORES", scores)
    model = small(family, **CHOICES[choice])
    sources = TEXTS[::-1] if family == "encoder_decoder" else None
    near(Engine(model).prefill(TEXTS, sources)[0], Plain(model).prefill(TEXTS, sources)[0])


@pytest.mark.parametrize("choice", CHOICES)
def test_texts_are_encoded_as_the_model_encodes_them(choice):
    model = small("encoder", **CHOICES[choice])
    near(EncoderEngine(model)(TEXTS).states, Padded(model, 0)(TEXTS).states)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_text_does_not_depend_on_its_neighbours(monkeypatch, weights):
    model = small("encoder")
    monkeypatch.setattr(looking, "SCORES", 3 * 33**2)  # not all of one length at once
    engine = EncoderEngine(model, weights)
    together = torch.split(engine(TEXTS).states, LENGTHS)
    for row, states in zip(TEXTS, together, strict=True):
        alone = engine([row]).states
        near(alone, states)
        assert weights == "float32" or torch.equal(alone, states)


def test_the_precision_of_products_is_as_it_was():
    before = torch.get_float32_matmul_precision()
    EncoderEngine(small("encoder"))(TEXTS)
    assert torch.get_float32_matmul_precision() == before


def test_rows_that_products_take_beside_those_of_texts_are_nobodys():
    groups = looking.grouped([3, 15, 15])
    tokens, positions = looking.flat([[7] * 3, [8] * 15, [9] * 15], groups, torch.device("cpu"))
    assert len(tokens) == len(positions) == 36  # for 33
    assert tokens[33:].tolist() == positions[33:].tolist() == [0, 0, 0]
    q = torch.randn(36, 2, 4)
    context = looking.contexts(lambda group: torch.ones_like(group.cut(q)), q, groups)
    assert torch.equal(context[33:], torch.zeros(3, 8))
    assert torch.equal(context[:33], torch.ones(33, 8))
