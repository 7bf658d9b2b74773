"""One query step by step in a browser: each step is that of the model, and what is hypothetical is said to be."""

import csv
import math

import numpy as np
import pytest
import torch
from exploring import same, value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.config import parts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SITES = [
    ("encoder", "", "self"),
    ("decoder", "", "self"),
    ("encoder_decoder", "encoder.", "self"),
    ("encoder_decoder", "decoder.", "self"),
    ("encoder_decoder", "decoder.", "cross"),
]
PLAIN = ["query", "keys", "products", "sum", "scale", "mask", "softmax", "values", "context"]
QUERY, HEAD, UNIT = 3, 3, 2


def look(page, one, tower="", kind="self", **pinned):
    chosen = {"layer": 1, "head": HEAD, "query": QUERY, ".unit": UNIT}
    page.goto(one.link("qkv", tower=tower, kind=kind, **{**chosen, **pinned}))
    page.get_by_test_id("step-slider").wait_for()


def step(page, name):
    page.get_by_test_id(f"step-{name}").click()
    page.get_by_test_id(f"table-{name}").wait_for()


def column(page, name, count):
    return [value(page.get_by_test_id(f"{name}-{i}")) for i in range(count)]


class Own:
    """The model's own numbers for one query of one head."""

    def __init__(self, one, tower, kind):
        self.name = f"{tower}blocks.1.{kind}_attention"
        tape = one.trace()
        self.tape = tape
        model = getattr(one.loaded.model, tower[:-1]) if tower else one.loaded.model
        self.attention = getattr(model.blocks[1], f"{kind}_attention")
        self.q = tape[f"{self.name}.q"][0, HEAD, QUERY]
        groups = tape[f"{self.name}.k"].size(1)
        self.group = HEAD * groups // tape[f"{self.name}.q"].size(1)
        self.k, self.v = (tape[f"{self.name}.{what}"][0, self.group] for what in "kv")
        self.scores = tape.value(f"{self.name}.scores")[0, HEAD, QUERY]
        self.weights = tape.value(f"{self.name}.weights")[0, HEAD, QUERY]
        self.context = tape[f"{self.name}.context"][0, HEAD, QUERY]
        self.sums = self.k.double() @ self.q.double()


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_every_step_is_the_models_own(page, served, family, tower, kind):
    one = served(family)
    own = Own(one, tower, kind)
    count = len(own.weights)
    look(page, one, tower, kind)
    assert page.locator("nav[aria-label=Steps] ol button").evaluate_all("all => all.map(b => b.dataset.testid)") == [
        f"step-{name}" for name in PLAIN
    ]
    assert value(page.get_by_test_id("q-q")) == same(own.q[UNIT].item())
    step(page, "keys")
    assert column(page, "k", count) == same(own.k[:, UNIT].tolist())
    step(page, "products")
    products = own.q[UNIT].double() * own.k[:, UNIT].double()
    assert column(page, "product", count) == same(products.tolist())
    step(page, "sum")
    assert column(page, "sum", count) == same(own.sums.tolist())
    step(page, "scale")
    assert column(page, "scaled", count) == same((own.sums * own.attention.scale).tolist())
    step(page, "mask")
    assert column(page, "score", count) == pytest.approx(own.scores.tolist(), rel=3e-6, abs=1e-6)
    step(page, "softmax")
    assert column(page, "weight", count) == same(own.weights.tolist())
    exponentials = (own.scores.double() - own.scores.max()).exp()
    assert column(page, "exp", count) == pytest.approx(exponentials.tolist(), rel=1e-5)
    assert value(page.get_by_test_id("exp-sum")) == pytest.approx(exponentials.sum().item(), rel=1e-5)
    step(page, "values")
    weighted = own.weights.double() * own.v[:, UNIT].double()
    assert column(page, "weighted", count) == pytest.approx(weighted.tolist(), rel=1e-5, abs=1e-9)
    step(page, "context")
    assert value(page.get_by_test_id("context")) == same(own.context[UNIT].item())
    page.get_by_test_id("context").click()
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{own.name}.context[0, {HEAD}, {QUERY}, {UNIT}]")
    assert value(page.get_by_test_id("explain-value")) == same(own.context[UNIT].item())
    assert value(page.get_by_test_id("explain-error")) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_softcap_bias_and_groups(page, served, family):
    attention = parts.Attention(num_heads=4, num_kv_heads=2, softcap=2.0)
    one = served(family, attention=attention, positions=parts.ALiBi())
    tower = "decoder." if family == "encoder_decoder" else ""
    own = Own(one, tower, "self")
    look(page, one, tower)
    step(page, "keys")
    expect(page.get_by_text("group 1, one of 2 that 4 heads share")).to_be_visible()
    assert column(page, "k", len(own.weights)) == same(own.k[:, UNIT].tolist())
    step(page, "softcap")
    capped = 2 * torch.tanh(own.sums * own.attention.scale / 2)
    assert column(page, "capped", len(own.weights)) == pytest.approx(capped.tolist(), rel=1e-5, abs=1e-6)
    step(page, "bias")
    distance = (torch.arange(len(own.weights)) - QUERY).abs()
    bias = -(2.0**-8) * distance
    assert column(page, "bias", len(own.weights)) == pytest.approx(bias.tolist(), rel=1e-4, abs=1e-6)
    step(page, "mask")
    assert column(page, "score", len(own.weights)) == pytest.approx(own.scores.tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_before_and_after_they_are_turned(page, served, family):
    attention = parts.Attention(num_heads=4, qk_norm=True)
    one = served(family, positions=parts.Rotary(), attention=attention, windows=(3,))
    tower = "decoder." if family == "encoder_decoder" else ""
    own = Own(one, tower, "self")
    look(page, one, tower)
    expect(page.get_by_text(f"turned to position {QUERY}", exact=True)).to_be_visible()
    for form, tensor in (("q_projected", "q_projected"), ("out", "query_norm.out"), ("q", "q")):
        expected = own.tape[f"{own.name}.{tensor}"][0, HEAD, QUERY, UNIT].item()
        assert value(page.get_by_test_id(f"q-{form}")) == same(expected)
    step(page, "mask")
    expect(page.get_by_text("This layer looks no further than 3 positions")).to_be_visible()
    assert column(page, "score", len(own.weights)) == pytest.approx(own.scores.tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("family", "tower", "kind"), SITES)
def test_with_and_without_the_root(page, served, family, tower, kind):
    one = served(family)
    own = Own(one, tower, kind)
    look(page, one, tower, kind)
    card = page.get_by_test_id("saturation")
    hidden = own.scores == -torch.inf
    unscaled = own.sums.masked_fill(hidden, -torch.inf).softmax(-1)
    assert float(card.get_attribute("data-factor")) == 1
    entropies = [torch.special.entr(weights.double()).sum().item() for weights in (own.weights, unscaled)]
    assert float(card.get_attribute("data-own")) == pytest.approx(entropies[0], rel=1e-5)
    assert float(card.get_attribute("data-other")) == pytest.approx(entropies[1], rel=1e-5, abs=1e-9)
    assert entropies[1] < entropies[0]
    best = int(unscaled.argmax())
    assert value(page.get_by_test_id(f"other-{best}")) == pytest.approx(unscaled[best].item(), rel=1e-6)
    expect(card.get_by_role("heading", name="hypothetical")).to_be_visible()
    curve = page.get_by_test_id("entropy-curve").get_by_role("slider")
    curve.focus()
    curve.press("ArrowLeft")
    expect(card).to_have_attribute("data-factor", "0.975")
    other = (0.975 * own.sums).masked_fill(hidden, -torch.inf).softmax(-1)
    assert float(card.get_attribute("data-other")) == pytest.approx(torch.special.entr(other).sum().item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_walked_with_the_arrow_keys(page, served, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    look(page, one, tower)
    view = page.get_by_test_id("qkv-view")
    page.locator("#main").focus()
    for name in (*PLAIN[1:], PLAIN[-1]):
        page.keyboard.press("ArrowRight")
        expect(view).to_have_attribute("data-step", name)
    page.keyboard.press("ArrowLeft")
    expect(view).to_have_attribute("data-step", "values")
    assert ".part=values" in page.url
    page.get_by_role("region", name="Numbers of this step").focus()
    page.keyboard.press("ArrowLeft")  # which scrolls it
    expect(view).to_have_attribute("data-step", "values")
    page.locator("#main").focus()
    page.keyboard.press("[")
    expect(page.get_by_test_id("pick-head")).to_have_value(str(HEAD - 1))
    strip = page.get_by_role("slider", name="weighted v of").first
    strip.focus()
    strip.press("ArrowUp")
    expect(page.get_by_role("columnheader", name=f"coordinate {UNIT + 1}")).to_be_visible()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_saved(page, served, tmp_path, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    own = Own(one, tower, "self")
    look(page, one, tower)
    step(page, "softmax")
    menu = page.get_by_test_id("qkv-view").get_by_text("Save this step")
    for choice, read in (("CSV numbers", _csv), ("NPY numbers", np.load)):
        menu.click()
        with page.expect_download() as waiting:
            page.get_by_role("button", name=choice).first.click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        found = torch.from_numpy(read(path).astype("float32"))
        assert found[:, -1].tolist() == same(own.weights.tolist())
        assert found[:, 0].tolist() == pytest.approx(own.sums.tolist(), rel=1e-6)
    for choice in ("PNG picture", "SVG picture"):
        menu.click()
        with page.expect_download() as waiting:
            page.get_by_role("button", name=choice).first.click()
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
    (drawn,) = tmp_path.glob("*.svg")
    assert "Softmax" in drawn.read_text()
    assert one.session.model("main").hash in drawn.read_text()


def _csv(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return np.array([[float(text) for text in row[1:]] for row in csv.reader(lines[1:])])


def test_a_query_that_sees_nothing(page, served):
    one = served("decoder")
    edit = '[{"kind":"replace","name":"blocks.1.self_attention.mask","positions":[3],"value":false}]'
    look(page, one, edits=edit)
    step(page, "softmax")
    expect(page.get_by_text("The query sees nothing: all its weights are 0.")).to_be_visible()
    assert values(page.locator('[data-testid^="weight-"]')) == [0.0] * 11
    assert math.isclose(float(page.get_by_test_id("saturation").get_attribute("data-other")), 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_without_faults(opened, served, axe, family, width, scheme):
    one = served(family)
    page = opened(width, 844, scheme)
    look(page, one)
    for name in ("products", "softmax", "context"):
        step(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        axe(page)
