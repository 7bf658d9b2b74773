"""Every published layout against ``transformers``: logits, hidden states and attention maps within 1e-5 of their scale.

Compared at real positions: of a padded query the oracle makes a uniform row of weights.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from parity.cases import CASES, Case
from pellucid.config.model import Embedding, Encoder, EncoderDecoder
from pellucid.models.foreign.folder import load_published
from pellucid.trace import trace

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
PADDINGS = pytest.mark.parametrize("padding", ["none", "left", "right"])
TEXTS = [case for case in CASES if case.kind not in ("vit", "whisper")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saves a case once; returns its folder, the oracle and our model."""
    root = tmp_path_factory.mktemp("published")

    @cache
    def saved(case: Case) -> tuple[Path, Any, Any]:
        folder = root / case.name.replace("/", "-")
        oracle = case.oracle()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle.save_pretrained(folder)
        return folder, oracle, load_published(folder).eval()

    return saved


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= 1e-5 * scale, f"{((ours - theirs).abs().max() / scale).item():.1e} of scale"


def rows(size: int, padding: str, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 11 tokens, or of 11, 7 and 1."""
    torch.manual_seed(5)
    tokens = torch.randint(5, size, (3, 11))
    keep = torch.ones(3, 11, dtype=torch.bool)
    for row, length in enumerate((11, 7, 1)):
        if padding == "right":
            keep[row, length:] = False
        if padding == "left":
            keep[row, : 11 - length] = False
    return tokens.masked_fill(~keep, pad), keep


def counted(keep: torch.Tensor) -> torch.Tensor:
    return (keep.cumsum(1) - 1).clamp(min=0)


def compare(tape: Any, prefix: str, keep: torch.Tensor, hidden: Any, attentions: Any, cross: Any = None) -> None:
    """Every hidden state and attention map of one tower, at real positions."""
    layers = len(attentions)
    close(tape[f"{prefix}embedding.out"][keep], hidden[0][keep])
    for layer in range(layers):
        if layer + 1 < layers:  # the oracle's last one is after the last norm
            close(tape[f"{prefix}blocks.{layer}.residual_post"][keep], hidden[layer + 1][keep])
        ours = tape[f"{prefix}blocks.{layer}.self_attention.weights"].transpose(1, 2)[keep]
        close(ours, attentions[layer].transpose(1, 2)[keep])
        if cross is not None:
            ours = tape[f"{prefix}blocks.{layer}.cross_attention.weights"].transpose(1, 2)[keep]
            close(ours, cross[layer].transpose(1, 2)[keep])
    last = (
        f"{prefix}final_norm.out" if f"{prefix}final_norm.out" in tape else f"{prefix}blocks.{layers - 1}.residual_post"
    )
    close(tape[last][keep], hidden[-1][keep])


@pytest.mark.parametrize("case", [c for c in TEXTS if "LM" in c.model or "Bert" in c.model], ids=lambda case: case.name)
@PADDINGS
def test_towers(case, padding, folders):
    _, oracle, ours = folders(case)
    if isinstance(ours.config, EncoderDecoder):
        return
    pad = oracle.config.pad_token_id or 0
    tokens, keep = rows(61, padding, pad)
    more = {} if case.kind in ("roberta", "distilbert") else {"position_ids": counted(keep)}
    positions = None
    if case.kind == "distilbert":  # it counts the padding too, and takes no positions
        positions = torch.arange(tokens.size(1)).expand_as(tokens)
    types = None
    if isinstance(ours.config, Encoder) and ours.config.front.token_types > 1:
        types = torch.randint(0, 2, tokens.shape)
        more["token_type_ids"] = types
    with torch.no_grad(), trace(ours) as tape:
        told = {"keep": None if padding == "none" else keep, "positions": positions}
        logits = ours(tokens, **told) if types is None else ours(tokens, **told, token_types=types)
        theirs = oracle(tokens, attention_mask=keep.long(), output_hidden_states=True, output_attentions=True, **more)
    compare(tape, "", keep, theirs.hidden_states, theirs.attentions)
    if isinstance(ours.config, Encoder) and isinstance(ours.config.head, Embedding):
        if padding != "left":  # its pooler takes the first position, padding or not
            close(logits, theirs.pooler_output)
    elif logits.dim() == 2:
        if padding != "left":
            close(logits, theirs.logits)
    else:
        close(logits[keep], theirs.logits[keep])


@pytest.mark.parametrize("case", [c for c in TEXTS if "Cond" in c.model or "MT" in c.model], ids=lambda case: case.name)
@PADDINGS
def test_pairs(case, padding, folders):
    _, oracle, ours = folders(case)
    pad = oracle.config.pad_token_id or 0
    source, source_keep = rows(61, padding, pad)
    target, keep = rows(getattr(oracle.config, "decoder_vocab_size", 61), padding, pad)
    target, keep = target[:, 2:], keep[:, 2:]
    target = target.flip(1) if padding == "none" else target
    # These count the padding too, and take no positions; relative ones are the same wherever the padding stands.
    absolute = case.kind != "t5"
    with torch.no_grad(), trace(ours) as tape:
        encoded = ours.encode(
            source,
            keep=None if padding == "none" else source_keep,
            positions=torch.arange(11).expand_as(source) if absolute else None,
        )
        logits = ours.decode(
            target,
            encoded,
            keep=None if padding == "none" else keep,
            positions=torch.arange(9).expand_as(target) if absolute else None,
        )
        theirs = oracle(
            input_ids=source,
            attention_mask=source_keep.long(),
            decoder_input_ids=target,
            decoder_attention_mask=keep.long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    compare(tape, "encoder.", source_keep, theirs.encoder_hidden_states, theirs.encoder_attentions)
    compare(tape, "decoder.", keep, theirs.decoder_hidden_states, theirs.decoder_attentions, theirs.cross_attentions)
    close(logits[keep], theirs.logits[keep])


@pytest.mark.parametrize("name", ["llama/grouped", "llama/linear-tied", "qwen3/tied"])
def test_rotary_angles_far_out(name, folders):
    _, oracle, ours = folders(next(case for case in CASES if case.name == name))
    far = torch.tensor([[0, 1, 500, 8_000, 100_000]])
    cos, sin = oracle.model.rotary_emb(torch.zeros(1), far)
    turn = ours.rotation(far)
    close(turn.cos[:, 0], cos)
    close(turn.sin[:, 0], sin)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama", "gemma2", "qwen3"])
def test_halves_of_the_precision(kind, folders):
    """In bfloat16 the answers are those of float32, as near as its eight bits come."""
    folder, _, ours = folders(next(case for case in CASES if case.kind == kind))
    tokens, keep = rows(61, "left", 0)
    with torch.no_grad():
        expected = ours(tokens, keep=keep)[keep]
        found = load_published(folder, torch.bfloat16).eval()(tokens, keep=keep)[keep]
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() <= 0.15 * expected.norm()


@pytest.mark.parametrize("kind", ["marian", "pegasus"])
def test_sinusoids_far_out(kind, folders):
    """The tables of the oracle, which its files do not hold, at its last position."""
    _, oracle, ours = folders(next(case for case in CASES if case.kind == kind))
    far = torch.arange(40)[None]
    code = ours.encoder.embedding.positions(torch.zeros(1, 40, ours.config.encoder.d_model), far)
    assert code[0].equal(oracle.model.encoder.embed_positions.weight)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "vit"], ids=lambda case: case.name)
def test_images(case, folders):
    _, oracle, ours = folders(case)
    torch.manual_seed(6)
    images = torch.randn(2, oracle.config.num_channels, 12, 12)
    with torch.no_grad(), trace(ours) as tape:
        logits = ours(images)
        theirs = oracle(images, output_hidden_states=True, output_attentions=True)
    keep = torch.ones(2, ours.embedding.length(images), dtype=torch.bool)
    compare(tape, "", keep, (*theirs.hidden_states[:-1], tape["final_norm.out"]), theirs.attentions)
    close(logits, theirs.logits if "logits" in theirs else theirs.pooler_output)
    if "logits" not in theirs:
        close(tape["final_norm.out"], theirs.last_hidden_state)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "whisper"], ids=lambda case: case.name)
def test_sounds(case, folders):
    _, oracle, ours = folders(case)
    torch.manual_seed(7)
    mels = torch.randn(3, oracle.config.num_mel_bins, 40)
    target, keep = rows(61, "right", 1)
    with torch.no_grad(), trace(ours) as tape:
        logits = ours(mels, target, keep=keep)
        theirs = oracle(
            input_features=mels,
            decoder_input_ids=target,
            decoder_attention_mask=keep.long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    everything = torch.ones(3, 20, dtype=torch.bool)
    compare(tape, "encoder.", everything, theirs.encoder_hidden_states, theirs.encoder_attentions)
    compare(tape, "decoder.", keep, theirs.decoder_hidden_states, theirs.decoder_attentions, theirs.cross_attentions)
    close(logits[keep], theirs.logits[keep])
