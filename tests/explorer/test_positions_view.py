"""The view of positions in a browser: every scheme as the model's own modules have it, and two words swapped."""

import pytest
import torch
from exploring import same, value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.places import biases, codes, exchanged, moved, without_positions
from pellucid.config import parts
from pellucid.trace import trace

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOWERS = [("encoder", ""), ("decoder", ""), ("encoder_decoder", "encoder."), ("encoder_decoder", "decoder.")]


def look(page, one, tower="", **pinned):
    page.goto(one.link("positions", tower=tower, **pinned))
    page.locator('[data-testid="scheme"][data-kind]').wait_for()


def tower_of(one, tower):
    return getattr(one.loaded.model, tower[:-1]) if tower else one.loaded.model


def table(page, testid):
    """The numbers of a matrix, read from its table."""
    figure = page.get_by_test_id(testid)
    figure.get_by_test_id("as-table").click()
    figure.locator("td").first.wait_for()
    rows = figure.locator("tbody tr")
    return [
        [float(text.replace("−", "-").replace("∞", "inf")) for text in row.locator("td").all_inner_texts()]
        for row in rows.all()
    ]


@pytest.mark.parametrize(("family", "tower"), TOWERS)
@pytest.mark.parametrize("positions", [parts.Sinusoidal(), parts.Learned(max_length=40)], ids=["sines", "learned"])
def test_what_is_added(page, served, family, tower, positions):
    one = served(family, positions=positions)
    look(page, one, tower, **{".unit": 4, ".length": 12, "query": 3})
    expected = codes(tower_of(one, tower), 12)
    page.get_by_test_id("waves").wait_for()
    columns = [4, 5] if isinstance(positions, parts.Sinusoidal) else [4]
    assert values(page.get_by_test_id("waves-at")) == same(expected[3, columns].tolist())
    shown = table(page, "codes")
    torch.testing.assert_close(torch.tensor(shown), expected[:, : len(shown[0])], rtol=1e-3, atol=1e-6)
    number = page.get_by_test_id("added")
    assert value(number) == same(one.trace()[f"{tower}embedding.positions"][0, 3, 4].item())
    number.click()
    expect(page.get_by_test_id("explain-formula")).to_contain_text("code of the position")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wave_is_moved_along_by_keys(page, served, family):
    one = served(family)
    tower = "encoder." if family == "encoder_decoder" else ""
    look(page, one, tower, query=1)
    wave = page.get_by_test_id("waves").get_by_role("slider")
    wave.focus()
    wave.press("ArrowRight")
    expect(wave).to_have_attribute("aria-valuenow", "2")
    assert values(page.get_by_test_id("waves-at")) == same(codes(tower_of(one, tower), 3)[2, :2].tolist())
    assert "query=2" in page.url


@pytest.mark.parametrize(("family", "tower"), TOWERS)
def test_a_query_and_a_key_turned_apart(page, served, family, tower):
    attention = parts.Attention(num_heads=4, num_kv_heads=2)
    one = served(family, positions=parts.Rotary(), attention=attention)
    look(page, one, tower, layer=1, head=3, query=4, key=1)
    name = f"{tower}blocks.1.self_attention"
    tape = one.trace()
    q, k = tape[f"{name}.q"][0, 3, 4].double(), tape[f"{name}.k"][0, 1, 1].double()
    number = page.get_by_test_id("product")
    assert value(number) == same((q @ k).item())
    pairs = values(page.get_by_test_id("pairs").locator("[data-value]"))
    products = q * k
    assert pairs == pytest.approx((products[:4] + products[4:]).tolist(), rel=1e-5, abs=1e-6)
    number.click()
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{name}.scores[0, 3, 4, 1]")
    # Pulled further apart than in the text, it is said to be hypothetical.
    slider = page.get_by_test_id("distance")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    expect(page.get_by_text("Hypothetical: the same two vectors with the key 6 positions before")).to_be_visible()
    assert value(number) == pytest.approx(_turned(tower_of(one, tower), tape, name, 6), rel=1e-5)


def _turned(tower, tape, name, distance):
    q, k = (tape.operands(f"{name}.{what}")[0].value[0] for what in ("q", "k_new"))
    here, there = (tower.rotation(torch.tensor([[at]])) for at in (4, 4 - distance))
    return (here(q[3, 4].view(1, 1, 1, -1)).double() * there(k[1, 1].view(1, 1, 1, -1)).double()).sum().item()


