"""Decoding against brute force on a tiny vocabulary, and the laws of sampling."""

import itertools
import math

import pytest
import torch
from families import VOCAB, small

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.beam import Power, Wu, beam_search
from pellucid.inference.decode import Prompt, generate, stream
from pellucid.inference.sampling import GREEDY, MinP, Sampling, Temperature, TopK, TopP
from pellucid.models.build import build
from pellucid.trace import trace

EOS = 1
writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def prompt(family, batch=3, length=4):
    tokens = torch.randint(2, VOCAB, (batch, length))
    return Prompt(tokens, source=torch.randint(2, VOCAB, (batch, 6)) if family == "encoder_decoder" else None)


def scores_of(model, prompt, tokens):
    return model(prompt.source, tokens) if prompt.source is not None else model(tokens)


@writers
def test_greedy_takes_the_likeliest_each_time(family):
    model, start = small(family), prompt(family)
    written = generate(model, start, max_new_tokens=8)
    tokens = start.tokens
    for _ in range(8):
        with torch.no_grad():
            likeliest = scores_of(model, start, tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, likeliest], 1)
    assert written == tokens[:, 4:].tolist()


@writers
def test_a_row_ends_at_its_end_token(family):
    model, start = small(family), prompt(family)
    free = generate(model, start, max_new_tokens=8)
    eos = free[0][3]
    written = generate(model, start, max_new_tokens=8, ends=(eos,))
    for row, whole in zip(written, free, strict=True):
        assert row == (whole[: whole.index(eos)] if eos in whole else whole)
    ended = [step[0] for step in stream(model, start, max_new_tokens=8, ends=(eos,))]
    assert ended[: len(written[0]) + 1] == [*written[0], eos]
    assert all(token is None for token in ended[len(written[0]) + 1 :])


def tiny(family):
    """Five tokens, so that every text can be tried."""
    stack = parts.Stack(
        d_model=16,
        num_layers=1,
        attention=parts.Attention(num_heads=2),
        feed_forward=parts.FeedForward(d_ff=16),
        placement="pre",
    )
    front = config.Tokens(vocab_size=5)
    if family == "decoder":
        model = build(config.Decoder(front=front, stack=stack))
    else:
        model = build(config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


@writers
@pytest.mark.parametrize("penalty", [Wu(0.0), Wu(0.6), Wu(1.5), Power(-0.5), Power(1.0), Power(2.0)])
def test_a_wide_beam_finds_what_brute_force_finds(family, penalty):
    model, longest = tiny(family), 4
    start = Prompt(
        torch.tensor([[2], [3]]), source=torch.tensor([[2, 4, 3], [4, 4, 2]]) if family != "decoder" else None
    )
    found = beam_search(model, start, beams=5**longest, max_new_tokens=longest, ends=(EOS,), penalty=penalty)
    for row in range(2):
        alone = Prompt(
            start.tokens[row : row + 1], source=None if start.source is None else start.source[row : row + 1]
        )
        best = max(every_text(model, alone, longest, penalty), key=lambda pair: pair[1])
        assert found[row][0].tokens == best[0]
        assert found[row][0].score == pytest.approx(best[1], abs=1e-4)


@torch.no_grad()
def every_text(model, start, longest, penalty):
    """Each text that ends, or reaches the longest length, with its score."""
    for length in range(longest + 1):
        for text in itertools.product([0, 2, 3, 4], repeat=length):
            ends = length < longest
            whole = torch.tensor([[*start.tokens[0].tolist(), *text]])
            log_p = scores_of(model, start, whole)[0].log_softmax(-1)
            first = start.tokens.size(1) - 1
            said = [*text, EOS] if ends else list(text)
            total = sum(log_p[first + i, token].item() for i, token in enumerate(said))
            yield text, total / penalty(len(said))


@writers
def test_one_beam_is_greedy(family):
    model, start = small(family), prompt(family)
    greedy = generate(model, start, max_new_tokens=7, ends=(EOS,))
    beams = beam_search(model, start, beams=1, max_new_tokens=7, ends=(EOS,))
    assert [list(best[0].tokens) for best in beams] == greedy


@writers
def test_beams_do_not_depend_on_the_neighbours(family):
    model, start = small(family), prompt(family, batch=4)
    together = beam_search(model, start, beams=3, max_new_tokens=6, ends=(EOS,))
    for row in range(4):
        source = None if start.source is None else start.source[row : row + 1]
        (alone,) = beam_search(
            model, Prompt(start.tokens[row : row + 1], source=source), beams=3, max_new_tokens=6, ends=(EOS,)
        )
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]


