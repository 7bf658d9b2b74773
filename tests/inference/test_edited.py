"""Writing with edits in force: without any it is greedy; with them what each token's whole pass says."""

import pytest
import torch
from families import VOCAB, small

from pellucid.inference.decode import Prompt, generate
from pellucid.inference.edited import write_edited
from pellucid.trace import Where, edit, scale, swap, trace, zero

writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def prompt(family):
    torch.manual_seed(4)
    source = torch.randint(2, VOCAB, (1, 5)) if family == "encoder_decoder" else None
    return Prompt(torch.randint(2, VOCAB, (1, 4)), source=source)


def own(family, name):
    return f"decoder.{name}" if family == "encoder_decoder" else name


@writers
def test_without_edits_it_is_greedy_writing(family):
    model, start = small(family), prompt(family)
    (greedy,) = generate(model, start, max_new_tokens=8)
    assert list(write_edited(model, start, {}, max_new_tokens=8)) == greedy
    end = greedy[3]
    written = list(write_edited(model, start, {}, max_new_tokens=8, ends=(end,)))
    assert written == greedy[: greedy.index(end) + 1]


@writers
def test_an_edit_of_every_position_is_that_of_cached_writing(family):
    model, start = small(family), prompt(family)
    edits = {
        own(family, "blocks.1.self_attention.context"): zero(Where(heads=[0, 2])),
        own(family, "blocks.0.feed_forward.hidden"): scale(-2.0),
    }
    with edit(model, edits):
        (cached,) = generate(model, start, max_new_tokens=8)
    assert list(write_edited(model, start, edits, max_new_tokens=8)) == cached
    assert cached != generate(model, start, max_new_tokens=8)[0]


@writers
def test_an_edit_of_one_position_is_of_that_position_in_every_pass(family):
    model, start = small(family), prompt(family)
    name = own(family, "blocks.0.residual_post")
    edits = {name: scale(-3.0, Where(positions=[2]))}
    tokens = start.tokens
    for token in write_edited(model, start, edits, max_new_tokens=4):
        inputs = (start.source, tokens) if start.source is not None else (tokens,)
        tape = trace(model, inputs, edits=edits)
        assert int(tape["logits"][0, -1].argmax()) == token
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)


@writers
def test_swapped_words_are_the_words_in_the_other_order(family):
    model, start = small(family), prompt(family)
    swapped = start.tokens.clone()
    swapped[0, [1, 3]] = swapped[0, [3, 1]]
    rest = (start.source,) if start.source is not None else ()
    tape = trace(model, (*rest, start.tokens), edits={own(family, "embedding.tokens"): swap(1, 3)})
    with torch.no_grad():
        torch.testing.assert_close(tape["logits"], model(*rest, swapped), atol=1e-4, rtol=0)
