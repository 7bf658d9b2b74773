"""A model of `transformers`, traced under our names, and the same weights in ours: equal names, equal values."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from parity.cases import CASES
from parity.test_parity import folders  # noqa: F401
from pellucid.models.foreign.names import our_names
from pellucid.trace import trace

KINDS = (
    "gpt2",
    "bert",
    "roberta",
    "distilbert",
    "t5",
    "bart",
    "mbart",
    "marian",
    "llama",
    "mistral",
    "qwen2",
    "gemma2",
)
FIRST = {case.kind: case for case in reversed(CASES) if case.kind in KINDS}


@pytest.mark.parametrize("kind", FIRST)
def test_the_same_names_work(folders, kind):  # noqa: F811
    _, oracle, ours = folders(FIRST[kind])
    tokens = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(2))
    theirs = {"input_ids": tokens}
    inputs = (tokens, tokens.flip(1)) if type(ours).__name__ == "EncoderDecoder" else tokens
    if type(ours).__name__ == "EncoderDecoder":
        theirs["decoder_input_ids"] = tokens.flip(1)
    other, own = trace(oracle.eval(), theirs, names=our_names(oracle)), trace(ours.eval(), inputs)
    shared = [name for name in other if name in own]
    attention = [name for name in own if "attention." in name and name.endswith(("weights", "context", "attention.q"))]
    assert set(attention) <= set(shared)
    assert sum(name.endswith(("feed_forward.pre", "feed_forward.out")) for name in shared) >= 4
    bias_apart = kind in ("bart", "mbart", "marian")  # which is added outside of the module that makes the logits
    assert ("head.projected" in shared) != bias_apart
    for name in shared:
        expected, found = other[name], own[name]
        if name.endswith("mask") or expected.shape != found.shape:
            continue  # theirs is what is added, of another shape
        seen = found.isfinite()
        scale = found[seen].abs().max().clamp(min=1e-3)
        assert (expected[seen] - found[seen]).abs().max() <= 2e-5 * scale, name
