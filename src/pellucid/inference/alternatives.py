"""What else could stand at a place of a text, how likely, and what would follow: for every place asked at once.

Shapes: B texts, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pellucid.config.model import stacks
from pellucid.errors import UserError
from pellucid.inference.batches import barred, in_batches, padded
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.likelihood import AT_ONCE
from pellucid.inference.rules import AnyRule, check
from pellucid.inference.sampling import Sampling
from pellucid.inference.scores import states_of
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder

Begun = tuple[int, int, float]
"""A place, the token that is put there, and its probability."""


@dataclass(frozen=True)
class Alternative:
    """A token that could stand at a place.

    Attributes:
        token: it; ``piece``, as people read it.
        probability: what the model gives it there, before any rule.
        text: the whole text with it: what stands before it, it, and what the model writes after it.
        tokens: of that text, without its end.
        is_chosen: it is the one that stands there.
    """

    token: int
    piece: str
    probability: float
    text: str
    tokens: tuple[int, ...]
    is_chosen: bool


def alternatives(
    loaded: Loaded,
    text: str,
    positions: Sequence[int] | None = None,
    *,
    source: str | None = None,
    top: int = 5,
    max_new_tokens: int = 50,
    rules: Sequence[AnyRule] = (),
) -> list[list[Alternative]]:
    """The likeliest tokens at some places of an output, the likeliest first, each with what would follow it.

    Args:
        text: the output; of a decoder its prompt with it.
        positions: places among the tokens of the text; the one behind the last is asked for too. All by default, of a
            decoder all that something stands before.
        source: what an encoder–decoder read.
        max_new_tokens: that follow; 0 writes nothing.
        rules: for what follows.

    Raises:
        UserError: for a model that does not write, a source too many or too few, or a place that is not there.
    """
    check(top > 0, "top", top, "1 or more")
    check(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    asked = _Asked.of(loaded, text, source, max_new_tokens, Sampling((*barred(loaded.tokenizer.target), *rules)))
    first, last = 0 if asked.before else 1, len(asked.written)
    places = list(range(first, last + 1)) if positions is None else list(positions)
    if wrong := [place for place in places if not first <= place <= last]:
        raise UserError("alternatives", f"no place {wrong[0]}", f"from {first} to {last}")
    begun = asked.begun(places, top)
    flat = in_batches(begun, asked.follow, rows_at_once=64, length=lambda one: one[0] + max_new_tokens,
                      alike=lambda one: asked.left(one[0]))  # fmt: skip
    each = len(flat) // max(len(places), 1)
    return [flat[i * each : (i + 1) * each] for i in range(len(places))]


@dataclass(frozen=True)
class _Asked:
    """A text, cut into tokens.

    Attributes:
        read: what an encoder–decoder read of the source.
        before: what the text stands after.
    """

    loaded: Loaded
    read: list[int] | None
    before: list[int]
    written: list[int]
    most: int
    choose: Sampling

    @classmethod
    def of(cls, loaded: Loaded, text: str, source: str | None, most: int, choose: Sampling) -> _Asked:
        model, tokenizer, writer = loaded.model, loaded.tokenizer, loaded.tokenizer.target
        if not isinstance(model, Decoder | EncoderDecoder):
            found = f"a model of kind {type(model).__name__}"
            raise UserError("alternatives", found, "a decoder or an encoder–decoder")
        two, written = isinstance(model, EncoderDecoder), writer.encode(text)
        if two != (source is not None):
            raise UserError("alternatives", "no source" if two else "a source", "one" if two else "none for a decoder")
        if source is not None:
            return cls(loaded, tokenizer.source(tokenizer.encode(source)), [*writer.start, *writer.forced], written,
                       most, choose)  # fmt: skip
        prompt = tokenizer.prompt(written)
        return cls(loaded, None, prompt[: len(prompt) - len(written)], written, most, choose)

    @torch.inference_mode()
    def begun(self, places: Sequence[int], top: int) -> list[Begun]:
        """The likeliest tokens at each place."""
        model = self.loaded.model
        assert isinstance(model, Decoder | EncoderDecoder)  # `of` has checked it
        tokens = torch.tensor([[*self.before, *self.written]], device=model.device)
        source = None if self.read is None else torch.tensor([self.read], device=model.device)
        states = states_of(model, tokens, source)[0, [len(self.before) + place - 1 for place in places]]
        found: list[Begun] = []
        for at in range(0, len(places), AT_ONCE):
            table = model.head.scores(states[at : at + AT_ONCE]).float().softmax(dim=-1)
            best = table.topk(min(top, table.size(-1)))
            rows = zip(places[at : at + AT_ONCE], best.indices.tolist(), best.values.tolist(), strict=True)
            found += [(place, *one) for place, ids, values in rows for one in zip(ids, values, strict=True)]
        return found

    def left(self, place: int) -> int:
        """How many tokens may follow one that is put there: beside a longer text there would be room for fewer."""
        limit = stacks(self.loaded.model.config)[-1].max_length
        return self.most if limit is None else max(0, min(self.most, limit - len(self.before) - place))

    def follow(self, begun: list[Begun]) -> list[Alternative]:
        """Writes on from each place and the token that is put there."""
        writer = self.loaded.tokenizer.target
        said = [*self.written, *writer.ends[:1]]
        prompts = [[*self.before, *self.written[:place], token] for place, token, _ in begun]
        most = self.left(begun[0][0])  # those that are asked for together have the same room
        rest = _following(self.loaded, self.read, prompts, most, self.choose)
        told = []
        for (place, token, probability), more in zip(begun, rest, strict=True):
            ids = (*self.written[:place], *([] if token in writer.ends else [token, *more]))
            chosen = said[place : place + 1] == [token]
            told.append(Alternative(token, writer.pieces([token])[0], probability, writer.decode(ids), ids, chosen))
        return told


def _following(
    loaded: Loaded, read: list[int] | None, prompts: list[list[int]], most: int, choose: Sampling
) -> list[list[int]]:
    """What is written after each prompt; nothing after one that has ended."""
    model, writer = loaded.model, loaded.tokenizer.target
    assert not isinstance(model, Encoder)  # who asks has read it with what writes
    open_ones = [row for row, prompt in enumerate(prompts) if prompt[-1] not in writer.ends]
    if not open_ones or most == 0:
        return [[] for _ in prompts]
    tokens, keep = padded([prompts[row] for row in open_ones], writer.require("pad"), model.device)
    source = None if read is None else torch.tensor([read], device=model.device).expand(len(open_ones), -1)
    prompt = Prompt(tokens, keep=keep, source=source)
    found = dict(
        zip(
            open_ones,
            generate(model, prompt, max_new_tokens=most, ends=writer.ends, sampling=choose, writer=loaded.writer),
            strict=True,
        )
    )
    return [found.get(row, []) for row in range(len(prompts))]
