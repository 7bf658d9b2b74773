"""Images as tokens: an autoencoder whose middle is a code, so that a decoder can write images as it writes words.

The autoencoder is that of van den Oord et al. 2017 (VQ-VAE), the division of labour that of Ramesh et al. 2021
(DALL-E).

Shapes: B images, N codes of an image, W size of a code's vector, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError, nearest
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.sampling import Never, Sampling, Temperature
from pellucid.lab.digits import PATCH, PATCHES, SIDE
from pellucid.models.checkpoint import load_weights
from pellucid.models.decoder import Decoder
from pellucid.models.files import write_tensors

CODER = "drawing.safetensors"  # beside the decoder that writes codes: what makes pixels of them
TEMPERATURE = 0.6
CODES, GRID = 64, SIDE // PATCH
COMMITMENT = 0.25  # how much a state is drawn to its code (van den Oord et al. 2017, eq. 3)
PEAK, LEAST = 3e-3, 1e-4
AWAKE = 50  # steps after which a code that was not used is put where there are states


class Autoencoder(nn.Module):
    """Four by four codes for an image, and the image from them.

    Args:
        width: channels inside.
        size: W.
    """

    def __init__(self, width: int = 64, size: int = 16) -> None:
        super().__init__()
        self.inwards = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, PATCH, stride=PATCH), nn.ReLU(),
            nn.Conv2d(width, size, 1),
        )  # fmt: skip
        self.book = nn.Parameter(torch.randn(CODES, size) / 2)
        self.outwards = nn.Sequential(
            nn.Conv2d(size, width, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(width, width, PATCH, stride=PATCH),
            nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 1 8 8"]) -> Int[Tensor, "B N"]:
        """The codes of images, row by row."""
        return self.nearest(self.states(images))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B 1 8 8"]:
        """The images of codes."""
        return self.drawn(self.book[codes])

    def states(self, images: Float[Tensor, "B 1 8 8"]) -> Float[Tensor, "B N W"]:
        """What is rounded to codes."""
        return self.inwards(images).flatten(2).mT

    def nearest(self, states: Float[Tensor, "B N W"]) -> Int[Tensor, "B N"]:
        """The code whose vector is the nearest to each state."""
        return torch.cdist(states, self.book).argmin(dim=-1)

    def drawn(self, vectors: Float[Tensor, "B N W"]) -> Float[Tensor, "B 1 8 8"]:
        """The images of vectors."""
        return self.outwards(vectors.mT.reshape(len(vectors), -1, GRID, GRID))


def train(model: Autoencoder, images: Callable[[], Float[Tensor, "B 1 8 8"]], steps: int) -> float:
    """Trains in place; returns the last mean squared error of a pixel.

    Rounding has no gradient: that of the vectors is given to the states as it is.
    """
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    used = torch.zeros(CODES)
    error = torch.tensor(0.0)
    for step in range(steps):
        wanted = images()
        states = model.states(wanted)
        codes = model.nearest(states)
        vectors = model.book[codes]
        error = F.mse_loss(model.drawn(states + (vectors - states).detach()), wanted)
        loss = error + F.mse_loss(vectors, states.detach()) + COMMITMENT * F.mse_loss(states, vectors.detach())
        for group in optimizer.param_groups:
            group["lr"] = LEAST + PEAK * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        used += torch.bincount(codes.flatten(), minlength=CODES)
        if step % AWAKE == AWAKE - 1 and step < 2 * steps // 3:
            _wake(model, used == 0, states.detach().flatten(0, 1))
            used.zero_()
    return error.item()


@torch.no_grad()
def _wake(model: Autoencoder, asleep: Tensor, states: Tensor) -> None:
    model.book[asleep] = states[torch.randint(len(states), (int(asleep.sum()),))]


def save_coder(folder: Path, coder: Autoencoder) -> None:
    """Puts it beside the decoder that writes its codes."""
    write_tensors(dict(coder.named_parameters()), folder / CODER)


def load_coder(folder: Path) -> Autoencoder:
    """The autoencoder of a folder.

    Raises:
        UserError: for a folder without one.
        CheckpointError: for one that is torn, or of another make.
    """
    if not (folder / CODER).exists():
        expected = "the folder of a model that writes images, as `pellucid lab pictures` leaves it"
        raise UserError(folder, f"no {CODER}", expected)
    coder = Autoencoder()
    load_weights(coder, folder / CODER)
    return coder


def words_of(text: str, tokenizer: Tokenizer) -> Int[Tensor, "1 T"]:
    """A text as the decoder reads it before an image.

    Raises:
        UserError: for no word, or one that it does not know.
    """
    known = tokenizer.pieces(range(tokenizer.vocab_size - CODES))
    for word in text.split():
        if word not in known:
            raise UserError(f'"{text}"', f'the word "{word}"', f"only {', '.join(known)}", nearest(word, list(known)))
    if not text.split():
        raise UserError("text", "no word", f"some of {', '.join(known)}")
    return torch.tensor([[known.index(word) for word in text.split()]])


@torch.no_grad()
def images_after(
    model: Decoder, coder: Autoencoder, texts: Int[Tensor, "B T"], *, temperature: float = TEMPERATURE, seed: int = 0
) -> Float[Tensor, "B 1 8 8"]:
    """An image for each text, -1 for white and 1 for black: words are never written into it."""
    model.eval()
    words = model.config.front.vocab_size - CODES
    draws = Sampling((Never(tuple(range(words))), Temperature(temperature)), seed=seed)
    codes = generate(model, Prompt(texts), max_new_tokens=PATCHES, sampling=draws)
    return coder.decode(torch.tensor(codes) - words)
