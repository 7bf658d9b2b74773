"""The view of masks in a browser: the tensor that was applied, its edits, and padding."""

import pytest
import torch
from exploring import cell, same, value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.attention import padding_mass
from pellucid.analysis.views import redrawn
from pellucid.config import parts
from pellucid.inference.reading import padded, read
from pellucid.trace import edits, trace

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SITES = [
    ("encoder", "", "self"),
    ("decoder", "", "self"),
    ("encoder_decoder", "encoder.", "self"),
    ("encoder_decoder", "decoder.", "self"),
    ("encoder_decoder", "decoder.", "cross"),
]


def look(page, one, tower="", kind="self", layer=1, head=2, **pinned):
    page.goto(one.link("masking", tower=tower, kind=kind, layer=layer, head=head, **pinned))
    page.locator('[data-testid="mask"][data-ready]').wait_for()


def shown(page, testid="mask"):
    """The numbers of a matrix, read from its table."""
    figure = page.get_by_test_id(testid)
    figure.get_by_test_id("as-table").click()
    figure.locator("td").first.wait_for()
    rows = figure.locator("tbody tr")
    return torch.tensor([[float(text) for text in row.locator("td").all_inner_texts()] for row in rows.all()])


def last(one):
    """The position of the answer that is compared."""
    return one.trace()["logits"].size(1) - 1


@pytest.mark.parametrize("windows", [(0,), (3,)])
@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_the_mask_is_the_one_that_was_applied(page, served, family, tower, kind, windows):
    one = served(family, windows=windows)
    look(page, one, tower, kind)
    expected = one.trace().value(f"{tower}blocks.1.{kind}_attention.mask")[0, 0]
    table = shown(page)
    assert torch.equal(table, expected[: len(table), : table.size(1)].float())
    assert int(page.get_by_test_id("counts").get_attribute("data-pairs")) == int(expected.sum())
    rule = page.get_by_test_id("rule")
    causal = kind == "self" and (family == "decoder" or tower == "decoder.")
    assert rule.get_attribute("data-causal") == str(causal).lower()
    window = "3" if windows == (3,) and kind == "self" else None
    assert rule.get_attribute("data-window") == window
    expect(page.get_by_test_id("blind")).to_have_count(0)


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_a_cell_is_hidden_and_the_answer_changes(page, served, family, tower, kind):
    one = served(family)
    name = f"{tower}blocks.1.{kind}_attention.mask"
    look(page, one, tower, kind)
    page.get_by_test_id("mask-box").click(position=cell(page, 3, 2, "mask"))
    weight = one.trace().value(name.replace("mask", "weights"))[0, 2, 3, 2].item()
    assert value(page.get_by_test_id("cell")) == 1
    assert value(page.get_by_test_id("cell-weight")) == same(weight)
    page.get_by_test_id("toggle").click()
    expect(page.get_by_test_id("edits").get_by_role("listitem")).to_have_count(1)
    expect(page.get_by_test_id("cell")).to_have_attribute("data-value", "0")
    expect(page.get_by_test_id("cell-weight")).to_have_attribute("data-value", "0")
    assert '"kind":"replace"' in page.evaluate("decodeURIComponent(location.hash)").replace("+", " ")
    check_answers(page, one, {name: edits.replace(False, edits.Where(positions=[3], units=[2]))})
    page.get_by_test_id("restore").click()
    expect(page.get_by_test_id("unchanged")).to_be_visible()


def check_answers(page, one, changes, place=None):
    """Before and after are those of the model itself."""
    at = last(one) if place is None else place
    page.get_by_test_id("answers-verdict").wait_for()
    for when, made in (("before", {}), ("after", changes)):
        expected = one.trace(edits=made)["logits"][0, at].double().softmax(-1)
        best = int(expected.argmax())
        settles(page, f"answers-{when}-{best}", expected[best].item())


