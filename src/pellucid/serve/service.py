"""A model, ready to be asked: what it can do, and its worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference import predict
from pellucid.inference.aside import aside
from pellucid.inference.batching import Request, Scheduler
from pellucid.inference.engine import fast
from pellucid.inference.engine.products import known
from pellucid.inference.invariant import Invariant, group_for
from pellucid.inference.prefixes import Prefixes
from pellucid.inference.writer import Plain, Writer
from pellucid.models.build import Model
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.load import find, load
from pellucid.serve.chat import ChatTemplate
from pellucid.serve.errors import ServiceError, of_user
from pellucid.serve.limits import Limits
from pellucid.serve.metrics import Metrics
from pellucid.serve.worker import Worker

if TYPE_CHECKING:
    from pellucid.inference.constraints import Grammars

LONG_TEXT = 20_000  # characters that are cut on another thread, so that others need not wait
CHARACTERS = 64  # of one token at most: a text of more than so many for each allowed token need not be cut


class Service:
    """One model on offer.

    Args:
        loaded: the model, which reads text, and its tokenizer.
        name: by which clients call it.
        writer: what writes; ``None`` for a model that does not.
        template: of conversations; ``None`` where the model has none.
    """

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        writer: Writer | None,
        *,
        limits: Limits | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        self.loaded, self.name, self.template, self.created = loaded, name, template, int(time.time())
        self.limits, self.metrics = limits or Limits(), Metrics()
        scheduler = None
        if writer is not None:
            scheduler = Scheduler(writer, max_rows=self.limits.rows, max_tokens=self.limits.tokens)
        self.writer, self.worker = writer, Worker(scheduler, self.limits, self.metrics)
        self.metrics.watch(lambda: self.worker.rows, lambda: self.worker.waiting)
        if isinstance(writer, Prefixes):
            self.metrics.watch_prefixes(lambda: writer.held, lambda: writer.reused)
        self.is_ending = False
        self._reading = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.worker.is_ready and not self.is_ending

    @property
    def vocab_size(self) -> int:
        """How many tokens can be written; a tokenizer may have more of them than its model, or fewer."""
        model = self.loaded.model.config
        front = model.target if isinstance(model, config.EncoderDecoder) else model.front
        assert isinstance(front, config.Tokens)  # what is asked writes
        return min(self.loaded.tokenizer.target.vocab_size, front.vocab_size)

    @property
    def grammars(self) -> Grammars:
        """Forms of texts, for the tokenizer of what is written. Its vocabulary is read once, by whoever asks first."""
        with self._reading:
            return self._grammars

    @cached_property
    def _grammars(self) -> Grammars:
        from pellucid.inference.constraints import Grammars  # an extra, asked for only where it is needed

        return Grammars.of(self.loaded.tokenizer.target)

    @property
    def answers(self) -> tuple[str, ...]:
        """The paths that this model has an answer for."""
        model = self.loaded.model
        match model:
            case Decoder():
                chat = ("/v1/chat/completions",) if self.template is not None else ()
                return ("/v1/completions", *chat, "/score", "/alternatives")
            case EncoderDecoder():
                return ("/translate", "/score", "/alternatives")
        head: dict[type, tuple[str, ...]] = {
            config.MaskedLanguage: ("/fill",),
            config.Classification: ("/classify", "/score"),
            config.TokenClassification: ("/tag",),
        }
        return ("/v1/embeddings", *head.get(type(model.config.head), ()))

    def require(self, path: str) -> None:
        """Raises :class:`ServiceError` where this model has no answer."""
        if path in self.answers:
            return
        model = self.loaded.model
        kind = {Decoder: "a decoder", EncoderDecoder: "an encoder–decoder", Encoder: "an encoder"}[type(model)]
        if path == "/v1/chat/completions" and isinstance(model, Decoder):
            message = f"{self.name} has no chat template, so it was not trained to converse"
        else:
            message = f"{self.name} is {kind}, for which {path} has no meaning"
        raise ServiceError(400, f"{message}; it answers {', '.join(self.answers)}", code="unsupported")

    def check_name(self, name: str | None) -> None:
        """Raises :class:`ServiceError` for the name of another model."""
        if name is not None and name != self.name:
            message = f'there is no model "{name}" here; this service has "{self.name}"'
            raise ServiceError(404, message, param="model", code="model_not_found")

    async def cut(self, texts: Sequence[str], param: str) -> list[list[int]]:
        """The tokens of texts, without any around them.

        Raises:
            ServiceError: for more texts, or longer ones, than the limits allow.
        """
        if len(texts) > self.limits.texts:
            raise ServiceError(400, f"{len(texts)} texts; at most {self.limits.texts} in one request", param=param)
        self._check_characters(max((len(text) for text in texts), default=0), param)
        work = partial(self.loaded.tokenizer.encode_batch, texts)
        ids = await asyncio.to_thread(work) if sum(map(len, texts)) > LONG_TEXT else work()
        for each in ids:
            self.check_length(len(each), param)
        return ids

    async def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation, up to where the answer begins.

        Raises:
            ServiceError: for messages that the model's template does not take, or that are longer than allowed.
        """
        assert self.template is not None  # whoever asks has required it
        characters = sum(len(message["content"]) for message in messages)
        self._check_characters(characters, "messages")
        work = partial(self.template.ids, self.loaded.tokenizer, messages)
        try:
            ids = await asyncio.to_thread(work) if characters > LONG_TEXT else work()
        except UserError as error:
            raise of_user(error, param="messages") from None
        if not ids:
            raise ServiceError(400, "the model's template makes no text of these messages", param="messages")
        self.check_length(len(ids), "messages")
        return ids

    def _check_characters(self, characters: int, param: str) -> None:
        """Raises :class:`ServiceError` for a text that must be too long, before it is cut."""
        if characters > CHARACTERS * self.limits.prompt_tokens:
            message = f"{characters:,} characters; at most {self.limits.prompt_tokens:,} tokens"
            raise ServiceError(400, message, param=param, code="context_length_exceeded")

    def check_length(self, tokens: int, param: str) -> None:
        """Raises :class:`ServiceError` for a text of more tokens than are allowed."""
        if tokens > self.limits.prompt_tokens:
            message = f"{tokens:,} tokens; at most {self.limits.prompt_tokens:,} in one text"
            raise ServiceError(400, message, param=param, code="context_length_exceeded")

    def check_positions(self, tokens: int, limit: int | None, param: str) -> None:
        """Raises :class:`ServiceError` for more tokens, those around a text included, than there are positions for."""
        if limit is not None and tokens > limit:
            message = f"{tokens:,} tokens, those around the text included; this model has positions for {limit:,}"
            raise ServiceError(400, message, param=param, code="context_length_exceeded")

    def new_tokens(
        self, asked: int | None, usual: int, prompt: int, param: str, *, width: int = 1, source: int = 0
    ) -> int:
        """How many tokens a text may have.

        Args:
            usual: where nothing was asked; fewer where there is no room for so many.
            width: of a search. source: tokens that an encoder–decoder reads.

        Raises:
            ServiceError: for more than there are positions for, or than are allowed.
        """
        if asked is not None and asked > self.limits.new_tokens:
            message = f"{asked:,} new tokens; at most {self.limits.new_tokens:,}"
            raise ServiceError(400, message, param=param, code="context_length_exceeded")
        usual = min(usual, self.limits.new_tokens, max(1, self.limits.tokens // width - prompt - source))
        limit = None if self.writer is None else self.writer.limit
        if limit is None:
            return asked or usual
        room = limit - prompt + 1
        if room < 1 or (asked is not None and asked > room):
            wanted = f" and {asked:,} new ones" if asked else ""
            message = f"{prompt:,} tokens{wanted}; this model has positions for {limit:,} in all"
            raise ServiceError(400, message, param=param, code="context_length_exceeded")
        return asked or min(usual, room)

    def warm(self) -> None:
        """Does everything once, so that the first request need not wait for it."""
        if self.worker.scheduler is None:
            predict.embed(self.loaded, ["a"])
            return
        tokenizer = self.loaded.tokenizer
        two = isinstance(self.loaded.model, EncoderDecoder)
        source = tokenizer.source(tokenizer.encode("a")) if two else None
        start = [*tokenizer.target.start, *tokenizer.target.forced] if two else tokenizer.prompt(tokenizer.encode("a"))
        self.worker.scheduler.run([Request(start or [0], 2, source=source)])


def open_service(
    target: str | Path,
    *,
    name: str | None = None,
    weights: str = "float32",
    device: str = "cpu",
    verify: bool = False,
    limits: Limits | None = None,
    prefix_tokens: int = 0,
    invariant: bool = False,
) -> Service:
    """A run, a published folder or a name of the hub, on offer.

    Args:
        name: by which clients call it; the folder's when left out.
        weights: the type they are read in: ``float32``, ``float16``, ``bfloat16`` or ``int8``; ``plain`` is the model
            itself, which writes without a memory, to compare with.
        prefix_tokens: so many tokens that were read are remembered, for prompts that begin like earlier ones.
        invariant: scores have the same bits, whoever is written beside a text.

    Raises:
        UserError: for what cannot be opened, or reads no text; for prefixes or invariance where they mean nothing.
    """
    folder = find(target)
    called = name or (str(target) if not Path(target).exists() else folder.resolve().name)

    def opened() -> Service:
        loaded = load(target, device=device, verify=verify)
        return of_loaded(loaded, called, weights=weights, limits=limits, template=ChatTemplate.of(folder),
                         prefix_tokens=prefix_tokens, invariant=invariant)  # fmt: skip

    return aside(opened)  # the model's own thread comes after it


def of_loaded(
    loaded: Loaded,
    name: str,
    *,
    weights: str = "float32",
    limits: Limits | None = None,
    template: ChatTemplate | None = None,
    prefix_tokens: int = 0,
    invariant: bool = False,
) -> Service:
    """A model in memory, on offer; as :func:`open_service`."""
    model = loaded.model
    front = model.config.source if isinstance(model.config, config.EncoderDecoder) else model.config.front
    if not isinstance(front, config.Tokens):
        raise UserError("serve", f"this model reads {type(front).__name__.lower()}", "a model that reads text")
    _ = loaded.tokenizer  # says so itself where there is none
    quick = loaded if weights == "plain" else fast(loaded, known(weights, "plain"))
    _check_fit(model, prefix_tokens, invariant)
    writer = None if isinstance(model, Encoder) else quick.writer or Plain(model)
    if writer is not None and invariant:
        writer = Invariant(writer, group_for(_widths(model), torch.get_num_threads()))
        # A text may stand in a group by itself, which then has the room of all.
        limits = limits or Limits()
        limits = replace(limits, tokens=max(1, limits.tokens // writer.group))
    elif writer is not None and prefix_tokens:
        writer = Prefixes(writer, prefix_tokens)
    return Service(quick, name, writer, limits=limits, template=template)


def _check_fit(model: Model, prefix_tokens: int, invariant: bool) -> None:
    """Refuses what could not be obeyed."""
    if prefix_tokens and invariant:
        found = "prefixes that are remembered: what is read in parts adds up in another order"
        raise UserError("invariant", found, "one of the two")
    if invariant and isinstance(model, Encoder):
        raise UserError("invariant", "an encoder, which reads texts of all clients together", "a model that writes")
    if prefix_tokens and not isinstance(model, Decoder):
        raise UserError("prefix_tokens", f"a model of kind {type(model).__name__}", "a decoder, which reads prompts")


def _widths(model: Model) -> set[int]:
    """Of the vectors that a model's functions of single numbers are applied to."""
    return {width for stack in config.stacks(model.config) for width in (stack.d_model, stack.feed_forward.d_ff)}
