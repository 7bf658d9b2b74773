"""What does watching cost? A GPT-2 of random weights reads 512 tokens: unwatched, watched in part, watched whole.

Beside it TransformerLens (``pip install -e ".[dev]"``) with the same weights, which keeps what it names in a cache.

Prediction: the residual stream costs a few microseconds a tensor, nothing that can be seen. Everything means attention
step by step, which writes and reads scores and weights (12.6 MB a layer each) where the fused kernel keeps them in the
processor's cache: a third of the pass on top. Found: 4 %. In float32 the products take nearly all of a pass here, and
what the softmax writes is written as fast as it is computed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from common import interleaved, middle, prepare, write_page

from pellucid.models.load import load
from pellucid.trace import trace

ROUNDS, TOKENS = 9, 512
STREAM = ("*residual_pre", "*residual_mid", "*residual_post")
HOOKS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


def candidates(folder: Path) -> dict[str, Callable[[], object]]:
    """Each with the same weights and the same tokens."""
    import tokenizers
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="a", eos_token="b", pad_token="b").save_pretrained(folder)
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    theirs.save_pretrained(folder)
    ours = load(folder).model
    tokens = torch.randint(0, 50_257, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    lens = TransformerBridge.boot_transformers(str(folder), hf_model=theirs, tokenizer=tokenizer, device="cpu")
    lens.enable_compatibility_mode(no_processing=True)

    def stream_of_lens() -> object:
        return lens.run_with_cache(tokens, names_filter=lambda name: name.endswith(HOOKS))

    return {
        "pellucid, unwatched": lambda: ours(tokens),
        "pellucid, residual stream": lambda: trace(ours, tokens, watch=STREAM),
        "pellucid, everything": lambda: trace(ours, tokens),
        "TransformerLens, no cache": lambda: lens(tokens),
        "TransformerLens, residual stream": stream_of_lens,
        "TransformerLens, everything": lambda: lens.run_with_cache(tokens),
    }


def main() -> None:
    prepare()
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        times = interleaved(candidates(Path(place)), ROUNDS)
    rows = []
    for name, taken in times.items():
        base = times["pellucid, unwatched" if name.startswith("pellucid") else "TransformerLens, no cache"]
        own = median(a / b for a, b in zip(taken, base, strict=True))
        against = median(a / b for a, b in zip(taken, times["pellucid, unwatched"], strict=True))
        rows.append(f"| {name} | {middle(taken)} | {own:.3f} | {against:.2f} |")
    head = "| what | ms | against its own unwatched pass | against ours |\n|---|---|---|---|\n"
    note = (
        f"\n\n12 layers of 768, {TOKENS} tokens, batch 1, float32, no gradients; medians (ranges) of {ROUNDS} "
        "interleaved rounds, ratios the medians of each round's own."
    )
    write_page("tracing", "The cost of watching", head + "\n".join(rows) + note)


if __name__ == "__main__":
    main()
