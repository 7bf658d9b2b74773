"""What an encoder–decoder looked at in its source: word alignments, unknown words, the coverage penalty.

All read the weights of one cross-attention, the mean of its heads, in a pass over texts that are written already. The
pass is traced, so it runs on the model itself, not on an engine; it costs one step for a whole text. The row of a token
is the one that predicted it, where the token before it was read.

Shapes: N texts, T target tokens, S source positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.data import vocabularies
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, WritingModel
from pellucid.inference.rules import check
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.tower import Encoded
from pellucid.trace import trace


@torch.inference_mode()
def looked_at(
    model: EncoderDecoder, encoded: Encoded, tokens: Int[Tensor, "N T"], layer: int = -1
) -> Float[Tensor, "N T S"]:
    """How much each target position looks at each source position.

    Args:
        tokens: padded on the right with anything; the rows of padding mean nothing.
        layer: which cross-attention; negative counts from the last.

    Raises:
        UserError: for a layer that is not there, or while the model is being traced.
    """
    layers = len(model.decoder.blocks)
    check(-layers <= layer < layers, "layer", layer, f"from {-layers} to {layers - 1}")
    name = f"decoder.blocks.{layer % layers}.cross_attention.weights"
    was_training = model.training
    model.eval()
    try:
        with trace(model, watch=name) as tape:
            model.decode(tokens, encoded)
    except RuntimeError as error:
        if "traced already" not in str(error):
            raise
        raise UserError("attention", "the model is being traced already", "no trace around it") from None
    finally:
        model.train(was_training)
    return tape[name].float().mean(dim=1)


@dataclass(frozen=True)
class Coverage:
    """β Σ_i log min(Σ_j p_ij, 1), added to the score of a finished text (Wu et al. 2016, eq. 14).

    p_ij is how much target token j looked at source position i. Needed only of finished texts, the weights are read
    in a pass over each: writing itself need not keep them, and the bound by which a search ends stays true, since the
    penalty is never above 0.
    """

    beta: float = 0.2
    layer: int = -1

    def __post_init__(self) -> None:
        check(self.beta >= 0, "coverage", self.beta, "0 or more")

    def bonuses(self, model: WritingModel, prompt: Prompt, written: int = 0) -> list[Covering]:
        """For each row of a prompt, what a beam search adds to its finished texts.

        Raises:
            UserError: for a model that reads no source.
        """
        if not isinstance(model, EncoderDecoder) or prompt.source is None:
            raise UserError("coverage", f"a model of kind {type(model).__name__}", "an encoder–decoder and a source")
        with torch.inference_mode():
            encoded = model.encode(prompt.source, keep=prompt.source_keep)
        rows = range(prompt.tokens.size(0))
        keep = [[True] * encoded.states.size(1)] * len(rows) if prompt.source_keep is None else prompt.source_keep
        each = torch.as_tensor(keep, device=prompt.tokens.device)
        return [Covering(self, model, encoded, prompt.tokens[row].tolist(), each[row], row, written) for row in rows]


@dataclass(frozen=True, eq=False)
class Covering:
    """The coverage penalty of texts of one source: a ``Bonus`` of beam search."""

    coverage: Coverage
    model: EncoderDecoder
    encoded: Encoded
    start: list[int]
    keep: Tensor
    row: int
    written: int

    def __call__(self, texts: Sequence[tuple[int, ...]], said: int) -> list[float]:
        longest = max(map(len, texts))
        whole = [[*self.start, *text, *[0] * (longest - len(text))] for text in texts]
        device, read = self.keep.device, len(self.start) - 1 + said  # the last token said is not read any more
        rows = torch.full((len(texts),), self.row, device=device)
        weights = looked_at(self.model, self.encoded.select(rows), torch.tensor(whole, device=device)[:, :read],
                            self.coverage.layer)  # fmt: skip
        first = len(self.start) - 1 - self.written
        sums = weights[:, max(first, 0) : read].sum(dim=1)[:, self.keep]
        covered = sums.clamp(min=torch.finfo(sums.dtype).tiny, max=1.0).log()
        return (self.coverage.beta * covered.sum(dim=1)).tolist()


@dataclass(frozen=True)
class Alignment:
    """Which part of the source each part of the target looked at most.

    Attributes:
        source, target: the tokens as people read them, or the words.
        pairs: (source, target), one for each of the target.
        weights: (T, S) how much each target part looked at each source part.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    weights: tuple[tuple[float, ...], ...]


