"""The view of the residual stream in a browser: the lens and the parts of a score are those of the model."""

import pytest
import torch
from exploring import value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.contributions import direct_logit_attribution
from pellucid.analysis.residual import logit_lens, residual_stream
from pellucid.config import parts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOWER = {"encoder": "", "decoder": "", "encoder_decoder": "decoder."}


def look(page, one, **pinned):
    page.goto(one.link("residual", **pinned))
    page.get_by_test_id("lens").wait_for()
    page.get_by_test_id("distribution").wait_for()


@torch.no_grad()
def read(one):
    tape = one.trace()
    return tape, logit_lens(one.loaded.model, residual_stream(one.loaded.model, tape.tensors)[:, 0]).softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_every_cell_is_what_that_state_would_answer(page, served, family, placement):
    one = served(family, placement=placement)
    look(page, one, query=2)
    _, expected = read(one)
    for state in range(3):
        for position in range(expected.size(1)):
            cell = page.locator(f'[data-cell="{state},{position}"]')
            assert int(cell.get_attribute("data-id")) == expected[state, position].argmax().item()
            assert value(cell) == pytest.approx(expected[state, position].max().item(), rel=1e-5)
    page.locator('[data-cell="1,3"]').click()
    expect(page.get_by_test_id("cell")).to_have_attribute("data-position", "3")
    expect(page.get_by_test_id("cell")).to_have_attribute("data-state", f"{TOWER[family]}blocks.0.residual_post")
    shown = values(page.get_by_test_id("distribution").locator("li"))
    assert shown == pytest.approx(expected[1, 3].topk(len(shown)).values.tolist(), rel=1e-5)
    page.get_by_test_id("by-layer-as-table").click()
    rows = page.get_by_test_id("by-layer").locator("tbody td").all()
    likeliest = expected[-1, 3].argmax()
    chances = [float(row.inner_text().replace("−", "-")) for row in rows]
    assert chances == pytest.approx(expected[:, 3, likeliest].tolist(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"placement": "both"}, {"norm": parts.RMSNorm()}], ids=["pre", "both", "rms"])
def test_the_parts_add_up_to_the_models_logit(page, served, family, changes):
    one = served(family, **changes)
    look(page, one, query=1)
    tape = one.trace()
    logits = tape["logits"][0]
    token = logits[1].argmax().item()
    page.get_by_test_id("contributions").wait_for()
    captured, total = value(page.get_by_test_id("captured")), value(page.get_by_test_id("sum"))
    assert captured == pytest.approx(logits[1, token].item(), rel=1e-6)
    assert total == pytest.approx(captured, abs=1e-4)
    shares = direct_logit_attribution(one.loaded.model, tape.tensors, torch.full(logits.shape[:1], token)[None])
    rows = {
        row.get_attribute("data-part"): value(row)
        for row in page.get_by_test_id("contributions").locator("tbody tr").all()
    }
    assert rows["Embedding"] == pytest.approx(shares.embedding[0, 1].item(), rel=1e-4, abs=1e-5)
    for layer in shares.sublayers:
        assert rows[layer.name] == pytest.approx(layer.total[0, 1].item(), rel=1e-4, abs=1e-5)
    assert sum(rows.values()) == pytest.approx(total, abs=1e-6)
    largest = max(layer.parts[0, 1].abs().max().item() for layer in shares.sublayers)
    assert abs(value(page.get_by_test_id("strongest").locator("li").first)) == pytest.approx(largest, rel=1e-4)
    page.get_by_test_id("captured").click()
    assert value(page.get_by_test_id("explain-value")) == pytest.approx(captured, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_answer_is_followed_and_compared(page, served, family):
    one = served(family)
    look(page, one, query=1)
    logits = one.trace()["logits"][0, 1]
    first, second, third = logits.topk(3).indices.tolist()
    page.get_by_test_id("answer").select_option(str(second))
    expect(page.get_by_test_id("contributions")).to_have_attribute("data-token", str(second))
    assert value(page.get_by_test_id("captured")) == pytest.approx(logits[second].item(), rel=1e-6)
    page.get_by_test_id("against").select_option(str(third))
    expect(page.get_by_test_id("contributions")).to_contain_text("less")
    page.wait_for_function("document.querySelector('span[data-testid=captured]')")
    assert value(page.get_by_test_id("captured")) == pytest.approx((logits[second] - logits[third]).item(), rel=1e-4)
    assert value(page.get_by_test_id("sum")) == pytest.approx((logits[second] - logits[third]).item(), abs=1e-4)
    page.get_by_test_id("distribution").get_by_role("button").first.click()
    expect(page.get_by_test_id("contributions")).to_have_attribute("data-token", str(first))


@pytest.mark.parametrize("family", FAMILIES)
def test_with_norms_behind_the_sum_it_is_said_what_holds(page, served, family):
    look(page, served(family, placement="post"))
    expect(page.get_by_test_id("no-contributions")).to_contain_text("no sum of what layers wrote")
    expect(page.get_by_test_id("contributions")).to_have_count(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_keyboard_moves_through_the_table(page, served, family):
    look(page, served(family), query=1)
    page.locator('[data-cell="2,1"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("cell")).to_have_attribute("data-position", "2")
    expect(page.get_by_test_id("cell")).to_have_attribute("data-state", f"{TOWER[family]}blocks.0.residual_post")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_strong_head_opens_in_attention(page, served, family):
    one = served(family)
    look(page, one, query=1)
    link = page.get_by_test_id("strongest").get_by_role("button", name="head").first
    said = link.inner_text()
    link.click()
    kind = "cross" if "cross" in said else "self"
    layer = said.split(",")[0].removeprefix("Layer ")
    expect(page.get_by_test_id("head")).to_have_attribute(
        "data-address", f"{TOWER[family]}blocks.{layer}.{kind}_attention.weights"
    )


def test_states_between_sublayers(page, served):
    one = served("encoder_decoder")
    look(page, one, **{".sublayers": "yes"})
    tape = one.trace()
    with torch.no_grad():
        state = tape["decoder.blocks.1.residual_cross"][0, 1]
        expected = logit_lens(one.loaded.model, state).softmax(-1).max().item()
    assert value(page.locator('[data-cell="5,1"]')) == pytest.approx(expected, rel=1e-5)
    expect(page.get_by_test_id("lens").locator("tbody th").nth(1)).to_have_text("1 cross")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_serious_is_in_the_way_of_anybody(opened, served, axe, family, width, scheme):
    page = opened(width=width, height=844, scheme=scheme)
    look(page, served(family))
    page.get_by_test_id("contributions").wait_for()
    page.get_by_test_id("written").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe(page)
