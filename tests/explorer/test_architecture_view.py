"""The view of architecture in a browser: the drawing is the model's, and every part of it leads in."""

import re
from pathlib import Path

import pytest
from exploring import serve, value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.analysis.parameters import parameter_count, parts_of
from pellucid.config import parts
from pellucid.config.presets import PRESETS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GATED = {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)}
TOWERS = {"encoder": [""], "decoder": [""], "encoder_decoder": ["encoder.", "decoder."]}


def look(page, one, **pinned):
    page.goto(one.link("architecture", **pinned))
    page.get_by_test_id("architecture").wait_for()


def part(page, name):
    return page.locator(f'[data-testid="part-{name}"]')


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["pre", "post", "both"])
def test_the_drawing_has_the_parts_of_the_model(page, served, family, placement):
    one = served(family, placement=placement)
    look(page, one)
    drawn = {box.get_attribute("data-part") for box in page.locator("[data-part]").all()}
    found = {each.name for each in parts_of(one.loaded.model.config)}
    boxes = {name for name in drawn if not name.endswith(("stream", "positions"))}
    inside = re.compile(r"\.(table|weight|query|key|value|out|up|gate|down)$|^head\.(dense|norm|project)$")
    expected = {"head" if name.startswith("head.") else inside.sub("", name) for name in found}
    assert boxes == expected
    for tower in TOWERS[family]:
        assert {f"{tower}stream", f"{tower}embedding.positions"} <= drawn
    summary = page.get_by_test_id("summary")
    expect(summary).to_contain_text(f"{parameter_count(one.loaded.model.config):,}")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_lists_its_parameters_and_tensors(page, served, family):
    one = served(family)
    tower = TOWERS[family][-1]
    look(page, one)
    path = f"{tower}blocks.*.{'cross' if family == 'encoder_decoder' else 'self'}_attention"
    part(page, path).click()
    expect(page.get_by_test_id("part")).to_have_attribute("data-chosen", path)
    rows = page.get_by_test_id("parameters").locator("tbody tr").all()
    shown = {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}
    module = one.loaded.model.get_submodule(path.replace("*", "0"))
    assert shown == {name: " × ".join(map(str, each.shape)) for name, each in module.named_parameters()}
    count = number(page.get_by_test_id("count").inner_text())
    assert count == 2 * sum(each.numel() for each in module.parameters())
    page.get_by_role("button", name="Layer after").click()
    tape, start = one.trace(), path.replace("*", "1") + "."
    expect(page.get_by_test_id("part")).to_contain_text("layer 1")
    rows = page.get_by_test_id("tensors").locator("tbody tr").all()
    shown = {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}
    assert shown == {
        name.removeprefix(start): "×".join(map(str, entry.shape))
        for name, entry in tape.entries.items()
        if name.startswith(start)
    }
    out = page.get_by_test_id("tensors").locator(f'[data-address^="{start}context["]')
    assert value(out) == pytest.approx(tape[f"{start}context"][0, -1, -1, -1].item(), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_parameters_are_in_some_part_once(page, served, family):
    one = served(family, norm=parts.RMSNorm(), positions=parts.RelativeBias(buckets=8, max_distance=20), **GATED)
    look(page, one)
    total = 0
    for box in page.locator("[data-part]").all():
        box.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("part")).to_have_attribute("data-chosen", box.get_attribute("data-part"))
        counts = page.get_by_test_id("count")
        total += number(counts.inner_text()) if counts.count() else 0
    assert total == parameter_count(one.loaded.model.config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_opens_the_views_that_show_it(page, served, family):
    one = served(family)
    tower = TOWERS[family][-1]
    look(page, one, layer=1, **{".part": f"{tower}blocks.*.feed_forward_residual.before"})
    page.get_by_test_id("go-norm").click()
    expect(page.get_by_test_id("norm-title")).to_contain_text("before feed-forward, layer 1")
    look(page, one, layer=1, **{".part": f"{tower}blocks.*.feed_forward"})
    page.get_by_test_id("go-feedforward").click()
    expect(page.get_by_test_id("units")).to_have_attribute("data-site", f"{tower}blocks.1.feed_forward")
    look(page, one, layer=1, **{".part": f"{tower}blocks.*.self_attention"})
    page.get_by_test_id("go-attention").click()
    expect(page.get_by_test_id("head")).to_have_attribute("data-address", f"{tower}blocks.1.self_attention.weights")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_on_top_is_the_models(page, served, family):
    one = served(family)
    look(page, one)
    expected = one.trace()["logits"][0, -1].double().softmax(-1).topk(3)
    chips = page.get_by_test_id("answer")
    chips.nth(2).wait_for()
    shown = [float(chip.get_attribute("data-probability")) for chip in chips.all()]
    assert shown == pytest.approx(expected.values.tolist(), rel=1e-5)
    chips.first.focus()
    page.keyboard.press("Enter")
    assert value(page.get_by_test_id("explain-value")) == pytest.approx(
        one.trace()["logits"][0, -1, expected.indices[0]].item(), rel=1e-5
    )


def test_the_keyboard_goes_along_the_stream(page, served):
    look(page, served("encoder_decoder"))
    boxes = page.locator("[data-part]").all()
    boxes[0].focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("part")).to_have_attribute("data-chosen", boxes[1].get_attribute("data-part"))
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("part")).to_have_attribute("data-chosen", "")
    assert ".part" not in page.url


