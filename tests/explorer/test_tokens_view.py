"""The view of tokens and embeddings in a browser: pieces, ids, vectors and neighbours are the model's own."""

import pytest
import torch
from exploring import TEXT, same, value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.embeddings import nearest
from pellucid.config import parts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOWERS = [("encoder", ""), ("decoder", ""), ("encoder_decoder", "encoder."), ("encoder_decoder", "decoder.")]


def look(page, one, tower="", **pinned):
    page.goto(one.link("tokens", tower=tower, **pinned))
    page.get_by_test_id("nearest").wait_for()


def table_of(one, tower):
    model = getattr(one.loaded.model, tower[:-1]) if tower else one.loaded.model
    return model.embedding.table.weight.detach()


def ids_of(one, tower):
    tape = one.trace()
    given = tape.entry(f"{tower}embedding.tokens").inputs[0]
    return given.value[0].tolist()


@pytest.mark.parametrize(("family", "tower"), TOWERS)
def test_pieces_and_ids(page, served, family, tower):
    one = served(family)
    look(page, one, tower)
    ids, tokenizer = ids_of(one, tower), one.loaded.tokenizer
    shown = page.get_by_test_id("pieces").get_by_role("option").all_inner_texts()
    pieces = [piece.replace(" ", "␣") for piece in tokenizer.pieces(ids)]
    assert [text.split("\n") for text in shown] == [[piece, str(i)] for piece, i in zip(pieces, ids, strict=True)]
    assert value(page.get_by_test_id("id")) == ids[0]
    page.get_by_test_id("pieces").get_by_role("option").nth(2).click()
    assert value(page.get_by_test_id("id")) == ids[2]
    assert "query=2" in page.url


@pytest.mark.parametrize(("family", "tower"), TOWERS)
def test_what_is_added_to_a_token(page, served, family, tower):
    one = served(family)
    tape = one.trace()
    look(page, one, tower, query=2, **{".unit": 5})
    page.get_by_test_id("sum-column").wait_for()
    model = getattr(one.loaded.model, tower[:-1]) if tower else one.loaded.model
    code = model.embedding.positions.code(torch.tensor([[2]]))[0, 0, 5].item()
    names = [f"{tower}embedding.{name}" for name in ("tokens", "positions", "out")]
    token, summed, out = (tape.value(name)[0, 2, 5].item() for name in names)
    assert values(page.locator('[data-testid^="sum-"][data-value]')) == same([token, code, summed, out])
    page.get_by_test_id("sum-2").click()
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{tower}embedding.positions[0, 2, 5]")
    assert value(page.get_by_test_id("explain-value")) == same(summed)


@pytest.mark.parametrize(("family", "tower"), TOWERS)
def test_neighbours_and_norms(page, served, family, tower):
    one = served(family)
    table = table_of(one, tower)
    token = ids_of(one, tower)[3]
    look(page, one, tower, query=3)
    for centred in (False, True):
        if centred:
            page.get_by_test_id("centred").get_by_text("from the mean").click()
        found = nearest(table, token, 12, centred=centred)
        first = page.locator(f'[data-testid="nearest"] li:first-child [data-id="{found[0].id}"]')
        expect(first).to_have_attribute("data-value", repr(found[0].cosine))
        rows = page.get_by_test_id("nearest").locator(".cosine")
        assert [int(row.get_attribute("data-id")) for row in rows.all()] == [one.id for one in found]
        assert values(rows) == same([one.cosine for one in found])
    assert value(page.get_by_test_id("norm")) == same(table[token].norm().item())
    # A neighbour leads to its own vector, wherever it stands.
    page.get_by_test_id("nearest").get_by_role("button").first.click()
    expect(page.get_by_test_id("id")).to_have_attribute("data-value", str(found[0].id))
    own = page.get_by_test_id("sum-0")
    if found[0].id not in ids_of(one, tower):
        assert value(own) == same(table[found[0].id, 0].item())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_that_is_not_in_the_text(page, served, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, one, tower)
    wanted = one.loaded.tokenizer.encode("n")[0]
    page.get_by_test_id("find").fill("n")
    page.get_by_role("list", name="Tokens found").get_by_role("button", name=f"n {wanted}").click()
    assert value(page.get_by_test_id("id")) == wanted
    expect(page.get_by_test_id("sum-0")).to_have_attribute("data-value", repr(table_of(one, tower)[wanted, 0].item()))
    assert f".word={wanted}" in page.url


@pytest.mark.parametrize("family", FAMILIES)
def test_by_keyboard_and_without_faults(page, served, axe, family):
    one = served(family)
    look(page, one)
    strip = page.get_by_test_id("pieces").get_by_role("option")
    strip.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(strip.nth(1)).to_have_attribute("aria-selected", "true")
    grid = page.get_by_test_id("whole-grid")
    page.locator('[data-testid="whole"][data-ready]').wait_for()
    grid.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        grid.press(key)
    expect(page.get_by_test_id("explain-address")).to_contain_text("embedding.out[0, ")
    axe(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, served, axe, scheme):
    one = served("encoder_decoder")
    page = opened(390, 844, scheme)
    look(page, one, "encoder.")
    page.get_by_test_id("sum-column").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)


def test_nothing_is_added_where_queries_are_turned(page, served):
    one = served("decoder", positions=parts.Rotary())
    look(page, one)
    expect(page.get_by_text("this model turns queries and keys instead")).to_be_visible()
    assert len(values(page.locator('[data-testid^="sum-"][data-value]'))) == 2
    assert TEXT in page.get_by_test_id("text").input_value()
