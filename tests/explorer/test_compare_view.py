"""Two passes side by side in a browser."""

import pytest
import torch
from exploring import TARGET, TEXT, Served, loaded, same, serve, value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.compare import diff
from pellucid.analysis.partings import partings
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.inference.reading import read
from pellucid.trace import edits, trace

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def changed(family):
    """The model with one number of its second layer changed."""
    other = loaded(family)
    with torch.no_grad():
        names = [name for name, _ in other.model.named_parameters()]
        name = next(name for name in names if name.endswith("blocks.1.self_attention.query.weight"))
        other.model.get_parameter(name)[3, 4] += 2.0
    return other


@pytest.fixture(scope="module")
def pairs():
    """A function from a family to a server of two models."""
    started, servers = {}, []

    def start(family, **parts):
        key = (family, *parts)
        if key not in started:
            one = loaded(family)
            other = loaded(family, **parts) if parts else changed(family)
            example = (TEXT, TARGET if family == "encoder_decoder" else None)
            session = Session(one, family, others={"other": other}, example=example)
            url, server = serve(create_app(session))
            servers.append(server)
            started[key] = Served(family, one, session, url)
        return started[key]

    yield start
    for server in servers:
        server.should_exit = True


def tapes(one):
    """Both models on A's tokens."""
    other = one.session.model("other").loaded
    reading = read(one.loaded, TEXT, one.target)
    return trace(one.loaded.model, reading.inputs), trace(other.model, reading.inputs)


def look(page, one, **pinned):
    page.goto(one.link("compare", **{"layer": 1, "head": 2, **pinned}))
    page.get_by_test_id("partings").wait_for()