@pytest.mark.parametrize(
    "name", ["gpt2", "bert-base", "t5-base", "llama-3-8b", "vit-base", "whisper-tiny", "gemma-2-2b"]
)
def test_a_preset_is_drawn_without_weights(page, served, name):
    one = served("decoder")
    look(page, one, **{".preset": name})
    expect(page.get_by_test_id("architecture")).to_have_attribute("data-model", name)
    expect(page.get_by_test_id("summary")).to_contain_text(f"{parameter_count(PRESETS[name].model):,}")
    page.locator("[data-part$='feed_forward']").last.click()
    expect(page.get_by_test_id("count")).to_be_visible()
    expect(page.get_by_test_id("tensors")).to_have_count(0)
    page.get_by_test_id("leave-preset").click()
    expect(page.get_by_test_id("architecture")).to_have_attribute("data-model", "decoder")
    assert "preset" not in page.url


def test_a_preset_that_does_not_exist_is_told(page, served, faults):
    faults.allow("422")
    page.goto(served("decoder").link("architecture", **{".preset": "gpt-2"}))
    expect(page.get_by_role("alert")).to_contain_text("no such preset")
    page.get_by_test_id("leave-preset").click()
    page.get_by_test_id("architecture").wait_for()


def test_the_picture_is_saved_with_its_colours(page, served):
    look(page, served("encoder_decoder"))
    page.get_by_test_id("export").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="SVG picture").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "Cross-attention" in text
    assert "var(--" not in text
    assert "parameters" in text


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_serious_is_in_the_way_of_anybody(opened, served, axe, family, width, scheme):
    page = opened(width=width, height=844, scheme=scheme)
    tower = TOWERS[family][-1]
    look(page, served(family), **{".part": f"{tower}blocks.*.self_attention"})
    page.get_by_test_id("tensors").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe(page)


