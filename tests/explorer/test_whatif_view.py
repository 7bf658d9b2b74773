"""What if, in a browser: every change is the model's own under that edit, and so is all that follows from it."""

import json
from dataclasses import replace
from urllib.parse import urlencode

import pytest
import torch
from exploring import TEXT, cell, same, serve, value
from families import FAMILIES, STACK
from playwright.sync_api import expect

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.run import Bytes
from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.inference.decode import generate
from pellucid.inference.reading import beginning
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded
from pellucid.trace import Where, edit, edits

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def own(family):
    return "decoder." if family == "encoder_decoder" else ""


def look(page, one, changes=(), **pinned):
    more = {"edits": json.dumps(list(changes))} if changes else {}
    page.goto(one.link("whatif", **more, **pinned))
    page.get_by_test_id("what-if").wait_for()


def answers(page):
    """Of each answer shown, the probability before and after, once they are those of the last change."""
    changed = page.get_by_test_id("what-if").get_attribute("data-changed")
    expect(page.get_by_test_id("answers")).to_have_attribute("data-of", changed)
    rows = page.get_by_test_id("answer")
    rows.first.wait_for()
    return {
        int(row.get_attribute("data-id")): (
            float(row.get_attribute("data-before")),
            float(row.get_attribute("data-after")),
        )
        for row in rows.all()
    }


def add(page, press=None):
    """Presses a button that changes the model, and waits for the pass."""
    shown = page.get_by_test_id("what-if")
    before = shown.get_attribute("data-changed")
    (press or page.get_by_test_id("add-edit")).click()
    expect(shown).not_to_have_attribute("data-changed", before)


def choose(page, testid, label):
    page.get_by_test_id(testid).select_option(label)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_zeroed_and_the_answer_changes_as_the_model_says(page, served, family):
    one, name = served(family), f"{own(family)}blocks.1.self_attention.context"
    look(page, one)
    expect(page.get_by_test_id("no-edits")).to_be_visible()
    if family == "encoder_decoder":
        choose(page, "edit-site", "1")
    choose(page, "edit-layer", "1")
    choose(page, "edit-head", "2")
    add(page)
    before = one.trace()["logits"][0, -1]
    after = one.trace(edits={name: edits.zero(Where(heads=[2]))})["logits"][0, -1]
    found = answers(page)
    assert {token: pair[0] for token, pair in found.items()} == pytest.approx(
        {token: before.softmax(-1)[token].item() for token in found}, abs=1e-6
    )
    assert {token: pair[1] for token, pair in found.items()} == pytest.approx(
        {token: after.softmax(-1)[token].item() for token in found}, abs=1e-6
    )
    page.get_by_test_id("verdict").wait_for()
    same_answer = str(int(before.argmax()) == int(after.argmax())).lower()
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-same", same_answer)
    row = page.get_by_test_id("answer").first
    token = int(row.get_attribute("data-id"))
    assert value(row.get_by_test_id("score-after")) == pytest.approx(after[token].item(), abs=1e-5)
    row.get_by_test_id("score-after").click()
    expect(page.get_by_test_id("explain-address")).to_have_text(
        f"logits[0, {len(one.pieces()[-1] or one.pieces()[0]) - 1}, {token}]"
    )
    page.get_by_test_id("take-out").click()
    expect(page.get_by_test_id("edits")).to_have_count(0)
    assert "edits" not in page.url


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_what_it_writes_is_greedy_writing_under_the_edit(page, served, family):
    one, name = served(family), f"{own(family)}blocks.0.feed_forward.hidden"
    change = {"kind": "scale", "name": name, "units": [0, 1, 2, 3, 4, 5, 6, 7], "value": -4}
    look(page, one, [change], **{".tokens": 6})
    expect(page.get_by_test_id("writes")).to_have_attribute("data-done", "true")
    prompt, tokenizer = beginning(one.loaded, TEXT), one.loaded.tokenizer
    texts = []
    for changes in ({}, {name: edits.scale(-4.0, Where(units=list(range(8))))}):
        with edit(one.loaded.model, changes):
            (written,) = generate(one.loaded.model, prompt, max_new_tokens=6, ends=tokenizer.ends)
        ended = len(written) < 6
        texts.append("".join(tokenizer.pieces([*written, *(tokenizer.ends if ended else ())])))
    assert page.get_by_test_id("written-before").text_content() == texts[0]
    assert page.get_by_test_id("written-after").text_content() == texts[1]


