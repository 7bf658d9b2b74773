"""The calculator in a browser: its figures are those of ``pellucid size``."""

import pytest
from exploring import value
from families import FAMILIES
from playwright.sync_api import expect

from pellucid import size
from pellucid.config.presets import PRESETS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHOWN = {
    "size-parameters": lambda it: it["parameters"],
    "flops-row-forward": lambda it: it["flops"]["row"]["forward"],
    "flops-row-attention": lambda it: it["flops"]["row"]["attention"],
    "flops-token-training": lambda it: it["flops"]["token"]["training"],
    "flops-row-six_n": lambda it: it["flops"]["row"]["six_n"],
    "training-weights": lambda it: it["training"]["weights"],
    "training-activations": lambda it: it["training"]["activations"],
    "training-peak": lambda it: it["training"]["peak"],
    "checkpointed-peak": lambda it: it["training_checkpointed"]["peak"],
    "inference-peak": lambda it: it["inference"]["peak"],
    "cost-devices": lambda it: it["cost"]["devices"],
    "cost-memory": lambda it: it["cost"]["memory"],
    "cost-seconds": lambda it: it["cost"]["seconds"],
}
OF_WRITERS = {
    "inference-cache_per_token": lambda it: it["inference"]["cache_per_token"],
    "inference-cache": lambda it: it["inference"]["cache"],
    "writing-speed": lambda it: it["writing"]["tokens_per_second"],
}


def agrees(page, expected):
    """Every figure on the page is the one of a size."""
    told = expected.as_dict()
    expect(page.get_by_test_id("size-parameters")).to_have_attribute("data-value", str(told["parameters"]))
    page.locator('[data-testid="size-results"][data-of]').wait_for()
    wanted = {**SHOWN, **(OF_WRITERS if told["writing"] else {})}
    for name, of in wanted.items():
        assert value(page.get_by_test_id(name)) == pytest.approx(of(told), rel=1e-12), name
    for part in told["parts"]:
        shown = page.get_by_test_id(f"part-{part['name']}")
        assert int(shown.get_attribute("data-value")) == part["parameters"]


def look(page, one, **pinned):
    page.goto(one.link("size", **{f".size.{name}": chosen for name, chosen in pinned.items()}))
    page.locator('[data-testid="size-results"][data-of]').wait_for()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_size(page, served, axe, family):
    one = served(family)
    look(page, one)
    agrees(page, size(one.loaded.model.config))
    axe(page)


@pytest.mark.parametrize("target", ["gpt2", "bert-base", "t5-small", "llama-3-8b", "vit-base", "whisper-tiny"])
def test_models_by_name(page, served, target):
    look(page, served("decoder"), of=target)
    agrees(page, size(target))
    preset = PRESETS[target]
    if preset.parameters is not None:
        expect(page.get_by_test_id("size-published")).to_contain_text(f"{preset.parameters:,} parameters published")


def test_sliders_ask_the_server(page, served):
    look(page, served("encoder"))
    page.get_by_test_id("load-gpt2").click()
    agrees(page, size("gpt2"))
    layers = page.get_by_test_id("size-layers-slider")
    layers.focus()
    for _ in range(3):
        layers.press("ArrowRight")
    agrees(page, size("gpt2", ["num_layers=15"]))
    expect(page.get_by_test_id("size-layers")).to_have_value("15")
    for name, given in (
        ("d_model", "1024"),
        ("heads", "16"),
        ("d_ff", "4096"),
        ("vocabulary", "32000"),
        ("batch", "8"),
        ("length", "512"),
    ):
        page.get_by_test_id(f"size-{name}").fill(given)
        page.get_by_test_id(f"size-{name}").press("Enter")
        if name == "d_model":  # twelve heads do not share it
            expect(page.get_by_test_id("size-error")).to_contain_text("found 1024; expected a multiple of")
    settings = ["num_layers=15", "d_model=1024", "num_heads=16", "d_ff=4096", "vocab_size=32000"]
    agrees(page, size("gpt2", settings, batch=8, length=512))
    expect(page.get_by_test_id("size-error")).to_have_count(0)
    page.get_by_test_id("size-dtype").get_by_text("float32").click()
    page.get_by_test_id("size-machine").select_option("a100")
    page.get_by_test_id("size-checkpointing").check()
    expected = size("gpt2", settings, batch=8, length=512, dtype="float32", machine="a100", checkpointing=True)
    agrees(page, expected)
    expect(page.get_by_test_id("size-command")).to_have_text(
        f"pellucid size gpt2 {' '.join(settings)} --batch 8 --length 512 --dtype float32 --machine a100 --checkpointing"
    )
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # all of it stands in the address
    agrees(page, expected)
    page.get_by_test_id("size-reset").click()
    agrees(page, size("gpt2", batch=8, dtype="float32", machine="a100", checkpointing=True))


def test_two_towers_have_sliders_of_their_own(page, served, faults):
    look(page, served("encoder_decoder"), of="transformer-base")
    page.get_by_test_id("size-encoder-layers").fill("12")
    page.get_by_test_id("size-encoder-layers").press("Enter")
    page.get_by_test_id("size-source").fill("2000")
    page.get_by_test_id("size-source").press("Enter")
    agrees(page, size("transformer-base", ["encoder.num_layers=12"], source_length=2000))


@pytest.fixture(autouse=True)
def refusals(faults):
    """A setting that cannot be is refused, which a browser tells of on its console."""
    faults.allow("422")


def test_shared_heads_follow_the_number_of_heads(page, served):
    look(page, served("decoder"), of="llama-3-8b")
    heads = page.get_by_test_id("size-heads")
    heads.fill("4")
    heads.press("Enter")
    agrees(page, size("llama-3-8b", ["num_heads=4", "num_kv_heads=4"]))
    groups = page.get_by_test_id("size-kv-heads")
    groups.fill("1")
    groups.press("Enter")
    agrees(page, size("llama-3-8b", ["num_heads=4", "num_kv_heads=1"]))


def test_the_famous_models_are_cards(page, served):
    look(page, served("decoder"))
    for name, preset in list(PRESETS.items())[::9]:
        card = page.get_by_test_id(f"preset-{name}")
        expect(card).to_contain_text(preset.source)
    expect(page.get_by_test_id("preset-gpt-4")).to_contain_text("not published")
    expect(page.get_by_test_id("preset-gpt-4")).to_contain_text("arXiv 2303.08774")
    page.get_by_test_id("size-family").get_by_text("encoders", exact=True).click()
    expect(page.get_by_test_id("preset-gpt2")).to_have_count(0)
    expect(page.get_by_test_id("preset-bert-base")).to_be_visible()
    page.get_by_test_id("open-bert-base").click()
    expect(page.get_by_test_id("size-results")).to_have_count(0)
    assert "view=architecture" in page.url
    assert ".preset=bert-base" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, served, axe, scheme):
    page = opened(width=390, height=800, scheme=scheme)
    look(page, served("encoder_decoder"), of="t5-small")
    agrees(page, size("t5-small"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
