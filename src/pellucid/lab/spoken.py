"""Spoken digits, joined to sequences, and a model that writes down what it hears.

The recordings are those of the Free Spoken Digit Dataset (Jackson et al. 2018): `{digit}_{speaker}_{number}.wav`. They
need the ``audio`` extra.

Shapes: B sequences, M mels, F frames, T tokens, N samples.
"""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.run import Conventions
from pellucid.data.sounds import RATE, SETTINGS, SoundReader, open_sound
from pellucid.inference.decode import Prompt, generate
from pellucid.lab.fitting import UNASKED, Rows
from pellucid.lab.keeping import save, words
from pellucid.models.build import build
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.nn.positions import SinusoidalPositions

MELS, SECONDS, LONGEST = 40, 3, 4  # of a window, and the most digits that are said in it
HOP = 320  # samples from one frame to the next, twice as many as Whisper's: a position of the encoder is 40 ms
MARKS = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")  # Whisper's, beside the ten digits
END, START, UNTIMED = 10, 11, 12
EXAMPLE = "example.wav"
TESTED = 5  # the first recordings of each digit by each speaker are the test part, by the set's own convention
SHORTEST_GAP, LONGEST_GAP = 0.05, 0.2  # seconds of silence around every digit
FASTER, LOUDER, NOISIER = 0.12, 0.7, 0.01  # deviations of speed and loudness, logarithmic, and of noise, of full scale
HIDDEN_MELS, HIDDEN_FRAMES = 8, 6  # at most so many are hidden at once (Park et al. 2019, SpecAugment)


class Heard(NamedTuple):
    """Log-mel spectrograms, and what has been written so far."""

    mels: Float[Tensor, "B M F"]
    tokens: Int[Tensor, "B T"]


@dataclass(frozen=True)
class Voices:
    """Recordings at 16 kHz, by speaker and digit, and some noise, of which pieces are taken."""

    waves: Mapping[str, Sequence[Sequence[Float[Tensor, " N"]]]]
    noise: Float[Tensor, " N"]

    def of(self, *speakers: str) -> Voices:
        """These speakers alone."""
        return replace(self, waves={speaker: self.waves[speaker] for speaker in speakers})

    def say(self, rows: int, most: int, seconds: float = SECONDS, *, changed: bool) -> Rows:
        """Sequences of random digits, each said by one speaker; asked for are the digits and the end.

        Args:
            most: digits in a sequence, at most; what does not fit into the window is left out.
            seconds: of the window.
            changed: whether each recording is made a little faster or slower, louder or softer, with noise.
        """
        sounds, said = zip(*(self.sequence(most, seconds, changed=changed) for _ in range(rows)), strict=True)
        mels = SoundReader(MELS, round(seconds * RATE / HOP), HOP)(sounds)
        written = torch.full((rows, most + 2), END)
        labels = torch.full((rows, most + 2), UNASKED)
        written[:, :2] = torch.tensor([START, UNTIMED])
        for row, digits in enumerate(said):
            written[row, 2 : len(digits) + 2] = torch.tensor(digits)
            labels[row, 1 : len(digits) + 2] = torch.tensor([*digits, END])
        return Rows(Heard(_hidden(mels) if changed else mels, written), labels)

    def sequence(self, most: int, seconds: float = SECONDS, *, changed: bool) -> tuple[Float[Tensor, " N"], list[int]]:
        """The sound of up to so many digits, and the digits; see :meth:`say`."""
        samples = round(seconds * RATE)
        recordings = self.waves[_one_of(list(self.waves))]
        pieces, digits = [_silence()], list[int]()
        wanted = int(torch.randint(1, most + 1, ()))
        while len(digits) < wanted:
            digit = int(torch.randint(10, ()))
            recording = _one_of(recordings[digit])
            piece = torch.cat([_varied(recording) if changed else recording, _silence()])
            if sum(map(len, pieces)) + len(piece) <= samples:
                pieces.append(piece)
                digits.append(digit)
            elif digits:
                break
        whole = torch.cat(pieces)
        if changed:
            begin = int(torch.randint(len(self.noise) - len(whole), ()))
            whole += NOISIER * float(torch.rand(())) ** 2 * self.noise[begin : begin + len(whole)]
        return whole, digits


def load(folder: Path) -> tuple[Voices, Voices]:
    """What to train on and what to test on, all speakers in both.

    Raises:
        UserError: when the ``audio`` extra is not installed.
    """
    found: tuple[dict[str, list[list[Tensor]]], dict[str, list[list[Tensor]]]] = ({}, {})
    for path in sorted((folder / "recordings").glob("*.wav")):
        digit, speaker, number = path.stem.split("_")
        for part in found:
            part.setdefault(speaker, [[] for _ in range(10)])
        found[int(number) < TESTED][speaker][int(digit)].append(torch.from_numpy(open_sound(path)))
    noise = torch.randn(10 * SECONDS * RATE)
    return Voices(found[0], noise), Voices(found[1], noise)


