"""The view of attention in a browser: every number on it is the model's own."""

import csv
import re

import pytest
from exploring import TEXT, cell, same, value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.attention import patterns

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SITES = [
    ("encoder", "", "self"),
    ("decoder", "", "self"),
    ("encoder_decoder", "encoder.", "self"),
    ("encoder_decoder", "decoder.", "self"),
    ("encoder_decoder", "decoder.", "cross"),
]


def weights(one, tower, kind, layer):
    """(H, T, S)"""
    return one.trace().value(f"{tower}blocks.{layer}.{kind}_attention.weights")[0]


def look(page, one, tower="", kind="self", layer=1, head=2, **pinned):
    page.goto(one.link("attention", tower=tower, kind=kind, layer=layer, head=head, **pinned))
    expect(page.get_by_test_id("head")).to_have_attribute(
        "data-address", f"{tower}blocks.{layer}.{kind}_attention.weights"
    )


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_a_clicked_word_shows_whom_it_attends_to(page, served, family, tower, kind):
    one = served(family)
    expected = weights(one, tower, kind, 1)[2, 1]
    look(page, one, tower, kind)
    page.get_by_test_id("query-tokens").get_by_role("option").nth(1).click()
    rows = page.locator('[data-testid="attends"][data-place="1"] li')
    rows.first.wait_for()
    shown = {int(row.get_attribute("data-other")): value(row.get_by_test_id("weight")) for row in rows.all()}
    assert shown == same({place: expected[place].item() for place in shown})
    assert list(shown.values()) == same(expected.sort(descending=True).values[: len(shown)].tolist())
    assert len(shown) == min(12, len(expected))
    rows.first.get_by_test_id("weight").click()  # also where the bar of a large weight reaches it
    expect(page.get_by_test_id("explain-address")).to_contain_text(f"weights[0, 2, 1, {next(iter(shown))}]")
    assert "query=1" in page.url


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_a_clicked_cell_is_locked_and_explained(page, served, family, tower, kind):
    one = served(family)
    name = f"{tower}blocks.1.{kind}_attention.weights"
    tape, expected = one.trace(), weights(one, tower, kind, 1)[2, 3, 2].item()
    look(page, one, tower, kind)
    box = page.get_by_test_id("matrix-box")
    box.click(position=cell(page, 3, 2))
    number = page.get_by_test_id("matrix-value")
    assert value(number) == same(expected)
    number.click()
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{name}[0, 2, 3, 2]")
    assert value(page.get_by_test_id("explain-value")) == same(expected)
    assert value(page.get_by_test_id("explain-error")) <= 1e-5
    expect(page.get_by_test_id("explain-formula")).to_have_text(tape.explain(name, (0, 2, 3, 2)).formula)
    expect(page.get_by_test_id("explain-script")).to_contain_text("torch")
    page.get_by_test_id("matrix-unlock").click()
    expect(number).to_have_count(0)
    assert "query" not in page.url


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_done_with_the_keyboard(page, served, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, one, tower)
    expected = weights(one, tower, "self", 1)
    grid = page.get_by_test_id("matrix-grid")
    page.locator('[data-testid="matrix"][data-ready]').wait_for()
    grid.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        grid.press(key)
    assert value(page.get_by_test_id("matrix-value")) == same(expected[2, 2, 1].item())
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{tower}blocks.1.self_attention.weights[0, 2, 2, 1]")
    rank = 1 + int((expected[2, 2] > expected[2, 2, 1]).sum())
    expect(grid.get_by_role("gridcell")).to_contain_text(f"rank {rank} of {expected.size(-1)}")
    grid.press("]")
    expect(page.get_by_test_id("head")).to_have_attribute("data-head", "3")
    assert value(page.get_by_test_id("matrix-value")) == same(expected[3, 2, 1].item())
    grid.press("{")
    expect(page.get_by_test_id("head")).to_have_attribute("data-address", f"{tower}blocks.0.self_attention.weights")
    grid.press("Escape")
    expect(page.get_by_test_id("matrix-value")).to_have_count(0)


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_the_wall_ranks_all_heads(page, served, family, tower, kind):
    one = served(family)
    measured = {}
    for layer in range(2):
        name = f"{tower}blocks.{layer}.{kind}_attention.weights"
        for head, found in enumerate(patterns(one.trace().value(name), of_itself=kind == "self")):
            measured[layer, head] = found
    look(page, one, tower, kind)
    tiles = page.get_by_test_id("tile")
    expect(tiles).to_have_count(len(measured))
    offered = {
        "focused": ("entropy", False),
        "peak": ("peak", True),
        "sink": ("sink", True),
        **({"previous": ("previous", True), "far": ("distance", True)} if kind == "self" else {}),
    }
    known = page.get_by_test_id("rank").locator("option").evaluate_all("all => all.map(one => one.value)")
    assert set(offered) <= set(known)
    assert ("previous" in known) == (kind == "self")
    for rank, (measure, down) in offered.items():
        page.get_by_test_id("rank").select_option(rank)
        expect(page.get_by_test_id("tile-value")).to_have_count(len(measured))
        order = [(int(tile.get_attribute("data-layer")), int(tile.get_attribute("data-head"))) for tile in tiles.all()]
        expected = [measured[place][measure] for place in order]
        assert expected == sorted(expected, reverse=down)
        assert values(page.get_by_test_id("tile-value")) == same(expected)
    tiles.first.click()
    layer, head = order[0]
    expect(page.get_by_test_id("head")).to_have_attribute("data-head", str(head))
    expect(page.get_by_test_id("head")).to_have_attribute("data-address", re.compile(f"blocks.{layer}."))


