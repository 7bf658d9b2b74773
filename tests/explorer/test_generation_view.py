"""The view of generation in a browser: scores, distributions, draws, caches and trees are the model's own."""

import pytest
import torch
from exploring import TEXT, value
from playwright.sync_api import expect

from pellucid.config import parts
from pellucid.inference.beam import beam_search
from pellucid.inference.decode import generate
from pellucid.inference.reading import beginning
from pellucid.inference.sampling import Temperature, TopK, TopP
from pellucid.trace import trace

pytestmark = [pytest.mark.browser, pytest.mark.slow]
writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def logits_of(one, written=()):
    """The scores of the next token, in one pass without a cache."""
    prompt = beginning(one.loaded, TEXT)
    tokens = torch.cat([prompt.tokens, torch.tensor([list(written)], dtype=torch.long)], dim=1)
    inputs = (tokens,) if prompt.source is None else (prompt.source, tokens)
    return trace(one.loaded.model, inputs, watch="logits")["logits"][0, -1]


def look(page, one, written="", **pinned):
    more = {".written": written} if written else {}
    page.goto(one.link("generation", **more, **pinned))
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", written)


def shown(page):
    """What the table says of each token: before, after, and what dropped it."""
    page.get_by_test_id("more").click()
    rows = page.get_by_test_id("candidate").all()
    return {
        int(row.get_attribute("data-id")): (
            float(row.get_attribute("data-before")),
            float(row.get_attribute("data-after")),
            row.get_attribute("data-dropped"),
        )
        for row in rows
    }


@writers
def test_the_distribution_is_exact_before_and_after_the_filters(page, served, family):
    one = served(family)
    look(page, one, **{".temperature": 0.7, ".topk": 6, ".topp": 0.8})
    logits = logits_of(one)
    scores = TopP(0.8)(TopK(6)(Temperature(0.7)(logits[None])))[0]
    found = shown(page)
    assert len(found) == len(logits)
    before, after = logits.softmax(-1), scores.softmax(-1)
    for token, (first, second, why) in found.items():
        assert first == pytest.approx(before[token].item(), abs=1e-5)
        assert second == pytest.approx(after[token].item(), abs=1e-5)
        assert bool(why) == (scores[token] == -torch.inf)
    assert int(page.get_by_test_id("next").get_attribute("data-kept")) == int((after > 0).sum())


@writers
def test_a_setting_changes_the_distribution_at_once_and_stands_in_the_link(page, served, family):
    one = served(family)
    look(page, one)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_test_id("temperature").fill("0.5")
    expected = (logits_of(one) / 0.5).softmax(-1).max().item()
    row = page.get_by_test_id("candidate").first
    assert float(row.get_attribute("data-after")) == pytest.approx(expected, abs=1e-5)
    assert not asked  # computed in the browser, on the whole vocabulary
    assert ".temperature=0.5" in page.url
    before = float(page.get_by_test_id("hidden-mass").get_attribute("data-hidden"))
    top = logits_of(one).softmax(-1).topk(12).values.sum().item()
    assert before == pytest.approx(1 - top, abs=1e-5)


@writers
def test_the_likeliest_tokens_are_greedy_writing_a_step_each(page, served, family):
    one = served(family)
    (expected,) = generate(one.loaded.model, beginning(one.loaded, TEXT), max_new_tokens=3)
    look(page, one)
    before = len(beginning(one.loaded, TEXT).tokens[0])
    for count in range(1, 4):
        page.get_by_test_id("likeliest").click()
        written = ",".join(map(str, expected[:count]))
        expect(page.get_by_test_id("draft")).to_have_attribute("data-written", written)
        if expected[count - 1] in one.loaded.tokenizer.ends:
            break
        cache = page.get_by_test_id("cache")
        expect(cache).to_have_attribute("data-how", "step")
        expect(cache).to_have_attribute("data-fed", "1")
        for layer in page.get_by_test_id("slots").all():
            assert int(layer.get_attribute("data-used")) == before + count
            source = layer.get_attribute("data-source")
            assert source == (str(len(one.pieces()[0])) if family == "encoder_decoder" else "")
        assert float(page.get_by_test_id("check").get_attribute("data-difference")) < 1e-4