def test_a_model_that_names_labels(page):
    """A classifier has no words to show on top but its labels."""
    import torch
    from exploring import TEXT, loaded

    from pellucid.config import model as config
    from pellucid.explorer.app import create_app
    from pellucid.explorer.session import Session
    from pellucid.models.build import build
    from pellucid.models.checkpoint import Loaded

    plain = loaded("encoder")
    settings = plain.loaded.model.config if hasattr(plain, "loaded") else plain.model.config
    torch.manual_seed(0)
    model = build(
        config.Encoder(front=settings.front, stack=settings.stack, head=config.Classification(labels=("no", "yes")))
    )
    url, server = serve(
        create_app(Session(Loaded(model.eval(), plain.tokenizer, None), "labels", example=(TEXT, None)))
    )
    try:
        page.goto(f"{url}#1?view=architecture")
        page.get_by_test_id("answer").nth(1).wait_for()
        assert {chip.get_attribute("aria-label").split('"')[1] for chip in page.get_by_test_id("answer").all()} == {
            "no",
            "yes",
        }
        page.goto(f"{url}#1?view=residual")
        expect(page.get_by_test_id("no-lens")).to_contain_text("labels for the whole text")
        expect(page.get_by_test_id("sizes")).to_be_visible()
        page.goto(f"{url}#1?view=feedforward")
        expect(page.get_by_test_id("why-not")).to_contain_text("no head over the tokens of a vocabulary")
    finally:
        server.should_exit = True


def test_a_model_that_labels_tokens(page):
    """Every view says of what its labels are, and where."""
    import torch
    from exploring import TEXT, loaded

    from pellucid.config import model as config
    from pellucid.explorer.app import create_app
    from pellucid.explorer.session import Session
    from pellucid.models.build import build
    from pellucid.models.checkpoint import Loaded

    plain = loaded("encoder")
    settings = plain.model.config
    torch.manual_seed(0)
    head = config.TokenClassification(labels=("O", "B-CAT", "I-CAT"))
    model = build(config.Encoder(front=settings.front, stack=settings.stack, head=head)).eval()
    url, server = serve(create_app(Session(Loaded(model, plain.tokenizer, None), "tags", example=(TEXT, None))))
    try:
        page.goto(f"{url}#1?view=architecture&.part=head")
        expect(page.get_by_test_id("architecture")).to_contain_text("Token classification head")
        expect(page.get_by_test_id("architecture")).to_contain_text("32 → 3 labels a token")
        expect(page.get_by_test_id("part")).to_contain_text("text, position, label")
        page.goto(f"{url}#1?view=generation&query=5")
        expect(page.get_by_test_id("no-writing")).to_contain_text("a label for each token")
        expect(page.get_by_test_id("fill")).to_have_attribute("data-position", "5")
        ids = torch.tensor([plain.tokenizer.text(plain.tokenizer.encode(TEXT))])
        expected = model(ids)[0, 5].softmax(-1).tolist()
        rows = page.get_by_test_id("candidate").all()
        shown = {int(row.get_attribute("data-id")): float(row.get_attribute("data-before")) for row in rows}
        assert [shown[label] for label in range(3)] == pytest.approx(expected, abs=1e-6)
        page.goto(f"{url}#1?view=masking")
        expect(page.get_by_test_id("unchanged")).to_contain_text("label of ‘")
        page.goto(f"{url}#1?view=learn&stage=tour-generation")
        expect(page.get_by_test_id("verdict-of-step")).to_contain_text("a label for each token")
    finally:
        server.should_exit = True


def test_a_picture_of_any_text_is_xml(page):
    """A space that does not break has a name in HTML and none in XML; a control character can stand in neither."""
    from xml.etree import ElementTree

    from families import small

    from pellucid.config.run import Characters
    from pellucid.data.tokenizers import Tokenizer
    from pellucid.explorer.app import create_app
    from pellucid.explorer.session import Session
    from pellucid.models.checkpoint import Loaded

    text = "a\u00a0b\x01<&"
    tokenizer = Tokenizer.train(Characters(), [text])
    url, server = serve(create_app(Session(Loaded(small("decoder"), tokenizer, None), "spaces", example=(text, None))))
    try:
        page.goto(f"{url}#1?view=architecture")
        page.get_by_test_id("answer").first.wait_for()
        page.get_by_test_id("export").click()
        with page.expect_download() as saved:
            page.get_by_role("button", name="SVG picture").click()
        picture = ElementTree.parse(saved.value.path()).getroot()
        assert "\u00a0" in "".join(picture.itertext())
    finally:
        server.should_exit = True