def test_the_answer_that_parts_is_that_of_the_first_token_that_is_another(page, served):
    one = served("encoder_decoder")
    change = {"kind": "zero", "name": "decoder.blocks.1.self_attention.context", "heads": [0]}
    page.goto(
        f"{one.url}#1?" + urlencode({"view": "whatif", "text": TEXT, "edits": json.dumps([change]), ".tokens": 5})
    )
    expect(page.get_by_test_id("writes")).to_have_attribute("data-done", "true")
    prompt, tokenizer = beginning(one.loaded, TEXT), one.loaded.tokenizer
    (before,) = generate(one.loaded.model, prompt, max_new_tokens=5, ends=tokenizer.ends)
    with edit(one.loaded.model, {change["name"]: edits.zero(Where(heads=[0]))}):
        (after,) = generate(one.loaded.model, prompt, max_new_tokens=5, ends=tokenizer.ends)
    parted = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
    place = prompt.tokens.size(1) - 1 + parted  # of the answer that becomes this token
    page.get_by_test_id("look-there").click()
    expect(page.get_by_test_id("answers")).to_have_attribute("data-position", str(place))
    assert page.get_by_test_id("verdict").get_attribute("data-same") == "false"


def test_a_character_of_two_tokens_is_written_as_itself(page):
    text = "ab"
    model = build(
        config.Decoder(
            front=config.Tokens(vocab_size=300),
            stack=replace(STACK, num_layers=1, positions=parts.Learned(max_length=20)),
        )
    ).eval()
    tokenizer = Tokenizer.train(Bytes(), [text])
    with torch.no_grad():  # what is written hangs on the place alone
        for parameter in (model.embedding.table.weight, *model.blocks.parameters(), model.head.project.weight):
            parameter.zero_()
        directions = model.embedding.positions.table.weight
        for place, token in enumerate(tokenizer.encode("é"), len(text) - 1):
            model.head.project.weight[token] = directions[place]
    session = Session(Loaded(model, tokenizer, None), "bytes", example=(text, None))
    url, server = serve(create_app(session))
    try:
        page.goto(f"{url}#1?view=whatif&.tokens=2")
        expect(page.get_by_test_id("writes")).to_have_attribute("data-done", "true")
        assert page.get_by_test_id("written-before").text_content() == "é"
    finally:
        server.should_exit = True


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_shows_how_far_the_stream_is_from_what_it_was(page, served, family):
    one = served(family)
    tower = "encoder." if family == "encoder_decoder" else ""
    look(page, one, [{"kind": "skip", "layer": f"{tower}blocks.0"}], **({"tower": tower} if tower else {}))
    plain, changed = one.trace(), one.trace(edits=edits.skip(f"{tower}blocks.0"))
    name = f"{tower}blocks.1.residual_post"
    a, b = changed[name][0], plain[name][0]
    expected = ((a - b).norm(dim=-1) / b.norm(dim=-1))[3].item()
    shift = "shift-encoder" if tower else "shift"
    page.get_by_test_id(shift).wait_for()
    page.get_by_test_id(f"{shift}-box").click(position=cell(page, 2, 3, shift))
    assert value(page.get_by_test_id(f"{shift}-value")) == same(expected)
    vector = page.get_by_test_id("shift-vector-box")
    vector.click(position=cell(page, 0, 5, "shift-vector"))
    assert value(page.get_by_test_id("shift-vector-value")) == pytest.approx((a - b)[3, 5].item(), abs=1e-5)


