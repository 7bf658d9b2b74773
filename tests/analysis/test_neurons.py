"""Top activations over a stream of batches are those of the whole corpus at once."""

import pytest
import torch
from families import FAMILIES, run, small

from pellucid.analysis.neurons import Passage, top_activations
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.trace import Tapped, trace


class Values(Tapped):
    """A layer whose activations are what it is given."""

    def forward(self, values):
        return self.tap("hidden", values)


def corpus(model, sizes=((3, 5), (2, 8), (4, 6))):
    """Batches of texts of several lengths, padded on the right."""
    for rows, length in sizes:
        tokens = torch.randint(0, 61, (rows, length))
        keep = torch.arange(length) < torch.randint(2, length + 1, (rows, 1))
        yield Passage(lambda tokens=tokens, keep=keep: run(model, tokens, keep=keep), tokens, keep)


def test_by_hand():
    model = Values()
    batches = [
        torch.tensor([[[1.0, 0.0], [5.0, 0.0]]]),
        torch.tensor([[[3.0, 2.0], [9.0, 1.0]], [[4.0, -1.0], [2.0, 0.0]]]),
    ]
    tokens = [torch.tensor([[10, 11]]), torch.tensor([[12, 13], [14, 15]])]
    keeps = [None, torch.tensor([[True, False], [True, True]])]
    passages = [Passage(lambda b=b: model(b), t, k) for b, t, k in zip(batches, tokens, keeps, strict=True)]
    found = top_activations(model, passages, {"hidden": [1, 0]}, best=3)["hidden"]
    assert found.units == (1, 0)
    assert found.values.tolist() == [[2.0, 0.0, 0.0], [5.0, 4.0, 3.0]]
    assert found.tokens.tolist() == [[12, 10, 11], [11, 14, 12]]
    assert found.rows.tolist() == [[1, 0, 0], [0, 2, 1]]
    assert found.positions.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_is_the_corpus_at_once(family):
    model = small(family, feed_forward=parts.FeedForward(d_ff=48, activation="gelu"))  # a relu has ties at zero
    prefix = "decoder." if family == "encoder_decoder" else ""
    name, units = f"{prefix}blocks.1.feed_forward.hidden", [40, 3, 17]
    passages = list(corpus(model))
    found = top_activations(model, iter(passages), {name: units, f"{prefix}blocks.0.feed_forward.pre": [0]}, best=6)

    everything, row = [], 0
    for passage in passages:
        with torch.no_grad(), trace(model, watch=name) as tape:
            passage.run()
        for b, t in passage.keep.nonzero().tolist():
            everything.append((tape[name][b, t], passage.tokens[b, t].item(), row + b, t))
        row += len(passage.tokens)
    for i, unit in enumerate(units):
        best = sorted(everything, key=lambda entry: -entry[0][unit].item())[:6]
        assert torch.allclose(found[name].values[i], torch.stack([entry[0][unit] for entry in best]))
        place = (part[i].tolist() for part in (found[name].tokens, found[name].rows, found[name].positions))
        assert list(zip(*place, strict=True)) == [tuple(where) for _, *where in best]
    assert list(found) == [name, f"{prefix}blocks.0.feed_forward.pre"]


def test_a_corpus_that_is_too_short():
    model = Values()
    passage = Passage(
        lambda: model(torch.tensor([[[2.0], [7.0]]])), torch.tensor([[5, 6]]), torch.tensor([[True, False]])
    )
    found = top_activations(model, [passage], {"hidden": [0]}, best=3)["hidden"]
    assert found.values.tolist() == [[2.0, -torch.inf, -torch.inf]]
    assert found.tokens.tolist() == [[5, -1, -1]]
    assert found.rows.tolist() == [[0, -1, -1]]
    assert found.positions.tolist() == [[0, -1, -1]]


def test_only_one_batch_is_held_at_a_time():
    model, held = Values(), []

    def passages():
        for _ in range(5):
            held.append(1)
            yield Passage(lambda: held.pop() and model(torch.randn(1, 4, 2)), torch.zeros(1, 4, dtype=torch.long))
            assert not held  # each was run before the next was asked for

    assert top_activations(model, passages(), {"hidden": [0]}, best=20)["hidden"].values.isfinite().all()


def test_what_does_not_fit_is_told():
    model = small("decoder")
    name = "blocks.0.feed_forward.hidden"
    with pytest.raises(UserError, match=f'"{name}": no unit 48; expected 0 to 47'):
        top_activations(model, corpus(model), {name: [48]})
    with pytest.raises(UserError, match="was not recorded"):
        top_activations(model, corpus(model), {"blocks.0.feed_forward.hiden": [0]})
    passage = Passage(lambda: model(torch.zeros(2, 3, dtype=torch.long)), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(UserError, match=r"\(2, 3\) for both"):
        top_activations(model, [passage], {name: [0]})
