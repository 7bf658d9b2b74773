"""Tapes of a beam search, which goes on from other rows at every step."""

import pytest
import torch
from families import VOCAB, small

from pellucid.errors import UserError
from pellucid.inference.beam import beam_search
from pellucid.inference.decode import Prompt
from pellucid.trace import trace


def text(rows):
    return torch.randint(0, VOCAB, (rows, 3), generator=torch.Generator().manual_seed(5))


def test_keys_whose_rows_a_beam_search_rearranged_are_not_put_together():
    model, name = small("decoder"), "blocks.0.self_attention.k"
    for rows in (1, 2):
        with trace(model, watch="*.context") as tape:
            beam_search(model, Prompt(text(rows)), beams=3, max_new_tokens=4, ends=())
        assert torch.equal(tape.value(f"{name}@0"), tape.value(f"{name}_new@0"))
        told = rf'"{name}@2": was remembered from rows that were rearranged after step 0.*watch="\*\.k"'
        for ask in (
            lambda tape=tape: tape.value(f"{name}@2"),
            lambda tape=tape: tape.explain(f"{name}@2", (1, 0, 0, 0)),
        ):
            with pytest.raises(UserError, match=told):
                ask()
    with trace(model, watch=["*.context", "*.k", "*.v"]) as tape:
        beam_search(model, Prompt(text(1)), beams=3, max_new_tokens=4, ends=())
    assert tape.explain("blocks.0.self_attention.context@2", (2, 0, 0, 3)).error < 1e-6
    with trace(model, watch="*.k") as kept:  # a second text begins anew, and a single beam moves no row
        for _ in range(2):
            beam_search(model, Prompt(text(1)), beams=3, max_new_tokens=4, ends=())
            beam_search(model, Prompt(text(1)), beams=1, max_new_tokens=4, ends=())
    torch.testing.assert_close(kept.recompute(f"{name}@2"), kept[f"{name}@2"], rtol=1e-5, atol=1e-5)
