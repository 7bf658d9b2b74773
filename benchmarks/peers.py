"""What pellucid's training is compared with: the same shapes in plain PyTorch, transformers and x-transformers.

A peer takes its shape from pellucid's config, so that all are of one size, and turns a batch into the mean loss of its
labels. Padding stands on the right: behind a causal mask no real token sees it, and the loss ignores it, so that only
the source needs a mask of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from shapes import Work
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.config.run import SequenceToSequence, Training
from pellucid.data.batch import Batch


@dataclass(frozen=True)
class Peer:
    """A model, and the mean loss of its labels in a batch."""

    model: nn.Module
    loss: Callable[[Batch], Tensor]


def updates(peer: Peer, batches: Sequence[Batch], training: Training, *, fused: bool) -> Iterator[float]:
    """The usual training loop, yielding the loss of each update."""
    parameters = [p for p in peer.model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": training.optimizer.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    rate, betas = training.schedule.peak or 0.0, training.optimizer.betas
    adam = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True if fused else None)
    peer.model.train()
    for batch in cycle(batches):
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            loss = peer.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        adam.step()
        adam.zero_grad()
        yield loss.item()


# ---- GPT ---------------------------------------------------------------------------------------


def plain_gpt(work: Work, plain_attention: bool) -> Peer:
    """A GPT as most teaching codes write it; who calls it decides on the kernel of its fused attention."""
    shape = _decoder(work)
    model = PlainGPT(shape, work.longest)
    return Peer(model, lambda batch: model(batch.tokens, batch.labels))


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, d_ff, bias=False), nn.Linear(d_ff, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(context.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class PlainGPT(nn.Module):
    """Pre-norm, learned positions, tied head, loss on all logits at once."""

    def __init__(self, shape: config.Decoder, length: int) -> None:
        super().__init__()
        stack, width = shape.stack, shape.stack.d_model
        self.tokens, self.positions = nn.Embedding(shape.front.vocab_size, width), nn.Embedding(length, width)
        sizes = (width, stack.attention.num_heads, stack.feed_forward.d_ff)
        self.blocks = nn.ModuleList(PlainBlock(*sizes) for _ in range(stack.num_layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, shape.front.vocab_size, bias=False)
        for matrix in (p for p in self.parameters() if p.dim() == 2):
            nn.init.normal_(matrix, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), labels.flatten())


def transformers_gpt2(work: Work, plain_attention: bool) -> Peer:
    """GPT2LMHeadModel, whose biases cannot be left out: they are less than a hundredth of it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = _decoder(work)
    stack = shape.stack
    settings = GPT2Config(
        vocab_size=shape.front.vocab_size,
        n_positions=work.longest,
        n_embd=stack.d_model,
        n_layer=stack.num_layers,
        n_head=stack.attention.num_heads,
        n_inner=stack.feed_forward.d_ff,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager" if plain_attention else "sdpa",
    )
    model = GPT2LMHeadModel(settings)
    return Peer(model, lambda batch: _loss(model(batch.tokens).logits, batch, work))


def x_transformers_gpt(work: Work, plain_attention: bool) -> Peer:
    """TransformerWrapper around a Decoder; its linears and norms have no biases."""
    from x_transformers import Decoder, TransformerWrapper

    shape = _decoder(work)
    stack = shape.stack
    layers = Decoder(
        dim=stack.d_model,
        depth=stack.num_layers,
        heads=stack.attention.num_heads,
        attn_dim_head=stack.head_dim,
        attn_flash=not plain_attention,
        ff_mult=stack.feed_forward.d_ff // stack.d_model,
        ff_no_bias=True,
    )
    model = TransformerWrapper(
        num_tokens=shape.front.vocab_size, max_seq_len=work.longest, attn_layers=layers, tie_embedding=True
    )
    return Peer(model, lambda batch: _loss(model(batch.tokens), batch, work))


def _decoder(work: Work) -> config.Decoder:
    assert isinstance(work.model, config.Decoder)
    return work.model


# ---- encoder and decoder -----------------------------------------------------------------------


def torch_transformer(work: Work, plain_attention: bool) -> Peer:
    """torch.nn.Transformer with tied embeddings; who calls it decides on the kernel of its fused attention."""
    model = TiedTransformer(_encoder_decoder(work), work.longest)
    return Peer(model, lambda batch: _loss(model(batch), batch, work))


class TiedTransformer(nn.Module):
    """Post-norm without last norms, and dropout on the residuals alone, as the paper has it."""

    def __init__(self, shape: config.EncoderDecoder, length: int) -> None:
        super().__init__()
        stack = shape.encoder
        self.width = stack.d_model
        self.table = nn.Embedding(shape.target.vocab_size, self.width)
        self.dropout = nn.Dropout(stack.dropout)
        self.transformer = nn.Transformer(
            d_model=self.width,
            nhead=stack.attention.num_heads,
            num_encoder_layers=stack.num_layers,
            num_decoder_layers=shape.decoder.num_layers,
            dim_feedforward=stack.feed_forward.d_ff,
            dropout=stack.dropout,
            batch_first=True,
        )
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            layer.dropout = nn.Identity()  # after the activation
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        nn.init.normal_(self.table.weight, std=self.width**-0.5)
        self.register_buffer("waves", _waves(length, self.width))
        self.register_buffer("hidden", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, batch: Batch) -> Tensor:
        assert batch.source is not None
        length = batch.tokens.size(1)
        padding = None if batch.source_keep is None else ~batch.source_keep
        states = self.transformer(
            self.embed(batch.source),
            self.embed(batch.tokens),
            tgt_mask=self.hidden[:length, :length],
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return F.linear(states, self.table.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.table(tokens) * self.width**0.5 + self.waves[: tokens.size(1)])


def _waves(length: int, width: int) -> Tensor:
    angles = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def transformers_marian(work: Work, plain_attention: bool) -> Peer:
    """MarianMTModel, the post-norm sinusoidal encoder-decoder of transformers."""
    from transformers import MarianConfig, MarianMTModel

    shape = _encoder_decoder(work)
    stack = shape.encoder
    settings = MarianConfig(
        vocab_size=shape.target.vocab_size,
        max_position_embeddings=work.longest,
        d_model=stack.d_model,
        encoder_layers=stack.num_layers,
        decoder_layers=shape.decoder.num_layers,
        encoder_attention_heads=stack.attention.num_heads,
        decoder_attention_heads=stack.attention.num_heads,
        encoder_ffn_dim=stack.feed_forward.d_ff,
        decoder_ffn_dim=stack.feed_forward.d_ff,
        activation_function="relu",
        dropout=stack.dropout,
        scale_embedding=True,
        init_std=stack.d_model**-0.5,
        use_cache=False,
        pad_token_id=work.pad,
        eos_token_id=work.pad,
        forced_eos_token_id=None,
        decoder_start_token_id=work.pad,
        attn_implementation="eager" if plain_attention else "sdpa",
    )
    model = MarianMTModel(settings)

    def loss(batch: Batch) -> Tensor:
        given: dict[str, Any] = {"input_ids": batch.source, "attention_mask": batch.source_keep}
        return _loss(model(**given, decoder_input_ids=batch.tokens).logits, batch, work)

    return Peer(model, loss)


def _encoder_decoder(work: Work) -> config.EncoderDecoder:
    assert isinstance(work.model, config.EncoderDecoder)
    return work.model


def _loss(logits: Tensor, batch: Batch, work: Work) -> Tensor:
    smoothing = work.objective.label_smoothing if isinstance(work.objective, SequenceToSequence) else 0.0
    return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), label_smoothing=smoothing)
