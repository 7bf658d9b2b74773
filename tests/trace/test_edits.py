"""Edits: each does what it says to the part it names, and leaves nothing behind."""

import json
from io import StringIO

import pytest
import torch
from families import CHOICES, FAMILIES, VOCAB, run, small

import pellucid
from pellucid.errors import CheckpointError, UserError
from pellucid.inference.decode import Prompt, generate
from pellucid.trace import Tape, Where, add, edit, edits, mean, patch, replace, scale, skip, steer, trace, zero


def text(seed=5, length=7):
    return torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(seed))


def inner(family):
    return "decoder." if family == "encoder_decoder" else ""


PART = Where(rows=[1], positions=[2, -1], units=slice(0, 5))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (zero(PART), lambda x: x * 0),
        (scale(3.0, PART), lambda x: x * 3),
        (add(1.5, PART), lambda x: x + 1.5),
        (add(torch.arange(5.0), PART), lambda x: x + torch.arange(5.0)),
        (replace(7.0, PART), lambda x: x * 0 + 7),
        (steer(torch.ones(5), 2.0, PART), lambda x: x + 2 * x.norm(dim=-1, keepdim=True) / 5**0.5),
    ],
)
def test_a_part_is_changed_and_nothing_else(made, expected):
    x = torch.randn(3, 4, 6)
    before = x.clone()
    found = made(x)
    assert torch.equal(x, before)
    rows, positions, units = torch.tensor([1]), torch.tensor([2, 3]), torch.arange(5)
    grid = rows[:, None, None], positions[None, :, None], units[None, None]
    assert torch.allclose(found[grid], expected(x[grid]))
    found[grid] = x[grid]
    assert torch.equal(found, x)


