"""A tape of models that are not ours: modules by path, attention found and verified, kernels left as they are."""

import pytest
import torch
from finding import Head
from torch import nn

from pellucid.errors import UserError
from pellucid.trace import record_modules, trace


def transformer():
    torch.manual_seed(0)
    return nn.Transformer(32, 4, 2, 1, 48, batch_first=True).eval()


def gpt2(**changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=61, n_positions=40, **ids, **changes)
    ).eval()


def tokens():
    return torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(3))


def pair():
    draw = torch.Generator().manual_seed(3)
    return torch.randn(2, 5, 32, generator=draw), torch.randn(2, 6, 32, generator=draw)


def test_modules_and_attention_in_the_order_computed():
    model = gpt2()
    with torch.no_grad():
        plain = model(tokens()).logits
    tape = trace(model, tokens())
    assert torch.equal(tape.output.logits, plain)
    names = list(tape)
    path = "transformer.h.1.attn"
    inner = [f"{path}.{part}" for part in ("q", "k", "v", "scores", "weights", "context")]
    start = names.index(inner[0])
    assert [name for name in names[start : start + 7] if name != f"{path}.mask"][:6] == inner
    assert names.index(f"{path}.c_attn.out") < start < names.index("transformer.h.1.mlp.c_fc.out")
    assert torch.equal(tape["lm_head.out"], plain)
    assert tape.entry("transformer.h.1.ln_2.out").input_names == ("transformer.h.1.ln_2.in",)
    assert tape.coverage.startswith("2 attention sites found, 2 verified; 0 softmaxes or kernels unexplained")


def test_weights_are_those_of_the_eager_model():
    model = gpt2(attn_implementation="eager")
    with torch.no_grad():
        expected = model(tokens(), output_attentions=True).attentions
    fused = gpt2()
    fused.load_state_dict(model.state_dict())
    tape = trace(fused, tokens(), watch="*.attn.weights")
    for i, weights in enumerate(expected):
        assert torch.allclose(tape[f"transformer.h.{i}.attn.weights"], weights, atol=1e-6)


def test_a_module_that_does_not_say_how_it_computes_is_not_guessed_at():
    model, name = gpt2(), "transformer.h.0.mlp.c_fc.out"
    tape = trace(model, tokens(), watch="*.attn.context")
    with pytest.raises(UserError, match="does not say how"):
        tape.value(name)
    tape = trace(model, tokens(), watch=name)
    assert tape.value(name) is tape[name]
    with pytest.raises(UserError, match="does not say how"):
        tape.explain(name, (0, 0, 0))


def test_scores_wait_until_they_are_asked_for(capsys):
    tape = trace(gpt2(), tokens(), watch="*.attn.context")
    assert len(tape) == 2
    name = "transformer.h.0.attn.weights"
    assert name not in tape
    assert torch.allclose(tape.value(name).sum(-1), torch.ones(2, 4, 7))
    found = tape.explain("transformer.h.0.attn.context", (1, 2, 3, 4))
    assert found.error < 1e-7
    assert found.count == 7
    assert "transformer.h.0.attn.v[1, 2, " in str(found)
    told = tape.explain("transformer.h.0.attn.scores", (1, 2, 3, 1))
    assert told.count == 8
    assert told.recomputed == pytest.approx(told.total / 8**0.5, abs=1e-6)
    for part in ("scores", "weights", "context"):
        found = tape.explain(f"transformer.h.1.attn.{part}", (1, 2, -1, 3))
        exec(found.script, {})
        assert float(capsys.readouterr().out) == pytest.approx(found.captured, abs=1e-6)
        assert "not computed here" not in found.script


def test_a_context_is_computed_again_where_no_formula_says_how():
    def attend(q, k, v):
        weights = (q @ k.mT * 0.5).relu().softmax(-1)
        return weights @ v, weights

    torch.manual_seed(0)
    tape = trace(Head(attend), torch.randn(2, 6, 32))
    (name,) = (name for name in tape if name.endswith("context"))
    assert tape.entry(name).operation.site.replay is not None
    torch.testing.assert_close(tape.recompute(name), tape[name])