@writers
def test_a_draw_is_where_its_number_falls_and_is_the_same_again(page, served, family):
    one = served(family)
    look(page, one)
    drawing = page.get_by_test_id("uniform")
    draw, token = value(drawing), int(drawing.get_attribute("data-outcome"))
    edges = logits_of(one).double().softmax(-1).cumsum(-1)
    assert token == int((edges <= draw).sum())
    page.get_by_test_id("seed").fill("2")
    page.get_by_test_id("seed").press("Tab")
    assert value(drawing) != draw
    page.get_by_test_id("seed").fill("1")
    page.get_by_test_id("seed").press("Tab")
    assert value(drawing) == draw
    page.get_by_test_id("draw").click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", str(token))


@writers
def test_a_token_is_forced_and_the_text_branches(page, served, family):
    one = served(family)
    look(page, one)
    for token in (7, 9):
        row = page.locator(f'[data-testid="candidate"][data-id="{token}"]')
        if not row.count():
            page.get_by_test_id("more").click()
        row.get_by_test_id("force").click()
        expect(page.get_by_test_id("draft")).to_have_attribute("data-written", str(token))
        page.get_by_test_id("back").click()
        expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "")
    tried = page.get_by_test_id("tried").get_by_role("button")
    expect(tried).to_have_count(2)
    tried.nth(1).click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "9")
    expect(tried.nth(1)).to_have_attribute("aria-current", "true")
    probability = logits_of(one).softmax(-1)[9].item()
    assert float(tried.nth(1).inner_text().split()[-1].replace("−", "-")) == pytest.approx(probability, rel=6e-3)


def test_any_token_can_be_looked_for(page, served):
    one = served("decoder")
    look(page, one)
    page.get_by_test_id("find").fill("g")
    found = page.get_by_test_id("search-results").get_by_role("button")
    token = one.loaded.tokenizer.encode("g")[0]
    expect(found).to_have_count(1)
    expect(found.first).to_have_attribute("data-id", str(token))
    found.first.click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", str(token))


@writers
def test_a_score_is_explained(page, served, family):
    one = served(family)
    look(page, one)
    row = page.get_by_test_id("candidate").first
    score = row.locator("button.number")
    score.wait_for()
    token = int(row.get_attribute("data-id"))
    assert value(score) == pytest.approx(logits_of(one)[token].item(), abs=1e-4)
    score.click()
    length = len(beginning(one.loaded, TEXT).tokens[0])
    expect(page.get_by_test_id("explain-address")).to_have_text(f"logits[0, {length - 1}, {token}]")


def test_a_window_says_what_it_lets_go(page, served):
    one = served("decoder", windows=(3, 0), positions=parts.Rotary())
    look(page, one, "7,8")
    near, far = page.get_by_test_id("slots").all()
    length = len(TEXT) + 2
    assert (near.get_attribute("data-used"), near.get_attribute("data-dropped")) == ("3", str(length - 3))
    assert (far.get_attribute("data-used"), far.get_attribute("data-dropped")) == (str(length), "0")
    expect(page.get_by_test_id("dropped")).to_contain_text("overwritten")


@writers
def test_beam_search_is_a_tree_whose_leaves_are_its_results(page, served, family):
    one = served(family)
    look(page, one, **{".beams": 3, ".beamsteps": 4})
    page.get_by_test_id("search").click()
    (expected,) = beam_search(
        one.loaded.model, beginning(one.loaded, TEXT), beams=3, max_new_tokens=4, ends=one.loaded.tokenizer.ends
    )
    found = page.get_by_test_id("found-text")
    expect(found).to_have_count(len(expected))
    for text, locator in zip(expected, found.all(), strict=True):
        assert locator.get_attribute("data-tokens") == ",".join(map(str, text.tokens))
        assert float(locator.get_attribute("data-score")) == pytest.approx(text.score, abs=1e-5)
    node = page.get_by_test_id("beam-node")
    assert float(node.get_attribute("data-score")) == pytest.approx(expected[0].score, abs=1e-5)
    every = page.get_by_test_id("beam-tree").get_by_role("button").count()
    page.get_by_test_id("with-dropped").uncheck()
    assert page.get_by_test_id("beam-tree").get_by_role("button").count() < every
    page.get_by_test_id("take").first.click()
    written = page.get_by_test_id("draft")
    expect(written).not_to_have_attribute("data-written", "")
    assert written.get_attribute("data-written").startswith(",".join(map(str, expected[0].tokens)))


