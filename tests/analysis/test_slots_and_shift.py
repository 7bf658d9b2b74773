"""What a cache holds, and how far a pass is from another."""

import pytest
import torch
from families import VOCAB, small

from pellucid.analysis.shift import shift
from pellucid.analysis.slots import kept_in, slots_of
from pellucid.analysis.streams import streams_of
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, prefill, step
from pellucid.trace import Where, add, trace


@pytest.fixture
def tokens():
    torch.manual_seed(5)
    return torch.randint(2, VOCAB, (1, 7))


@torch.inference_mode()
def test_a_cache_holds_every_position_of_each_layer(tokens):
    model = small("decoder")
    _, state = prefill(model, Prompt(tokens[:, :5]), 4)
    step(state, tokens[:, 5])
    for layer in slots_of(state.cache):
        assert (layer.positions, layer.dropped) == ((0, 1, 2, 3, 4, 5), 0)
        assert (layer.slots, layer.window, layer.source) == (9, None, None)
        assert layer.nbytes == 2 * 6 * 4 * 8 * 4  # keys and values, positions, heads, coordinates, bytes
    keys = trace(model, tokens[:, :6])["blocks.1.self_attention.k"][0]
    assert torch.allclose(kept_in(state.cache, 1, "keys"), keys, atol=1e-5)


@torch.inference_mode()
def test_a_window_lets_go_of_what_is_behind_it(tokens):
    model = small("decoder", windows=(3, 0), positions=parts.Rotary())
    _, state = prefill(model, Prompt(tokens[:, :4]), 4)
    step(state, tokens[:, 4])
    near, far = slots_of(state.cache)
    assert (near.window, near.slots, near.dropped) == (3, 3, 2)
    assert near.positions == (3, 4, 2)  # a ring: position 4 took the place of position 1
    assert (far.window, far.positions, far.dropped) == (None, (0, 1, 2, 3, 4), 0)


@torch.inference_mode()
def test_cross_attention_keeps_the_source(tokens):
    model = small("encoder_decoder")
    _, state = prefill(model, Prompt(tokens[:, :2], source=tokens), 4)
    layer = slots_of(state.cache)[0]
    assert (layer.source, layer.positions) == (7, (0, 1))
    keys = trace(model, (tokens, tokens[:, :2]))["decoder.blocks.0.cross_attention.k"][0]
    assert torch.allclose(kept_in(state.cache, 0, "source_keys"), keys, atol=1e-5)
    with pytest.raises(UserError, match="0 to 1"):
        kept_in(state.cache, 2, "keys")


def test_a_decoder_keeps_no_source(tokens):
    with torch.inference_mode():
        _, state = prefill(small("decoder"), Prompt(tokens), 1)
        with pytest.raises(UserError, match="reads no source"):
            kept_in(state.cache, 0, "source_keys")


def test_shift_is_relative_and_begins_where_the_edit_is(tokens):
    model = small("decoder")
    (stream,) = streams_of(model)
    plain = trace(model, tokens).tensors
    changed = trace(model, tokens, edits={"blocks.0.residual_post": add(1.0, Where(positions=[3]))}).tensors
    found = shift(changed, plain, stream.states())
    assert found.shape == (3, 7)
    assert not found[0].any()  # before the edit
    assert not found[:, :3].any()  # in the past of a causal model
    length = plain["blocks.0.residual_post"][0, 3].norm()
    assert found[1, 3].item() == pytest.approx(32**0.5 / length.item(), rel=1e-5)
    assert found[2, 3:].all()


def test_shift_wants_passes_of_one_length_and_depth(tokens):
    model = small("decoder")
    (stream,) = streams_of(model)
    with pytest.raises(UserError, match="of shape"):
        shift(trace(model, tokens).tensors, trace(model, tokens[:, 1:]).tensors, stream.states())
    deeper = small("decoder", num_layers=3)
    (longer,) = streams_of(deeper)
    with pytest.raises(UserError, match=r'"blocks.2.residual_post": was not recorded'):
        shift(trace(deeper, tokens).tensors, trace(model, tokens).tensors, longer.states())