def test_three_kinds_side_by_side_and_the_alignment(page, served):
    one = served("encoder_decoder")
    look(page, one, "decoder.", "cross")
    for tower, kind in (("encoder.", "self"), ("decoder.", "self"), ("decoder.", "cross")):
        found = page.locator(f'[data-testid="kind-{tower}{kind}"][data-ready]')
        expect(found).to_have_attribute("data-ready", re.compile(f"name={tower}blocks.1.{kind}_attention.weights"))
    expected = weights(one, "decoder.", "cross", 1)[2]
    assert values(page.get_by_test_id("aligned")) == same(expected.amax(dim=1).tolist())
    reads, writes = one.pieces()
    told = page.get_by_test_id("alignment").get_by_role("listitem").all_inner_texts()
    for line, text, key in zip(told, writes, expected.argmax(dim=1).tolist(), strict=True):
        assert text.replace(" ", "␣") in line
        assert reads[key].replace(" ", "␣") in line
    page.get_by_test_id("site").get_by_text("Encoder self-attention").click()
    expect(page.get_by_test_id("head")).to_have_attribute("data-address", "encoder.blocks.1.self_attention.weights")
    expect(page.get_by_test_id("alignment")).to_have_count(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_link_shows_the_same_again(opened, served, family):
    one = served(family)
    first = opened()
    tower = "decoder." if family == "encoder_decoder" else ""
    look(first, one, tower, query=2, key=1)
    shown = value(first.get_by_test_id("matrix-value"))
    assert shown == same(weights(one, tower, "self", 1)[2, 2, 1].item())
    assert f"hash={one.session.model('main').hash}" in first.url
    second = opened()
    second.goto(first.url)
    assert value(second.get_by_test_id("matrix-value")) == shown
    expect(second.get_by_test_id("foreign")).to_have_count(0)
    third = opened()
    third.goto(first.url.replace("hash=", "hash=0"))
    expect(third.get_by_test_id("foreign")).to_be_visible()


@pytest.mark.parametrize("family", FAMILIES)
def test_another_text_is_read_and_the_way_back_works(page, served, family):
    one = served(family)
    look(page, one, "decoder." if family == "encoder_decoder" else "")
    page.get_by_test_id("text").fill("a mat")
    page.get_by_test_id("run").click()
    read = "key-tokens" if family == "encoder_decoder" else "query-tokens"
    if family == "encoder_decoder":
        page.get_by_test_id("site").get_by_text("Cross-attention").click()
    options = page.get_by_test_id(read).get_by_role("option")
    expect(options).to_have_count(len(one.pieces("a mat")[0]))
    page.go_back()
    expect(page.get_by_test_id("text")).to_have_value(TEXT)


def test_hovering_shows_a_number_and_renders_nothing_again(page, served):
    one = served("decoder")
    look(page, one)
    at = cell(page, 3, 1)
    page.locator('[data-testid="matrix"][data-ready]').wait_for()
    page.evaluate(
        """() => { window.changed = []; const figure = document.querySelector('[data-testid="matrix"]');
        new MutationObserver(all => window.changed.push(...all.map(one => one.target.dataset?.testid ?? one.target.nodeName)))
        .observe(figure, {childList: true, subtree: true}); }"""
    )
    page.get_by_test_id("matrix-box").hover(position=at)
    expected = weights(one, "", "self", 1)[2, 3, 1].item()
    shown = page.get_by_test_id("matrix-readout").inner_text()
    assert float(shown.split()[-1].replace("−", "-")) == pytest.approx(expected, rel=1e-3)
    assert set(page.evaluate("window.changed")) <= {"matrix-readout"}
    focused = page.get_by_test_id("query-tokens").locator(".focused")
    expect(focused).to_have_attribute("data-index", "3")
    assert "query" not in page.url


def test_numbers_are_saved_as_they_are(page, served, tmp_path):
    import numpy as np

    one = served("decoder")
    look(page, one)
    page.locator('[data-testid="matrix"][data-ready]').wait_for()
    expected = weights(one, "", "self", 1)[2].numpy()
    saved = {}
    for choice in ("PNG picture", "SVG picture", "CSV numbers", "NPY numbers"):
        page.get_by_test_id("matrix").get_by_test_id("export").click()
        with page.expect_download() as download:
            page.get_by_test_id("matrix").get_by_role("button", name=choice).click()
        saved[choice[:3]] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[choice[:3]])
    assert np.load(saved["NPY"]) == same(expected)
    lines = saved["CSV"].read_text().splitlines()
    assert any("blocks.1.self_attention.weights[0, 2, :, :]" in line for line in lines if line.startswith("#"))
    assert any(one.session.model("main").hash in line for line in lines if line.startswith("#"))
    _, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    numbers = [[float(text) for text in row[1:]] for row in rows]
    assert np.array_equal(np.array(numbers, dtype="float32"), np.load(saved["NPY"]))
    assert "blocks.1.self_attention.weights[0, 2, :, :]" in saved["SVG"].read_text()
    assert saved["PNG"].read_bytes().startswith(b"\x89PNG")


