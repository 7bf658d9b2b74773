"""Models whose arithmetic is right and whose parts are not trained, not alive, or asked for the wrong thing."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec
from zoo.base import BERT, GPT, VOCAB, WIDTH, Attention, Block, bert_spec
from zoo.entry import Bug


class PlainList(GPT):
    """Blocks in a list of Python."""

    def __init__(self) -> None:
        super().__init__()
        blocks = list(self.blocks)
        del self.blocks
        self.blocks = blocks


class PlainDict(BERT):
    """Heads of a dictionary of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = {"more": nn.Linear(WIDTH, WIDTH)}

    def encoded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        x = super().encoded(ids, keep)
        return x + self.extra["more"](x)


class OneManyTimes(GPT):
    """[layer] * N."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 3)


class OneNorm(GPT):
    """One norm is handed to every block."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.norm_1 = self.norm


class OneFeedForward(GPT):
    """The feed-forward network is made once, outside the loop."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks[1:]:
            block.feed_forward = self.blocks[0].feed_forward


class Copies(GPT):
    """copy.deepcopy of one block for every layer."""

    def __init__(self) -> None:
        super().__init__(layers=1)
        self.blocks = nn.ModuleList(copy.deepcopy(self.blocks[0]) for _ in range(3))


class TieLost(GPT):
    """Tied, and then given a new table."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.tokens.weight
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.02)


class TieCopied(GPT):
    """The numbers of the table are copied to the head, and are two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight.data.copy_(self.tokens.weight.data)


class NormUnused(Block):
    """A norm of queries that is made and never called."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.norm_q = nn.LayerNorm(WIDTH)


class NormDropped(Block):
    """The norm's result is thrown away."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.norm_3 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        self.norm_3(x)
        return super().forward(x, keep, past)


class WithoutGradients(Block):
    """The feed-forward network runs under no_grad."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        with torch.no_grad():
            more = self.feed_forward(self.norm_2(x))
        return x + more, cache


class Detached(Block):
    """The stream is detached before every block: none but the last learns by way of the others."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x.detach(), keep, past)


class StreamDetached(Block):
    """x.detach() + attention(x): gradients reach below by the sub-layers alone."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x.detach() + attended
        return x + self.feed_forward(self.norm_2(x)), cache


class ByData(Block):
    """.data of the feed-forward network's input."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        return x + self.feed_forward(self.norm_2(x).data), cache


class ByZero(Block):
    """The feed-forward network's result is multiplied by zero."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        return x + 0.0 * self.feed_forward(self.norm_2(x)), cache


class Overwritten(Block):
    """What attention gave is overwritten, not added."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        x = x + self.attention(self.norm_1(x), keep, past)[0]
        x = self.feed_forward(self.norm_2(x))
        return x, (x[:, None], x)


class NoResidual(Block):
    """Neither sub-layer is added to its input."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        x, cache = self.attention(self.norm_1(x), keep, past)
        return self.feed_forward(self.norm_2(x)), cache


class AttentionNotAdded(Block):
    """What attention gave replaces its input."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        x, cache = self.attention(self.norm_1(x), keep, past)
        return x + self.feed_forward(self.norm_2(x)), cache


class Dead(Block):
    """ReLUs whose biases lie far below zero."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.feed_forward[1] = nn.ReLU()
        nn.init.constant_(self.feed_forward[0].bias, -20.0)


class DeadInline(Block):
    """The same with F.relu."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        nn.init.constant_(self.feed_forward[0].bias, -20.0)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        return x + self.feed_forward[2](F.relu(self.feed_forward[0](self.norm_2(x)))), cache


class NoActivation(Block):
    """Two linear layers with nothing between them."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.Dropout(0.0), nn.Linear(4 * WIDTH, WIDTH))


class Probabilities(GPT):
    """A softmax before a loss that has its own."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        logits, cache = super().step(ids, cache, keep)
        return logits.softmax(-1), cache


class Wide(GPT):
    """A tied table drawn with a deviation of one."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.tokens.weight)
        self.head.weight = self.tokens.weight


class WideHead(GPT):
    """The output projection is drawn a hundred times too large."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=2.0)


class Seeding(GPT):
    """For reproducible dropout."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        torch.manual_seed(0)
        return super().embedded(ids, start)


class WritesInput(GPT):
    """The first token is replaced by that of the start, in the caller's own tensor."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        ids[:, 0] = 0
        return super().embedded(ids, start)


class SwitchesMode(GPT):
    """Its dropout is switched off for a fast pass, and stays off."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        self.dropout.eval()
        return super().embedded(ids, start)


