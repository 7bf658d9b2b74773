"""Encoders, blocks, heads and whole models of PyTorch that are right, and unusual in a legitimate way."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.base import BERT, GPT, HEADS, VOCAB, WIDTH, Attention, Block, Classifier, Rotary, bert_spec, gpt_spec
from zoo.entry import Family, Healthy

Output = namedtuple("Output", ["logits", "hidden"])


class PostNorm(Block):
    """norm(x + f(x)): Vaswani et al. 2017."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(x, keep, past)
        x = self.norm_1(x + attended)
        return self.norm_2(x + self.feed_forward(x)), cache


class Sandwich(Block):
    """A norm before and after each sub-layer."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.norm_3, self.norm_4 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + self.norm_3(attended)
        return x + self.norm_4(self.feed_forward(self.norm_2(x))), cache


class Parallel(Block):
    """Attention and feed-forward network read the same norm: GPT-J."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        del self.norm_2

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        inside = self.norm_1(x)
        attended, cache = self.attention(inside, keep, past)
        return x + attended + self.feed_forward(inside), cache


class ReZero(Block):
    """Every sub-layer is multiplied by a number that begins at zero, and nothing is normed."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        del self.norm_1, self.norm_2
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(x, keep, past)
        x = x + self.gain * attended
        return x + self.gain * self.feed_forward(x), cache


class LayerScaled(Block):
    """A gain for every channel, begun at 1e-4: CaiT."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.gain_1, self.gain_2 = (nn.Parameter(torch.full((WIDTH,), 1e-4)) for _ in range(2))

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + self.gain_1 * attended
        return x + self.gain_2 * self.feed_forward(self.norm_2(x)), cache


class SwiGLU(Block):
    """A product of two projections."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.feed_forward = _GLU()


class _GLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 80, bias=False), nn.Linear(WIDTH, 80, bias=False)
        self.down = nn.Linear(80, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class ReluSquared(Block):
    """Primer's activation, of a function."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        return x + self.feed_forward[2](F.relu(self.feed_forward[0](self.norm_2(x))).square()), cache


class TokenChoice(Block):
    """Each token goes to the best two of four experts."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        del self.feed_forward
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(4)
        )

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        inside = self.norm_2(x)
        gates = self.router(inside).topk(2, -1)
        shares, more = gates.values.softmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            chosen = gates.indices == i
            place = chosen.any(-1)
            if bool(place.any()):
                more[place] = more[place] + expert(inside[place]) * (shares * chosen).sum(-1)[place][:, None]
        return x + more, cache


class LowRank(Block):
    """Two linear layers through fewer channels, with nothing between them: a LoRA beside the network."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.down, self.up = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        inside = self.norm_2(x)
        return x + self.feed_forward(inside) + self.up(self.down(inside)), cache


class Tied(GPT):
    """The table of tokens is the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.tokens.weight


class Shared(GPT):
    """One block, three times: the Universal Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 3)


class Looped(GPT):
    """One block, run three times by a loop."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        x, grown = self.embedded(ids, self.start(cache)), []
        for i in range(3):
            x, one = self.blocks[0](x, keep, None if cache is None else cache[i])
            grown.append(one)
        return self.head(self.norm(x)), grown

    def __init__(self) -> None:
        super().__init__(layers=1)


class Factorised(GPT):
    """A narrow table and a projection: ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Embedding(VOCAB, 8), nn.Linear(8, WIDTH))


class BiasedHead(GPT):
    """The output projection has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, VOCAB)


class LogSoftmax(GPT):
    """Log-probabilities, for a loss that takes them."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        logits, cache = super().step(ids, cache, keep)
        return logits.log_softmax(-1), cache


class RoundedUp(GPT):
    """Tables are larger than the vocabulary, by a multiple of 64."""

    def __init__(self) -> None:
        super().__init__(vocab=128)


class CappedLogits(GPT):
    """Outputs are squashed to ±30."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        logits, cache = super().step(ids, cache, keep)
        return 30 * torch.tanh(logits / 30), cache


class Tuples(GPT):
    """Returns outputs and cache."""

    def forward(self, ids: Tensor) -> Any:
        return self.step(ids, None)


class Dicts(GPT):
    """Returns a dictionary, in which the outputs are not the first."""

    def forward(self, ids: Tensor) -> Any:
        logits, cache = self.step(ids, None)
        return {"loss": torch.zeros(()), "hidden": logits[..., :3], "logits": logits, "cache": cache}


class Named(GPT):
    """Returns a named tuple."""

    def forward(self, ids: Tensor) -> Any:
        logits, _ = self.step(ids, None)
        return Output(logits=logits, hidden=logits)


class NanoStyle(GPT):
    """Without targets, the last position alone: nanoGPT."""

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
        logits, _ = self.step(idx, None)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Features(nn.Module):
    """Reads vectors, such as those of a sound."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.into, self.positions = nn.Linear(12, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.ModuleList(Block(Attention(causal=causal)) for _ in range(2))
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x) + self.positions(torch.arange(x.size(1)))
        for block in self.blocks:
            x, _ = block(x)
        return self.out(x)