@pytest.mark.parametrize(("family", "tower"), TOWERS)
@pytest.mark.parametrize(
    "positions", [parts.ALiBi(), parts.RelativeBias(buckets=8, max_distance=20)], ids=["alibi", "t5"]
)
def test_what_is_added_to_scores(page, served, family, tower, positions):
    one = served(family, positions=positions)
    look(page, one, tower, **{".distance": -5})
    expected, buckets = biases(tower_of(one, tower), [-5])
    page.get_by_test_id("bias").wait_for()
    assert values(page.get_by_test_id("bias-at")) == same(expected[:, 0].tolist())
    if buckets:
        assert value(page.get_by_test_id("bucket")) == buckets[0]
    near = table(page, "biases")
    causal = tower_of(one, tower).causal
    ahead = range(-8, 1 if causal else 9)
    added = biases(tower_of(one, tower), ahead)[0][:, : len(near[0])]
    torch.testing.assert_close(torch.tensor(near), added, rtol=1e-3, atol=1e-6)


SCHEMES = {"sines": parts.Sinusoidal(), "rotary": parts.Rotary(), "none": parts.NoPositions()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("family", "tower"), TOWERS)
def test_two_words_swapped(page, served, family, tower, scheme):
    one = served(family, positions=SCHEMES[scheme])
    look(page, one, tower)
    page.get_by_test_id("swap-1").click()
    page.get_by_test_id("swap-4").click()
    verdict = page.get_by_test_id("swap-verdict")
    verdict.wait_for(timeout=30_000)
    order = exchanged(len(_inputs(one)[1 if tower == "decoder." else 0][0]), 1, 4)

    def states(inputs):
        tape = trace(one.loaded.model, inputs)
        names = [f"{tower}blocks.0.residual_pre", *(f"{tower}blocks.{i}.residual_post" for i in range(2))]
        return torch.cat([tape[name] for name in names])

    inputs = _inputs(one)
    at = 1 if tower == "decoder." else 0
    swapped = tuple(ids[:, order] if i == at else ids for i, ids in enumerate(inputs))
    expected = moved(states(inputs), states(swapped), order)
    assert float(verdict.get_attribute("data-with")) == pytest.approx(expected.max().item(), rel=1e-4, abs=2e-6)
    if scheme == "none":
        assert verdict.get_attribute("data-without") is None
    else:
        with without_positions(one.loaded.model):
            bare = moved(states(inputs), states(swapped), order)
        assert float(verdict.get_attribute("data-without")) == pytest.approx(bare.max().item(), rel=1e-4, abs=2e-6)
        assert ("bag of words" in verdict.inner_text()) == (not tower_of(one, tower).causal)
    place = (inputs[-1].size(1) - 1) if family != "encoder" else inputs[0].size(1) - 1
    after = trace(one.loaded.model, swapped)["logits"][0, place].double().softmax(-1)
    best = int(after.argmax())
    assert value(page.get_by_test_id(f"swap-answers-after-{best}")) == pytest.approx(after[best].item(), rel=1e-5)
    assert ".swap=1%2C4" in page.url
    page.get_by_test_id("unswap").click()
    expect(verdict).to_have_count(0)


def _inputs(one):
    from exploring import TEXT

    from pellucid.inference.reading import read

    return read(one.loaded, TEXT, one.target).inputs


def test_curves_and_pairs_are_saved(page, served, tmp_path):
    one = served("decoder", positions=parts.Rotary())
    look(page, one, query=4, key=1)
    page.get_by_test_id("pairs").wait_for()
    for testid, choices in (("turned", ["PNG picture", "SVG picture", "CSV numbers"]), ("scheme", ["CSV numbers"])):
        for choice in choices:
            page.get_by_test_id(testid).get_by_test_id("export").last.click()
            with page.expect_download() as waiting:
                page.get_by_test_id(testid).get_by_role("button", name=choice).last.click()
            path = tmp_path / f"{testid}-{choice[:3]}"
            waiting.value.save_as(path)
            assert path.stat().st_size > 300
    product = value(page.get_by_test_id("product"))
    rows = [line.split(",") for line in (tmp_path / "turned-CSV").read_text().splitlines() if line.startswith("3,")]
    assert float(rows[0][1]) == pytest.approx(product, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_without_faults(opened, served, axe, family, width, scheme):
    one = served(family, positions=parts.Rotary())
    page = opened(width, 844, scheme)
    look(page, one, **{".swap": "1,3"})
    page.get_by_test_id("swap-verdict").wait_for(timeout=30_000)
    page.get_by_test_id("pairs").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
