"""Faults of losses, labels, batches, gathered gradients and optimizers, around one decoder that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.doctor.spec import Batch, Spec
from zoo.base import BERT, GPT, LONGEST, VOCAB, Attention, Block
from zoo.entry import Bug

PAD, BOS, EOS, MASK = 0, 1, 2, 3
Objective = Callable[[Any, Batch], tuple[Tensor, Tensor]]


def labels_of(batch: Batch) -> Tensor:
    """(B, T): the ids, with -100 where they are padding."""
    if batch.labels is not None:
        return batch.labels
    return batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)


def next_token(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """As it should be."""
    logits = model(batch.ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels_of(batch)[:, 1:].flatten()), logits


def unshifted(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.ids)
    return F.cross_entropy(logits.flatten(0, 1), labels_of(batch).flatten()), logits


def shifted_twice(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits, labels = model(batch.ids), labels_of(batch)[:, 1:]
    return F.cross_entropy(logits[:, :-2].flatten(0, 1), labels[:, 1:].flatten()), logits


def shifted_back(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.ids)
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), labels_of(batch)[:, :-1].flatten()), logits


def padding_asked(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten()), logits


def mask_of_inputs(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The mask is that of what is read, one place before that of what is asked."""
    logits = model(batch.ids)
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
    keep = torch.ones_like(batch.ids, dtype=torch.bool) if batch.keep is None else batch.keep
    return (each * keep[:, :-1]).sum() / keep[:, :-1].sum(), logits


