"""The course of a run in a browser: the same head and answers at every checkpoint."""

import json

import pytest
import torch
from exploring import TARGET, TEXT, Served, loaded, same, serve, value, values
from families import FAMILIES
from playwright.sync_api import expect

from pellucid.config.optimisation import Checkpoints, Training
from pellucid.config.run import Characters, NoData, Run, fitting_objectives
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.inference.reading import read_ids
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded, load_weights, save_weights
from pellucid.trace import trace

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STEPS = (10, 20, 40, 80)
LOSSES = {step: 5.0 / (1 + 0.1 * step) for step in range(1, 81)}


def state(one, step):
    """The model at a checkpoint: as it is, and less of it."""
    model = build(one.model.config).eval()
    with torch.no_grad():
        for mine, its in zip(model.parameters(), one.model.parameters(), strict=True):
            mine.copy_(its * step / 100)
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function from a family to a server of a run that has kept four checkpoints."""
    started, servers = {}, []

    def start(family, keep=True):
        if (family, keep) not in started:
            one = loaded(family)
            config = one.model.config
            training = Training(steps=80, checkpoints=Checkpoints(keep=4 if keep else 0))
            run = Run(
                model=config,
                data=NoData(),
                tokenizer=Characters(),
                objective=fitting_objectives(config)[0](),
                training=training,
            )
            one = Loaded(one.model, one.tokenizer, run)
            folder = tmp_path_factory.mktemp(family)
            for step in STEPS if keep else ():
                (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)
                save_weights(state(one, step), folder / "checkpoints" / f"step-{step}" / "model.safetensors")
            lines = [{"step": step, "loss": loss, "learning_rate": step / 1e4} for step, loss in LOSSES.items()]
            lines += [
                {"step": step, "validation": {"loss": step / 7, "accuracy": 0.5}, "best": step == 80}
                for step in (40, 80)
            ]
            (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
            sample = [{"input": "the cat", "output": f"sat {step}", "reference": "sat 80"} for step in (40, 80)]
            said = [
                {"step": step, "name": "samples", "samples": [it]} for step, it in zip((40, 80), sample, strict=True)
            ]
            (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, said)) + "\n")
            example = (TEXT, TARGET if family == "encoder_decoder" else None)
            session = Session(one, family, folder=folder, example=example)
            url, server = serve(create_app(session))
            servers.append(server)
            started[family, keep] = Served(family, one, session, url)
        return started[family, keep]

    yield start
    for server in servers:
        server.should_exit = True


def tape(one, step=None):
    """What the model, or a checkpoint of it, makes of the page's tokens."""
    held = one.session.run(one.session.held(next(iter(one.session._passes))).asked)
    ids = [x[0].tolist() for x in held.reading.inputs]
    if step is None:
        model = one.loaded.model
    else:
        model = build(one.loaded.model.config).eval()
        load_weights(model, one.session.checkpoints[f"step-{step}"])
    return trace(model, read_ids(Loaded(model, one.loaded.tokenizer, None), *ids).inputs)


def look(page, one, **pinned):
    tower = {"tower": "decoder."} if one.family == "encoder_decoder" else {}
    page.goto(one.link("training", **{**tower, "layer": 1, "head": 2, **pinned}))
    page.get_by_test_id("multiples").wait_for()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_head_at_every_checkpoint(page, runs, axe, family):
    one = runs(family)
    look(page, one, kind="cross")
    kind = "cross" if family == "encoder_decoder" else "self"
    name = f"{'decoder.' if kind == 'cross' else ''}blocks.1.{kind}_attention.weights"
    multiples = page.get_by_test_id("multiples")
    expect(multiples).to_have_attribute("data-name", name)
    expect(multiples.get_by_test_id("small")).to_have_count(len(STEPS) + 1)
    for key in (*(f"step-{step}" for step in STEPS), "main"):
        ready = page.locator(f'[data-testid="map-{key}"] [data-testid="small"][data-ready]')
        ready.wait_for()
        path = ready.get_attribute("data-ready")
        told = page.evaluate(
            "async path => Array.from(new Float32Array(await (await fetch('.' + path)).arrayBuffer()))", path
        )
        expected = tape(one, None if key == "main" else int(key[5:]))[name][0, 2]
        assert told == same(expected.flatten().tolist())
    axe(page)


