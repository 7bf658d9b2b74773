"""The engine writes what the model itself writes, whatever parts it is made of, and however rows come and go."""

import pytest
import torch
from families import CHOICES, VOCAB, small
from writing import near, texts

import pellucid as pl
from pellucid.errors import UserError
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.batches import padded
from pellucid.inference.decode import generations
from pellucid.inference.engine import Engine
from pellucid.inference.engine.head import chosen_products, copied_products
from pellucid.inference.engine.looking import softmax_
from pellucid.inference.engine.products import (
    BFLOAT16,
    BFLOAT16_WIDENED,
    CACHE,
    FEW,
    STEPS,
    TINY,
    Products,
    in_steps,
    largest,
    usual,
    ways_for,
)
from pellucid.inference.highest import highest
from pellucid.inference.rules import LogitBias, NoRepeat
from pellucid.inference.sampling import Never, Sampling
from pellucid.inference.writer import Plain, filled, vacate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def poison():
    """What was never written is NaN, so that it shows where it is read."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def prompt_of(prompts, sources=None):
    source, source_keep = (None, None) if sources is None else padded(sources, 0, CPU)
    return pl.Prompt(*padded(prompts, 0, CPU), source, source_keep)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rows_come_and_go_as_with_the_model_itself(family, choice):
    model = small(family, **CHOICES[choice])
    plain, engine = Plain(model), Engine(model)
    (expected, slow), (found, fast) = plain.prefill(*texts(family)), engine.prefill(*texts(family))
    near(found, expected)

    def both(tokens):
        near(engine.extend(tokens, fast), plain.extend(tokens, slow))
        assert fast.lengths == slow.lengths

    both(torch.tensor([[1], [2], [3], [4]]))
    both(torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]]))
    for rows in (slow, fast):
        rows.select([2, 0, 2])
    both(torch.tensor([[20], [21], [22]]))
    for writer, rows in ((plain, slow), (engine, fast)):
        rows.join(writer.prefill(*texts(family, [1, 3]))[1])
    both(torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]))
    for rows in (slow, fast):
        rows.crop([9, 4, 8, 2, 5])
    both(torch.tensor([[11], [12], [13], [14], [15]]))
    assert vacate(slow, {0, 3}) == vacate(fast, {0, 3}) == [4, 1, 2]
    both(torch.tensor([[16], [17], [18]]))
    room = fast.keys[0]
    for rows in ([0], [2], [1, 3]):  # the first two take the places of those that left
        for writer, all_rows in ((plain, slow), (engine, fast)):
            all_rows.join(writer.prefill(*texts(family, rows))[1])
        both(torch.tensor([[5 + row] for row in range(len(fast.lengths))]))
        assert (fast.keys[0] is room) == (len(fast.lengths) <= len(room))


def test_rows_that_were_just_read_leave():
    plain, engine = (writer(small("decoder")) for writer in (Plain, Engine))
    slow, fast = (writer.prefill(*texts("decoder"))[1] for writer in (plain, engine))
    assert vacate(slow, {0}) == vacate(fast, {0}) == [3, 1, 2]
    tokens = torch.tensor([[1], [2], [3]])
    near(engine.extend(tokens, fast), plain.extend(tokens, slow))


def test_the_last_rows_take_the_places_of_those_that_leave():
    assert filled(5, {0, 3}) == [4, 1, 2]
    assert filled(5, {4, 3}) == [0, 1, 2]
    assert filled(4, {0, 1, 2, 3}) == []
    assert filled(3, ()) == [0, 1, 2]


@pytest.mark.parametrize("choice", ["plain", "rotary", "alibi", "grouped", "window"])
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_greedy_tokens_are_those_of_the_model(family, choice):
    model = small(family, **CHOICES[choice])
    prompts, sources = texts(family)
    found = pl.generate(model, prompt_of(prompts, sources), max_new_tokens=12, ends=(3, 7), writer=Engine(model))
    for row, prompt in enumerate(prompts):
        source = None if sources is None else torch.tensor([sources[row]])
        alone = pl.Prompt(torch.tensor([prompt]), source=source)
        assert found[row] == pl.generate(model, alone, max_new_tokens=12, ends=(3, 7))[0]


class Counting(Engine):
    """Remembers how many rows each step was taken for."""

    def __init__(self, model):
        super().__init__(model)
        self.counts = []

    def extend(self, tokens, rows):
        self.counts.append(len(tokens))
        return super().extend(tokens, rows)


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rows_that_are_over_leave_the_batch_and_their_likelihoods_stay_theirs(family):
    model, prompt = small(family), prompt_of(*texts(family))
    asked = {"max_new_tokens": 9, "logprobs": 2, "stops": [lambda text, n=n: len(text) == n for n in (2, 1, 9, 5)]}
    writer = Counting(model)
    found, expected = (generations(model, prompt, **asked, writer=each) for each in (writer, None))
    assert writer.counts == [3, 2, 2, 2, 1, 1, 1, 1]
    assert [(one.tokens, one.reason) for one in found] == [(one.tokens, one.reason) for one in expected]
    assert [one.reason for one in found] == ["stop"] * 4
    for ours, theirs in zip(found, expected, strict=True):
        assert [each.logprob for each in ours.likelihoods] == pytest.approx(
            [e.logprob for e in theirs.likelihoods], abs=1e-4
        )


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rows_that_are_drawn_stay_so_that_each_draws_the_same(family):
    model, prompt = small(family), prompt_of(*texts(family))
    asked = {
        "max_new_tokens": 4,
        "sampling": Sampling(seed=3),
        "stops": [lambda text, n=n: len(text) == n for n in (1, 1, 1, 4)],
    }
    writer = Counting(model)
    assert pl.generate(model, prompt, **asked, writer=writer) == pl.generate(model, prompt, **asked)
    assert writer.counts == [4, 4, 4]


@pytest.mark.parametrize("weights", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rounded_weights_give_nearly_the_same(family, weights):
    model = small(family)
    exact, _ = Engine(model).prefill(*texts(family))
    found, _ = Engine(model, weights).prefill(*texts(family))
    away = (found - exact).norm() / exact.norm()
    assert 0 < away < 0.05


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_a_row_in_whole_steps_does_not_depend_on_its_neighbours(family):
    model = small(family)
    asked = {"max_new_tokens": 10, "writer": Engine(model, "int8")}
    together = pl.generate(model, prompt_of(*texts(family)), **asked)
    assert together == [pl.generate(model, prompt_of(*texts(family, [row])), **asked)[0] for row in range(4)]


@pytest.mark.parametrize("bias", [False, True])
def test_every_kernel_for_whole_numbers_gives_the_same_bits(bias):
    torch.manual_seed(0)
    x, weight = torch.randn(9, 48) * torch.logspace(-3, 3, 9)[:, None], torch.randn(32, 48)
    x[3], weight[5] = 0, 0
    given = torch.randn(32) if bias else None
    plain, *others = [way.multiply(x, way.pack(weight), given) for way in ways_for("int8", torch.device("cpu"))]
    assert all(torch.equal(other, plain) for other in others)
    exact = torch.nn.functional.linear(x, weight, given)
    rounding = x.abs().amax(1, keepdim=True) * weight.abs().amax(1) * 48 / 127
    assert ((plain - exact).abs() <= rounding + 1e-6).all()
    for way in ways_for("int8", torch.device("cpu")):
        alone = [way.multiply(row[None], way.pack(weight), given) for row in x]
        assert torch.equal(torch.cat(alone), plain)


def test_a_row_alone_is_cut_into_the_steps_that_it_has_among_others():
    torch.manual_seed(0)
    x = torch.randn(2000, 16) * torch.logspace(-32, 32, 2000)[:, None]
    x[7] = 0
    steps = in_steps(x, largest(x))
    assert torch.equal(torch.cat([in_steps(row[None], largest(row[None])) for row in x]), steps)
    assert (steps[7] == 0).all()
    assert (steps[largest(x)[:, 0] > TINY].abs().amax(1) == STEPS).all()


def test_bfloat16_without_instructions_for_it():
    x, weight, bias = torch.randn(5, 40), torch.randn(24, 40), torch.randn(24)
    plain, *others = [way.multiply(x, way.pack(weight), bias) for way in (BFLOAT16, *BFLOAT16_WIDENED)]
    for other in others:
        torch.testing.assert_close(other, plain, atol=0.05, rtol=0.01)
        torch.testing.assert_close(other, others[0])


def test_float16_rounds_the_weights_alone():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 40), torch.randn(24, 40), torch.randn(24)
    weight[3, 7], weight[4, 9] = 1e6, -1e6  # beyond its range
    rounded = weight.clamp(-65504, 65504).half().float()
    for way in ways_for("float16", torch.device("cpu")):
        torch.testing.assert_close(
            way.multiply(x, way.pack(weight), bias), torch.nn.functional.linear(x, rounded, bias)
        )
    with pytest.raises(UserError, match="float16 on cuda; expected float32 or bfloat16 there"):
        ways_for("float16", torch.device("cuda"))


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16", "int8"])
def test_a_product_of_any_number_of_rows_is_that_of_its_rows(weights):
    weight, bias = torch.randn(24, 32), torch.randn(24)
    product = Products(weights, torch.device("cpu")).of(weight, bias)
    close = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 0.01, "int8": 0.02}[weights]
    for rows in (1, 16, 17, 31, 33, 100, 130):
        x = torch.randn(rows, 32)
        exact = torch.nn.functional.linear(x, weight, bias)
        found = product(x)
        assert found.shape == exact.shape
        assert (found - exact).norm() <= close * exact.norm()


def test_few_numbers_of_rows_are_usual():
    assert [usual(rows) for rows in (1, 16, 17, 31, 33, 64, 65, 257)] == [1, 16, 18, 32, 36, 64, 72, 272]
    assert all(rows <= usual(rows) <= 1.125 * rows for rows in range(1, 2000))
    assert all(usual(rows) <= 1.0625 * rows for rows in range(257, 2000))
    assert len({usual(rows) for rows in range(17, 2049)}) == 8 * 4 + 16 * 3


@pytest.mark.parametrize("rows", [1, FEW, FEW + 1])
def test_the_largest_entry_of_a_row_has_no_sign(rows):
    x = torch.randn(rows, 40)
    x[0] = 0
    assert torch.equal(largest(x), x.abs().amax(dim=1, keepdim=True))


def test_kernels_are_measured_from_where_a_step_finds_its_weights():
    weight, cpu = torch.randn(2000, 500), torch.device("cpu")
    assert Products("float32", cpu, read=CACHE // 8)._copies(weight) == 1
    many = Products("float32", cpu, read=CACHE)._copies(weight)
    assert many * weight.numel() * 4 >= CACHE
    assert Products("int8", cpu, read=CACHE)._copies(weight) == 1  # as many bytes stay in a cache


def test_chosen_products_are_those_of_copied_rows():
    x, weight = torch.randn(5, 16), torch.randn(70, 16)
    rows = torch.stack([torch.randperm(70)[:7] for _ in range(5)])
    near(chosen_products(x, weight, rows), copied_products(x, weight, rows))
    near(chosen_products(x, weight, rows), (x @ weight.t()).gather(1, rows))


@pytest.mark.parametrize("count", [1, 5, 15, 16, 17])
def test_a_softmax_that_is_filled_up_is_the_same(count):
    scores = torch.randn(2, 3, 4, count)
    scores[0, :, :, 0] = -torch.inf if count > 1 else 0.0
    near(softmax_(scores.clone()), scores.softmax(dim=-1))


def test_it_steps_aside_for_a_trace():
    model = small("decoder")
    prompt, engine = prompt_of([[5, 6, 7]]), Engine(model)
    with pl.trace(model, watch="logits") as tape, pytest.warns(UserWarning, match="steps aside"):
        found = pl.generate(model, prompt, max_new_tokens=3, writer=engine)
    assert "logits" in tape.names
    assert found == pl.generate(model, prompt, max_new_tokens=3, writer=engine)


def test_a_text_ends_where_the_positions_do():
    model = small("decoder", **CHOICES["learned"])
    (written,) = pl.generate(model, prompt_of([list(range(1, 31))]), max_new_tokens=100, writer=Engine(model))
    assert len(written) == 11
    with pytest.raises(UserError, match="41 tokens"):
        Engine(model).prefill([[1] * 41])


def test_the_likeliest_are_found_block_by_block():
    scores = torch.randn(5, 64 * 40 + 7, generator=torch.Generator().manual_seed(0))
    expected = scores.topk(32).indices.sort().values
    assert torch.equal(highest(scores, 32).sort().values, expected)
    few = scores[:, :5]
    assert torch.equal(highest(few, 32).sort().values, torch.arange(5).expand(5, -1))


@pytest.mark.parametrize("choice", ["plain", "rotary", "alibi", "relative-bias", "grouped", "window", "softcap"])
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_beams_find_the_texts_of_the_plain_search(family, choice):
    model = small(family, **CHOICES[choice])
    prompts, sources = texts(family)
    for beams, penalty in ((1, pl.Wu(0.6)), (3, pl.Wu(0.6)), (4, pl.Power(1.0))):
        asked = {"beams": beams, "max_new_tokens": 9, "ends": (3, 7), "penalty": penalty}
        found = pl.beam_search(model, prompt_of(prompts, sources), **asked, writer=Engine(model))
        for row, prompt in enumerate(prompts):
            source = None if sources is None else torch.tensor([sources[row]])
            alone = pl.Prompt(torch.tensor([prompt]), source=source)
            (best,) = pl.beam_search(model, alone, **asked)
            assert [h.tokens for h in found[row]] == [h.tokens for h in best]
            assert [h.score for h in found[row]] == pytest.approx([h.score for h in best], abs=1e-4)


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rules_hold_in_rows_and_beams(family):
    model = small(family)
    prompts, sources = texts(family)
    rules = (NoRepeat(2), Never((11,)), LogitBias(((7, 2.0),)))
    together, writer = prompt_of(prompts, sources), Engine(model)
    written = {"max_new_tokens": 9, "ends": (3, 7), "sampling": Sampling(rules)}
    greedy = pl.generate(model, together, **written, writer=writer)
    search = {"beams": 3, "max_new_tokens": 9, "ends": (3, 7), "filters": rules}
    beams = pl.beam_search(model, together, **search, writer=writer)
    for row, prompt in enumerate(prompts):
        source = None if sources is None else torch.tensor([sources[row]])
        alone = pl.Prompt(torch.tensor([prompt]), source=source)
        assert greedy[row] == pl.generate(model, alone, **written)[0]
        (best,) = pl.beam_search(model, alone, **search)
        assert [h.tokens for h in beams[row]] == [h.tokens for h in best]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_loaded_model_made_fast_translates_as_before(beams):
    run = pl.load(SHIPPED)
    texts = ["3 March 2021", "vendredi 13 mars 2071", "the fourth of july 1999"]
    assert pl.translate(pl.fast(run), texts, beams=beams) == pl.translate(run, texts, beams=beams)


def test_a_row_without_a_way_on_ends_with_what_it_has():
    model, sampling = small("decoder"), Sampling([Never(tuple(range(VOCAB)))])
    prompt = prompt_of([[5, 6], [7]])
    assert pl.generate(model, prompt, max_new_tokens=5, sampling=sampling, writer=Engine(model)) == [[], []]
