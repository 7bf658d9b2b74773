"""What a computation really keeps and takes, on a CPU."""

import gc
from contextlib import contextmanager
from dataclasses import replace

import torch
from families import CHOICES, STACK
from torch.profiler import ProfilerActivity, profile

from pellucid.analysis.work import Work
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.run import Causal, Masked, SequenceToSequence
from pellucid.data.batch import Batch
from pellucid.models.build import build
from pellucid.models.tower import Learning, set_learning
from pellucid.training.objectives import Criterion
from pellucid.training.precision import products

OBJECTIVES = {"encoder": Masked(), "decoder": Causal(), "encoder_decoder": SequenceToSequence()}
CPU = torch.device("cpu")


def _attention(**changes):
    return {"attention": parts.Attention(**{"num_heads": 4, **changes})}


def _inner(**changes):
    return {"feed_forward": parts.FeedForward(**{"d_ff": 48, **changes})}


# What decides parameters or memory, besides the choices that every law runs over.
MORE = {
    "dropouts": {"dropout": 0.1, **_attention(dropout=0.1), **_inner(dropout=0.1)},
    "gelu-dropout": _inner(activation="gelu", dropout=0.1),
    "gated-dropout": _inner(activation="silu", gated=True, dropout=0.1),
    "gated-bias": _inner(gated=True),
    "no-bias": {**_attention(bias=False), **_inner(bias=False)},
    "key-bias": _attention(key_bias=False),
    "out-bias": _attention(bias=False, out_bias=True),
    "qk-norm-key-bias": _attention(qk_norm=True, key_bias=False),
    "sdpa": _attention(kernel="sdpa"),
    "sdpa-rotary": {**_attention(kernel="sdpa", num_kv_heads=2), "positions": parts.Rotary()},
    "sdpa-qk-norm": {**_attention(kernel="sdpa", qk_norm=True), "positions": parts.Rotary()},
    "sdpa-alibi": {**_attention(kernel="sdpa"), "positions": parts.ALiBi()},
    "sdpa-window": {**_attention(kernel="sdpa"), "windows": (9,)},
    "softcap-dropout": _attention(softcap=5.0, dropout=0.1),
    "offset": {"positions": parts.Learned(max_length=90, offset=2)},
    "learned": {"positions": parts.Learned(max_length=90)},
    "no-final-norm": {"final_norm": False},
    "post-final-norm": {"placement": "post", "final_norm": True},
    "modern": {**_attention(num_kv_heads=2, qk_norm=True, bias=False), "norm": parts.RMSNorm(),
               "positions": parts.Rotary(), **_inner(activation="silu", gated=True, bias=False)},
}  # fmt: skip
ALL = {**CHOICES, **MORE}

IMAGES = config.Encoder(
    front=config.Patches(image_size=32, patch_size=8),
    stack=replace(STACK, positions=parts.Learned(max_length=17)),
    head=config.Classification(labels=("cat", "dog", "cow")),
)
SOUND = config.EncoderDecoder(
    source=config.Audio(mels=20),
    encoder=STACK,
    target=config.Tokens(vocab_size=61),
    decoder=replace(STACK, d_model=48, attention=parts.Attention(num_heads=4, key_bias=False)),
    tie=("target", "output"),
)


def work_of(family, rows=5, tokens=70, source=80):
    """A batch without padding in which everything is asked, and what it amounts to."""
    text = torch.randint(61, (rows, tokens))
    if family != "encoder_decoder":
        return Batch(text, text), Work(rows=rows, tokens=tokens, source=0, labels=tokens)
    batch = Batch(text, text, source=torch.randint(61, (rows, source)))
    return batch, Work(rows=rows, tokens=tokens, source=source, labels=tokens)


def criterion(model, family, checkpointing=False):
    built = build(model).train()
    set_learning(built, Learning(recomputed=checkpointing))
    return Criterion(built, OBJECTIVES[family])


def saved(criterion, batch, precision):
    """Bytes of the distinct storages that autograd saves, without parameters and data."""
    known = {x.untyped_storage().data_ptr() for x in (*criterion.parameters(), *criterion.buffers())}
    known |= {x.untyped_storage().data_ptr() for x in (batch.tokens, batch.labels, batch.source) if x is not None}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # holding it keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), products(CPU, precision):
        total = criterion(batch).total
    assert total.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


class Live:
    """Bytes that were allocated and not let go: in the end, and at the most."""

    net = peak = 0


@contextmanager
def live():
    found = Live()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        found.net += event.nbytes()
        found.peak = max(found.peak, found.net)
