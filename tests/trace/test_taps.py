"""Names, watching and editing, idle or attached."""

import gc
import weakref

import pytest
import torch
from families import FAMILIES, run, small
from torch import nn

from pellucid.trace import Tapped, trace

SOURCE = ("k_projected", "k_new", "v_new")
READING = ("k", "v", "mask", "scores", "weights", "context", "out")
BLOCK = [
    "residual_pre",
    "self_attention_residual.before.out",
    *(f"self_attention.{name}" for name in (*SOURCE, "q_projected", "q", *READING)),
    "self_attention_residual.sum",
    "residual_mid",
]
CROSS = [
    "cross_attention_residual.before.out",
    *(f"cross_attention.{name}" for name in (*SOURCE, "q_projected", "q", *READING)),
    "cross_attention_residual.sum",
    "residual_cross",
]
FEED = [
    "feed_forward_residual.before.out",
    "feed_forward.pre",
    "feed_forward.hidden",
    "feed_forward.out",
    "feed_forward_residual.sum",
    "residual_post",
]
FRONT = ["embedding.tokens", "embedding.positions", "embedding.out"]


def tower(prefix="", cross=()):
    names = [*FRONT, *(f"blocks.{i}.{name}" for i in range(2) for name in (*BLOCK, *cross, *FEED)), "final_norm.out"]
    return [prefix + name for name in names]


GOLDEN = {
    "encoder": [*tower(), "head.dense", "head.activated", "head.norm.out", "head.projected", "logits"],
    "decoder": [*tower(), "head.projected", "logits"],
    "encoder_decoder": [*tower("encoder."), *tower("decoder.", CROSS), "head.projected", "logits"],
}


def tokens():
    return torch.randint(0, 61, (2, 9))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_are_public(family):
    with trace(small(family)) as tape:
        run(small(family), tokens())
        assert len(tape) == 0  # another model's tensors are not ours
    model = small(family)
    with torch.no_grad(), trace(model) as tape:
        run(model, tokens())
    assert list(tape) == GOLDEN[family]
    with trace(model) as tape:
        run(model, tokens())  # where gradients are wanted, the source is projected for all layers at once
    assert set(tape) == set(GOLDEN[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_reaches_the_output_and_leaves_nothing_behind(family):
    model, text = small(family), tokens()
    before = run(model, text)
    with trace(model, watch="logits", edits={"*blocks.1.self_attention.weights": lambda w: w.flip(1)}) as tape:
        edited = run(model, text)
    assert list(tape) == ["logits"]
    assert not torch.allclose(edited, before)
    assert torch.equal(run(model, text), before)


def test_an_error_inside_detaches_too():
    model = small("decoder")
    with pytest.raises(KeyError), trace(model):
        raise KeyError
    assert all(module._tape is None for module in model.modules() if isinstance(module, Tapped))
    with trace(model), pytest.raises(RuntimeError, match="already"), trace(model):
        pass
    with trace(model) as tape:
        model(tokens())
    assert "logits" in tape


def test_watching_the_residual_stream_keeps_the_fused_kernel():
    model, text = small("decoder"), tokens()
    with trace(model, watch="blocks.*.residual_post") as tape:
        traced = model(text)
    assert torch.equal(traced, model(text))
    assert len(tape) == 2


def test_copies_in_main_memory_stay_as_they_were():
    model = small("decoder")
    with torch.no_grad(), trace(model, watch="logits", keep="cpu") as tape:
        logits = model(tokens())
    before = logits.clone()
    logits.zero_()
    assert torch.equal(tape["logits"], before)


def test_gradients_reach_the_weights():
    model = small("decoder")
    with trace(model) as tape:
        loss = model(tokens()).logsumexp(-1).sum()
        (grad,) = torch.autograd.grad(loss, [tape["blocks.1.self_attention.weights"]])
    assert grad.abs().sum() > 0


def test_a_tape_of_gradients_goes_when_nobody_holds_it():
    """All that a pass kept would else wait for a collection."""
    model, text = small("decoder"), tokens()
    gc.collect()
    gc.disable()
    try:
        tape = trace(model, text, grads=True)
        tape["logits"].sum().backward()
        assert "blocks.0.residual_mid" in tape.gradients
        gone = [weakref.ref(tape), weakref.ref(tape["blocks.0.residual_mid"])]
        del tape
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_a_layer_used_twice_has_two_names():
    model, text = small("decoder"), tokens()
    model.blocks[1] = model.blocks[0]
    before = model(text)
    with trace(model, edits={"blocks.1.feed_forward.out": lambda x: x * 0}) as tape:
        edited = model(text)
    assert [name for name in tape if name.endswith("residual_post")] == [f"blocks.{i}.residual_post" for i in (0, 1)]
    assert torch.equal(tape["blocks.1.residual_post"], tape["blocks.1.residual_mid"])
    assert not torch.equal(tape["blocks.0.residual_post"], tape["blocks.0.residual_mid"])
    assert not torch.allclose(edited, before)
    assert model.blocks[1] is model.blocks[0]
    assert torch.equal(model(text), before)


@pytest.mark.compiles
def test_wrappers_leave_no_mark_on_names():
    model, text = small("decoder"), tokens()
    with trace(nn.DataParallel(model)) as tape:
        model(text)
    assert list(tape) == GOLDEN["decoder"]
    with trace(torch.compile(model, backend="eager")) as tape:
        model(text)
    assert list(tape) == GOLDEN["decoder"]


def test_a_step_is_part_of_the_name():
    model, text = small("decoder"), tokens()
    cache = model.new_cache(2, 9)
    with trace(model, watch=["*.weights@1", "logits"]) as tape:
        for step in range(3):
            model.mark_step(step)
            model(text[:, step : step + 1], cache=cache)
    names = [
        "logits@0",
        "blocks.0.self_attention.weights@1",
        "blocks.1.self_attention.weights@1",
        "logits@1",
        "logits@2",
    ]
    assert list(tape) == names
    assert tape["blocks.0.self_attention.weights@1"].shape == (2, 4, 1, 2)


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_is_one_graph_and_still_traceable(family):
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    model, text = small(family), tokens()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        plain = run_compiled(compiled, model, text)
        with trace(compiled) as tape:
            run_compiled(compiled, model, text)
        assert torch.equal(run_compiled(compiled, model, text), plain)
    assert list(tape) == GOLDEN[family]
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 1  # attaching and detaching recompiles nothing


def run_compiled(compiled, model, text):
    return compiled(text.flip(1), text) if type(model).__name__ == "EncoderDecoder" else compiled(text)


def test_traces_that_overlap_leave_the_compiler_as_they_found_it():
    """Two threads of a server end in the order in which they began, not in the opposite one."""
    compiled_by = []
    one, two = trace(small("decoder")), trace(small("encoder"))
    one.__enter__(), two.__enter__()
    one.__exit__(None, None, None), two.__exit__(None, None, None)
    twice = torch.compile(lambda x: 2 * x, backend=lambda graph, _: compiled_by.append(graph) or graph.forward)
    assert twice(torch.ones(1)) == 2
    assert len(compiled_by) == 1
