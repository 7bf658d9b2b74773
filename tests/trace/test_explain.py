"""Every named tensor says what it was computed from, and computed again from that it is the same."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import CHOICES, FAMILIES, VOCAB, describe, run, small

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.sampling import Filtered, Likeliest, MinP, Never, Sampling, Temperature, TopK, TopP
from pellucid.models.build import build
from pellucid.trace import Entry, Softmax, Tape, UnitLength, trace
from pellucid.trace.script import script
from pellucid.trace.tape import Held
from pellucid.trace.working import Operand


def text(rows=2, length=7):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(5))


def keeps(side):
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[1, slice(0, 3) if side == "left" else slice(4, 7)] = False
    return keep


def check(tape, places=3):
    """The law: what is recomputed equals what was captured, whole and number by number."""
    generator = torch.Generator().manual_seed(0)
    for name, captured in tape.tensors.items():
        again = tape.recompute(name)
        assert again.shape == captured.shape, name
        if captured.dtype == torch.bool:
            assert torch.equal(again, captured)
            captured = captured.double()
        finite = captured.isfinite()
        assert torch.equal(again.isfinite(), finite), name
        scale = max(captured[finite].abs().max().item(), 1e-3) if finite.any() else 1.0
        assert (again[finite].double() - captured[finite].double()).abs().max().item() <= 1e-6 * scale, name
        for _ in range(places):
            index = [int(torch.randint(size, (), generator=generator)) for size in captured.shape]
            found = tape.explain(name, index)
            assert found.captured == captured[tuple(index)].item()
            assert found.error <= 1e-6 * scale, f"{name} {index}: {found}"
            assert found.total == pytest.approx(sum(term.value for term in found.terms) + found.rest)
            assert Path(found.source[0]).exists()
            assert "tap(" in found.source[2], found.source
            assert apart(found) <= 1e-6 * scale, found.script


def printed(script):
    """What a script prints, which imports PyTorch and nothing of ours."""
    assert [line for line in script.splitlines() if "import" in line] == ["import torch"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(script, "script", "exec"), {})
    return float(said.getvalue())


def apart(found):
    """How far the number that the script prints is from the model's."""
    number = printed(found.script)
    return 0.0 if number == found.captured else abs(number - found.captured)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_equals_captured(family, choice):
    model = small(family, **CHOICES[choice])
    with torch.no_grad(), trace(model) as tape:
        run(model, text(), keep=keeps("left"))
    check(tape)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("choice", ["plain", "rotary", "grouped", "window", "alibi"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_kernels_are_explained_too(family, choice, side):
    model = small(family, **CHOICES[choice])
    watch = ["*.q", "*.k", "*.v", "*.context", "*.out", "*residual*", "logits"]
    with torch.no_grad(), trace(model, watch=watch) as tape:
        run(model, text(), keep=keeps(side))
    assert not any(name.endswith(("weights", "scores")) for name in tape.entries)
    check(tape)


@pytest.mark.parametrize("choice", ["plain", "rotary", "grouped", "window", "alibi"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_fused_kernel_stores_nowhere_can_be_asked_for(family, choice):
    model = small(family, **CHOICES[choice])
    tapes = []
    for watch in ("*", "*.residual_post"):
        with torch.no_grad(), trace(model, watch=watch) as tape:
            run(model, text(), keep=keeps("left"))
        tapes.append(tape)
    whole, narrow = tapes
    hidden = [name for name in whole if name.endswith((".mask", ".scores", ".weights"))]
    assert not {*hidden} & {*narrow.entries}
    assert {*hidden} <= {*narrow.names}
    for name in hidden:
        entry = narrow.entry(name)
        assert (entry.shape, entry.dtype) == (tuple(whole[name].shape), whole[name].dtype)
        torch.testing.assert_close(narrow.value(name), whole[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(narrow.head(name, 0), whole[name][:, :1], rtol=1e-4, atol=1e-4)
        assert narrow.explain(name, (1, 0, 5, 3)).error < 1e-4
        with pytest.raises(UserError, match=f'"{name}": was not recorded'):
            narrow[name]
    with pytest.raises(UserError, match="no such tensor"):
        narrow.entry(hidden[0].replace("mask", "msk"))


def test_while_writing_an_address_names_the_step():
    model = small("decoder")
    with trace(model, watch="*.context") as tape:
        generate(model, Prompt(text(length=3)), max_new_tokens=3)
    found = tape.explain("blocks.1.self_attention.context@2", (1, 2, 0, 3), terms=1)
    address, weight = found.terms[0].factors[0]
    name, place = address.removesuffix("]").split("[")
    assert name == "blocks.1.self_attention.weights@2"
    assert name in tape.names
    assert tape.explain(name, [int(i) for i in place.split(", ")]).captured == pytest.approx(weight, rel=1e-4)


def test_a_gain_that_is_stored_less_one_is_named_so():
    model = small("decoder", **CHOICES["rms-plus-one"])
    found = trace(model, text()).explain("final_norm.out", (0, 3, 1))
    assert f"× (1 + final_norm.weight[1]) = {model.final_norm.gain[1].item():.6g}" in str(found)


@pytest.mark.parametrize("choice", ["plain", "rotary", "qk-norm", "window", "learned", "relative-bias"])
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_every_step_of_writing(family, choice):
    model = small(family, **CHOICES[choice])
    source = {"source": text(), "source_keep": keeps("right")} if family == "encoder_decoder" else {}
    with trace(model) as tape:
        generate(model, Prompt(text(length=3), **source), max_new_tokens=4)
    assert {name.partition("@")[2] for name in tape if name.startswith("logits")} == {"0", "1", "2", "3"}
    check(tape, places=1)


def test_how_a_token_was_chosen():
    model = small("decoder")
    sampling = Sampling(filters=(Temperature(0.7), TopK(9), TopP(0.8)), seed=3)
    with trace(model, watch="sampling.*") as tape:
        rows = generate(model, Prompt(text(length=3)), max_new_tokens=4, sampling=sampling)
    assert [[int(tape[f"sampling.token@{step}"][row]) for step in range(4)] for row in range(2)] == rows
    check(tape, places=4)
    found = tape.explain("sampling.token@2", (1,))
    assert found.steps[0].name == "draw sampling.draw@2[1, 0]"
    assert found.steps[0].value == tape["sampling.draw@2"][1, 0].item()
    dropped = int(tape["sampling.filtered_1@0"][0].argmin())
    assert "dropped by TopK(k=9)" in str(tape.explain("sampling.filtered_1@0", (0, dropped)))
    with trace(model, watch="sampling.*") as greedy:
        generate(model, Prompt(text(length=3)), max_new_tokens=2)
    assert "sampling.probabilities@1" in greedy
    check(greedy)


def test_learning():
    model = small("decoder").train()
    tape = trace(model, text(), grads=True)
    tape["logits"].logsumexp(-1).sum().backward()
    assert tape.gradients.keys() >= {"blocks.0.self_attention.weights", "blocks.1.residual_post", "logits"}
    assert tape.gradients["logits"].sum().item() == pytest.approx(14.0, rel=1e-5)
    check(tape)


def test_what_dropout_drew_is_not_kept():
    model = small("decoder", dropout=0.5).train()
    tape = trace(model, text())
    with pytest.raises(UserError, match="dropout on, whose draws are not kept"):
        tape.explain("blocks.0.feed_forward_residual.sum", (0, 0, 0))


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_heads_of_texts(pooling):
    stack = describe("encoder").stack
    labels = config.Classification(labels=("a", "b", "c"), pooling=pooling, projected=True)
    vectors = config.Embedding(pooling=pooling, projected=True, normalized=True)
    for head in (labels, vectors):
        model = build(config.Encoder(front=config.Tokens(vocab_size=VOCAB, token_types=2), stack=stack, head=head))
        with torch.no_grad(), trace(model.eval()) as tape:
            model(text(), keep=keeps("left"), token_types=text() % 2)
        check(tape)


def test_images_and_sounds():
    stack = replace(describe("encoder").stack, positions=parts.Learned(max_length=30))
    eye = config.Encoder(
        front=config.Patches(image_size=8, patch_size=4, class_token=True),
        stack=stack,
        head=config.Classification(labels=("a", "b"), pooling="first"),
    )
    tape = trace(build(eye).eval(), torch.randn(2, 3, 8, 8))
    check(tape)
    ear = config.EncoderDecoder(
        source=config.Audio(mels=6),
        encoder=stack,
        target=config.Tokens(vocab_size=VOCAB),
        decoder=stack,
        tie=("target", "output"),
    )
    tape = trace(build(ear).eval(), (torch.randn(2, 6, 14), text()))
    check(tape)


def test_what_was_not_recorded_is_computed_when_asked_for():
    model = small("encoder_decoder")
    inputs = (text().flip(1), text())
    whole, narrow = trace(model, inputs), trace(model, inputs, watch="logits")
    assert list(narrow) == ["logits"]
    for name in ("decoder.blocks.1.cross_attention.context", "encoder.blocks.0.feed_forward.hidden"):
        assert torch.allclose(narrow.value(name), whole[name], atol=1e-5)
        assert narrow.explain(name, (0, 1, 2) + (3,) * (whole[name].dim() - 3)).error < 1e-6
    with pytest.raises(UserError, match=r'"encoder.final_norm.out".*was not recorded'):
        narrow["encoder.final_norm.out"]
    with pytest.raises(UserError, match="Did you mean"):
        narrow.explain("encoder.final_norm.uot", (0,))
    with pytest.raises(UserError, match=r"\[0, 9, 0\].*the tensor has the shape \[2, 7, 61\]"):
        narrow.explain("logits", (0, 9, 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_lazy_is_not_kept_but_computed_again(family):
    model, inputs = small(family), (text(), text()) if family == "encoder_decoder" else text()
    kept, lazy = trace(model, inputs), trace(model, inputs, lazy=("*.mask", "*.scores", "*.weights"))
    missing = set(kept) - set(lazy)
    assert missing == {name for name in kept if name.endswith((".mask", ".scores", ".weights"))}
    assert lazy.nbytes < kept.nbytes
    for name in missing:
        torch.testing.assert_close(lazy.value(name), kept[name], rtol=1e-6, atol=1e-6)
    site = next(name for name in missing if name.endswith("scores"))
    edited = trace(model, inputs, edits={site: lambda x: 0 * x}, lazy="*.scores")
    assert site in edited  # what an edit made of it cannot be computed again


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_alone_is_the_same_as_among_others(family, choice):
    model = small(family, **CHOICES[choice])
    inputs = (text(), text()) if family == "encoder_decoder" else text()
    kept, lazy = trace(model, inputs), trace(model, inputs, lazy=("*.mask", "*.scores", "*.weights"))
    for name in (name for name in kept if name.endswith((".scores", ".weights"))):
        for head in range(kept[name].size(1)):
            alone = kept[name][:, head : head + 1]
            assert torch.equal(kept.head(name, head), alone)
            torch.testing.assert_close(lazy.head(name, head), alone, rtol=1e-6, atol=1e-6)
        assert name not in lazy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_what_was_copied_goes_back_where_the_model_is():
    tape = trace(small("decoder").cuda(), text().cuda(), keep="cpu")
    assert {tensor.device.type for tensor in tape.tensors.values()} == {"cpu"}
    for name in tape:
        assert tape.recompute(name).device.type == "cuda"
        assert tape.explain(name, (0,) * tape[name].dim()).error < 1e-4


def test_a_bias_is_added_in_the_precision_of_the_scores():
    model, name = small("decoder", **CHOICES["alibi"]).bfloat16(), "blocks.0.self_attention.context"
    recorded, asked = trace(model, text()), trace(model, text(), watch="*.mask")
    torch.testing.assert_close(asked.value(name), recorded[name], rtol=0.05, atol=0.05)


def test_of_a_row_of_zeros_the_length_is_not_zero():
    """As of a text without a real token."""
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    tape = Tape()
    tape.tensors["unit"] = torch.nn.functional.normalize(rows, dim=-1)
    tape.entries["unit"] = Entry("unit", "", (2, 2), rows.dtype, UnitLength(), (Held(rows, "x"),), ("", 0))
    for row in (0, 1):
        found = tape.explain("unit", (row, 1))
        assert found.error <= 1e-6
        assert apart(found) <= 1e-6


def test_an_explanation_reads_like_one():
    tape = trace(small("decoder"), text())
    found = tape.explain("blocks.1.self_attention.scores", (0, 3, 5, 2), terms=3)
    told = str(found)
    assert told.startswith("blocks.1.self_attention.scores[0, 3, 5, 2] = ")
    assert "blocks.1.self_attention.q[0, 3, 5, " in told
    assert "5 other terms" in told
    assert "× scale 0.353553" in told
    assert "kernels.py:" in told
    assert json.loads(json.dumps(found.as_dict()))["steps"][0]["name"] == "× scale 0.353553"
    hidden = tape.explain("blocks.1.self_attention.scores", (0, 3, 2, 5))
    assert hidden.captured == hidden.recomputed == -torch.inf
    assert hidden.error == 0
    assert "hidden by the mask" in str(hidden)
    rule = tape.explain("blocks.0.self_attention.mask", (0, 0, 2, 5))
    assert rule.captured == rule.recomputed == 0
    assert "0  the key is not later" in str(rule)


def test_a_script_is_what_one_would_write():
    tape = trace(small("decoder", **CHOICES["softcap"]), text())
    lines = tape.explain("blocks.1.self_attention.scores", (0, 3, 2, 1)).script.splitlines()
    assert lines[:4] == [
        "# blocks.1.self_attention.scores[0, 3, 2, 1]: softcap · tanh(Σ q · k · scale / softcap) + bias, masked",
        "import torch",
        "",
        "# blocks.1.self_attention.q[0, 3, 2, :]",
    ]
    assert "# blocks.1.self_attention.k[0, 3, 1, :]" in lines
    assert lines[-4:-1] == [
        "y = (q * k).sum()",
        "y = y * 0.353553391  # × scale 0.353553",
        "y = 2 * torch.tanh(y / 2)  # squashed to ±2",
    ]
    assert lines[-1].startswith("print(float(y))  # the model had ")
    assert max(map(len, lines)) <= 120
    hidden = tape.explain("blocks.1.self_attention.scores", (0, 3, 1, 2)).script
    assert "\ny = -torch.inf  # hidden by the mask\nprint(float(y))  # the model had -inf\n" in hidden
    normed = tape.explain("final_norm.out", (0, 3, 1)).script
    assert "\ny = x[1]\nmean = x.mean()\ny = y - mean  # x - mean\n" in normed
    activated = tape.explain("blocks.0.feed_forward.hidden", (0, 3, 1)).script
    assert "\ny = x\ny = torch.nn.functional.relu(y)  # activation(pre)\n" in activated


def test_of_a_long_vector_a_script_has_the_largest_terms():
    tape = Tape()
    draw = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 5000, generator=draw)
    for name, operation, tensor in (
        ("weights", Softmax(), scores.softmax(dim=-1)),
        ("token", Likeliest(), scores.argmax(dim=-1)),
        ("unit", UnitLength(), torch.nn.functional.normalize(scores, dim=-1)),
        ("kept", Filtered(TopK(2000)), TopK(2000)(scores)),
    ):
        tape.tensors[name] = tensor
        entry = Entry(name, "", tuple(tensor.shape), tensor.dtype, operation, (Held(scores, "scores"),), ("", 0))
        tape.entries[name] = entry
        found = tape.explain(name, (1,) if tensor.dim() == 1 else (1, 7))
        assert apart(found) <= 1e-6 * abs(found.captured), found.script
        assert "the 5,000 numbers of scores[1, :]" in found.script
        assert len(found.script) < 1500
    assert "  # 4,992 other terms\n" in tape.explain("weights", (1, 7)).script


def test_every_filter_as_a_line():
    rows = torch.randint(-6, 6, (3, 40), generator=torch.Generator().manual_seed(4)) / 2.0  # many alike
    filters = [Temperature(0.7), TopK(9), TopK(99), TopP(0.8), MinP(0.05), Never((3, 5))]
    for keep in (*filters, lambda scores: scores - 1):
        for token in range(40):
            working = Filtered(keep).explain((1, token), Operand("scores", rows))
            said = script("", working, [0], working.value, ())
            assert printed(said) == pytest.approx(keep(rows)[1, token].item(), rel=1e-6)
            assert ("not computed here" in said) == (keep not in filters)


def test_squashed_and_scaled_logits():
    front, stack = config.Tokens(vocab_size=VOCAB), describe("decoder").stack
    head = config.Language(softcap=3.0, scale=0.5)
    with torch.no_grad():
        check(trace(build(config.Decoder(front=front, stack=stack, head=head)).eval(), text()))


def test_an_edited_number_says_so():
    model = small("decoder")
    tape = trace(model, text(), edits={"blocks.0.residual_mid": lambda x: x * 2})
    found = tape.explain("blocks.0.residual_mid", (0, 1, 2))
    assert found.captured == pytest.approx(2 * found.recomputed)
    assert "edited in between by blocks.0.residual_mid" in str(found)
    assert printed(found.script) == pytest.approx(found.recomputed)
    assert "edited in between by blocks.0.residual_mid" in found.script.splitlines()[-1]
    assert tape.explain("blocks.0.feed_forward.pre", (0, 1, 2)).error < 1e-5


def test_room():
    model, many = small("decoder"), text()
    before = model(many)
    with pytest.raises(UserError, match=r"recording .*at most 0.0 MB.*Watch less"):
        trace(model, many, limit=10_000)
    assert torch.equal(model(many), before)