KINDS = ["units", "swap", "patch", "steer", "skip"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_change_can_be_put_together(page, served, family):
    one = served(family)
    look(page, one)
    for count, kind in enumerate(KINDS, 1):
        choose(page, "edit-kind", kind)
        if kind == "units":
            page.get_by_test_id("edit-units").fill("1, 4")
            page.get_by_test_id("edit-factor").fill("2")
        elif kind == "swap":
            choose(page, "edit-first", "0")
            choose(page, "edit-second", "2")
        elif kind in ("patch", "steer"):
            page.get_by_test_id("edit-other").fill("a dog did t")
            if kind == "patch":
                choose(page, "edit-position", "1")
        add(page)
        expect(page.get_by_test_id("edits").locator("li")).to_have_count(count)
        expect(page.get_by_test_id("error")).to_have_count(0)
    tower = "encoder." if family == "encoder_decoder" else ""
    other = one.trace(text="a dog did t")
    name = f"{tower}blocks.0.residual_post"
    direction = other[name][0].mean(0)
    changes = {
        f"{tower}blocks.0.feed_forward.hidden": [edits.scale(2.0, Where(units=[1, 4]))],
        f"{tower}embedding.tokens": [edits.swap(0, 2)],
        name: [edits.replace(other[name], Where(positions=[1])), edits.steer(direction, 1.0)],
    }
    for skipped, change in edits.skip(f"{tower}blocks.0").items():
        changes.setdefault(skipped, []).append(change)
    expected = one.trace(edits=changes)["logits"][0, -1].softmax(-1)
    found = answers(page)
    assert {token: pair[1] for token, pair in found.items()} == pytest.approx(
        {token: expected[token].item() for token in found}, abs=1e-5
    )
    page.get_by_test_id("take-all-out").click()
    expect(page.get_by_test_id("no-edits")).to_be_visible()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_ranks_all_heads(page, served, family):
    one = served(family)
    look(page, one)
    token = int(one.trace()["logits"][0, -1].argmax())
    page.get_by_test_id("run-sweep").click()
    sweep = page.get_by_test_id("sweep")
    expect(sweep).to_have_attribute("data-done", "true")
    names = [name for name in one.trace() if name.endswith("attention.context")]
    assert int(sweep.get_attribute("data-total")) == 4 * len(names)
    before = one.trace()["logits"][0, -1].double().log_softmax(-1)[token]
    effects = {}
    for name in names:
        for head in range(4):
            after = one.trace(edits={name: edits.zero(Where(heads=[head]))})["logits"][0, -1]
            effects[name, head] = (after.double().log_softmax(-1)[token] - before).item()
    rows = page.get_by_test_id("swept").all()
    shown = [float(row.get_attribute("data-effect")) for row in rows]
    largest = sorted(effects.values(), key=abs, reverse=True)[: len(rows)]
    assert list(map(abs, shown)) == pytest.approx(list(map(abs, largest)), abs=1e-4)
    row = rows[0]
    key = (f"{row.get_attribute('data-site')}.context", int(row.get_attribute("data-head")))
    assert shown[0] == pytest.approx(effects[key], abs=1e-4)
    add(page, row.get_by_test_id("try-head"))
    expect(page.get_by_test_id("edits").locator("li")).to_have_count(1)
    pair = answers(page)[token]
    assert torch.tensor(pair[1]).log().item() - torch.tensor(pair[0]).log().item() == pytest.approx(shown[0], abs=1e-3)


def test_a_change_that_cannot_be_is_told_and_can_be_taken_out(page, served, faults):
    faults.allow("422")
    one = served("decoder")
    look(page, one)
    choose(page, "edit-kind", "patch")
    page.get_by_test_id("edit-other").fill("the cat sat on the mat")
    page.get_by_test_id("add-edit").click()
    expect(page.get_by_test_id("error")).to_be_visible()
    page.get_by_test_id("take-out").click()
    expect(page.get_by_test_id("error")).to_have_count(0)


def test_a_text_that_is_refused_leaves_both_sides_as_they_were(page, served, faults):
    faults.allow("422")
    look(page, served("decoder"), [{"kind": "zero", "name": "blocks.0.residual_post", "positions": [9]}])
    before, shown = answers(page), page.get_by_test_id("what-if")
    plain = shown.get_attribute("data-plain")
    page.get_by_test_id("text").fill("the cat")  # it has no position 9
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("error")).to_be_visible()
    page.wait_for_load_state("networkidle")
    expect(shown).to_have_attribute("data-plain", plain)
    assert answers(page) == before


def test_all_of_it_with_the_keyboard(page, served):
    one = served("decoder")
    look(page, one)
    page.get_by_test_id("edit-kind").focus()
    page.keyboard.type("skip")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("edits").locator("li")).to_have_attribute("data-kind", "skip")
    page.get_by_test_id("take-out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("edits")).to_have_count(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_can_be_read_by_everyone(opened, served, axe, family, width, scheme):
    one, page = served(family), opened(width=width, scheme=scheme)
    tower = "encoder." if family == "encoder_decoder" else ""
    look(page, one, [{"kind": "skip", "layer": f"{tower}blocks.0"}], **{".tokens": 4})
    page.get_by_test_id("run-sweep").click()
    expect(page.get_by_test_id("sweep")).to_have_attribute("data-done", "true")
    page.get_by_test_id("shift").wait_for()
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