def numbers(page, testid, name=""):
    """The numbers of a tensor that a matrix was drawn from."""
    ready = page.locator(f'[data-testid="{testid}"][data-ready*="name={name}"]')
    ready.wait_for()
    return page.evaluate(
        "async path => Array.from(new Float32Array(await (await fetch('.' + path)).arrayBuffer()))",
        ready.get_attribute("data-ready"),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_two_models_part_where_they_do(page, pairs, axe, family):
    one = pairs(family)
    a, b = tapes(one)
    expected = partings(list(a), a.__getitem__, list(b), b.__getitem__)
    look(page, one)
    expect(page.get_by_test_id("first")).to_have_attribute("data-name", expected.first)
    strip = page.get_by_test_id("strip")
    expect(strip).to_have_attribute("data-count", str(len(expected.profile)))
    page.get_by_test_id("first").get_by_role("button").click()
    apart = next(each for each in expected.profile if each.parts)
    expect(page.get_by_test_id("strip-told")).to_contain_text(f"{apart.name}: {apart.distance:.2f}"[:-1])
    for testid, tensor in (("matrix-a", a[apart.name]), ("matrix-b", b[apart.name])):
        shown = tensor[0, 2] if tensor.dim() == 4 else tensor[0]
        assert numbers(page, testid, apart.name) == same(shown.flatten().tolist())
    axe(page)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_and_their_difference(page, pairs, family):
    one = pairs(family)
    a, b = tapes(one)
    tower = "decoder." if family == "encoder_decoder" else ""
    kind = "cross" if tower else "self"
    name = f"{tower}blocks.1.{kind}_attention.weights"
    look(page, one, tower=tower, kind=kind, head=0)  # the one whose query differs
    expect(page.get_by_test_id("three")).to_have_attribute("data-name", name)
    left, right = a[name][0, 0], b[name][0, 0]
    assert (left - right).abs().max() > 1e-5
    assert numbers(page, "matrix-a", name) == same(left.flatten().tolist())
    assert numbers(page, "matrix-b", name) == same(right.flatten().tolist())
    difference = torch.tensor(numbers(page, "matrix-difference", name))
    torch.testing.assert_close(difference, (left - right).flatten(), rtol=1e-4, atol=1e-6)
    scales = [page.get_by_test_id(f"matrix-{side}").get_by_test_id("legend") for side in "ab"]
    expect(scales[1]).to_have_attribute("aria-label", scales[0].get_attribute("aria-label"))
    page.locator("[data-testid=tensor]").select_option(f"{tower}blocks.0.residual_post")
    expect(page.get_by_test_id("three")).to_have_attribute("data-name", f"{tower}blocks.0.residual_post")
    assert numbers(page, "matrix-b", f"{tower}blocks.0.residual_post") == same(
        b[f"{tower}blocks.0.residual_post"][0].flatten().tolist()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_both(page, pairs, family):
    one = pairs(family)
    a, b = tapes(one)
    look(page, one)
    page.get_by_test_id("after").get_by_role("option").nth(1).click()
    table = page.locator('[data-testid="answers"][data-position="1"]')
    table.wait_for()
    for side, tape in (("a", a), ("b", b)):
        expected = tape["logits"][0, 1].double().softmax(-1)
        best = int(expected.argmax())
        assert value(page.get_by_test_id(f"p-{side}-{best}")) == pytest.approx(expected[best].item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cause_when_asked(page, pairs, family):
    one = pairs(family)
    expected = diff(one.loaded, one.session.model("other").loaded, read(one.loaded, TEXT, one.target).inputs)
    look(page, one)
    expect(page.get_by_test_id("verdict")).to_have_count(0)
    page.get_by_test_id("ask").click()
    verdict = page.get_by_test_id("verdict")
    verdict.wait_for(timeout=60_000)
    assert verdict.inner_text().split() == str(expected).split()
    assert expected.cause is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_against_itself_before_the_edit(page, served, family):
    one = served(family)
    tower = "decoder." if family == "encoder_decoder" else ""
    name = f"{tower}blocks.0.self_attention.context"
    edit = f'[{{"kind":"zero","name":"{name}","heads":[1]}}]'
    look(page, one, edits=edit, compare="unedited")
    expect(page.get_by_test_id("first")).to_have_attribute("data-name", name)
    plain, edited = one.trace(), one.trace(edits={name: [edits.zero(edits.Where(heads=[1]))]})
    logits = f"{tower}blocks.1.self_attention.q"
    page.locator("[data-testid=tensor]").select_option(logits)
    expect(page.get_by_test_id("three")).to_have_attribute("data-name", logits)
    difference = torch.tensor(numbers(page, "matrix-difference", logits))
    expected = (edited[logits] - plain[logits])[0, 2].flatten()
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)
    expect(page.get_by_test_id("ask")).to_have_count(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_shapes_are_told(page, pairs, faults, family):
    faults.allow("422")
    one = pairs(family, d_model=16, num_layers=1)
    tower = "encoder." if family == "encoder_decoder" else ""
    look(page, one, **{".tensor": f"{tower}blocks.0.residual_post"})
    page.get_by_test_id("unmatched").locator("summary").click()
    expect(page.get_by_test_id("unmatched")).to_contain_text(f"{tower}blocks.1.residual_pre only in A")
    expect(page.get_by_test_id("other-shape")).to_contain_text("has another shape in B: [1, ")
    page.locator("[data-testid=tensor]").select_option(f"{tower}blocks.1.residual_post")
    expect(page.get_by_test_id("other-shape")).to_contain_text("B has no")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_compare_with(page, served, axe, family):
    page.goto(served(family).link("compare"))
    expect(page.get_by_test_id("nothing")).to_contain_text("pellucid explore A --other B")
    axe(page)


def test_the_strip_is_walked_with_the_keyboard(page, pairs):
    one = pairs("decoder")
    a, _ = tapes(one)
    look(page, one)
    strip = page.get_by_test_id("strip")
    strip.focus()
    strip.press("Home")
    expect(page.get_by_test_id("strip-told")).to_contain_text("embedding.tokens: equal")
    strip.press("End")
    last = list(a)[-1]
    expect(page.get_by_test_id("strip-told")).to_contain_text(f"{last}: ")
    assert f".tensor={last}" in page.url
    expect(strip).to_have_attribute("aria-valuetext", page.get_by_test_id("strip-told").inner_text())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, pairs, axe, scheme):
    page = opened(width=390, height=800, scheme=scheme)
    look(page, pairs("encoder_decoder"), tower="decoder.", kind="cross")
    numbers(page, "matrix-difference")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
