"""Texts in the making: the model's own caches, a few of them kept, so that a token more is one step.

A cache moves on as its text grows. What is asked for next to a kept text takes as little as it can: one step where it
goes on by a token, a step after the cache was cut back where it turns off at an earlier token, and otherwise the whole
text is read again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.answers import answers
from pellucid.analysis.slots import What, kept_in, slots_of
from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, State, WritingModel, prefill, room, step
from pellucid.inference.reading import beginning
from pellucid.models.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from pellucid.explorer.passes import Explored

STATES = 4  # caches that are kept,
CACHES = 1 << 28  # as long as these are no more bytes
KNOWN = 2000  # texts whose scores are kept,
ROOM = 1 << 26  # as long as these are no more bytes
AHEAD = 64  # tokens that a cache has room for beyond its prompt
How = Literal["prefill", "step", "rewind"]
Place = tuple[str, tuple[int, ...], tuple[int, ...]]  # the model, what it reads, what was written so far


@dataclass(frozen=True, eq=False)
class Draft:
    """A text so far, and what the model expects next.

    Attributes:
        identity: of the model, when this was written.
        prompt: what writing began with. written: the tokens added since.
        logits: (V,), of the next token, from the cache.
        how: the text was read at once, grew by a step, or grew by a step after the cache was cut back.
        fed: how many tokens the model was given for it.
        slots: what each layer keeps.
        difference: the largest between these logits and those of one pass without a cache, and of which token.
    """

    id: str
    explored: Explored
    identity: str
    prompt: Prompt
    written: tuple[int, ...]
    logits: Float[Tensor, " V"]
    how: How
    fed: int
    slots: list[dict[str, Any]]
    difference: tuple[float, int]
    left: int
    seconds: float

    @property
    def ids(self) -> list[int]:
        """All that the model has before it, without the source."""
        return [*self.prompt.tokens[0].tolist(), *self.written]

    def as_dict(self, top: int) -> dict[str, Any]:
        """For the page; of the scores only the highest."""
        loaded = self.explored.loaded
        writer = loaded.tokenizer.target
        before, written = self.prompt.tokens[0].tolist(), list(self.written)
        source = None if self.prompt.source is None else self.prompt.source[0].tolist()
        likeliest = answers(loaded, self.logits[None, None], 0, top).as_dict()
        text = [token for token in written if token not in writer.ends]
        difference, token = self.difference
        return {
            "id": self.id,
            "model": self.explored.key,
            "hash": self.explored.hash,
            "source": None if source is None else {"ids": source, "pieces": loaded.tokenizer.pieces(source)},
            "prompt": {"ids": before, "pieces": writer.pieces(before)},
            "written": {"ids": written, "pieces": writer.pieces(written)},
            "text": writer.decode(text) if source is not None else writer.continuation(before, text),
            "ended": bool(written) and written[-1] in writer.ends,
            "ends": list(writer.ends),
            "never": list(writer.conventions.never) if writer.conventions else [],
            "left": self.left,
            "how": self.how,
            "fed": self.fed,
            "seconds": self.seconds,
            "cache": self.slots,
            "check": {"difference": difference, "id": token, "piece": writer.pieces([token])[0]},
            "vocabulary": self.logits.numel(),
            "entries": likeliest["entries"],
            "entropy": likeliest["entropy"],
        }


class Drafts:
    """Texts in the making, of all models of a session.

    Args:
        longest: tokens that a text may have.
        states: caches kept at a time.
    """

    def __init__(self, longest: int, states: int = STATES) -> None:
        self.longest, self._most = longest, states
        self._states: OrderedDict[Place, State] = OrderedDict()
        self._known: OrderedDict[str, Draft] = OrderedDict()

    def draft(self, explored: Explored, text: str, written: tuple[int, ...]) -> Draft:
        """The text with these tokens added, and the scores of what follows.

        Raises:
            UserError: for a model that does not write, a token outside its vocabulary, or a text that is too long.
        """
        about = json.dumps([explored.key, explored.identity, text, written])
        id = hashlib.sha256(about.encode()).hexdigest()[:16]
        if id not in self._known:
            self._known[id] = self._made(id, explored, beginning(explored.loaded, text), written)
            while len(self._known) > 1 and (len(self._known) > KNOWN or _scores(self._known.values()) > ROOM):
                self._known.popitem(last=False)
        self._known.move_to_end(id)
        return self._known[id]

    def known(self, id: str) -> Draft:
        """A text that was asked for before.

        Raises:
            UserError: for an id that this session has not given, or one of a model that was trained on since.
        """
        if id not in self._known:
            raise UserError(f'text "{id}"', "not known to this session", hint="write it again")
        draft = self._known[id]
        if not draft.explored.is_still(draft.identity):
            raise UserError(f'text "{id}"', "the model has changed since", hint="write it again")
        return draft

    def kept(self, draft: Draft, layer: int, what: What) -> Float[Tensor, "G S K"]:
        """The keys or values that a layer keeps for a text."""
        with torch.inference_mode():
            place = _place(draft.explored, draft.prompt, draft.written)
            if place not in self._states:
                self._read(draft.explored, draft.prompt, draft.written)
            return kept_in(self._states[place].cache, layer, what).clone()

    def _made(self, id: str, explored: Explored, prompt: Prompt, written: tuple[int, ...]) -> Draft:
        self.check(explored, prompt, written)
        began = time.perf_counter()
        with torch.inference_mode():
            logits, how, fed = self._read(explored, prompt, written)
            seconds = time.perf_counter() - began
            state = self._states[_place(explored, prompt, written)]
            slots = [layer.as_dict() for layer in slots_of(state.cache)]
            difference = _difference(state.model, prompt, written, logits)
        left = min(self.longest, prompt.tokens.size(1) + room(state.model, prompt, self.longest) - 1)
        left = left - prompt.tokens.size(1) - len(written)
        return Draft(
            id, explored, explored.identity, prompt, written, logits, how, fed, slots, difference, left, seconds
        )

    def check(self, explored: Explored, prompt: Prompt, written: tuple[int, ...] = ()) -> None:
        """Whether a text may be written on.

        Raises:
            UserError: for a token outside the vocabulary, or a text that is too long.
        """
        described = explored.loaded.model.config
        front = described.target if isinstance(described, config.EncoderDecoder) else described.front
        size = front.vocab_size if isinstance(front, config.Tokens) else 0
        if bad := [token for token in written if not 0 <= token < size]:
            raise UserError("written", f"found {bad[0]}", f"ids from 0 to {size - 1}")
        length = prompt.tokens.size(1) + len(written)
        source = 0 if prompt.source is None else prompt.source.size(1)
        if max(length, source) > self.longest:
            found = f"{max(length, source):,} tokens"
            raise UserError("text", found, f"at most {self.longest:,}", "shorten it")

    def _read(self, explored: Explored, prompt: Prompt, written: tuple[int, ...]) -> tuple[Tensor, How, int]:
        """The scores of the next token, by the shortest way; the state is then kept under this text."""
        model: Any = explored.loaded.model
        place = _place(explored, prompt, written)
        try:
            found = self._nearest(place) if written else None
            if found is not None:
                state, how = found
                tokens = torch.tensor([written[-1]], device=model.device)
                logits, fed = step(state, tokens), 1
            else:
                whole = torch.cat([prompt.tokens, prompt.tokens.new_tensor([written])], dim=1) if written else None
                given = prompt if whole is None else Prompt(whole, source=prompt.source)
                logits, state = prefill(model, given, room(model, given, AHEAD))
                how, fed = "prefill", given.tokens.size(1)
        finally:
            model.mark_step(None)
        self._states[place] = state
        while len(self._states) > 1 and (len(self._states) > self._most or _held(self._states.values()) > CACHES):
            self._states.popitem(last=False)
        return logits[0], how, fed

    def _nearest(self, place: Place) -> tuple[State, How] | None:
        """A kept state that holds all but the last token, taken out; one that holds more is cut back to it."""
        name, start, written = place
        before = written[:-1]
        if (name, start, before) in self._states:
            state = self._states[name, start, before]
            if state.cache.longest < state.cache.capacity:
                del self._states[name, start, before]
                return state, "step"
            return None
        for (other, begun, text), state in reversed(self._states.items()):
            if (other, begun) == (name, start) and text[: len(before)] == before and _can_be_cut(state):
                del self._states[other, begun, text]
                state.cache.crop(state.cache.longest - (len(text) - len(before)))
                return state, "rewind"
        return None


def _place(explored: Explored, prompt: Prompt, written: tuple[int, ...]) -> Place:
    source = () if prompt.source is None else tuple(prompt.source[0].tolist())
    return explored.identity, (*source, -1, *prompt.tokens[0].tolist()), written


def _scores(drafts: Iterable[Draft]) -> int:
    return sum(draft.logits.nbytes for draft in drafts)


def _held(states: Iterable[State]) -> int:
    """Bytes of keys and values, also of the slots that are free."""
    caches = [state.cache for state in states]
    drawers = [kept for cache in caches for drawer in cache.drawers for kept in (drawer.keys, drawer.values)]
    sources = [kept for cache in caches for source in cache.sources for kept in (source.keys, source.values)]
    return sum(kept.nbytes for kept in (*drawers, *sources) if kept is not None)


def _can_be_cut(state: State) -> bool:
    """Whether nothing was overwritten that a shorter text would need."""
    return all(ledger.window is None or ledger.longest <= ledger.slots for ledger in state.cache.ledgers.values())


def _difference(model: WritingModel, prompt: Prompt, written: tuple[int, ...], logits: Tensor) -> tuple[float, int]:
    """How far the cached scores are from those of one pass, at the token where they part most."""
    tokens = torch.cat([prompt.tokens, prompt.tokens.new_tensor([written])], dim=1) if written else prompt.tokens
    scores = model(prompt.source, tokens) if isinstance(model, EncoderDecoder) else model(tokens)
    apart = (scores[0, -1].double() - logits.double()).abs()
    token = int(apart.argmax())
    return apart[token].item(), token
