"""Sound to text with Whisper: windows of thirty seconds, special tokens that say what is wanted, times among the words.

Radford et al. 2022, §2.3 (the format of the tokens) and §3.8 (long recordings).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config.model import Audio, sound_frames
from pellucid.config.run import Conventions
from pellucid.data.sounds import RATE, SoundReader
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError, nearest
from pellucid.inference.decode import Prompt, prefill, step
from pellucid.inference.rules import check
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder

TICK = 0.02  # seconds from one time token to the next
TASKS = ("transcribe", "translate")


@dataclass(frozen=True)
class Segment:
    """Some words, and when they are said, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording, in which language; ``segments`` are empty without times."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Marks:
    """The special tokens of a listening model.

    Attributes:
        start: begins every text.
        languages: by code; empty where only one is known.
        tasks: by name.
        untimed: asks for words alone.
        end: ends a text.
        never, never_first: tokens that are not written, at all or as the first.
        latest_start: the first words begin within so many ticks of a window.
    """

    start: int
    languages: dict[str, int]
    tasks: dict[str, int]
    untimed: int
    end: int
    never: tuple[int, ...]
    never_first: tuple[int, ...]
    latest_start: int

    @property
    def first_time(self) -> int:
        """The token of the time 0; all from it on are times."""
        return self.untimed + 1

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Marks:
        """By the names that the tokens have in the vocabulary.

        Raises:
            UserError: for a vocabulary that has none of them.
        """
        ids = tokenizer.special_tokens
        wanted = ("<|startoftranscript|>", "<|notimestamps|>")
        if missing := [name for name in wanted if name not in ids]:
            raise UserError("transcribe", f"the tokenizer has no {', '.join(missing)}", "Whisper's special tokens")
        tasks = {task: ids[f"<|{task}|>"] for task in TASKS if f"<|{task}|>" in ids}
        # Languages stand between the start and the tasks, under codes of two or three letters.
        last = min(tasks.values(), default=ids[wanted[0]])
        codes = {m[1]: i for name, i in ids.items() if (m := re.fullmatch(r"<\|([a-z]{2,3})\|>", name))}
        conventions = tokenizer.conventions or Conventions(pad=0)
        several = not conventions.one_language
        languages = {code: i for code, i in codes.items() if ids[wanted[0]] < i < last} if several else {}
        return cls(
            start=ids[wanted[0]],
            languages=languages,
            tasks=tasks if languages else {},
            untimed=ids[wanted[1]],
            end=tokenizer.ends[0],
            never=conventions.never,
            never_first=conventions.never_first,
            latest_start=conventions.latest_start,
        )

    def prompt(self, language: str | None, task: str, timed: bool) -> list[int]:
        """What a text begins with.

        Raises:
            UserError: for a language or a task that the model does not know.
        """
        wanted = [self.start]
        if not self.languages and (language is not None or task != TASKS[0]):
            found = f"language {language}" if language is not None else f"task {task}"
            raise UserError("transcribe", f"{found}, of a model that was not taught several", "neither")
        if language is not None:
            wanted += [_known(self.languages, language, "language"), _known(self.tasks, task, "task")]
        return wanted if timed else [*wanted, self.untimed]


def _known(ids: dict[str, int], name: str, what: str) -> int:
    if name not in ids:
        raise UserError(f"--{what}", f'found "{name}"', f"a {what} the model knows", nearest(name, ids))
    return ids[name]