def _one_of(found: Sequence[Any]) -> Any:
    return found[int(torch.randint(len(found), ()))]


def _silence() -> Float[Tensor, " N"]:
    seconds = SHORTEST_GAP + (LONGEST_GAP - SHORTEST_GAP) * float(torch.rand(()))
    return torch.zeros(round(seconds * RATE))


def _varied(recording: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Played faster or slower, which moves the pitch too, and louder or softer."""
    speed, gain = (math.exp(deviation * float(torch.randn(()))) for deviation in (FASTER, LOUDER))
    played = F.interpolate(recording[None, None], size=round(len(recording) / speed), mode="linear")
    return gain * played[0, 0]


def _hidden(mels: Float[Tensor, "B M F"]) -> Float[Tensor, "B M F"]:
    """With a band of mels and a stretch of time taken away from each row, so that no detail is relied upon."""
    for dim, most in ((1, HIDDEN_MELS), (2, HIDDEN_FRAMES)):
        size = mels.size(dim)
        width = torch.randint(most + 1, (len(mels), 1))
        first = (torch.rand(len(mels), 1) * (size - width).clamp(min=1)).long()
        at = torch.arange(size)
        gone = (at >= first) & (at < first + width)
        mels = torch.where(gone.unsqueeze(3 - dim), mels.mean(), mels)
    return mels


class Listener(nn.Module):
    """An encoder–decoder from sound to digits, of Whisper's parts (Radford et al. 2022, §2.2)."""

    def __init__(self, width: int = 96, encoder: int = 3, decoder: int = 2, heads: int = 4) -> None:
        super().__init__()

        def stack(layers: int, positions: int) -> parts.Stack:
            return parts.Stack(
                d_model=width,
                num_layers=layers,
                attention=parts.Attention(num_heads=heads, key_bias=False),
                feed_forward=parts.FeedForward(d_ff=4 * width, activation="gelu"),
                positions=parts.Learned(max_length=positions),
                placement="pre",
            )

        positions = SECONDS * RATE // (2 * HOP)
        made = build(
            config.EncoderDecoder(
                source=config.Audio(mels=MELS),
                encoder=stack(encoder, positions),
                target=config.Tokens(vocab_size=10 + len(MARKS)),
                decoder=stack(decoder, LONGEST + 3),
                tie=("target", "output"),
            )
        )
        assert isinstance(made, EncoderDecoder)
        with torch.no_grad():  # learned ones that begin as sinusoids tell near from far at once
            table = made.get_parameter("encoder.embedding.positions.table.weight")
            table.copy_(SinusoidalPositions(width, 10_000.0, interleaved=False).code(torch.arange(positions)))
        self.model = made

    def forward(self, heard: Heard) -> Float[Tensor, "B T V"]:
        return self.model(heard.mels, heard.tokens)

    @torch.no_grad()
    def transcribe(self, mels: Float[Tensor, "B M F"]) -> list[list[int]]:
        """The digits of each row, greedily."""
        self.eval()
        start = torch.tensor([[START, UNTIMED]]).expand(len(mels), -1)
        return generate(self.model, Prompt(start, source=mels), max_new_tokens=LONGEST + 1, ends=(END,))

    def save(self, folder: Path, example: Float[Tensor, " N"]) -> None:
        """Writes a folder that `pellucid transcribe` and `explore` open, and a recording to begin with."""
        conventions = Conventions(pad=END, start=(START,), ends=(END,))
        save(folder, self.model, words("0123456789", MARKS, conventions))
        told = {"feature_size": MELS, "sampling_rate": RATE, "hop_length": HOP, "chunk_length": SECONDS}
        (folder / SETTINGS).write_text(json.dumps(told, indent=2) + "\n")
        with wave.open(str(folder / EXAMPLE), "wb") as opened:
            opened.setnchannels(1)
            opened.setsampwidth(2)
            opened.setframerate(RATE)
            opened.writeframes((example * 32767).clamp(-32768, 32767).to(torch.int16).numpy().tobytes())


def errors(found: Sequence[int], said: Sequence[int]) -> int:
    """How many digits must be put in, taken out or replaced (Levenshtein 1966)."""
    row = list(range(len(said) + 1))
    for i, digit in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(said, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (digit != wanted))
    return row[-1]


def error_rate(model: Listener, rows: Rows) -> float:
    """Errors for each digit that was said."""
    assert isinstance(rows.tokens, Heard)
    said = [[label for label in row if label not in (END, UNASKED)] for row in rows.labels.tolist()]
    found = model.transcribe(rows.tokens.mels)
    return sum(map(errors, found, said)) / sum(map(len, said))
