"""Images written as tokens: a decoder goes on after a text with codes, and an autoencoder makes pixels of them.

The autoencoder is that of van den Oord et al. 2017 (VQ-VAE), the division of labour that of Ramesh et al. 2021
(DALL-E). `pellucid lab pictures` trains both, on digits of 8 × 8 pixels. The last words of the decoder's vocabulary are
the codes.

Shapes: B images, N codes of an image, W size of a code's vector, T tokens of a text.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from pellucid.config.model import stacks
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError, nearest
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.reading import Reading
from pellucid.inference.sampling import Never, Sampling, Temperature
from pellucid.inference.seen import Seen
from pellucid.models.checkpoint import load_weights
from pellucid.models.decoder import Decoder
from pellucid.models.files import write_tensors

AUTOENCODER = "drawing.safetensors"  # beside the decoder: the weights of its autoencoder
TEMPERATURE = 0.6
CODES, GRID, PATCH = 64, 4, 2


class Autoencoder(nn.Module):
    """Four by four codes for an image, and the image from them.

    Args:
        width: channels inside.
        size: W.
    """

    def __init__(self, width: int = 64, size: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, PATCH, stride=PATCH), nn.ReLU(),
            nn.Conv2d(width, size, 1),
        )  # fmt: skip
        self.codebook = nn.Parameter(torch.randn(CODES, size) / 2)
        self.decoder = nn.Sequential(
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
        return self.drawn(self.codebook[codes])

    def states(self, images: Float[Tensor, "B 1 8 8"]) -> Float[Tensor, "B N W"]:
        """What is rounded to codes."""
        return self.encoder(images).flatten(2).mT

    def nearest(self, states: Float[Tensor, "B N W"]) -> Int[Tensor, "B N"]:
        """The code whose vector is the nearest to each state."""
        return torch.cdist(states, self.codebook).argmin(dim=-1)

    def drawn(self, vectors: Float[Tensor, "B N W"]) -> Float[Tensor, "B 1 8 8"]:
        """The images of vectors."""
        return self.decoder(vectors.mT.reshape(len(vectors), -1, GRID, GRID))


def save_coder(folder: Path, coder: Autoencoder) -> None:
    """Puts it beside the decoder that writes its codes."""
    write_tensors(dict(coder.named_parameters()), folder / AUTOENCODER)


def load_coder(folder: Path) -> Autoencoder:
    """The autoencoder of a folder.

    Raises:
        UserError: for a folder without one.
        CheckpointError: for one that is torn, or of another make.
    """
    if not (folder / AUTOENCODER).exists():
        expected = "the folder of a model that writes images, as `pellucid lab pictures` leaves it"
        raise UserError(folder, f"no {AUTOENCODER}", expected)
    coder = Autoencoder()
    load_weights(coder, folder / AUTOENCODER)
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
def codes_after(
    model: Decoder, texts: Int[Tensor, "B T"], *, temperature: float = TEMPERATURE, seed: int = 0
) -> Int[Tensor, "B N"]:
    """The codes of an image for each text: words are never written into it.

    Raises:
        UserError: for a text after which there is no room for an image.
    """
    longest, length = stacks(model.config)[-1].max_length, texts.size(1)
    if longest is not None and length + GRID**2 - 1 > longest:  # the last code is written and not read
        raise UserError("text", f"{length} words", f"at most {longest - GRID**2 + 1}")
    model.eval()
    words = model.config.front.vocab_size - CODES
    draws = Sampling((Never(tuple(range(words))), Temperature(temperature)), seed=seed)
    return torch.tensor(generate(model, Prompt(texts), max_new_tokens=GRID**2, sampling=draws)) - words


def greys(images: Float[Tensor, "B 1 Y X"]) -> UInt8[Tensor, "B Y X"]:
    """As files have them: 255 for white."""
    return (255 - (images[:, 0].clamp(-1, 1) + 1) / 2 * 255).round().byte()


def drawn(reading: Reading, coder: Autoencoder, vocabulary: int) -> Seen | None:
    """The image that a text of words and codes ends in, its codes the cells of a grid; ``None`` where it has none."""
    ids, words, cells = reading.ids[0], vocabulary - CODES, GRID**2
    before = len(ids) - cells
    if before < 0 or min(ids[before:]) < words or max(ids[:before], default=0) >= words:
        return None
    image = coder.decode(torch.tensor([ids[before:]]) - words)
    return Seen("picture", image, greys(image)[0, ..., None], GRID, GRID, before, reading.pieces)