def test_both_sides_of_a_transformer_of_torch():
    model = transformer()
    with torch.no_grad():
        plain = model(*pair())
    tape = trace(model, pair())
    assert torch.equal(tape.output, plain)
    weights = [name for name in tape if name.endswith("weights")]
    assert len(weights) == 2 + 2
    assert tape["decoder.layers.0.multihead_attn.weights"].shape == (2, 4, 6, 5)


def test_a_block_with_several_passes_and_gradients():
    model = transformer()
    with trace(model, watch=["*multihead_attn*.q", "decoder.out*"]) as tape:
        first = model(*pair())
        model(*pair())
    assert [name for name in tape if name.endswith(".q")] == [
        "decoder.layers.0.multihead_attn.q",
        "decoder.layers.0.multihead_attn#1.q",
    ]
    assert tape["decoder.out"].requires_grad
    assert torch.equal(tape["decoder.out"], first)


class Doubling(nn.Module):
    def forward(self, states):
        return states.mul_(2)


class Overwriting(nn.Module):
    """Writes over what two of its parts returned, once through a view, and over what nobody has heard of."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)
        self.doubling = Doubling()

    def forward(self, x):
        y = self.relu(self.first(x))
        z = self.second(y)
        z.view(-1).mul_(2)
        y += z
        return self.doubling(states=self.relu(x - 1)) + y


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_what_is_overwritten_in_place_stays_what_it_was(mode):
    model, x = Overwriting(), torch.randn(2, 8)
    with torch.no_grad():
        first = model.first(x)
        second = model.second(first.relu())
        expected = {
            "first.out": first, "relu.out": first.relu(), "second.out": second, "relu#1.in": x - 1,
            "relu#1.out": (x - 1).relu(), "doubling.out": 2 * (x - 1).relu(), "out": model(x),
        }  # fmt: skip
    with mode():
        with trace(model) as tape:
            model(x)
        copied = trace(model, x, keep="cpu")
        recorded = record_modules(model, x)
    for name, tensor in expected.items():
        for found in (tape, copied, recorded):
            assert torch.equal(found[name], tensor), name
    assert tape.entry("relu.out").input_names == ("first.out",)
    assert tape.entry("doubling.out").input_names == ("relu#1.out",)
    assert "relu.in" not in tape  # it has that name already
    assert recorded["relu.in"] is recorded["first.out"]


@pytest.mark.parametrize("tracing", [trace, record_modules])
def test_what_a_hook_of_the_modules_own_passes_on_is_what_it_was_given(tracing):
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8)
    model[0].register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    assert torch.equal(tracing(model, x)["0.in"], 2 * x)


def test_nothing_stays_attached():
    model = gpt2()
    before = {name: list(module._forward_hooks) for name, module in model.named_modules()}
    with pytest.raises(IndexError), trace(model) as tape:
        model(torch.tensor([[99]]))
    assert len(tape) == 0
    assert {name: list(module._forward_hooks) for name, module in model.named_modules()} == before
    assert len(trace(model, tokens(), watch="lm_head.out")) == 1


def test_edits_want_a_model_of_ours():
    with pytest.raises(UserError, match="GPT2LMHeadModel names no tensors of its own"):
        trace(gpt2(), tokens(), edits={"transformer.h.0.out": lambda x: x})


def test_saved(tmp_path):
    tape = trace(gpt2(), tokens())
    tape.save(tmp_path / "tape")
    again = type(tape).load(tmp_path / "tape")
    assert list(again) == list(tape)
    assert again.entry("transformer.h.0.attn.context").input_names == (
        "transformer.h.0.attn.weights",
        "transformer.h.0.attn.v",
    )