class Torchs(nn.Module):
    """nn.TransformerEncoder as it is: post-norm, dropout, copies of one layer."""

    def __init__(self, norm_first: bool = False, causal: bool = False, **more: Any) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, **more)
        self.head, self.causal = nn.Linear(WIDTH, VOCAB), causal
        for parameter in (self.tokens.weight, self.positions.weight, self.head.weight):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        hidden = None if attention_mask is None else ~attention_mask.bool()
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1)) if self.causal else None
        return self.head(self.encoder(x, mask=mask, src_key_padding_mask=hidden, is_causal=self.causal))


class TorchsDecoder(nn.Module):
    """nn.TransformerDecoder with a source."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
        self.transformer = nn.Transformer(WIDTH, HEADS, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def embedded(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(1)))

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        return self.head(self.transformer(self.embedded(src), self.embedded(tgt), tgt_mask=mask, tgt_is_causal=True))


class WithWeights(nn.Module):
    """nn.MultiheadAttention that returns its weights."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
        out, weights = self.inner(x, x, x, attn_mask=mask, need_weights=True)
        return out, (weights[:, None], x)


class TimeFirst(nn.Module):
    """(T, B, D) inside, as PyTorch's layers are by default."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.tokens(ids) + self.positions(torch.arange(ids.size(1)))).transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.head(self.encoder(x, mask=mask)).transpose(0, 1)


class FirstPooled(Classifier):
    """The first token stands for the text: BERT."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x[:, 0]


class Normed(Block):
    """BatchNorm with running statistics."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.extra = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(self.extra(x.transpose(1, 2)).transpose(1, 2), keep, past)


class Nearby(Attention):
    """Eight to both sides."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        apart = torch.arange(scores.size(-2))[:, None] - torch.arange(scores.size(-1))
        hidden = (apart.abs() >= 8)[None, None]
        hidden = hidden if keep is None else hidden | ~keep[:, None, None]
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)  # padding far out sees nothing: no NaN


def pretrained() -> tuple[nn.Module, Spec]:
    """Weights as after training: large gains, sharp heads, wide outputs."""
    model = GPT(std=0.15)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 3.0)
                module.bias.normal_(std=0.3)
        model.head.weight.mul_(4)
    return model, gpt_spec()


def checkpointed() -> tuple[nn.Module, Spec]:
    from torch.utils.checkpoint import checkpoint

    class Saving(Block):
        def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
            if self.training and torch.is_grad_enabled():
                return checkpoint(super().forward, x, keep, past, use_reentrant=False)
            return super().forward(x, keep, past)

    return GPT(block=Saving, dropout=0.1), gpt_spec()


def half() -> tuple[nn.Module, Spec]:
    return GPT(std=None).bfloat16(), gpt_spec()


def function() -> tuple[Any, Spec]:
    model = GPT().eval()
    return (lambda ids: model(ids)), Spec(kind="decoder", vocab_size=VOCAB)


def frozen() -> tuple[nn.Module, Spec]:
    model = GPT()
    model.tokens.weight.requires_grad_(False)
    return model, gpt_spec(declare={"frozen"})


def trained_with(optimizer: Any) -> Any:
    def build() -> tuple[nn.Module, Spec]:
        model = GPT()
        return model, gpt_spec(optimizer=optimizer(model), schedule=lambda step: 1e-3 * min(1, (step + 1) / 100))

    return build


def next_token(logits: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())


def masked_tokens(logits: Tensor, batch: Any) -> Tensor:
    labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def plain(**more: Any) -> Spec:
    return Spec(kind="decoder", **more)


def _is(name: str, reference: str, build: Any, family: Family = "decoder", **more: Any) -> Healthy:
    return Healthy(name=name, reference=reference, family=family, build=build, **more)


def _block(kind: type[Block], **more: Any) -> Any:
    return lambda: (GPT(block=kind, **more), gpt_spec())


