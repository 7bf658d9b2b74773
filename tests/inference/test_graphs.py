"""Steps in fixed shapes say what the engine says, and depend on nothing that a recording would leave behind."""

import gc
import weakref

import pytest
import torch
from families import CHOICES, VOCAB, small
from torch.fx.experimental.proxy_tensor import make_fx
from writing import PROMPTS, near, texts

from pellucid.inference.engine import Engine
from pellucid.inference.engine.graphs import Recorder
from pellucid.inference.writer import vacate


@pytest.fixture(autouse=True)
def poison():
    """What was never written is NaN, so that it shows where it is read."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.inference_mode():
        yield
    torch.use_deterministic_algorithms(False)


def traced(step):
    """Records operations on the buffers and the rooms; all else is baked in, as in a CUDA graph."""

    def run(tokens, places, *rooms):
        step.tokens, step.places = tokens, places
        step.rooms = list(zip(rooms[::2], rooms[1::2], strict=True))
        return step()

    held = (step.tokens, step.places, *(room for pair in step.rooms for room in pair))
    graph = make_fx(run)(*held)
    step.tokens, step.places = held[:2]
    return lambda: graph(*held)


def recording(model, record=traced, after=0):
    """An engine whose steps are recorded, and what was."""
    engine, steps = Engine(model), []

    def noting(step):
        steps.append(step)
        return record(step)

    engine.recorder = Recorder(engine, noting)
    engine.recorder.AFTER = after
    return engine, steps


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_a_recording_says_what_the_engine_says(family, choice):
    model = small(family, **CHOICES[choice])
    plain, (engine, steps) = Engine(model), recording(model)
    (_, slow), (_, fast) = plain.prefill(*texts(family)), engine.prefill(*texts(family))

    def both(tokens):
        near(engine.extend(tokens, fast), plain.extend(tokens, slow))
        assert fast.lengths == slow.lengths

    for start in range(3):
        both(torch.arange(start, start + 4)[:, None])
    assert len(steps) == 1
    for rows in (slow, fast):
        vacate(rows, {1})
    both(torch.tensor([[11], [12], [13]]))
    assert len(steps) == (1 if family == "decoder" else 2)  # a source is copied when rows leave
    both(torch.tensor([[1, 2], [3, 4], [5, 6]]))  # more than one token: not from a recording
    for rows in (slow, fast):
        rows.crop([7, 5, 8])
    both(torch.tensor([[2], [3], [4]]))
    for writer, rows in ((plain, slow), (engine, fast)):
        rows.join(writer.prefill(*texts(family, [1]))[1])
    for start in range(3):
        both(torch.arange(start, start + 4)[:, None])
    assert len(steps) == (1 if family == "decoder" else 3)
    for rows in (slow, fast):
        rows.select([2, 0, 2])
    both(torch.tensor([[20], [21], [22]]))
    assert len(steps) == (2 if family == "decoder" else 4)


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_room_grows(family):
    model = small(family, **CHOICES["rotary"])
    plain, (engine, steps) = Engine(model), recording(model, record=lambda step: step)
    prompts, sources = [[3 + i % (VOCAB - 3) for i in range(125)], [4, 5]], texts(family, [0, 1])[1]
    (_, slow), (_, fast) = plain.prefill(prompts, sources), engine.prefill(prompts, sources)
    for start in range(8):
        tokens = torch.tensor([[start], [start + 1]])
        near(engine.extend(tokens, fast), plain.extend(tokens, slow))
    assert [step.slots.size(1) for step in steps] == [128, 256]


def test_only_what_is_done_again_is_recorded():
    model = small("decoder")
    engine, steps = recording(model, record=lambda step: step, after=3)
    _, rows = engine.prefill(PROMPTS[:2])
    for taken in range(6):
        engine.extend(torch.tensor([[1], [2]]), rows)
        assert len(steps) == (taken >= 3)


def test_a_step_that_cannot_be_recorded_is_taken_all_the_same():
    def fails(step):
        raise RuntimeError("no capture")

    model = small("decoder")
    plain, (engine, _) = Engine(model), recording(model, record=fails)
    (_, slow), (_, fast) = plain.prefill(PROMPTS[:2]), engine.prefill(PROMPTS[:2])
    tokens = torch.tensor([[1], [2]])
    with pytest.warns(UserWarning, match="could not be recorded: no capture"):
        near(engine.extend(tokens, fast), plain.extend(tokens, slow))
    near(engine.extend(tokens, fast), plain.extend(tokens, slow))


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_memory_ends_with_its_texts(family):
    engine, steps = recording(small(family), record=lambda step: step)
    _, rows = engine.prefill(*texts(family))
    engine.extend(torch.ones(4, 1, dtype=torch.long), rows)
    assert len(steps) == 1
    steps.clear()
    gone = weakref.ref(rows)
    del rows
    gc.collect()
    assert gone() is None
    assert not engine.recorder.known