def settles(page, testid, expected):
    """Until the answer of the last change is there, the one before it is shown."""
    page.wait_for_function(
        "([id, p]) => Math.abs(Number(document.querySelector(`[data-testid=${id}]`)?.dataset.value) / p - 1) < 1e-5",
        arg=[testid, expected],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_another_rule_for_every_block(page, served, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, one, tower)
    page.get_by_test_id("everywhere").check()
    causal = family != "encoder"
    for text, edit in (
        ("window of 2", redrawn(causal, 2)),
        ("everything", redrawn(False)),
        ("the past", redrawn(True)),
    ):
        page.get_by_test_id("rules").get_by_text(text).click()
        expected = one.trace(edits={f"{tower}blocks.*.self_attention.mask": edit})
        allowed = expected[f"{tower}blocks.1.self_attention.mask"]
        expect(page.get_by_test_id("counts")).to_have_attribute("data-pairs", str(int(allowed.sum())))
        best = int(expected["logits"][0, last(one)].argmax())
        probability = expected["logits"][0, last(one)].double().softmax(-1)[best].item()
        settles(page, f"answers-after-{best}", probability)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_sees_nothing(page, served, family):
    one = served(family)
    tower = "encoder." if family == "encoder_decoder" else ""
    look(page, one, tower, query=3, key=1)
    page.get_by_test_id("blind-row").click()
    blind = page.get_by_test_id("blind")
    expect(blind).to_have_attribute("data-queries", "3")
    name = f"{tower}blocks.1.self_attention.mask"
    tape = one.trace(edits={name: edits.replace(False, edits.Where(positions=[3]))})
    assert not tape.value(name.replace("mask", "weights"))[0, :, 3].any()
    expect(page.get_by_test_id("cell-weight")).to_have_attribute("data-value", "0")
    check_answers(page, one, {name: edits.replace(False, edits.Where(positions=[3]))})


def of_padding(one, counts, left, told):
    reading = padded(one.loaded, read(one.loaded, "the cat sat", one.target), counts, left=left, told=told)
    return reading, trace(one.loaded.model, reading.arguments)


@pytest.mark.parametrize("told", [True, False], ids=["hidden", "seen"])
@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_padding(page, served, family, tower, kind, told):
    one = served(family)
    two = family == "encoder_decoder"
    look(page, one, tower, kind)
    page.get_by_test_id("pad-side").get_by_text("left").click()
    for testid in ("pad-reads", "pad-writes")[: 1 + two]:
        slider = page.get_by_test_id(testid)
        slider.focus()
        for _ in range(2):
            slider.press("ArrowRight")
    if not told:
        page.get_by_test_id("pad-hidden").uncheck()
    reading, tape = of_padding(one, (2, 2)[: 1 + two], True, told)
    name = f"{tower}blocks.1.{kind}_attention"
    allowed = tape[f"{name}.mask"][0, 0]
    expect(page.get_by_test_id("counts")).to_have_attribute("data-pairs", str(int(allowed.sum())))
    queries = reading.real[-1] if tower == "decoder." else reading.real[0]
    keys = reading.real[0] if kind == "cross" else queries
    mass = [padding_mass(tape[f"{tower}blocks.{i}.{kind}_attention.weights"], keys, queries)[0] for i in range(2)]
    most = float(page.get_by_test_id("on-padding").get_attribute("data-most"))
    assert most == pytest.approx(torch.stack(mass).max().item(), rel=1e-4, abs=1e-9)
    assert (most > 0) == (not told)
    if told:
        expect(page.get_by_test_id("blind")).to_have_attribute("data-queries", "0,1")
        expect(page.get_by_test_id("unseen")).to_have_attribute("data-keys", "0,1")
        expect(page.get_by_test_id("answers-verdict")).to_contain_text("No probability moved.")
    probabilities = tape["logits"][0, -1].double().softmax(-1)
    best = int(probabilities.argmax())
    settles(page, f"answers-after-{best}", probabilities[best].item())


@pytest.mark.parametrize("family", FAMILIES)
def test_by_keyboard(page, served, family):
    one = served(family)
    look(page, one)
    grid = page.get_by_test_id("mask-grid")
    grid.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        grid.press(key)
    expect(page.get_by_test_id("pair")).to_be_visible()
    expect(page.get_by_test_id("explain-address")).to_contain_text("self_attention.mask[0, 0, 2, 1]")
    page.get_by_test_id("toggle").press("Enter")
    expect(page.get_by_test_id("cell")).to_have_attribute("data-value", "0")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_without_faults(opened, served, axe, family, width, scheme):
    one = served(family, positions=parts.Sinusoidal())
    page = opened(width, 844, scheme)
    look(page, one, **{"query": 3, "key": 1, ".pad": "2,1,right,hidden"})
    page.get_by_test_id("answers-verdict").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
