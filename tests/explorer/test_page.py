"""The frame around the views: what is loaded, run and cancelled, colours, the keyboard."""

import gzip
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from exploring import TEXT, cell, value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.explorer.app import STATIC

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_these_sources():
    spec = importlib.util.spec_from_file_location("page", ROOT / "web" / "page.py")
    page = sys.modules["page"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    if not page.is_current() and os.environ.get("PELLUCID_BROWSER") != "required":
        pytest.skip("the page is older than its sources: python web/page.py")
    assert page.is_current()
    assert not any("node_modules" in name or name.endswith(".test.ts") for name in page.sources())


def test_scripts_are_small():
    scripts = [len(gzip.compress(path.read_bytes())) for path in (STATIC / "assets").glob("*.js")]
    assert sum(scripts) <= 300_000


def test_nothing_but_the_chosen_view_is_fetched(page, served):
    asked = []
    page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    page.goto(served("decoder").link("attention"))
    page.locator('[data-testid="wall"][data-ready]').wait_for()
    views = {path.name.split("-")[0] for path in (STATIC / "assets").glob("*.js")} & {"Generation", "Norm", "Learn"}
    assert not [name for name in asked if name.split("-")[0] in views | {"katex"}]


@pytest.mark.parametrize("family", FAMILIES)
def test_model_family_and_example_are_shown(page, served, family):
    one = served(family)
    page.goto(one.url)
    expect(page.get_by_test_id("family")).to_have_text(family.replace("_", "–"))
    expect(page.get_by_test_id("model-name")).to_have_text(family)
    expect(page.get_by_test_id("text")).to_have_value(TEXT)
    expect(page.get_by_test_id("target")).to_have_count(1 if family == "encoder_decoder" else 0)


def test_an_empty_target_is_what_the_model_writes_itself(page, served):
    one = served("encoder_decoder")
    page.goto(one.link("attention", tower="decoder."))
    expect(page.get_by_test_id("query-tokens").get_by_role("option")).to_have_count(len(one.pieces()[1]))
    page.get_by_test_id("target").fill("")
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("query-tokens").get_by_role("option")).to_have_count(len(one.pieces(target=None)[1]))
    assert "target" not in page.url


def test_work_shows_that_it_goes_on_and_can_be_cancelled(page, served):
    one = served("decoder")
    page.goto(one.link("attention"))
    page.get_by_test_id("head").wait_for()
    held = []
    page.route("**/api/passes", lambda route: held.append(route))
    page.get_by_test_id("text").fill("a mat")
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("progress")).to_contain_text("Running the model")
    page.get_by_test_id("cancel").click()
    expect(page.get_by_test_id("progress")).to_have_count(0)
    expect(page.get_by_test_id("query-tokens").get_by_role("option")).to_have_count(len(TEXT))
    assert len(held) == 1
    page.unroute("**/api/passes")
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("query-tokens").get_by_role("option")).to_have_count(len("a mat"))


def test_what_is_typed_stays_until_it_is_run(page, served):
    page.goto(served("decoder").link("attention"))
    page.locator('[data-testid="matrix"][data-ready]').wait_for()
    page.get_by_test_id("text").fill("a mat")
    page.get_by_test_id("matrix-box").click(position=cell(page, 3, 2))
    page.get_by_test_id("matrix-value").wait_for()
    assert "query=3" in page.url
    expect(page.get_by_test_id("text")).to_have_value("a mat")


def test_a_text_keeps_its_line_breaks(page, served):
    page.goto(served("decoder").link("attention", text="a\nb"))
    field = page.get_by_test_id("text")
    expect(field).to_have_value("a\nb")
    field.press("Control+End")
    field.press("c")
    with page.expect_request("**/api/passes") as run:
        field.press("Enter")
    assert run.value.post_data_json["text"] == "a\nbc"
    field.press("Shift+Enter")
    expect(field).to_have_value("a\nbc\n")


def test_colours_follow_the_system_until_they_are_chosen(opened, served):
    url = served("decoder").link("attention")
    page = opened(scheme="dark")
    page.goto(url)
    page.get_by_test_id("head").wait_for()
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_test_id("theme").click()
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    page.get_by_test_id("head").wait_for()
    assert page.evaluate(background) == light


def test_the_keyboard_reaches_an_explanation_and_comes_back(page, served):
    one = served("decoder")
    page.goto(one.link("attention"))
    page.locator('[data-testid="matrix"][data-ready]').wait_for()
    grid = page.get_by_test_id("matrix-grid")
    grid.focus()
    grid.press("ArrowDown")
    grid.press("Enter")
    page.get_by_test_id("explain-value").wait_for()
    expect(grid).to_be_focused()
    grid.press("Enter")
    expect(page.get_by_test_id("explain")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first factor, explained in turn
    expect(page.get_by_test_id("explain-address")).to_contain_text("scores[0, 0, 1, ")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("explain-value")).to_have_count(0)
    expect(grid).to_be_focused()


def test_a_factor_is_explained_in_turn_down_to_the_embedding(page, served):
    one = served("decoder")
    tape = one.trace()
    page.goto(one.link("attention"))
    page.get_by_test_id("matrix-box").click(position=cell(page, 3, 2))
    page.get_by_test_id("matrix-value").click()
    names = []
    for _ in range(60):
        page.get_by_test_id("explain-value").wait_for()
        address = page.get_by_test_id("explain-address").inner_text()
        name, _, index = address.removesuffix("]").partition("[")
        names.append(name)
        place = tuple(int(part) for part in index.split(","))
        assert value(page.get_by_test_id("explain-value")) == pytest.approx(tape.value(name)[place].item(), rel=3e-6)
        deeper = page.get_by_test_id("explanation").locator("li button.number")
        if not deeper.count():
            break
        deeper.first.click()
        expect(page.get_by_test_id("explain-address")).not_to_have_text(address)
    assert names[0].endswith("weights")
    assert names[1].endswith("scores")
    assert names[-1].startswith("embedding.")
