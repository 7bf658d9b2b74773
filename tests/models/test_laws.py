"""What must hold for every family and every choice of part."""

import pytest
import torch
from families import CHOICES, FAMILIES, VOCAB, run, small

from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.nn.masks import PADDING, Sites
from pellucid.trace import trace

close = {"atol": 3e-5, "rtol": 1e-4}
every_part = pytest.mark.parametrize("choice", CHOICES)
every_family = pytest.mark.parametrize("family", FAMILIES)
writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def tokens(batch=3, length=11, seed=0):
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


class Writer:
    """A model with a cache, whichever family it is of."""

    def __init__(self, model, batch, capacity, source=None, source_keep=None):
        self.model, self.extra = model, ()
        if isinstance(model, EncoderDecoder):
            encoded = model.encode(tokens(batch, 7, seed=9) if source is None else source, keep=source_keep)
            self.extra, self.cache = (encoded,), model.new_cache(encoded, capacity)
            self.decode = model.decode
        else:
            self.cache, self.decode = model.new_cache(batch, capacity), model

    def __call__(self, tokens, **arguments):
        return self.decode(tokens, *self.extra, cache=self.cache, **arguments)

    def whole(self, tokens, **arguments):
        return self.decode(tokens, *self.extra, **arguments)

    def select(self, rows):
        self.cache.select(rows)
        self.extra = tuple(encoded.select(rows) for encoded in self.extra)


@every_part
@writers
@torch.no_grad()
def test_cached_equals_one_pass(family, choice):
    model, text = small(family, **CHOICES[choice]), tokens()
    for chunks in ([11], [1] * 11, [5, 1, 1, 4], [2, 6, 3]):
        writer = Writer(model, 3, 11)
        parts = [writer(part) for part in text.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), writer.whole(text), **close)


@every_part
@every_family
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(family, choice):
    model, text = small(family, **CHOICES[choice]), tokens()
    plain = run(model, text)
    for before, after in ((0, 3), (3, 0), (2, 1)):
        junk = tokens(3, before + after, seed=5)
        padded = torch.cat([junk[:, :before], text, junk[:, before:]], 1)
        keep = torch.zeros_like(padded, dtype=torch.bool)
        keep[:, before : before + 11] = True
        out = run(model, padded, keep=keep)
        torch.testing.assert_close(out[:, before : before + 11], plain, **close)


@every_part
@writers
@torch.no_grad()
def test_unequal_prompts_in_one_batch(family, choice):
    """Rows of different length, padded left or right, go on as if each were alone."""
    model, text, more = small(family, **CHOICES[choice]), tokens(), tokens(3, 4, seed=3)
    lengths = [7, 4, 2]
    for left in (True, False):
        prompt, keep = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 7, dtype=torch.bool)
        for row, n in enumerate(lengths):
            where = slice(7 - n, 7) if left else slice(0, n)
            prompt[row, where], keep[row, where] = text[row, :n], True
        writer = Writer(model, 3, 11)
        writer(prompt, keep=keep)
        out = torch.cat([writer(more[:, i : i + 1]) for i in range(4)], 1)
        for row, n in enumerate(lengths):
            alone = Writer(model, 3, 11)
            alone.select(torch.tensor([row]))
            whole = alone.whole(torch.cat([text[row : row + 1, :n], more[row : row + 1]], 1))
            torch.testing.assert_close(out[row : row + 1], whole[:, n:], **close)


@every_part
@writers
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@torch.no_grad()
def test_the_future_does_not_leak(family, choice, training):
    model, text = small(family, **CHOICES[choice]).train(training), tokens()
    writer = Writer(model, 3, 11)
    later = text.clone()
    later[:, 6:] = tokens(3, 5, seed=7)
    before, after = writer.whole(text), writer.whole(later)
    torch.testing.assert_close(before[:, :6], after[:, :6], **close)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@every_part
@every_family
@torch.no_grad()
def test_tracing_does_not_change_the_answer(family, choice):
    model, text = small(family, **CHOICES[choice]), tokens()
    keep = torch.ones_like(text, dtype=torch.bool)
    keep[1, 8:] = False
    before = run(model, text, keep=keep)
    with trace(model) as tape:
        traced = run(model, text, keep=keep)
    torch.testing.assert_close(traced[keep], before[keep], **close)
    for name in tape:
        if name.endswith("weights"):
            sums = tape[name].sum(-1)
            assert ((sums - 1).abs().lt(1e-5) | sums.eq(0)).all(), name
    assert torch.equal(run(model, text, keep=keep), before)


