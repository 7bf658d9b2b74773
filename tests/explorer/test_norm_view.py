"""The view of norms in a browser: what stands before, between and after is the model's own."""

import re

import pytest
from exploring import value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.config import parts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOWER = {"encoder": "", "decoder": "", "encoder_decoder": "decoder."}


def look(page, one, name=None, **pinned):
    page.goto(one.link("norm", **({".norm": name} if name else {}), **pinned))
    page.get_by_test_id("chain").wait_for()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["pre", "post", "both"])
def test_every_step_is_the_models(page, served, family, placement):
    one = served(family, placement=placement)
    which = {"pre": "before", "post": "after", "both": "output"}[placement]
    name = f"{TOWER[family]}blocks.1.feed_forward_residual.{which}.out"
    look(page, one, name, query=2, layer=1, **{".feature": 5})
    tape = one.trace()
    (operand,) = tape.operands(name)
    x, after = operand.value[0, 2].double(), tape[name][0, 2]
    assert value(page.get_by_test_id("mean")) == pytest.approx(x.mean().item(), rel=1e-6)
    variance = x.var(correction=0).item()
    assert value(page.get_by_test_id("variance")) == pytest.approx(variance, rel=1e-6)
    assert value(page.get_by_test_id("deviation")) == pytest.approx((variance + 1e-5) ** 0.5, rel=1e-6)
    assert value(page.get_by_test_id("feature-before")) == pytest.approx(x[5].item(), rel=1e-6)
    assert value(page.get_by_test_id("feature-centred")) == pytest.approx((x[5] - x.mean()).item(), rel=1e-5)
    assert value(page.get_by_test_id("feature-after")) == pytest.approx(after[5].item(), rel=1e-6)
    assert value(page.get_by_test_id("rms-before")) == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
    assert value(page.get_by_test_id("before-value")) == value(page.get_by_test_id("feature-before"))
    expect(page.get_by_test_id("placement")).to_have_attribute("data-placement", placement)
    page.get_by_test_id("feature-after").click()
    assert value(page.get_by_test_id("explain-value")) == pytest.approx(after[5].item(), rel=1e-6)
    page.get_by_test_id("variance").click()
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{name}[0, 2, 5]")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_can_be_chosen(page, served, family):
    one = served(family, placement="both")
    look(page, one)
    tape = one.trace()
    expected = [name for name in tape if name.endswith((".before.out", ".output.out", "norm.out"))]
    options = page.get_by_test_id("pick-norm").locator("option")
    assert [option.get_attribute("value") for option in options.all()] == expected
    for name in (expected[0], next(each for each in expected if "final_norm" in each), expected[-1]):
        page.get_by_test_id("pick-norm").select_option(name)
        expect(page.get_by_test_id("feature-after")).to_have_attribute("data-address", _starts(name))
    tower = TOWER[family]
    if tower:
        page.get_by_test_id("pick-norm").select_option("encoder.final_norm.out")
        page.get_by_test_id("tower").get_by_text("Decoder").click()
        expect(page.get_by_test_id("pick-norm")).to_have_value("decoder.final_norm.out")
    page.get_by_test_id(f"where-{tower}blocks.*.self_attention_residual.output").click()
    expect(page.get_by_test_id("pick-norm")).to_have_value(f"{tower}blocks.0.self_attention_residual.output.out")
    page.get_by_role("button", name="Layer after").click()
    expect(page.get_by_test_id("pick-norm")).to_have_value(f"{tower}blocks.1.self_attention_residual.output.out")


def _starts(name):
    return re.compile("^" + re.escape(f"{name}["))


def test_a_root_mean_square_norm_has_no_mean(page, served):
    one = served("decoder", norm=parts.RMSNorm())
    name = "blocks.0.self_attention_residual.before.out"
    look(page, one, name, query=3)
    (operand,) = one.trace().operands(name)
    expect(page.get_by_test_id("mean")).to_have_count(0)
    square = operand.value[0, 3].double().square().mean().item()
    assert value(page.get_by_test_id("variance")) == pytest.approx(square, rel=1e-6)
    expect(page.get_by_test_id("norm-title")).to_contain_text("RMS norm before self-attention")


def test_norms_over_heads_are_seen_by_head(page, served):
    one = served("decoder", attention=parts.Attention(num_heads=4, qk_norm=True))
    name = "blocks.1.self_attention.key_norm.out"
    look(page, one, name, layer=1, head=2, query=4, **{".feature": 3})
    assert value(page.get_by_test_id("feature-after")) == pytest.approx(one.trace()[name][0, 2, 4, 3].item(), rel=1e-6)
    expect(page.get_by_test_id("norm-title")).to_contain_text("on the keys of self-attention, layer 1")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_by_layer(page, served, family):
    one = served(family)
    look(page, one, query=1, tower=TOWER[family])
    page.get_by_test_id("growth-as-table").click()
    rows = page.get_by_test_id("growth").locator("tbody tr").all()
    tape, tower = one.trace(), TOWER[family]
    last = tape[f"{tower}blocks.1.residual_post"][0].square().mean(-1).sqrt()
    mean, own = (float(cell.inner_text().replace("−", "-")) for cell in rows[-1].locator("td").all())
    assert mean == pytest.approx(last.mean().item(), rel=1e-5)
    assert own == pytest.approx(last[1].item(), rel=1e-5)
    assert len(rows) == (7 if family == "encoder_decoder" else 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_keyboard_chooses_a_feature(page, served, family):
    one = served(family)
    look(page, one, query=1, tower=TOWER[family], **{".feature": 7})
    slider = page.get_by_test_id("before-slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "8")
    page.keyboard.press("Enter")
    name = f"{TOWER[family]}blocks.0.residual_pre"
    assert value(page.get_by_test_id("explain-value")) == pytest.approx(one.trace()[name][0, 1, 8].item(), rel=1e-6)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_serious_is_in_the_way_of_anybody(opened, served, axe, family, width, scheme):
    page = opened(width=width, height=844, scheme=scheme)
    look(page, served(family))
    page.get_by_test_id("growth").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe(page)
