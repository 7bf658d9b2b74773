"""The view of units in a browser: which are active, and what one responds to and promotes, as the model has it."""

import pytest
import torch
from exploring import value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.units import token_responses, unit_effect
from pellucid.config import parts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GATED = {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)}
TOWER = {"encoder": "", "decoder": "", "encoder_decoder": "decoder."}


def site(family, layer=1):
    return f"{TOWER[family]}blocks.{layer}.feed_forward"


def look(page, one, layer=1, query=2, **pinned):
    page.goto(one.link("feedforward", layer=layer, query=query, **pinned))
    page.get_by_test_id("units").wait_for()
    page.get_by_test_id("unit-hidden").wait_for()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, GATED], ids=["relu", "gated"])
def test_units_are_ranked_as_the_model_has_them(page, served, family, changes):
    one = served(family, **changes)
    look(page, one)
    tape = one.trace()
    hidden = tape[f"{site(family)}.hidden"][0]
    shown = [value(number) for number in page.get_by_test_id("hidden").all()]
    assert shown == pytest.approx(hidden[2].sort(descending=True).values[:12].tolist(), rel=1e-6)
    on = tape[f"{site(family)}.{'gate' if changes else 'pre'}"][0] > 0
    assert value(page.get_by_test_id("share")) == pytest.approx(on.float().mean().item())
    assert value(page.get_by_test_id("share-here")) == pytest.approx(on[2].float().mean().item())
    assert value(page.get_by_test_id("dead")) == (~on.any(0)).sum().item()
    page.get_by_test_id("hidden").first.click()
    assert value(page.get_by_test_id("explain-value")) == pytest.approx(hidden[2].max().item(), rel=1e-6)
    assert value(page.get_by_test_id("explain-error")) < 1e-5
    page.get_by_test_id("by").get_by_text("what it writes").click()
    down = one.loaded.model.get_submodule(site(family)).down.weight
    strongest = (hidden[2].abs() * down.norm(dim=0)).argmax().item()
    expect(page.get_by_test_id("units").locator("tbody button").first).to_have_text(str(strongest))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, GATED], ids=["relu", "gated"])
@torch.no_grad()
def test_one_unit(page, served, family, changes):
    one = served(family, **changes)
    look(page, one, **{".unit": 9})
    tape, model = one.trace(), one.loaded.model
    hidden = tape[f"{site(family)}.hidden"][0, :, 9]
    assert value(page.get_by_test_id("unit-hidden")) == pytest.approx(hidden[2].item(), rel=1e-6)
    assert value(page.get_by_test_id("unit-pre")) == pytest.approx(
        tape[f"{site(family)}.pre"][0, 2, 9].item(), rel=1e-6
    )
    if changes:
        gate = tape[f"{site(family)}.gate"][0, 2, 9].item()
        assert value(page.get_by_test_id("unit-gate")) == pytest.approx(gate, rel=1e-6)
    tops = [value(number) for number in page.get_by_test_id("top-activation").all()]
    assert tops == pytest.approx(hidden.sort(descending=True).values[:5].tolist(), rel=1e-6)
    effect = unit_effect(model, tape.tensors, site(family), 9, 2)
    assert effect.exact
    for name, largest in (("raises", True), ("lowers", False)):
        rows = page.get_by_test_id(name).locator("li").all()
        expected = effect.scores.topk(10, largest=largest)
        assert [value(row) for row in rows] == pytest.approx(expected.values.tolist(), rel=1e-5)
        assert [int(row.get_attribute("data-id")) for row in rows] == expected.indices.tolist()
    responses = token_responses(model, site(family), 9).topk(10)
    rows = page.get_by_test_id("responds").locator("li").all()
    assert [value(row) for row in rows] == pytest.approx(responses.values.tolist(), rel=1e-5)


def test_the_encoder_of_two_towers_promotes_no_words(page, served):
    one = served("encoder_decoder")
    look(page, one, tower="encoder.")
    expect(page.get_by_test_id("why-not")).to_contain_text("No head reads the encoder’s states as tokens")
    hidden = one.trace()["encoder.blocks.1.feed_forward.hidden"][0, 2]
    assert value(page.get_by_test_id("unit-hidden")) == pytest.approx(hidden.max().item(), rel=1e-6)
    expect(page.get_by_test_id("responds")).to_be_visible()


def test_with_norms_behind_the_sum_it_is_a_direction(page, served):
    look(page, served("decoder", placement="post"))
    expect(page.get_by_test_id("unit")).to_contain_text("scores of its direction alone")


@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_chosen_with_keys_clicks_and_a_number(page, served, family):
    one = served(family)
    look(page, one)
    button = page.get_by_test_id("units").locator("tbody button").nth(3)
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("unit")).to_have_attribute("data-unit", button.inner_text())
    page.get_by_test_id("go-unit").fill("17")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("unit")).to_have_attribute("data-unit", "17")
    assert ".unit=17" in page.url
    page.get_by_test_id("activations").get_by_role("option").nth(0).click()
    expect(page.get_by_test_id("units")).to_have_attribute("data-position", "0")
    page.get_by_role("button", name="Layer after").click()
    expect(page.get_by_test_id("unit")).to_have_attribute("data-site", site(family, 0))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_serious_is_in_the_way_of_anybody(opened, served, axe, family, width, scheme):
    page = opened(width=width, height=844, scheme=scheme)
    look(page, served(family))
    page.locator('[data-testid="hidden-matrix"][data-ready]').wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe(page)