@every_part
@every_family
@pytest.mark.parametrize("watch", ["nothing", "*"])
def test_gradients_are_finite_where_a_row_is_all_padding(family, choice, watch):
    model, text = small(family, **CHOICES[choice]), tokens()
    keep = torch.ones_like(text, dtype=torch.bool)
    keep[0], keep[1, :3] = False, False
    with trace(model, watch=watch) as tape:
        out = run(model, text, keep=keep)
        loss = out.logsumexp(-1)[keep].sum() + out.sum() * 1e-3
        scores = [tape[name] for name in tape if name.endswith(("scores", "weights"))]
        gradients = torch.autograd.grad(loss, [*model.parameters(), *scores], allow_unused=True)
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("choice", ["plain", "rotary", "relative-bias", "window", "grouped"])
@pytest.mark.parametrize("family", ["encoder", "decoder"])
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(family, choice):
    model, text = small(family, **CHOICES[choice]), tokens(2, 11)
    segments = torch.tensor([0] * 4 + [1] * 5 + [2] * 2).expand(2, -1)
    positions = torch.tensor([*range(4), *range(5), *range(2)]).expand(2, -1)
    packed = model(text, positions=positions, segments=segments)
    apart = torch.cat([model(part) for part in text.split([4, 5, 2], dim=1)], 1)
    torch.testing.assert_close(packed, apart, **close)


@pytest.mark.parametrize("choice", ["plain", "rotary", "alibi", "grouped", "window"])
@writers
@torch.no_grad()
def test_a_cache_can_be_rearranged_and_cut_back(family, choice):
    model, text = small(family, **CHOICES[choice]), tokens()
    writer, rows = Writer(model, 3, 14), torch.tensor([2, 0, 0, 1])
    writer(text[:, :3])
    writer.select(rows)
    out = writer(text[rows][:, 3:4])
    torch.testing.assert_close(out, writer.whole(text[rows][:, :4])[:, 3:], **close)
    if choice == "window":
        with pytest.raises(ValueError, match="overwritten"):
            writer.cache.crop(2)
        return
    writer(tokens(4, 5, seed=8))
    writer.cache.crop(4)
    assert writer.cache.lengths.tolist() == [4] * 4
    torch.testing.assert_close(writer(text[rows][:, 4:7]), writer.whole(text[rows][:, :7])[:, 4:], **close)


@torch.no_grad()
def test_the_source_is_projected_once():
    model, text = small("encoder_decoder"), tokens()
    calls = []
    for block in model.decoder.blocks:
        block.cross_attention.key.register_forward_hook(lambda *a: calls.append(1))
    writer = Writer(model, 3, 11)
    for i in range(11):
        writer(text[:, i : i + 1])
    assert len(calls) == len(model.decoder.blocks)


@torch.no_grad()
@pytest.mark.parametrize("windows", [(0,), (64,)], ids=["everywhere", "a window wider than the room"])
def test_a_cache_refuses_more_than_it_holds(windows):
    model = small("decoder", windows=windows)
    writer, text = Writer(model, 3, 5), tokens(3, 5)
    writer(text[:, :4])
    with pytest.raises(ValueError, match="room for 5 positions and was given 6"):
        writer(tokens(3, 2))
    with torch.no_grad():  # and is as it was
        torch.testing.assert_close(writer(text[:, 4:])[:, -1], model(text)[:, -1], atol=1e-5, rtol=1e-5)


def test_a_cache_that_cannot_be_cropped_is_as_it_was():
    cache = small("decoder", windows=(0, 3)).new_cache(1, 9)
    for ledger in cache.ledgers.values():
        ledger.admit(Sites.of(1, 6, torch.device("cpu")))
    with pytest.raises(ValueError, match="a ring of 3 slots has overwritten"):
        cache.crop(4)
    assert [ledger.longest for ledger in cache.ledgers.values()] == [6, 6]


@torch.no_grad()
def test_padding_is_a_segment_of_its_own():
    model = small("encoder")
    keep = torch.tensor([[True, False]])
    assert model.features(tokens(1, 2), keep=keep).sites.segments.tolist() == [[0, PADDING]]
