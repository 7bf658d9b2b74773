"""The doctor in a browser: its report, and from a finding to the view that shows it."""

import json

import pytest
import torch
from exploring import TARGET, TEXT, Served, cell, loaded, serve, value
from families import FAMILIES
from playwright.sync_api import expect

import pellucid as pl
from pellucid.explorer.app import create_app
from pellucid.explorer.routes.doctor import spec_of
from pellucid.explorer.session import Session

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def without_scale(one):
    """A layer whose scores are not divided by √head_dim; in an encoder–decoder the one that reads the source."""
    model = one.model
    if hasattr(model, "decoder"):
        model.decoder.blocks[1].cross_attention.scale = 1.0
    else:
        model.blocks[1].self_attention.scale = 1.0


def without_mask(one):
    """Whatever writes sees the future."""
    getattr(one.model, "decoder", one.model).causal = False


@pytest.fixture(scope="module")
def broken():
    """A function from a family and a fault to a server of a model that has it."""
    started, servers = {}, []

    def start(family, fault):
        if (family, fault) not in started:
            one, mine = loaded(family), loaded(family)
            for each in (one, mine):
                fault(each)
            example = (TEXT, TARGET if family == "encoder_decoder" else None)
            session = Session(one, family, example=example)
            url, server = serve(create_app(session))
            servers.append(server)
            started[family, fault] = Served(family, mine, session, url)
        return started[family, fault]

    yield start
    for server in servers:
        server.should_exit = True


def look(page, one, **pinned):
    page.goto(one.link("doctor", **pinned))
    page.locator('[data-testid="doctor-view"][data-ready]').wait_for(timeout=60_000)


def report_of(one, level="quick"):
    return pl.doctor(one.loaded.model, spec_of(one.session, one.session.models["main"]), level)


def agrees(page, report):
    """Every finding, its status and what was seen are on the page."""
    rows = page.get_by_test_id("findings").locator("tbody tr[data-status]")
    expect(rows).to_have_count(len(report.findings))
    for finding in report.findings:
        row = page.get_by_test_id(f"finding-{finding.check}")
        assert row.get_attribute("data-status") == finding.status
        assert finding.seen in " ".join(row.inner_text().split()) or not finding.seen
    expect(page.get_by_test_id("doctor-headline")).to_have_attribute("data-healthy", str(report.healthy).lower())
    for status in {finding.status for finding in report.findings}:
        assert value(page.get_by_test_id(f"count-{status}")) == len(report.of(status))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_healthy_model(page, served, axe, family):
    one = served(family)
    look(page, one)
    report = report_of(one)
    assert report.healthy
    agrees(page, report)
    expect(page.get_by_test_id("cause")).to_have_count(0)
    page.get_by_test_id("doctor-level").get_by_text("standard").click()
    page.locator('[data-testid="doctor-view"][data-ready$="standard"]').wait_for(timeout=60_000)
    agrees(page, report_of(one, "standard"))
    assert ".doctor.level=standard" in page.url
    axe(page)


@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_from_a_cause_to_its_finding_and_to_the_view_that_shows_it(page, broken, family):
    one = broken(family, without_scale)
    look(page, one)
    report = report_of(one)
    agrees(page, report)
    assert [finding.check for finding in report.failed] == ["attn.scale"]
    (diagnosis,) = report.diagnoses
    cause = page.get_by_test_id("cause")
    expect(cause).to_have_count(1)
    expect(cause).to_contain_text(diagnosis.name)
    page.get_by_test_id("explains-attn.scale").click()
    opener = page.get_by_test_id("open-attn.scale")
    expect(opener).to_be_focused()
    expect(opener).to_have_attribute("aria-expanded", "true")
    finding, detail = report["attn.scale"], page.get_by_test_id("detail")
    for text in (finding.done, finding.where, finding.cause, finding.fix, *finding.references):
        expect(detail).to_contain_text(text)
    for name, figure in finding.evidence.items():
        if isinstance(figure, float):
            shown = detail.get_by_test_id("evidence").locator("div", has_text=name.replace("_", " ")).first
            assert value(shown.locator("dd")) == pytest.approx(figure, rel=1e-12)
    assert page.get_by_test_id("repro").inner_text().strip() == finding.repro().strip()

    detail.get_by_test_id("opens").click()
    page.get_by_test_id("doctor-view").wait_for(state="detached")
    address = page.evaluate("decodeURIComponent(location.hash)")
    tower, kind = ("decoder.", "cross") if family == "encoder_decoder" else ("", "self")
    assert "view=qkv" in address
    assert "layer=1" in address
    assert ("kind=cross" in address) == (kind == "cross")
    expect(page.get_by_test_id("pick-layer")).to_have_value("1")
    assert f"{tower}blocks.1.{kind}_attention multiplies by 1" in finding.seen
    page.go_back()
    page.get_by_test_id("detail").wait_for()  # where one left, without asking anew
    assert page.get_by_test_id("detail").get_attribute("data-check") == "attn.scale"


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_a_missing_mask_is_seen_in_the_map_and_in_the_view_of_masks(page, broken, family):
    one = broken(family, without_mask)
    look(page, one)
    report = report_of(one)
    agrees(page, report)
    evidence = report["influence.map"].evidence["map"]
    ahead = sum(moved > 0 for i, row in enumerate(evidence) for moved in row[i + 1 :])
    assert ahead == len(evidence) * (len(evidence) - 1) / 2
    assert int(page.get_by_test_id("influence").get_attribute("data-ahead")) == ahead
    page.get_by_test_id("influence-map-box").click(position=cell(page, 2, 5, "influence-map"))
    page.get_by_test_id("influence-map").get_by_test_id("as-table").click()
    first = page.get_by_test_id("influence-map").locator("tbody tr").first.locator("td").all_inner_texts()
    assert [float(text) for text in first] == pytest.approx(evidence[0][: len(first)], rel=1e-3, abs=1e-9)

    page.get_by_test_id("open-attn.mask").click()
    page.get_by_test_id("opens").click()
    page.locator('[data-testid="mask"][data-ready]').wait_for()
    tower = "decoder." if family == "encoder_decoder" else ""
    mask = one.trace().value(f"{tower}blocks.0.self_attention.mask")[0, 0]
    assert bool(mask.all())  # nothing is hidden
    assert int(page.get_by_test_id("counts").get_attribute("data-pairs")) == int(mask.sum())
    assert page.get_by_test_id("rule").get_attribute("data-causal") == "false"


