"""A bare model of `transformers`, saved without its head's prefix, goes by our names too."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from pellucid.models.foreign.names import our_names
from pellucid.trace import trace

SIZES = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BARE = {
    "gpt2": transformers.GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
    "bert": transformers.BertConfig(**SIZES, intermediate_size=32),
    "llama": transformers.LlamaConfig(**SIZES, intermediate_size=32),
}


@pytest.mark.parametrize("kind", BARE)
def test_a_bare_model(kind):
    model = transformers.AutoModel.from_config(BARE[kind]).eval()
    tape = trace(model, torch.tensor([[1, 2, 3, 4]]), names=our_names(model))
    parts = ("q", "k", "v", "scores", "weights", "context")
    wanted = {*(f"blocks.0.self_attention.{part}" for part in parts), "blocks.0.feed_forward.out"}
    assert wanted <= set(tape.names)