def upside_down(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.ids)
    labels = batch.ids if batch.keep is None else batch.ids.masked_fill(batch.keep, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


def smoothed_padding(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The term of the smoothing is a mean over all places, padding too."""
    logits = model(batch.ids)
    scores, labels = logits[:, :-1].log_softmax(-1), labels_of(batch)[:, 1:]
    told = F.nll_loss(scores.flatten(0, 1), labels.flatten())
    return 0.9 * told - 0.1 * scores.mean(), logits


def softmax_twice(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.ids)
    chances = logits[:, :-1].softmax(-1)
    return F.cross_entropy(chances.flatten(0, 1), labels_of(batch)[:, 1:].flatten()), logits


def of_chances(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """``nll_loss`` of probabilities."""
    logits = model(batch.ids)
    chances = logits[:, :-1].softmax(-1)
    return F.nll_loss(chances.flatten(0, 1), labels_of(batch)[:, 1:].flatten()), logits


def end_ignored(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The padding is the end token, and what is padding is ignored by its id."""
    logits = model(batch.ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), ignore_index=EOS), logits


def mean_of_texts(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits, labels = model(batch.ids), labels_of(batch)[:, 1:]
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    return (each.sum(1) / (labels != -100).sum(1)).mean(), logits


def aside(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss is that of the head beside."""
    logits, other = model.both(batch.ids)
    return F.cross_entropy(other[:, :-1].flatten(0, 1), labels_of(batch)[:, 1:].flatten()), logits


def masked_language(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Every seventh token is hidden, and asked: but of what was read, which is the mask."""
    hidden = torch.arange(batch.ids.size(1)) % 7 == 3
    read = batch.ids.masked_fill(hidden, MASK)
    logits = model(read)
    return F.cross_entropy(logits.flatten(0, 1), read.masked_fill(~hidden, -100).flatten()), logits


def masked_and_shifted(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """A masked language model with the loss of a decoder."""
    hidden = torch.arange(batch.ids.size(1)) % 7 == 3
    logits = model(batch.ids.masked_fill(hidden, MASK))
    labels = batch.ids.masked_fill(~hidden, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


# ---- gathered gradients --------------------------------------------------------------------------


def mean_of_means(model: Any, batches: Sequence[Batch]) -> None:
    for batch in batches:
        (next_token(model, batch)[0] / len(batches)).backward()


def undivided(model: Any, batches: Sequence[Batch]) -> None:
    count = sum(int((labels_of(batch)[:, 1:] != -100).sum()) for batch in batches)
    for batch in batches:
        own = int((labels_of(batch)[:, 1:] != -100).sum())
        (next_token(model, batch)[0] * own / count * len(batches)).backward()


def summed(model: Any, batches: Sequence[Batch]) -> None:
    for batch in batches:
        logits = model(batch.ids)[:, :-1].flatten(0, 1)
        F.cross_entropy(logits, labels_of(batch)[:, 1:].flatten(), reduction="sum").backward()


def zeroed_between(model: Any, batches: Sequence[Batch]) -> None:
    for batch in batches:
        model.zero_grad()
        next_token(model, batch)[0].backward()


# ---- models that are made for one of these -----------------------------------------------------------


class TwoHeads(GPT):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(self.head.in_features, VOCAB)

    def both(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedded(ids)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x)), self.other(self.norm(x))


class Careless(Block):
    """Recomputed in the backward pass with other dropout."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> tuple[Tensor, Any]:
        if not (self.training and torch.is_grad_enabled() and past is None):
            return super().forward(x, keep, past)
        run = lambda y: super(Careless, self).forward(y, keep, None)[0]  # noqa: E731
        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False), None


class Probabilities(GPT):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).softmax(-1)


class WideHead(GPT):
    """The head is drawn with a deviation of 1."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight)


class Seeing(Attention):
    """Of everything."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool)


# ---- batches ----------------------------------------------------------------------------------------


def texts(seed: int = 5) -> Tensor:
    """(4, 12): start, words, end."""
    ids = torch.randint(4, VOCAB, (4, 12), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = BOS, EOS
    return ids


def padded(end: int = EOS, pad: int = PAD) -> tuple[Tensor, Tensor]:
    """(4, 12) and its mask: the last two texts are shorter."""
    ids, keep = texts(), torch.arange(12) < torch.tensor([12, 12, 9, 6])[:, None]
    ids[2, 8], ids[3, 5] = end, end
    return ids.masked_fill(~keep, pad), keep


def started_twice() -> Batch:
    ids = texts()
    ids[:, 1] = BOS
    return Batch(ids=ids, labels=ids)


def out_of_range() -> Batch:
    ids = texts()
    labels = ids.clone()
    labels[1, 4] = VOCAB
    return Batch(ids=ids, labels=labels)


def endless() -> Batch:
    ids = texts()
    ids[:, -1] = 7
    return Batch(ids=ids, labels=ids)


def padding_in_labels() -> Batch:
    ids, keep = padded()
    return Batch(ids=ids, keep=keep, labels=ids)


def end_is_padding() -> Batch:
    ids, keep = padded(pad=EOS)
    return Batch(ids=ids, keep=keep, labels=ids.masked_fill(ids == EOS, -100))


def unmasked() -> Batch:
    ids = padded()[0].flip(1)  # on the left, where a decoder sees it
    return Batch(ids=ids, labels=ids.masked_fill(ids == PAD, -100))


def shifted_before() -> Batch:
    """Labels are shifted by the caller, and the loss shifts them again."""
    ids = texts()
    return Batch(ids=ids, labels=torch.cat([ids[:, 1:], torch.full((4, 1), -100)], 1))


# ---- the zoo ----------------------------------------------------------------------------------------


def spec(**more: Any) -> Spec:
    told = {"kind": "decoder", "vocab_size": VOCAB, "pad_id": PAD, "eos_id": EOS, "loss": next_token,
            "call": lambda model, batch: model(batch.ids), "max_length": LONGEST}  # fmt: skip
    return Spec(**told | more)


def bug(
    name: str, reference: str, *checks: str, make: Callable[[], nn.Module] = GPT,
    level: Literal["quick", "standard", "full"] = "standard", **more: Any,
) -> Bug:  # fmt: skip
    return Bug(
        name=name, reference=reference, family="decoder", checks=checks, level=level,
        build=lambda: (make(), spec(**more)), slow=level == "full",
    )  # fmt: skip


def batch(name: str, reference: str, made: Callable[[], Batch], *checks: str, **more: Any) -> Bug:
    return Bug(
        name=name, reference=reference, family="decoder", checks=checks or ("data.labels",), level="standard",
        build=lambda: (GPT(), spec(batch=made(), bos_id=BOS, **more)),
    )  # fmt: skip


def trained(name: str, reference: str, check: str, make: Callable[[nn.Module], dict[str, Any]]) -> Bug:
    def build() -> tuple[nn.Module, Spec]:
        model = GPT()
        return model, spec(**make(model))

    return Bug(name=name, reference=reference, family="decoder", checks=(check,), level="standard", build=build)


def reading(name: str, reference: str, loss: Objective) -> Bug:
    told = Spec(kind="encoder", vocab_size=VOCAB, pad_id=PAD, special_ids=(MASK,), loss=loss, labels="same")
    return Bug(
        name=name, reference=reference, family="encoder", checks=("loss.alignment",), level="standard",
        build=lambda: (BERT(), told),
    )  # fmt: skip


def stale(model: nn.Module) -> dict[str, Any]:
    """The optimizer is made, and then the head."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.head = nn.Linear(32, VOCAB, bias=False)
    return {"optimizer": optimizer}


def twice(model: nn.Module) -> dict[str, Any]:
    """A table is in a group of its own, and in that of all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": list(model.tokens.parameters())})
    return {"optimizer": optimizer}


def hasty(model: nn.Module) -> dict[str, Any]:
    """The factor of the paper's schedule, without the width's."""
    return {
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "schedule": lambda step: 2 * min((step + 1) ** -0.5, (step + 1) * 100**-1.5),
    }


BUGS = (
    bug("labels are not shifted", "#47", "loss.alignment", loss=unshifted),
    bug("labels are shifted twice", "#46", "loss.alignment", loss=shifted_twice),
    bug("labels are shifted the wrong way", "#47", "loss.alignment", loss=shifted_back),
    bug("padding is asked", "#52", "loss.alignment", loss=padding_asked),
    bug("what is ignored is told by the mask of the inputs", "#52", "loss.alignment", loss=mask_of_inputs),
    bug("the mask of what is ignored is upside down", "#52", "loss.alignment", loss=upside_down),
    bug("label smoothing counts padding", "#52", "loss.alignment", loss=smoothed_padding),
    bug("the loss takes a softmax of a softmax", "#54", "loss.alignment", "loss.init", loss=softmax_twice),
    bug("nll_loss of probabilities", "#54", "loss.alignment", loss=of_chances),
    bug("the model returns probabilities", "#54", "loss.init", make=Probabilities, level="quick"),
    bug("the head is drawn with a deviation of 1", "#54", "loss.init", make=WideHead, level="quick"),
    bug("the end is the padding, and is ignored", "#53", "loss.alignment", loss=end_ignored, pad_id=EOS),
    bug("each text is a mean of its own", "#50", "accum.token_weights", loss=mean_of_texts),
    bug("the loss is that of another head", "#64", "params.coverage", "loss.alignment", make=TwoHeads, loss=aside),
    bug("small batches: a mean of means", "#50", "accum.token_weights", accumulate=mean_of_means),
    bug("small batches: not divided by their number", "#51", "accum.grad_equal", accumulate=undivided),
    bug("small batches: sums in place of a mean", "#51", "accum.grad_equal", accumulate=summed),
    bug("small batches: gradients are zeroed between", "#51", "accum.token_weights", accumulate=zeroed_between),
    bug("checkpointing draws other dropout in the second pass", "#57", "backend.parity",
        make=lambda: GPT(block=Careless, dropout=0.2)),
    bug("no mask, and the loss falls below what is possible", "#1", "loss.random_floor", level="full",
        make=lambda: GPT(Seeing)),
    bug("no shift, and the loss falls below what is possible", "#47", "loss.random_floor", level="full", loss=unshifted),
    reading("a masked language model is asked for the mask", "#49", masked_language),
    reading("a masked language model with shifted labels", "#46", masked_and_shifted),
    batch("the start stands there twice", "#49", started_twice),
    batch("a label beyond the vocabulary", "#37", out_of_range),
    batch("texts have no end", "#53", endless),
    batch("labels are padding", "#52", padding_in_labels),
    batch("the end is the padding, and is masked with it", "#53", end_is_padding, pad_id=EOS),
    batch("padding without a mask", "#17", unmasked),
    batch("the caller shifts labels for a loss that shifts", "#48", shifted_before, "loss.alignment"),
    trained("the optimizer is older than the head", "§F, also seen", "params.coverage", stale),
    trained("a table is in the optimizer twice", "check 17", "params.coverage", twice),
    trained("a rate of 2 with Adam", "#55", "schedule.warmup", hasty),
)  # fmt: skip
