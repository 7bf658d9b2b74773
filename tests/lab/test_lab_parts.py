"""What the lab is made of: tasks that ask what they say, rivals of one size that see no future, honest verdicts."""

import math

import pytest
import torch

from pellucid.errors import UserError
from pellucid.lab import find
from pellucid.lab.experiments import induction, reversal
from pellucid.lab.fitting import UNASKED, Rows, fit, loss_of, rate, right, size_of
from pellucid.lab.makers import Recurrent, decoder, recurrent_of_size
from pellucid.lab.reading import crossing, reached, spread
from pellucid.lab.tasks import copied, from_places, repeats


def test_a_copy_asks_for_what_stood_before():
    tokens, labels = copied(5, 7, 11)
    assert tokens.shape == labels.shape == (5, 14)
    assert (labels[:, :7] == UNASKED).all()
    assert torch.equal(labels[:, 7:], tokens[:, :7])
    assert (tokens[:, 7] == 0).all()
    assert torch.equal(labels[:, 7:-1], tokens[:, 8:])


def test_repeats_are_known_from_the_first_time():
    tokens, labels = repeats(5, 7, 11)
    assert torch.equal(labels[:, 7:], tokens[:, 1:7])
    assert torch.equal(labels[:, :-1], tokens[:, 1:])


def test_tokens_of_several_places_as_one_number():
    tokens, labels = from_places(3, 12, 5, back=(2, 4))
    assert (labels[:, :4] == UNASKED).all()
    for at in range(4, 12):
        assert torch.equal(labels[:, at], tokens[:, at - 2] * 5 + tokens[:, at - 4])