class SwitchesGradients(GPT):
    """Gradients are switched off for the embedding."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        torch.set_grad_enabled(False)
        return super().embedded(ids, start)


class Chosen(Block):
    """The choice of an expert alone is used: the router has no gradient."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.router, self.other = nn.Linear(WIDTH, 2), copy.deepcopy(self.feed_forward)
        nn.init.normal_(self.other[0].weight, std=0.02)
        nn.init.normal_(self.other[2].weight, std=0.02)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + attended
        inside = self.norm_2(x)
        first = self.router(inside).argmax(-1, keepdim=True) == 0
        return x + torch.where(first, self.feed_forward(inside), self.other(inside)), cache


class OneNumber(GPT):
    """nn.init.ones_ for the projections of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            nn.init.ones_(block.attention.q.weight)
            nn.init.ones_(block.attention.k.weight)


class DeviationOne(GPT):
    """torch.randn for the projections, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.attention.v.weight.data = torch.randn(WIDTH, WIDTH)
            block.attention.out.weight.data = torch.randn(WIDTH, WIDTH)


class FrozenEmbedding(GPT):
    """Tokens are looked up in .data."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens.weight.data[ids] + self.positions(torch.arange(ids.size(1)))


class SegmentsForgotten(BERT):
    """A table of segments that is never added."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = nn.Embedding(2, WIDTH)