@pytest.mark.parametrize("family", FAMILIES)
def test_scrubbing_moves_everything(page, runs, family):
    one = runs(family)
    look(page, one)
    slider = page.get_by_test_id("checkpoint")
    slider.focus()
    slider.press("Home")
    for place, step in enumerate(STEPS):
        if place:
            slider.press("ArrowRight")
        expect(page.get_by_test_id(f"map-step-{step}").get_by_role("button")).to_have_attribute("aria-pressed", "true")
        assert f".checkpoint=step-{step}" in page.url
        assert value(page.get_by_test_id("training-loss")) == LOSSES[step]
        assert value(page.get_by_test_id("learning-rate")) == step / 1e4
        assert value(page.get_by_test_id("validation-loss")) == (40 if step < 60 else 80) / 7
        logits = tape(one, step)["logits"][0]
        place_of_answer = len(logits) - (2 if family == "encoder_decoder" else 1)
        expected = logits[place_of_answer].double().softmax(-1)
        best = int(expected.argmax())
        expect(page.get_by_test_id(f"answer-{best}")).to_be_visible()
        page.wait_for_function(
            "([id, p]) => Math.abs(document.querySelector(`[data-testid=answer-${id}]`)?.dataset.value - p) < 1e-6",
            arg=[best, expected[best].item()],
        )
    expect(page.get_by_test_id("samples")).to_have_attribute("data-step", "80")
    expect(page.get_by_test_id("samples")).to_contain_text("sat 80")
    slider.press("End")
    expect(page.get_by_test_id("map-main").get_by_role("button")).to_have_attribute("aria-pressed", "true")
    assert "checkpoint" not in page.url


def test_an_answer_is_followed_over_the_steps(page, runs):
    one = runs("decoder")
    look(page, one)
    asked = page.get_by_test_id("after").get_by_role("option").nth(2)
    asked.click()
    assert ".after=2" in page.url
    expect(asked).to_have_attribute("aria-selected", "true")  # until then the answers are those of another place
    page.get_by_test_id("answers").locator("button[aria-pressed]").nth(1).click()
    chosen = int(page.get_by_test_id("answers").locator("[data-testid]").nth(1).get_attribute("data-testid")[7:])
    curve = page.get_by_test_id("over-steps")
    curve.get_by_role("button", name="Table").click()
    expect(curve.get_by_role("row")).to_have_count(1 + len(STEPS))  # the kept weights are those of the last
    page.get_by_test_id("map-step-20").get_by_role("button").click()
    expected = tape(one, 20)["logits"][0, 2].double().softmax(-1)[chosen].item()
    page.wait_for_function(
        "p => Math.abs(document.querySelector('[data-testid=over-steps-at]')?.dataset.value - p) < 1e-6", arg=expected
    )
    assert values(page.get_by_test_id("over-steps-at")) == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_without_checkpoints_says_how_to_keep_them(page, runs, family):
    page.goto(runs(family, keep=False).link("training"))
    expect(page.get_by_test_id("advice")).to_contain_text("training.checkpoints.keep is 0")
    expect(page.get_by_test_id("advice")).to_contain_text("training.checkpoints.keep=20 training.checkpoints.every=100")
    expect(page.get_by_test_id("loss")).to_be_visible()
    expect(page.get_by_test_id("multiples")).to_have_count(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_memory_has_no_course(page, served, axe, family):
    page.goto(served(family).link("training"))
    expect(page.get_by_test_id("advice")).to_contain_text("held in memory")
    expect(page.get_by_test_id("advice")).to_contain_text("pellucid explore runs/NAME")
    expect(page.get_by_test_id("loss")).to_have_count(0)
    axe(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, runs, axe, scheme):
    page = opened(width=390, height=800, scheme=scheme)
    look(page, runs("encoder_decoder"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