def test_the_tree_is_walked_with_the_keyboard(page, served):
    one = served("decoder")
    look(page, one, **{".beams": 2, ".beamsteps": 3})
    page.get_by_test_id("search").focus()
    page.keyboard.press("Enter")
    tree = page.get_by_test_id("beam-tree")
    tree.wait_for()
    chosen = tree.locator('[aria-current="true"]')
    chosen.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.node") == chosen.get_attribute("data-node")


def test_going_on_stops_where_the_text_ended(page, served):
    one = served("decoder")
    (end,) = one.loaded.tokenizer.ends
    look(page, one, f"7,{end}")
    expect(page.get_by_test_id("draft")).to_have_attribute("data-ended", "true")
    expect(page.get_by_test_id("draw")).to_be_disabled()
    expect(page.get_by_test_id("likeliest")).to_be_disabled()
    page.get_by_test_id("text-so-far").get_by_role("option").nth(len(TEXT)).click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "7")


def test_another_text_begins_anew(page, served):
    one = served("decoder")
    look(page, one, "7,8")
    page.get_by_test_id("text").fill("a dog")
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "")
    assert "written" not in page.url


def test_another_text_begins_anew_from_any_view_and_the_way_back_goes_on(page, served):
    one = served("decoder")
    look(page, one, "7,8")
    page.get_by_test_id("view-attention").click()
    page.get_by_test_id("head").wait_for()
    page.get_by_test_id("text").fill("a dog")
    page.get_by_test_id("run").click()
    expect(page.get_by_test_id("query-tokens").get_by_role("option")).to_have_count(len("a dog"))
    page.get_by_test_id("view-generation").click()
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "")
    for _ in range(3):
        page.go_back()
    expect(page.get_by_test_id("text")).to_have_value(TEXT)
    expect(page.get_by_test_id("draft")).to_have_attribute("data-written", "7,8")


def test_of_a_head_that_shares_its_keys_those_are_shown(page, served):
    one = served("decoder", attention=parts.Attention(num_heads=4, num_kv_heads=2))
    for head, shared in ((1, 0), (2, 1)):
        look(page, one, head=head)
        expect(page.get_by_test_id("kept-matrix")).to_contain_text(f"head {shared} of 2")
        page.goto("about:blank")


def test_an_encoder_says_that_it_writes_nothing_and_fills_the_gap(page, served):
    one = served("encoder")
    text = "the <mask>at"
    page.goto(one.link("generation", text=text))
    expect(page.get_by_test_id("no-writing")).to_contain_text("writes nothing")
    fill = page.get_by_test_id("fill")
    expect(fill).to_have_attribute("data-position", "4")
    expected = one.trace(text=text, target=None)["logits"][0, 4].softmax(-1)
    row = page.get_by_test_id("candidate").first
    token = int(row.get_attribute("data-id"))
    assert token == int(expected.argmax())
    assert float(row.get_attribute("data-before")) == pytest.approx(expected[token].item(), abs=1e-6)
    row.get_by_test_id("force").click()
    piece = one.loaded.tokenizer.pieces([token])[0]
    expect(page.get_by_test_id("text")).to_have_value(text.replace("<mask>", piece))


@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_can_be_read_by_everyone(opened, served, axe, family, width, scheme):
    one, page = served(family), opened(width=width, scheme=scheme)
    page.goto(one.link("generation", **({".beamsteps": 3} if family != "encoder" else {})))
    if family != "encoder":
        page.get_by_test_id("likeliest").click()
        page.get_by_test_id("search").click()
        page.get_by_test_id("beam-tree").wait_for()
        page.get_by_test_id("kept-matrix").wait_for()
    else:
        page.get_by_test_id("fill").wait_for()
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