def align(
    loaded: Loaded, sources: Sequence[str], targets: Sequence[str], *, layer: int = -1, words: bool = False
) -> list[Alignment]:
    """Aligns targets, written by the model or not, with their sources.

    Args:
        layer: whose cross-attention; negative counts from the last.
        words: of words, not of tokens: the weights of a source word's tokens are added, a target word's averaged.

    Raises:
        UserError: for a model without cross-attention over text, or other counts of sources and targets.
    """
    if len(sources) != len(targets):
        raise UserError("align", f"{len(sources)} sources and {len(targets)} targets", "as many of each")
    model, tokenizer = _translator(loaded), loaded.tokenizer
    found = []
    for source, target in zip(sources, targets, strict=True):
        read, written = tokenizer.encode(source), tokenizer.target.encode(target)
        weights = _weights(model, tokenizer, read, written, layer)
        if words:
            left, right = _words(tokenizer, read), _words(tokenizer.target, written)
            of_source = _merging(left, weights)
            of_target = _merging(right, weights)
            weights = (of_target / of_target.sum(dim=1, keepdim=True)) @ weights @ of_source.T
            read_as, written_as = tokenizer.decode(read).split(), tokenizer.target.decode(written).split()
        else:
            read_as, written_as = tokenizer.pieces(read), tokenizer.target.pieces(written)
        best = weights.argmax(dim=1).tolist() if weights.size(1) else []
        pairs = tuple((of, place) for place, of in enumerate(best))
        found.append(Alignment(tuple(read_as), tuple(written_as), pairs, tuple(map(tuple, weights.tolist()))))
    return found


def without_unknown(loaded: Loaded, source: str, target: Sequence[int], *, layer: int = -1) -> str:
    """The text of some target tokens, each unknown one replaced by the source token that it looked at most.

    Raises:
        UserError: for a model without cross-attention over text.
    """
    model, tokenizer, writer = _translator(loaded), loaded.tokenizer, loaded.tokenizer.target
    if writer.unk is None or writer.unk not in target:
        return writer.decode(target)
    encoding = tokenizer.raw.encode(source, add_special_tokens=False)
    if not encoding.ids:  # nothing was read that could stand there
        return writer.decode(target)
    best = _weights(model, tokenizer, encoding.ids, target, layer).argmax(dim=1).tolist()
    pieces: list[str] = []
    for token, of in zip(target, best, strict=True):
        if token == writer.unk:
            begin, end = encoding.offsets[of]
            pieces.append(_spelled(writer, source[begin:end]))
        elif token not in writer.special_ids and (piece := writer.raw.id_to_token(token)) is not None:
            pieces.append(piece)
    decoder = writer.raw.decoder
    return decoder.decode(pieces) if decoder is not None else " ".join(pieces)


def _spelled(tokenizer: Tokenizer, text: str) -> str:
    """A text as the decoder of a tokenizer expects its tokens."""
    decoder = repr(tokenizer.raw.decoder)
    if "ByteLevel" in decoder:
        return "".join(vocabularies.BYTES[byte] for byte in text.encode())
    return text.replace(" ", "▁") if "Metaspace" in decoder else text


def _weights(
    model: EncoderDecoder, tokenizer: Tokenizer, read: Sequence[int], written: Sequence[int], layer: int
) -> Float[Tensor, "T S"]:
    """How much each of the written tokens looked at each of those of the text that was read."""
    framed, writer = tokenizer.source(read), tokenizer.target
    start = [*writer.start, *writer.forced]
    with torch.inference_mode():
        encoded = model.encode(torch.tensor([framed], device=model.device))
    tokens = torch.tensor([[*start, *written[:-1]]], device=model.device)  # what comes after the last is not asked
    (weights,) = looked_at(model, encoded, tokens, layer)
    before = _begins(framed, read)
    return weights[len(start) - 1 : len(start) - 1 + len(written), before : before + len(read)].cpu()


def _begins(framed: Sequence[int], ids: Sequence[int]) -> int:
    """Where the tokens of a text stand among those around it."""
    return next(i for i in range(len(framed) + 1) if list(framed[i : i + len(ids)]) == list(ids))


def _words(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The word, between spaces, that each token belongs to."""
    counts = [len(tokenizer.decode(ids[: i + 1]).split()) for i in range(len(ids))]
    return [max(count - 1, 0) for count in counts]


def _merging(words: Sequence[int], like: Tensor) -> Float[Tensor, "W N"]:
    """(W, N), 1 where a token belongs to a word."""
    merged = like.new_zeros(max(words, default=-1) + 1, len(words))
    merged[list(words), list(range(len(words)))] = 1.0
    return merged


def _translator(loaded: Loaded) -> EncoderDecoder:
    if not isinstance(loaded.model, EncoderDecoder):
        raise UserError("align", f"a model of kind {type(loaded.model).__name__}", "an encoder–decoder that reads text")
    return loaded.model