@writers
@pytest.mark.parametrize("beams", [0, 2])
def test_writing_ends_where_the_positions_end(family, beams):
    model, start = small(family, positions=parts.Learned(max_length=9)), prompt(family)
    if beams:
        written = [best[0].tokens for best in beam_search(model, start, beams=2, max_new_tokens=50, ends=(VOCAB + 1,))]
    else:
        written = generate(model, start, max_new_tokens=50)
    assert [len(row) for row in written] == [6] * 3
    with pytest.raises(UserError, match=r"prompt: a sequence of 10 tokens; expected at most 9"):
        generate(model, prompt(family, length=10), max_new_tokens=1)


def test_filters():
    logits = torch.tensor([[math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]])
    assert TopK(2)(logits).isfinite().tolist() == [[True, True, False, False]]
    assert TopK(9)(logits).isfinite().all()
    assert TopP(0.75)(logits).isfinite().tolist() == [[True, True, False, False]]
    assert TopP(0.01)(logits).isfinite().tolist() == [[True, False, False, False]]
    assert MinP(0.2)(logits).isfinite().tolist() == [[True, True, True, False]]
    torch.testing.assert_close(Temperature(2.0)(logits), logits / 2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Temperature(0), "temperature: found 0; expected more than 0"),
    (lambda: TopP(1.5), "top_p"),
    (lambda: TopK(0), "top_k"),
    (lambda: MinP(-1), "min_p"),
    (lambda: Temperature(math.inf), "temperature: found inf"),
    (lambda: Wu(math.nan), "length penalty: found nan; expected from -10 to 10"),
    (lambda: Power(-400), "length penalty: found -400"),
])  # fmt: skip
def test_settings_that_cannot_work(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_draws_follow_the_probabilities_and_the_seed():
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log().expand(4000, 3)
    choose = Sampling(seed=3).chooser(logits.device)
    draws = choose(logits)
    shares = draws.bincount(minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03, rtol=0)
    assert torch.equal(draws, Sampling(seed=3).chooser(logits.device)(logits))
    assert not torch.equal(draws, Sampling(seed=4).chooser(logits.device)(logits))


@writers
def test_sampling_is_seeded(family):
    model, start = small(family), prompt(family)
    runs = [generate(model, start, max_new_tokens=9, sampling=Sampling([TopK(20)], seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@writers
def test_steps_are_named(family):
    model, start = small(family), prompt(family)
    with trace(model, watch="logits") as tape:
        generate(model, start, max_new_tokens=3, sampling=GREEDY)
    assert list(tape) == ["logits@0", "logits@1", "logits@2"]
    assert tape["logits@0"].shape == (3, 4, VOCAB)
    assert tape["logits@2"].shape == (3, 1, VOCAB)


@writers
def test_whoever_reads_a_stream_is_left_as_before(family):
    model, start = small(family), prompt(family)
    model.train()
    one, other = (stream(model, start, max_new_tokens=5) for _ in range(2))
    alone = list(stream(small(family), start, max_new_tokens=5))
    found = []
    for pair in zip(one, other, strict=True):
        assert not torch.is_inference_mode_enabled()
        torch.ones(2, requires_grad=True).sum().backward()
        found.append(pair)
    assert not torch.is_inference_mode_enabled()
    assert len(found) == len(alone)
    assert model.training


def test_one_stream_that_ends_turns_no_dropout_on_under_another():
    model, start = small("decoder", dropout=0.5), prompt("decoder")
    expected = list(stream(model, start, max_new_tokens=6))
    model.train()
    long, short = stream(model, start, max_new_tokens=6), stream(model, start, max_new_tokens=2)
    found = [next(long)]
    list(short)
    assert [*found, *long] == expected


@writers
def test_a_row_may_have_no_room_at_all(family):
    model, start = small(family), prompt(family)
    free = generate(model, start, max_new_tokens=5)
    assert generate(model, start, max_new_tokens=[0, 5, 2]) == [[], free[1], free[2][:2]]
    best = beam_search(model, start, beams=2, max_new_tokens=[0, 5, 2], ends=(VOCAB + 1,))
    assert [len(own[0].tokens) for own in best] == [0, 5, 2]
    others = beam_search(model, start, beams=2, max_new_tokens=[5, 5, 2], ends=(VOCAB + 1,))
    assert [own[0].tokens for own in best[1:]] == [own[0].tokens for own in others[1:]]
    for write in (generate, lambda *given, **how: beam_search(*given, beams=2, ends=(EOS,), **how)):
        with pytest.raises(UserError, match="max_new_tokens: found -3; expected 0 or more"):
            write(model, start, max_new_tokens=-3)
