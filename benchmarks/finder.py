"""Does the attention finder find every place where a model attends, and is every place numerically verified?

Small models of many architectures, randomly initialised, one pass each with padding where the model takes it. How often
each attends is stated from its config (``zoo.py``); the finder knows nothing of any of them. A model counts when the
finder sees exactly that many sites, verifies each, and leaves the model's result as it was, bit for bit.

As a second witness, the weights that models of transformers return themselves (``output_attentions``, eager) are looked
for among the weights that the sites compute.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from common import write_page
from torch import Tensor, nn
from zoo import Architecture, numbers, tokens
from zoo_decoders import decoders
from zoo_encoders import encoder_decoders, encoders
from zoo_senses import hearing, seeing, several

from pellucid.trace.finder import Found, find_attention

NOT_PLAIN = {
    "longformer": "scores of a window are written piece by piece into one tensor, whose origin is then lost",
    "led": "its encoder is Longformer's",
    "pegasus_x": "the encoder takes one softmax over global and local keys joined, and multiplies its halves apart",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    implementation: str
    rule: str
    expected: int
    found: Found
    same: bool

    @property
    def verified(self) -> int:
        return sum(site.verified for site in self.found.sites)

    @property
    def good(self) -> bool:
        return self.expected == len(self.found.sites) == self.verified and self.same

    def __str__(self) -> str:
        largest = max((site.deviation for site in self.found.sites), default=0.0)
        counts = f"{self.expected} | {len(self.found.sites)} | {self.verified}"
        unexplained = len(self.found.unexplained) or ""
        return f"| {self.name} | {self.implementation} | {self.rule} | {counts} | {largest:.1e} | {unexplained} |"


class Gpt(nn.Module):
    """A GPT as people write them."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embedding, self.fused = nn.Embedding(99, 32), fused
        self.qkv = nn.ModuleList([nn.Linear(32, 96) for _ in range(3)])
        self.out = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for project, out in zip(self.qkv, self.out, strict=True):
            q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in project(x).split(32, dim=2))
            if self.fused:
                y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = (q @ k.transpose(-2, -1)) * 8**-0.5
                hidden = self.mask[:, :, : ids.size(1), : ids.size(1)] == 0
                y = nn.functional.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v
            x = x + out(y.transpose(1, 2).flatten(2))
        return x


def others() -> Iterator[tuple[str, str, str, int, Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]]]:
    """Models that are not of transformers: name, implementation, rule, attentions, model with its inputs."""
    x, y, pad = numbers(2, 7, 32), numbers(2, 5, 32), torch.arange(7) >= torch.tensor([[7], [4]])
    for fused in (False, True):
        name = "scaled_dot_product_attention" if fused else "softmax of products"
        yield "hand-written GPT", name, "layers", 3, lambda fused=fused: (Gpt(fused), (tokens(),), {})
    for weights in (False, True):
        mha = nn.MultiheadAttention(32, 4, batch_first=True)
        call = {"key_padding_mask": pad, "need_weights": weights}
        yield "nn.MultiheadAttention", f"need_weights={weights}", "1", 1, lambda m=mha, c=call: (m, (x, x, x), c)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    call = {"src_key_padding_mask": pad}
    yield "nn.TransformerEncoder", "one kernel, nested", "layers", 2, lambda: (encoder, (x,), call)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)
    yield "nn.TransformerDecoder", "as it comes", "2 × layers", 4, lambda: (decoder, (y, x), {})
    whole = nn.Transformer(32, 4, 2, 3, 64, batch_first=True)
    yield "nn.Transformer", "as it comes", "encoder + 2 × decoder", 8, lambda: (whole, (x, y), {})
    try:
        from x_transformers import Decoder, Encoder, TransformerWrapper
    except ImportError:
        return
    for words, more in {
        "plain": {},
        "attn_flash": {"attn_flash": True},
        "rel_pos_bias": {"rel_pos_bias": True},
        "alibi": {"alibi_pos_bias": True},
        "one_kv_head": {"attn_one_kv_head": True},
        "kv_heads=2": {"attn_kv_heads": 2},
        "num_mem_kv": {"attn_num_mem_kv": 3},
        "qk_norm": {"attn_qk_norm": True},
        "softclamp": {"attn_softclamp_logits": True},
        "talking heads": {"attn_pre_talking_heads": True, "attn_post_talking_heads": True},
    }.items():
        layers = Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, **more)
        model = TransformerWrapper(num_tokens=99, max_seq_len=16, attn_layers=layers)
        yield "x-transformers Decoder", words, "layers", 2, lambda m=model: (m, (tokens(),), {})
    model = TransformerWrapper(num_tokens=99, max_seq_len=16, attn_layers=Encoder(dim=32, depth=2, heads=4))
    yield "x-transformers Encoder", "plain", "layers", 2, lambda: (model, (tokens(),), {"mask": ~pad_of(tokens())})


def pad_of(ids: Tensor) -> Tensor:
    return torch.arange(ids.size(1)) >= torch.tensor([[ids.size(1)], [6]])


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | tuple | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def look(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Found, bool]:
    """What the finder sees, and whether the result is that of an untraced run."""
    with torch.no_grad():
        torch.manual_seed(0)
        plain = model(*args, **kwargs)
        torch.manual_seed(0)
        found = find_attention(model, *args, **kwargs)
    same = all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(found.output), strict=True))
    return found, same