def test_a_mean_over_rows_and_positions():
    x, heads = torch.randn(3, 4, 6), torch.randn(2, 5, 4, 6)
    assert torch.allclose(mean()(x), x.mean((0, 1)).expand_as(x))
    found = mean(Where(heads=[1]))(heads)
    assert torch.allclose(found[:, 1], heads[:, 1].mean((0, 1)).expand(2, 4, 6))
    assert torch.equal(found[:, 0], heads[:, 0])
    assert torch.allclose(mean(of=x + 1)(x), (x + 1).mean((0, 1)).expand_as(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_everything_from_another_run_gives_that_run(family):
    model = small(family)
    with torch.no_grad(), trace(model) as other:
        theirs = run(model, text(6))
    last = f"{inner(family)}blocks.1.residual_post"
    with torch.no_grad(), edit(model, patch(other, last)):
        assert torch.equal(run(model, text()), theirs)
    place = Where(positions=[3])
    with torch.no_grad(), edit(model, patch(other, last, where=place)):
        mixed = run(model, text())
    own = run(model, text())
    assert torch.allclose(mixed[:, 3], theirs[:, 3], atol=1e-5)
    assert torch.allclose(mixed[:, 4:], own[:, 4:], atol=1e-5)
    with torch.no_grad(), edit(model, patch(other, last, where=place, taken=Where(positions=[5]))):
        assert torch.allclose(run(model, text())[:, 3], theirs[:, 5], atol=1e-5)


@pytest.mark.parametrize("placement", ["plain", "post", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_skipped_layer_is_not_there(family, placement):
    model = small(family, **CHOICES[placement])
    with torch.no_grad(), edit(model, skip(f"{inner(family)}blocks.1")):
        skipped = run(model, text())
    tower = model.decoder if family == "encoder_decoder" else model
    del tower.blocks[1]
    with torch.no_grad():
        assert torch.equal(run(model, text()), skipped)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_pattern(family):
    model = small(family)
    name = f"{inner(family)}blocks.0.self_attention.weights"
    with torch.no_grad(), trace(model) as other:
        run(model, text(6))
    with torch.no_grad(), trace(model, edits={name: replace(other[name])}) as tape:
        run(model, text())
    assert torch.equal(tape[name], other[name])
    own = tape[f"{inner(family)}blocks.0.self_attention.v"]
    assert torch.allclose(tape[f"{inner(family)}blocks.0.self_attention.context"], other[name] @ own)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_mask(family):
    """What a query may no longer see cannot move it; what it is allowed to see does."""
    model = small(family)
    hidden = {f"{inner(family)}*self_attention.mask": zero(Where(positions=slice(2, None), units=[0]))}
    other = text().clone()
    other[:, 0] = (other[:, 0] + 1) % VOCAB
    outputs = []
    for tokens in (text(), other):
        with torch.no_grad(), edit(model, hidden):
            whole = (text(1), tokens) if family == "encoder_decoder" else (tokens,)
            outputs.append(model(*whole)[:, -1])
    with torch.no_grad():
        free = [model(*((text(1), t) if family == "encoder_decoder" else (t,)))[:, -1] for t in (text(), other)]
    if family == "encoder":  # position 1 still sees 0, and is seen
        assert not torch.equal(*free)
    else:
        assert not torch.allclose(*free, atol=1e-4)
    direct = (outputs[0] - outputs[1]).abs().max() < (free[0] - free[1]).abs().max()
    assert direct
    blind = {f"{inner(family)}*self_attention.mask": zero()}
    with torch.no_grad(), trace(model, edits=blind) as tape:
        model(*((text(1), text()) if family == "encoder_decoder" else (text(),)))
    assert tape[f"{inner(family)}blocks.0.self_attention.context"].abs().max() == 0
    opened = {f"{inner(family)}*self_attention.mask": replace(True)}
    with torch.no_grad(), trace(model, edits=opened) as tape:
        model(*((text(1), text()) if family == "encoder_decoder" else (text(),)))
    assert (tape[f"{inner(family)}blocks.0.self_attention.weights"] > 0).all()


def test_edits_hold_while_writing_and_end_with_the_block():
    model = small("decoder")
    prompt = Prompt(text(length=3))
    before = generate(model, prompt, max_new_tokens=5)
    wanted = torch.zeros(VOCAB)
    wanted[17] = 1e4
    with edit(model, {"logits@2": add(wanted)}):
        found = generate(model, prompt, max_new_tokens=5)
    assert [row[:2] for row in found] == [row[:2] for row in before]
    assert [row[2] for row in found] == [17, 17]
    assert generate(model, prompt, max_new_tokens=5) == before
    with pytest.raises(ZeroDivisionError), edit(model, {"logits": lambda x: x / (1 // 0)}):
        generate(model, prompt, max_new_tokens=5)
    assert generate(model, prompt, max_new_tokens=5) == before


def test_the_token_that_is_chosen_can_be_replaced():
    model = small("decoder")
    (_, before) = generate(model, Prompt(text(length=3)), max_new_tokens=2)
    with edit(model, {"sampling.token": replace(5)}):
        assert generate(model, Prompt(text(length=3)), max_new_tokens=2) == [[5, 5], [5, 5]]
    with edit(model, {"sampling.token": replace(5, Where(rows=[0]))}):
        assert generate(model, Prompt(text(length=3)), max_new_tokens=2) == [[5, 5], before]


def test_one_after_another_and_with_gradients():
    model = small("decoder")
    push = torch.zeros(32, requires_grad=True)
    both = {"blocks.0.residual_post": [add(push), scale(2.0)]}
    tape = trace(model, text(), edits=both, grads=True)
    tape["logits"].logsumexp(-1).sum().backward()
    assert push.grad.abs().sum() > 0
    assert torch.equal(
        tape["blocks.0.residual_post"], 2 * tape["blocks.0.residual_mid"] + 2 * tape["blocks.0.feed_forward.out"]
    )


def test_an_edit_whose_name_matches_nothing_is_told():
    """Silence would say that the tensor makes no difference."""
    model, typo = small("decoder"), "blocks.0.self_attention.weight"
    told = rf'edits: no such tensor as "{typo}" among the \d+ of this pass; expected .* Did you mean "{typo}s"\?'
    with pytest.raises(UserError, match=told), edit(model, {"logits": zero(), typo: zero()}):
        model(text())
    with pytest.raises(UserError, match=told):
        trace(model, text(), edits={typo: zero()})
    with pytest.raises(UserError, match=told), edit(model, {typo: zero()}):
        generate(model, Prompt(text()[:1, :3]), max_new_tokens=2)
    assert torch.equal(model(text()), small("decoder")(text()))  # the model is as it was
    with edit(model, {typo: zero()}):
        pass  # nothing ran
    with edit(model, {"logits@9": zero()}):
        model(text())  # a step that may not come
    with pytest.raises(ZeroDivisionError), edit(model, {typo: zero()}):  # what went wrong is told, not this
        model(text()).add_(1 // 0)
    with edit(model, {"*.weights": zero(), f"{typo}s": zero()}):
        model(text())


def test_what_an_edit_returns_is_looked_at():
    model = small("decoder")
    for edited, found in ((lambda x: None, "of type NoneType"), (lambda x: x[:, :1], r"of shape \[2, 1, 61\]")):
        told = rf'edits, "logit\*": what it returned is {found}; expected a tensor of shape \[2, 7, 61\]'
        with pytest.raises(UserError, match=told), edit(model, {"logit*": [scale(2.0), edited]}):
            model(text())
    assert torch.equal(model(text()), small("decoder")(text()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_a_vector_is_added_where_the_tensor_is():
    assert torch.equal(add(torch.ones(4))(torch.zeros(2, 3, 4, device="cuda")).cpu(), torch.ones(2, 3, 4))


def test_one_number_is_a_part():
    x = torch.ones(2, 3, 4)
    assert torch.equal(zero(Where(positions=1))(x), zero(Where(positions=[1]))(x))
    assert torch.equal(zero(Where(rows=0, units=-1))(x), zero(Where(rows=[0], units=[3]))(x))
    with pytest.raises(UserError, match=r"found \[3\]; expected numbers below 3"):
        zero(Where(positions=3))(x)


def test_parts_that_are_not_there():
    with pytest.raises(UserError, match=r"shape \[2, 3, 4\] has no heads"):
        zero(Where(heads=[0]))(torch.zeros(2, 3, 4))
    with pytest.raises(UserError, match=r"found \[9\]; expected numbers below 3"):
        zero(Where(positions=[9]))(torch.zeros(2, 3, 4))
    with pytest.raises(UserError, match=r"shape \[2, 3, 4\]; expected \[2, 2, 4\]"):
        replace(torch.zeros(2, 3, 4))(torch.zeros(2, 2, 4))
    with pytest.raises(UserError, match=r"shape \[3\] has no units"):
        zero(Where(units=[0]))(torch.zeros(3))
    with pytest.raises(UserError, match=r"values of torch.bool have no mean"):
        mean()(torch.ones(1, 1, 3, 3, dtype=torch.bool))


def test_saved_and_read(tmp_path):
    model = small("encoder_decoder")
    tape = trace(model, (text(), text(6)), grads=True)
    tape["logits"].sum().backward()
    tape.save(tmp_path / "tape")
    again = Tape.load(tmp_path / "tape")
    assert list(again) == list(tape)
    assert all(torch.equal(again[name], tape[name]) for name in tape)
    assert all(torch.equal(again.gradients[name], tape.gradients[name]) for name in tape.gradients)
    name = "decoder.blocks.1.cross_attention.weights"
    assert again.entry(name).input_names == ("decoder.blocks.1.cross_attention.scores",)
    assert again.entry(name).operation.formula == tape.entry(name).operation.formula
    with pytest.raises(UserError, match="from a tape on disk"):
        again.explain(name, (0, 0, 0, 0))
    (tmp_path / "tape" / "tensors.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no tape that can be read"):
        Tape.load(tmp_path / "tape")


@pytest.mark.parametrize(
    "torn",
    [{"dtype": "float99"}, {"dtype": "nn"}, {"dtype": 3}, {"line": []}, {"line": None}, {"operation": {}}],
    ids=str,
)
def test_entries_that_cannot_be_read(tmp_path, torn):
    trace(small("encoder"), text()).save(tmp_path)
    told = json.loads((tmp_path / "tape.json").read_text())
    told["entries"][0] |= torn
    (tmp_path / "tape.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="no tape that can be read"):
        Tape.load(tmp_path)


def test_what_is_a_part_of_another_is_saved_too(tmp_path):
    """Of one row the last logits stand in the memory of all."""
    model = small("decoder")
    with trace(model) as tape:
        generate(model, Prompt(text()[:1, :3]), max_new_tokens=2)
    tape.save(tmp_path / "tape")
    again = Tape.load(tmp_path / "tape")
    assert list(again) == list(tape)
    assert all(torch.equal(again[name], tape[name]) for name in tape)
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        tape.save(tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "tape"]


def test_shown():
    from rich.console import Console

    tape = trace(small("decoder"), text())
    console = Console(width=200, record=True, file=StringIO())
    console.print(tape)
    told = console.export_text()
    assert "blocks.1.self_attention.weights" in told
    assert "Σ q · k · scale" in told
    assert "infinite" in told
    assert repr(tape).startswith("<Tape: 50 of 50 tensors, 0.")
    page = tape._repr_html_()
    assert page.count("<img") == 50
    assert "data:image/png;base64,iVBOR" in page
    found = tape.statistics("blocks.0.self_attention.weights")
    row = tape["blocks.0.self_attention.weights"]
    assert found.entropy == pytest.approx(-(row * row.clamp(min=1e-30).log()).sum(-1).mean().item(), rel=1e-5)
    assert tape.statistics("blocks.0.self_attention.scores").infinite == 2 * 4 * 21


def test_public():
    assert pellucid.edit is edit
    assert edits.zero is zero