HEALTHY = (
    _is("post-norm", "Vaswani et al. 2017", _block(PostNorm)),
    _is("sandwich norms", "Gemma 2", _block(Sandwich)),
    _is("parallel blocks", "GPT-J", _block(Parallel)),
    _is("ReZero", "Bachlechner et al. 2020", _block(ReZero)),
    _is("LayerScale", "CaiT", _block(LayerScaled)),
    _is("gated feed-forward networks", "Llama", _block(SwiGLU)),
    _is("squares of ReLUs", "Primer", _block(ReluSquared)),
    _is("experts that tokens choose", "Mixtral", _block(TokenChoice)),
    _is("low-rank layers beside", "LoRA", _block(LowRank)),
    _is("tied tables", "Press and Wolf 2017", lambda: (Tied(), gpt_spec(tied=True))),
    _is("untied tables", "GPT-NeoX", lambda: (GPT(), gpt_spec(tied=False))),
    _is("shared layers", "ALBERT", lambda: (Shared(), gpt_spec(declare={"shared_layers"}))),
    _is("one layer run three times", "Universal Transformer", lambda: (Looped(), gpt_spec())),
    _is("factorised embeddings", "ALBERT", lambda: (Factorised(), gpt_spec())),
    _is("a bias at the output", "GPT-J", lambda: (BiasedHead(), gpt_spec())),
    _is("log-probabilities", "the annotated Transformer", lambda: (LogSoftmax(), gpt_spec())),
    _is("tables rounded up", "nanoGPT", lambda: (RoundedUp(), gpt_spec(vocab_size=VOCAB))),
    _is("outputs with a cap", "Gemma 2", lambda: (CappedLogits(), gpt_spec())),
    _is("returns a tuple", "any", lambda: (Tuples(), gpt_spec())),
    _is("returns a dictionary", "any", lambda: (Dicts(), gpt_spec())),
    _is("returns a named tuple", "any", lambda: (Named(), gpt_spec())),
    _is("returns the last position alone", "nanoGPT", lambda: (NanoStyle(), plain())),
    _is("a function", "any", function),
    _is("weights as after training", "any", pretrained),
    _is("half precision", "Llama", half),
    _is("checkpointed blocks", "torch.utils.checkpoint", checkpointed),
    _is("a frozen table", "fine-tuning", frozen),
    _is("an optimizer in two groups", "AdamW", trained_with(lambda m: torch.optim.AdamW(
        [{"params": [p for p in m.parameters() if p.dim() > 1]},
         {"params": [p for p in m.parameters() if p.dim() < 2], "weight_decay": 0.0}]))),
    _is("the loss of a decoder", "any", lambda: (GPT(), gpt_spec(criterion=next_token))),
    _is("the same, trained", "any", lambda: (GPT(Rotary, learned=False), gpt_spec(criterion=next_token)), slow=True),
    _is("nn.MultiheadAttention with weights", "PyTorch", lambda: (GPT(WithWeights), plain())),
    _is("nn.TransformerEncoder as a decoder", "PyTorch", lambda: (Torchs(causal=True), plain())),
    _is("time before batch", "PyTorch", lambda: (TimeFirst(), plain())),
    _is("a decoder of vectors", "any", lambda: (Features(causal=True), plain(features=12))),
    _is("a plain encoder", "BERT", lambda: (BERT(), bert_spec()), "encoder"),
    _is("an encoder of which nothing is said", "BERT", lambda: (BERT(), None), "encoder"),
    _is("an encoder's loss", "BERT", lambda: (BERT(), bert_spec(labels="same", criterion=masked_tokens)), "encoder"),
    _is("a post-norm encoder", "BERT", lambda: (BERT(block=PostNorm), bert_spec()), "encoder"),
    _is("a rotary encoder", "ModernBERT", lambda: (BERT(Rotary), bert_spec()), "encoder"),
    _is("an encoder with a window", "Longformer", lambda: (BERT(Nearby), bert_spec(window=8)), "encoder"),
    _is("an encoder with dropout", "BERT", lambda: (BERT(dropout=0.1), bert_spec()), "encoder"),
    _is("BatchNorm with running statistics", "TST", lambda: (BERT(block=Normed), bert_spec()), "encoder"),
    _is("BatchNorm, declared", "TST", lambda: (GPT(block=Normed), plain(declare={"batch_coupled"}))),
    _is("mean pooling", "Sentence-BERT", lambda: (Classifier(), bert_spec()), "encoder"),
    _is("the first token pooled", "BERT", lambda: (FirstPooled(), bert_spec(pooled=True)), "encoder"),
    _is("nn.TransformerEncoder", "PyTorch", lambda: (Torchs(enable_nested_tensor=False), bert_spec()), "encoder"),
    _is("nn.TransformerEncoder, pre-norm", "PyTorch", lambda: (Torchs(norm_first=True), bert_spec()), "encoder"),
    _is("an encoder of vectors", "wav2vec", lambda: (Features(), Spec(kind="encoder", features=12)), "encoder"),
    _is("nn.Transformer", "PyTorch", lambda: (TorchsDecoder(), Spec(kind="encoder_decoder")), "encoder_decoder"),
)  # fmt: skip