@pytest.mark.parametrize("looks_back", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_rival_is_as_large_and_sees_no_future(cell, looks_back):
    size = size_of(decoder(16, width=32))
    rival = recurrent_of_size(size, 16, cell, looks_back=looks_back).eval()
    assert size <= size_of(rival) < 1.05 * size
    tokens = torch.randint(16, (2, 9))
    whole, part = rival(tokens), rival(tokens[:, :5])
    torch.testing.assert_close(whole[:, :5], part)


def test_looking_back_is_a_weighted_mean_of_states():
    rival = Recurrent(7, 6, "LSTM", looks_back=True)
    tokens = torch.randint(7, (1, 4))
    states, _ = rival.cells(rival.table(tokens))
    seen = []
    for at in range(4):
        past = states[0, : at + 1]
        weights = torch.softmax(past @ rival.compare(states[0, at]), 0)
        seen.append(torch.tanh(rival.combine(torch.cat([states[0, at], weights @ past]))))
    torch.testing.assert_close(rival(tokens)[0], rival.project(torch.stack(seen)))


def test_the_loop_lowers_the_loss_of_what_is_asked():
    torch.manual_seed(0)
    model, rows = decoder(8, width=32), copied(8, 3, 8)
    losses = [loss for _, loss in fit(model, lambda: rows, 150, peak=1e-2, warmup=10)]
    assert losses[-1] < 0.2 * losses[0]
    assert right(model, rows) > 0.9
    asked = rows.labels != UNASKED
    expected = torch.nn.functional.cross_entropy(model(rows.tokens)[asked], rows.labels[asked])
    torch.testing.assert_close(loss_of(model, rows), expected)
    assert right(model, Rows(rows.tokens, rows.labels.masked_fill(asked, 0))) < 0.9


def test_the_rate_rises_and_falls():
    rates = [rate(step, 100, 10) for step in range(1, 101)]
    assert rates[9] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_where_two_curves_cross():
    lengths = [10, 100, 1000]
    assert crossing(lengths, [1, 1, 4], [2, 2, 2]) == pytest.approx(math.sqrt(100 * 1000))
    assert crossing(lengths, [1, 1, 1], [2, 2, 2]) is None
    assert crossing(lengths, [3, 3, 3], [2, 2, 2]) is None


def test_what_came_after_the_same_token_before(monkeypatch):
    monkeypatch.setattr(induction, "LENGTH", 3)
    tokens = torch.tensor([[5, 7, 5, 5, 7, 5]])
    weights = torch.zeros(1, 2, 6, 6)
    # Queries 3, 4, 5 read 5, 7, 5. What came after a 5: places 1, 3 and 4; after a 7: place 2.
    weights[0, 0, 3, 1], weights[0, 0, 4, 2], weights[0, 0, 5, 4] = 1, 1, 1
    weights[0, 1, 3, 0], weights[0, 1, 4, 1], weights[0, 1, 5, 3] = 1, 1, 0.5
    assert induction.matched(weights, tokens) == pytest.approx([1.0, 0.5 / 3])


def test_a_claim_that_does_not_show_is_not_said_to():
    recall = find("recall")
    alike = {"Transformer": [1.0, 0.7], "LSTM": [1.0, 0.7], "GRU": [0.9, 0.5], "LSTM with attention": [1.0, 1.0]}
    result = {"lengths": [4, 8], "right": alike, "parameters": {}}
    assert not recall.judge([result]).shows
    better = {**alike, "Transformer": [1.0, 1.0], "LSTM": [1.0, 0.5]}
    shown = {**result, "right": better}
    assert recall.judge([shown]).shows
    assert "9 tokens back" in recall.judge([shown]).said
    assert not recall.judge([shown, result]).shows  # every seed must


STEPS = {"lengths": [16, 256, 4096]}
REVERSED = {"lengths": list(reversal.LENGTHS)}
OTHERS = {who: [0.5] * 6 for who in reversal.WHO}
VERDICTS = {  # of an experiment, a result by which its claim shows, and results by which it does not
    "steps": (
        {**STEPS, "milliseconds": {"Transformer": [10, 40, 1000], "LSTM": [11, 60, 700]}},
        {**STEPS, "milliseconds": {"Transformer": [10, 40, 1000], "LSTM": [9, 30, 700]}},  # never the faster
        {**STEPS, "milliseconds": {"Transformer": [10, 40, 1000], "LSTM": [11, 60, 1700]}},  # the more so the longer
    ),
    "reversal": (
        {**REVERSED, "right": {**OTHERS, reversal.ROTARY: [1.0, 1.0, 1.0, 0.9, 0.8, 0.5]}},
        {**REVERSED, "right": {**OTHERS, reversal.ROTARY: [0.9, 1.0, 1.0, 0.9, 0.8, 0.5]}},  # not at every length
        {**REVERSED, "right": {**OTHERS, reversal.ROTARY: [1.0] * 6}},  # beyond them too
    ),
    "smoothing": tuple(
        {"found": {"0.0": {"perplexity": 2.0, "bleu": 80.0, "whole": 0.5},
                   "0.1": {"perplexity": perplexity, "bleu": bleu, "whole": 0.5}}, "judged": 10}
        for perplexity, bleu in ((2.1, 81.0), (1.9, 81.0), (2.1, 80.0))
    ),
    "tied": tuple(
        {"losses": {"one table": {"9": one}, "two tables": {"9": 5.0}}, "parameters": {"one table": 1, "two tables": 2}}
        for one in (4.9, 5.1)
    ),
    "images": tuple(
        {"right": {"with positions": {"9": one}, "without": {"9": other}}, "test": 9}
        for one, other in ((0.98, 0.9), (0.96, 0.9), (0.98, 0.99))
    ),
    "mnist": tuple({"right": {"9": share}, "test": 9} for share in (0.98, 0.96)),
    "sounds": tuple(
        {"errors": {"speakers who were heard": {"9": share}, "a speaker who was not": {"9": 0.2}}, "new": "theo",
         "judged": 9}
        for share in (0.02, 0.04)
    ),
    "pictures": tuple(
        {"right": share, "by_digit": [share] * 10, "samples": 9, "reader": 0.98} for share in (0.96, 0.94)
    ),
    "positions": tuple(
        {"lengths": [32, 128], "nats": {"none": [2.5, 2.6], "learned": [learned, 3.0], "sinusoidal": [2.1, 2.9],
                                        "rotary": [2.1, 2.7], "ALiBi": [2.1, alibi], "T5's bias": [2.1, 2.1]}}
        for learned, alibi in ((2.1, 2.1), (2.7, 2.1), (2.1, 2.7))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_follows_what_was_measured(name):
    experiment, (shown, *others) = find(name), VERDICTS[name]
    assert experiment.judge([shown, shown]).shows
    for other in others:
        assert not experiment.judge([other]).shows
        assert not experiment.judge([shown, other]).shows  # every seed must


def test_when_a_value_is_reached():
    assert reached([10, 20, 30], [0.1, 0.6, 0.5], 0.5) == 20
    assert reached([10, 20], [0.1, 0.2], 0.5) is None


def test_a_spread_in_words():
    assert spread([1.0, 2.0, 3.0], ".1f") == "2.0 (1.0 to 3.0)"
    assert spread([2.0, 2.0], ".0f") == "2"


def test_an_experiment_that_does_not_exist():
    with pytest.raises(UserError, match="recall"):
        find("recal")