def measure(one: Architecture) -> Iterator[Row | str]:
    """The rows of an architecture, or why there is none."""
    for implementation in ("eager", "sdpa"):
        try:
            model = one.build(implementation)
        except (ValueError, ImportError) as error:
            if "does not support an attention implementation" not in str(error):
                yield f"{one.name} ({implementation}): {str(error).splitlines()[0]}"
            continue
        found, same = look(model, (), one.inputs())
        yield Row(one.name, implementation, one.rule, one.expected(), found, same)


def own_weights(one: Architecture) -> Counter[str]:
    """How many attentions the model itself returns, and how many of them are weights, or scores, of a site."""
    if not one.expected() or one.name in NOT_PLAIN:
        return Counter()
    with torch.no_grad():
        found = find_attention(one.build("eager"), **one.inputs(), output_attentions=True)
    parts = [
        (key, value)
        for part in (found.output, *found.output.values())
        if isinstance(part, dict)
        for key, value in part.items()
    ]
    returned = list(tensors({str(place): value for place, (key, value) in enumerate(parts) if "attentions" in key}))
    count = Counter(returned=len(returned), models=bool(returned))
    for tensor in returned:
        if any(is_same(site.weights(), tensor) for site in found.sites):
            count["weights"] += 1
        elif any(is_same(site.scores(), tensor) for site in found.sites):
            count[f"scores:{one.name}"] += 1
        else:
            count[f"other:{one.name}"] += 1
    return count


def is_same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal numbers; an axis of windows may be folded into the batch."""
    return ours.numel() == theirs.numel() and torch.allclose(ours.flatten(), theirs.flatten(), atol=1e-6)


def witnessed(returned: Counter[str]) -> str:
    """What the models' own weights say."""
    text = (
        f"A second witness: of {returned['returned']} tensors that {returned['models']} architectures return when "
        f"asked for their attentions, {returned['weights']} are the weights of a site."
    )
    for kind, words in (
        ("scores", "are scores, before the softmax"),
        ("other", "are neither, being in another order or averaged"),
    ):
        names = {key.split(":")[1]: value for key, value in returned.items() if key.startswith(f"{kind}:")}
        if names:
            text += f" {sum(names.values())} {words} ({', '.join(names)})."
    return text + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows: list[Row] = []
    failed: list[str] = []
    returned = Counter[str]()
    for family in (decoders, encoders, encoder_decoders, seeing, hearing, several):
        for one in family():
            for row in measure(one):
                (rows if isinstance(row, Row) else failed).append(row)  # type: ignore[arg-type]
            returned += own_weights(one)
    foreign = []
    for name, implementation, rule, expected, make in others():
        model, args, kwargs = make()
        foreign.append(Row(name, implementation, rule, expected, *look(model.eval(), args, kwargs)))
    write_page("finder", "The attention finder on models that are not ours", page(rows, foreign, failed, returned))


def page(rows: list[Row], foreign: list[Row], failed: list[str], returned: Counter[str]) -> str:
    attending = [row for row in rows if row.expected]
    plain = [row for row in attending if row.name not in NOT_PLAIN]
    names = {row.name for row in plain}
    whole = {name for name in names if all(row.good for row in plain if row.name == name)}
    sites = [site for row in (*plain, *foreign) for site in row.found.sites]
    head = "| architecture | implementation | rule | expected | found | verified | largest deviation | unexplained |\n"
    head += "|---|---|---|---|---|---|---|---|\n"
    silent = [row for row in rows if not row.expected]
    replayed = sum(site.replay is not None for site in sites)
    return "\n".join(
        [
            f"**{len(whole)} of {len(names)} architectures of transformers {transformers.__version__}** with every "
            "site found, verified, and the model's result unchanged bit for bit, and "
            f"{sum(row.good for row in foreign)} of {len(foreign)} other models. "
            f"{sum(row.expected for row in (*plain, *foreign))} sites expected, {len(sites)} found, "
            f"{sum(site.verified for site in sites)} verified (largest deviation "
            f"{max(site.deviation for site in sites):.1e}), {replayed} of them by repeating the model's own steps "
            "where the formula has no place for one, such as heads mixed after the softmax.\n",
            "A site is verified when softmax(q kᵀ · scale + mask) v, recomputed in double precision, is the context "
            "that the model's own kernel returned, to 1e-5 of its largest value. Expected is the rule over the model's "
            "config, in `zoo*.py`; eager and sdpa where transformers has both. Kernels stay as they are. Unexplained "
            "are softmaxes that multiply something and are no attention by products (ConvBERT's kernels are made by "
            "one).\n",
            witnessed(returned),
            head + "\n".join(map(str, plain)),
            "\n## Other models\n",
            head + "\n".join(map(str, foreign)),
            "\n## Without softmax attention\n",
            "\n".join(f"- {row.name}: {row.found.coverage}" for row in silent),
            "\n## Not understood, and said so\n",
            "\n".join(
                f"- {row.name} ({row.implementation}): {NOT_PLAIN[row.name]}. Expected {row.expected}; the finder "
                f"says: {row.found.coverage}."
                for row in attending
                if row.name in NOT_PLAIN
            ),
            *(["\n## Could not be built\n", "\n".join(f"- {line}" for line in failed)] if failed else []),
        ]
    )


if __name__ == "__main__":
    main()