def test_a_broken_model_opened_from_a_script(page):
    one = loaded("decoder")
    without_mask(one)
    with pl.explore(one.model, one.tokenizer, text=TEXT) as explorer:
        page.goto(f"{explorer.url}#1?view=doctor")
        page.get_by_test_id("cause").first.wait_for(timeout=60_000)
        opens = page.get_by_test_id("cause-opens").first
        assert opens.get_attribute("data-view") == "masking"
        opens.click()
        page.locator('[data-testid="mask"][data-ready]').wait_for()
        pairs = int(page.get_by_test_id("counts").get_attribute("data-pairs"))
        assert pairs == len(torch.tensor(one.tokenizer.encode(TEXT))) ** 2
        page.goto("about:blank")


def test_by_keyboard_and_what_is_shown(page, broken):
    look(page, broken("decoder", without_scale))
    show = page.get_by_test_id("doctor-show")
    rows = page.get_by_test_id("findings").locator("tbody tr[data-status]")
    total = rows.count()
    show.get_by_role("radio", name="to be looked at").focus()
    page.keyboard.press("Space")
    expect(rows).to_have_count(1)
    opener = page.get_by_test_id("open-attn.scale")
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("detail")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_test_id("opens")).to_be_focused()
    opener.press("Enter")
    expect(page.get_by_test_id("detail")).to_have_count(0)
    show.get_by_text("all").click()
    expect(rows).to_have_count(total)
    assert rows.first.get_attribute("data-status") == "FAIL"


def test_the_script_is_copied(opened, broken):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    one = broken("decoder", without_scale)
    look(page, one, **{".doctor.finding": "attn.scale"})
    page.get_by_test_id("copy-repro").click()
    expect(page.get_by_test_id("copy-repro")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == report_of(one)["attn.scale"].repro()


# A server that is stuck at its fourth question.
STUCK = """(line) => {
    const plain = window.fetch;
    window.fetch = (path, options) => {
        if (!String(path).includes("level=standard")) return plain(path, options);
        const start = (out) => {
            out.enqueue(new TextEncoder().encode(line + "\\n"));
            options.signal.addEventListener("abort", () => out.error(options.signal.reason));
        };
        window.asked = options.signal;
        return Promise.resolve(new Response(new ReadableStream({ start }), { status: 200 }));
    };
}"""


def test_progress_and_cancelling(page, served):
    look(page, served("encoder", num_layers=1))
    page.evaluate(STUCK, json.dumps({"question": "Does it keep the past?", "done": 3, "total": 12}))
    page.get_by_test_id("doctor-level").get_by_text("standard").click()
    progress = page.get_by_test_id("progress")
    expect(progress).to_contain_text("Does it keep the past?")
    assert float(progress.locator("progress").get_attribute("value")) == 0.25
    progress.get_by_test_id("cancel").click()
    expect(progress).to_have_count(0)
    assert page.evaluate("window.asked.aborted")
    expect(page.get_by_test_id("examine")).to_be_visible()
    expect(page.get_by_test_id("doctor-error")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, broken, axe, scheme):
    page = opened(width=390, height=844, scheme=scheme)
    look(page, broken("encoder_decoder", without_mask), **{".doctor.finding": "attn.mask"})
    page.get_by_test_id("detail").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe(page)
