"""Published models have the published number of parameters."""

import pytest

from pellucid.config import PRESETS
from pellucid.models.build import build_empty


@pytest.mark.parametrize("name", PRESETS)
def test_parameters(name):
    model = build_empty(PRESETS[name].counted or PRESETS[name].model)
    count = sum(parameter.numel() for parameter in model.parameters())
    if PRESETS[name].parameters is not None:
        assert count == PRESETS[name].parameters
    assert PRESETS[name].source


@pytest.mark.parametrize(("name", "millions"), [
    ("transformer-base", 65), ("transformer-big", 213), ("multi30k-tiny", 2.6), ("bert-tiny", 4.4), ("bert-large", 336),
    ("gpt3-175b", 175_000), ("stories-42m", 42), ("stories-110m", 110),
])  # fmt: skip
def test_rounded_counts(name, millions):
    """Where only a rounded count is published; BERT's includes a pooler that its masked-language head does not use."""
    model = build_empty(PRESETS[name].model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.04)