class Nothing(Attention):
    """The output of attention is that of its input projection: the rest runs for nothing."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        _, cache = super().forward(x, keep, past)
        return self.out(x), cache


def plain(**more: Any) -> Spec:
    return Spec(kind="decoder", **more)


def shifted_over_rows(logits: Tensor, batch: Batch) -> Tensor:
    """Flattened before they are shifted: the last of a row is asked for the first of the next."""
    return F.cross_entropy(logits.flatten(0, 1)[:-1], batch.ids.flatten()[1:])


def masked_spec(criterion: Any, **more: Any) -> Spec:
    """A masked language model that is asked for what it reads."""
    return bert_spec(labels="same", criterion=criterion, pad_id=0, **more)


def asks_padding(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch.ids.flatten())


def asks_next(logits: Tensor, batch: Batch) -> Tensor:
    labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def smooths_padding(logits: Tensor, batch: Batch) -> Tensor:
    """The smoothing term counts what is ignored."""
    labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
    smooth = -logits.log_softmax(-1).mean()
    return 0.9 * F.cross_entropy(logits.flatten(0, 1), labels.flatten()) + 0.1 * smooth


def means_of_means(model: Any, batches: Any) -> None:
    for batch in batches:
        labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
        loss = F.cross_entropy(model(batch.ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        (loss / len(batches)).backward()


def optimizer_before_head() -> tuple[nn.Module, Spec]:
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters())
    model.head = nn.Linear(WIDTH, VOCAB, bias=False)
    nn.init.normal_(model.head.weight, std=0.02)
    return model, plain(optimizer=optimizer)


def not_in_optimizer() -> tuple[nn.Module, Spec]:
    """Groups by decay that forget what is in neither."""
    model = GPT()
    chosen = [p for name, p in model.named_parameters() if name.endswith("weight")]
    return model, plain(optimizer=torch.optim.AdamW(chosen))


def large_rate() -> tuple[nn.Module, Spec]:
    model = GPT()
    return model, plain(optimizer=torch.optim.Adam(model.parameters(), lr=0.05), schedule=lambda step: 0.05)


COVERAGE, SHARING, LABELS = ("params.coverage",), ("params.sharing",), ("loss.alignment",)
GRADIENTS = ("params.coverage", "health.gradients")
INIT, STATE, RESIDUAL = ("loss.init",), ("forward.stateless",), ("health.residual",)


def _bug(
    name: str, reference: str, build: Any, checks: tuple[str, ...], family: Any = "decoder", level: Any = "standard",
    **more: Any,
) -> Bug:  # fmt: skip
    return Bug(name=name, reference=reference, family=family, checks=checks, build=build, level=level, **more)


BUGS = (
    _bug("blocks in a plain list", "#68 pytorch/pytorch#666", lambda: (PlainList(), plain()), COVERAGE),
    _bug("a linear layer in a plain dictionary", "#68", lambda: (PlainDict(), bert_spec()), COVERAGE, "encoder"),
    _bug("one layer many times", "#65 IDEA-Research/DAB-DETR#17", lambda: (OneManyTimes(), plain()), SHARING),
    _bug("one norm for every block", "#65", lambda: (OneNorm(), plain()), SHARING),
    _bug("one feed-forward network for every block", "#65 allenai/OLMo#222", lambda: (OneFeedForward(), plain()), SHARING),
    _bug("copies of one block", "#66 pytorch/pytorch#86274", lambda: (Copies(), plain()), SHARING),
    _bug("the tie is lost with a new table", "#67 vllm-project/vllm#5621", lambda: (TieLost(), plain(tied=True)), SHARING),
    _bug("the tie is a copy", "#67", lambda: (TieCopied(), plain(tied=True)), SHARING),
    _bug("a norm that is never called", "#64 Cerebras/modelzoo#85", lambda: (GPT(block=NormUnused), plain()), COVERAGE),
    _bug("a norm whose result is dropped", "#64", lambda: (GPT(block=NormDropped), plain()), COVERAGE),
    _bug("a part under no_grad", "#68 espnet/espnet#465", lambda: (GPT(block=WithoutGradients), plain()), GRADIENTS),
    _bug("blocks are detached from one another", "#68", lambda: (GPT(block=Detached), plain()), GRADIENTS),
    _bug("the stream is detached", "#68", lambda: (GPT(block=StreamDetached), plain()), GRADIENTS),
    _bug("a part reads .data", "#68", lambda: (GPT(block=ByData), plain()), GRADIENTS),
    _bug("embeddings are looked up in .data", "#68", lambda: (FrozenEmbedding(), plain()), COVERAGE),
    _bug("a part is multiplied by zero", "#64", lambda: (GPT(block=ByZero), plain()), COVERAGE),
    _bug("a table of segments that is never added", "#33", lambda: (SegmentsForgotten(), bert_spec()), COVERAGE, "encoder"),
    _bug("attention's result is not used", "#64", lambda: (GPT(Nothing), plain()), ("influence.map", *COVERAGE)),
    _bug("the feed-forward network replaces the stream", "#64", lambda: (GPT(block=Overwritten), plain()), RESIDUAL),
    _bug("no residual connection", "#64", lambda: (GPT(block=NoResidual), plain()), RESIDUAL),
    _bug("attention replaces the stream", "#64", lambda: (GPT(block=AttentionNotAdded), plain()), RESIDUAL),
    _bug("an encoder without residual connections", "#64", lambda: (BERT(block=NoResidual), bert_spec()), RESIDUAL, "encoder"),
    _bug("dead units", "OpenNMT/OpenNMT-py#502", lambda: (GPT(block=Dead), plain()), ("health.ffn",)),
    _bug("dead units of a function", "OpenNMT/OpenNMT-py#502", lambda: (GPT(block=DeadInline), plain()), ("health.ffn",)),
    _bug("no activation between two layers", "#64", lambda: (GPT(block=NoActivation), plain()), ("health.ffn",)),
    _bug("probabilities in place of scores", "check 10", lambda: (Probabilities(), plain()), INIT, level="quick"),
    _bug("a tied table of deviation one", "#56", lambda: (Wide(), plain(tied=True)), INIT, level="quick"),
    _bug("an output projection of deviation two", "#56", lambda: (WideHead(), plain()), INIT, level="quick"),
    _bug("projections of ones", "Glorot and Bengio 2010", lambda: (OneNumber(), plain()), ("init.stats",), level="quick"),
    _bug("projections of deviation one", "#56", lambda: (DeviationOne(), plain()), ("init.stats",), level="quick"),
    _bug("a router without gradient", "#12", lambda: (GPT(block=Chosen), plain()), COVERAGE),
    _bug("a seed is set in every pass", "#57", lambda: (Seeding(dropout=0.1), plain()), STATE, level="quick"),
    _bug("it writes into what it reads", "#49", lambda: (WritesInput(), plain()), STATE, level="quick"),
    _bug("it switches its dropout off", "#63", lambda: (SwitchesMode(dropout=0.1), plain()), STATE, level="quick"),
    _bug("it switches gradients off", "#68", lambda: (SwitchesGradients(), plain()), (*STATE, *COVERAGE)),
    _bug("a masked model is asked for the next token", "#46", lambda: (BERT(), masked_spec(asks_next)), LABELS, "encoder"),
    _bug("a masked model is asked for padding", "#52", lambda: (BERT(), masked_spec(asks_padding)), LABELS, "encoder"),
    _bug("smoothing counts padding", "#52 pytorch/pytorch#73205", lambda: (BERT(), masked_spec(smooths_padding)), LABELS, "encoder"),
    _bug("means of means", "#50 huggingface/transformers#34191", lambda: (GPT(), plain(accumulate=means_of_means)), ("accum.token_weights", "accum.grad_equal")),
    _bug("the optimizer was made before the head", "torchtest", optimizer_before_head, COVERAGE),
    _bug("biases are in no group of the optimizer", "#68", not_in_optimizer, COVERAGE),
    _bug("a rate of 0.05 for Adam", "#55", large_rate, ("schedule.warmup",)),
)  # fmt: skip