def test_a_matrix_is_also_a_table(page, served):
    one = served("decoder")
    look(page, one)
    page.get_by_test_id("as-table").first.click()
    expected = weights(one, "", "self", 1)[2]
    assert values(page.get_by_test_id("table").locator("[data-value]")) == same(expected.flatten().tolist())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_serious_is_in_the_way_of_anybody(opened, served, axe, family, scheme):
    page = opened(scheme=scheme)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, served(family), tower, "cross" if tower else "self", query=1, key=1)
    page.get_by_test_id("matrix-value").click()
    page.get_by_test_id("explain-value").wait_for()
    page.locator('[data-testid="wall"][data-ready]').wait_for()
    axe(page)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_phone_shows_it_all(opened, served, axe, family):
    page = opened(width=390, height=844, has_touch=True, is_mobile=True)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, served(family), tower)
    page.locator('[data-testid="wall"][data-ready]').wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.get_by_test_id("view-select")).to_be_visible()
    expect(page.get_by_test_id("explain")).to_be_hidden()
    page.get_by_test_id("query-tokens").get_by_role("option").nth(1).tap()
    page.get_by_test_id("weight").first.tap()
    expect(page.get_by_test_id("explain")).to_be_visible()
    axe(page)


def test_a_refusal_is_told(page, served, faults):
    faults.allow("422")
    one = served("decoder")
    look(page, one)
    page.get_by_test_id("text").fill("the cat " * 400)
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("error")).to_contain_text("at most 1,024")
    page.get_by_test_id("text").fill(TEXT)
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("error")).to_have_count(0)