def transcribe(
    loaded: Loaded,
    sound: Sequence[float] | Tensor,
    *,
    language: str | None = None,
    task: str = "transcribe",
    timed: bool = True,
    max_new_tokens: int | None = None,
) -> Transcript:
    """The words of a recording, greedily.

    Args:
        sound: a wave at 16 kHz in one channel; longer ones are heard window by window.
        language: its code, such as ``de``; found out from the first window when left out.
        task: ``transcribe``, or ``translate`` into English.
        timed: with the times of the segments.
        max_new_tokens: of a window; as many as there are positions when left out.

    Raises:
        UserError: for a model that does not listen, a language or a task it does not know.
    """
    model = loaded.model
    if not isinstance(model, EncoderDecoder) or not isinstance(model.config.source, Audio):
        raise UserError("transcribe", f"a model of kind {type(model).__name__} that does not listen", "Whisper")
    tokenizer, marks = loaded.tokenizer, Marks.of(loaded.tokenizer)
    reader = loaded.sounds or SoundReader(model.config.source.mels, sound_frames(model.config.encoder))
    wave = torch.as_tensor(sound, dtype=torch.float32)
    if language is None and marks.languages:
        language = _spoken(model, reader([wave]).to(model.device, model.dtype), marks)
    timed = timed and model.config.target.vocab_size > marks.first_time  # one that knows no times is not asked for any
    prompt = marks.prompt(language, task, timed)
    if max_new_tokens is not None:
        check(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    listener = _Listener(model, marks, prompt, timed, max_new_tokens)
    texts: list[str] = []
    segments: list[Segment] = []
    begin = 0
    while begin == 0 or begin < wave.numel():
        window = wave[begin : begin + reader.samples]
        tokens = listener.hear(reader([window]).to(model.device, model.dtype))
        if timed:
            found, ticks = _segments(tokens, marks, tokenizer, begin / RATE, window.numel() / RATE)
            segments += found
            texts += [segment.text for segment in found]
            begin += min(reader.samples, round(ticks * TICK * RATE)) if ticks else reader.samples
        else:
            texts.append(tokenizer.decode([token for token in tokens if token < marks.first_time]))
            begin += reader.samples
    return Transcript("".join(texts).strip(), language, tuple(segments))


def prompt_for(model: EncoderDecoder, marks: Marks, mels: Float[Tensor, "1 M F"], *, timed: bool) -> list[int]:
    """What a transcript of a window begins with, in the language that is spoken there."""
    return marks.prompt(_spoken(model, mels, marks) if marks.languages else None, TASKS[0], timed)


def greedily(
    model: EncoderDecoder, marks: Marks, prompt: list[int], mels: Float[Tensor, "1 M F"], *, timed: bool
) -> list[int]:
    """The tokens of a window, without the prompt and the end."""
    return _Listener(model, marks, prompt, timed, None).hear(mels)


@torch.inference_mode()
def _spoken(model: EncoderDecoder, mels: Float[Tensor, "1 M F"], marks: Marks) -> str:
    """The likeliest language of a window."""
    start = torch.tensor([[marks.start]], device=model.device)
    scores = model(mels, start)[0, -1]
    codes = list(marks.languages)
    return codes[int(scores[[marks.languages[code] for code in codes]].argmax())]


@dataclass(frozen=True)
class _Listener:
    """Writes what is said in a window."""

    model: EncoderDecoder
    marks: Marks
    prompt: list[int]
    timed: bool
    max_new_tokens: int | None

    @torch.inference_mode()
    def hear(self, mels: Float[Tensor, "1 M F"]) -> list[int]:
        """The tokens of a window, without the prompt and the end."""
        longest = (self.model.decoder.max_length or 448) - len(self.prompt)
        limit = longest if self.max_new_tokens is None else min(longest, self.max_new_tokens)
        start = torch.tensor([self.prompt], device=self.model.device)
        scores, state = prefill(self.model, Prompt(start, source=mels), limit)
        written: list[int] = []
        while len(written) < limit:
            token = int(self.allowed(scores[0].float(), written).argmax())
            if token == self.marks.end:
                break
            written.append(token)
            if len(written) < limit:
                scores = step(state, torch.tensor([token], device=start.device))
        return written

    def allowed(self, scores: Float[Tensor, " V"], written: Sequence[int]) -> Float[Tensor, " V"]:
        """The scores of the tokens that may come next, -inf for the others."""
        scores = scores.clone()
        scores[list(self.marks.never)] = -torch.inf
        if not written:
            scores[list(self.marks.never_first)] = -torch.inf
        return self.times(scores, written) if self.timed else scores

    def times(self, scores: Float[Tensor, " V"], written: Sequence[int]) -> Float[Tensor, " V"]:
        """Times stand around words, do not run backwards, and come as soon as they are likelier than any word."""
        first = self.marks.first_time
        scores[self.marks.untimed] = -torch.inf
        last = len(written) > 0 and written[-1] >= first
        before = len(written) < 2 or written[-2] >= first
        if last and before:
            scores[first:] = -torch.inf
        elif last:
            scores[: self.marks.end] = -torch.inf
        if times := [token for token in written if token >= first]:
            # The time that ends a segment may begin the next; beyond that none comes twice.
            scores[first : times[-1] + (0 if last and not before else 1)] = -torch.inf
        if not written:
            scores[:first] = -torch.inf
            scores[first + self.marks.latest_start + 1 :] = -torch.inf
        likely = scores.log_softmax(dim=-1)
        if likely[first:].logsumexp(dim=-1) > likely[:first].max():
            scores[:first] = -torch.inf
        return scores


def _segments(
    tokens: Sequence[int], marks: Marks, tokenizer: Tokenizer, offset: float, length: float
) -> tuple[list[Segment], int]:
    """The segments of a window, and the tick at which the next window should begin: 0 for its end.

    Two times in a row end one segment and begin the next; words after the last such pair are heard again, unless the
    window ends with a single time, after which nothing is said.
    """
    first = marks.first_time
    is_time = [token >= first for token in tokens]
    cuts = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    silent = len(tokens) >= 1 and is_time[-1] and not (len(tokens) >= 2 and is_time[-2])
    bounds = [0, *cuts, *([len(tokens)] if silent or not cuts else [])]
    found = []
    for begin, end in itertools.pairwise(bounds):
        part = tokens[begin:end]
        times = [token - first for token in part if token >= first]
        words = tokenizer.decode([token for token in part if token < first])
        if words.strip():
            until = times[-1] * TICK if len(times) > 1 else length
            found.append(Segment(offset + times[0] * TICK if times else offset, offset + until, words))
    return found, 0 if silent or not cuts else tokens[cuts[-1] - 1] - first
