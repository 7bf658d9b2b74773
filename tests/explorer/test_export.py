"""The page as one file: what it carries is what the server says, and it needs none."""

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from exploring import TARGET, TEXT, loaded, same, value
from families import CHOICES, FAMILIES
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from pellucid.errors import CheckpointError, UserError
from pellucid.explorer import app as server
from pellucid.explorer import questions
from pellucid.explorer.app import create_app
from pellucid.explorer.export import PAGE, PLACE, export_html
from pellucid.explorer.opening import open_session
from pellucid.explorer.session import Limits, Session


def session_of(family, **options):
    one = loaded(family)
    return one, Session(one, family, example=(TEXT, TARGET if family == "encoder_decoder" else None), **options)


def told(path):
    """What a file carries."""
    text = path.read_text(encoding="utf-8")
    begin = text.index("window.__pellucid__=") + len("window.__pellucid__=")
    return json.loads(text[begin : text.index("</script>", begin)])


def alike(a, b):
    """The same JSON, numbers up to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a if name not in ("seconds", "error"))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == (pytest.approx(b, rel=1e-4, abs=1e-5) if isinstance(b, float) else b)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A page that shows nothing: whether the real one was built is not the question here."""
    monkeypatch.setattr(questions, "EXPLAINED", 20)  # many more take their time
    (tmp_path / "index.html").write_text("<title>pellucid</title>")
    (tmp_path / PAGE).write_text(f"<html><head>{PLACE}</head></html>")
    monkeypatch.setattr(server, "STATIC", tmp_path)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    "family", ["decoder", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES if one != "decoder")]
)
def test_it_carries_every_tensor_and_what_the_server_says(tmp_path, family):
    _, session = session_of(family)
    kept = told(export_html(session, tmp_path / "page.html"))
    (id, tensors), *others = kept["tensors"].items()
    assert not others
    held = session.held(id)
    assert set(tensors) == set(held.tape.entries)
    for name, whole in tensors.items():
        assert "encoding" not in whole  # all of a small model are exact
        numbers = np.frombuffer(base64.b64decode(whole["octets"]), "<f4").reshape(whole["shape"])
        # Maps are not held: computed once more, they may differ in the last bit.
        torch.testing.assert_close(torch.tensor(numbers.copy()), held.value(name).float(), rtol=1e-5, atol=1e-6)
    client = TestClient(create_app(session))
    for key, answer in kept["answers"].items():
        method, path = key.split(" ", 1)
        if "/doctor?" in path:
            assert alike(client.get(path).json(), answer["json"][-1]), key  # asked again, it has nothing to ask
        elif method == "GET" and "json" in answer and "training" not in path:
            assert alike(client.get(path).json(), answer["json"]), key
    body = {"text": TEXT, "model": "main", **({"target": TARGET} if family == "encoder_decoder" else {})}
    key = f"POST /api/passes {json.dumps(dict(sorted(body.items())), separators=(',', ':'))}"
    assert kept["answers"][key]["json"]["id"] == id
    assert session.example[0] == TEXT


@pytest.mark.parametrize("length", [1, 31, 32, 33, 40, 64, 100])
def test_the_lens_is_there_wherever_somebody_stands(length):
    found = questions.windows(length)
    for place in range(length):  # as web/src/views/Residual.svelte reckons it
        start = max(0, min(place // 16 * 16 - 8, length - 32))
        assert (start, min(length, start + 32)) in found


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("choice", "asked"), [("rotary", "/turned?"), ("alibi", "/positions/biases?")])
def test_how_positions_are_told_comes_along(tmp_path, choice, asked):
    one = loaded("decoder", **CHOICES[choice])
    kept = told(export_html(Session(one, "decoder", example=(TEXT, None)), tmp_path / "page.html"))["answers"]
    assert any(asked in key for key in kept)


@pytest.mark.usefixtures("bare")
def test_a_budget_is_kept_and_pictures_come_first(tmp_path):
    _, session = session_of("decoder")
    sizes = []
    for budget in (0.02, 0.1, 0.4, 24):
        path = export_html(session, tmp_path / "page.html", budget=budget)
        sizes.append(path.stat().st_size)
        assert sizes[-1] < 1.3e6 * budget + 5000
        kept = told(path)["tensors"]
        (tensors,) = kept.values()
        maps = [tensors.get(f"blocks.{i}.self_attention.weights") for i in range(2)]
        assert all(maps), budget
    assert sizes == sorted(sizes)
    kept = told(export_html(session, tmp_path / "page.html", budget=0.02))
    (tensors,) = kept["tensors"].values()
    assert {one.get("encoding", "f32") for one in tensors.values()} - {"f32"}  # some in eight bits


@pytest.mark.usefixtures("bare")
def test_texts_cannot_leave_the_script(tmp_path):
    _, session = session_of("decoder")
    path = export_html(session, tmp_path / "page.html", text="the </script><!-- cat")
    assert path.read_text().count("</script>") == 1
    assert told(path)["answers"]["GET /api/session"]["json"]["example"]["text"] == "the </script><!-- cat"
    assert session.example == (TEXT, None)


@pytest.mark.usefixtures("bare")
def test_another_model_comes_along(tmp_path):
    _, session = session_of("decoder", others={"other": loaded("decoder", num_layers=1)})
    kept = told(export_html(session, tmp_path / "page.html"))
    first, second = kept["tensors"]
    assert f"GET /api/passes/{first}/partings?other={second}" in kept["answers"]
    assert "GET /api/models/other" in kept["answers"]


@pytest.mark.usefixtures("bare")
def test_from_within_a_running_loop(tmp_path):
    _, session = session_of("encoder")

    async def notebook():
        return export_html(session, tmp_path / "page.html")

    with ThreadPoolExecutor(1) as pool:  # in this thread the browser of other tests may have its loop
        assert told(pool.submit(asyncio.run, notebook()).result())["tensors"]


@pytest.mark.usefixtures("bare")
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    _, session = session_of("encoder_decoder", limits=Limits(tokens=40))
    with pytest.raises(UserError, match="no folder"):
        export_html(session, tmp_path / "no" / "page.html")
    with pytest.raises(UserError, match="budget"):
        export_html(session, tmp_path / "page.html", budget=0)
    with pytest.raises(UserError, match="tokens"):
        export_html(session, tmp_path / "page.html", text="the cat " * 10, target="a dog")
    (tmp_path / PAGE).unlink()
    with pytest.raises(CheckpointError, match="missing from this installation"):
        export_html(session, tmp_path / "page.html")


# ---- in a browser, from a file -------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function from a family to an exported page."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}

    def export(family):
        if family not in made:
            _, session = session_of(family)
            made[family] = session, export_html(session, folder / f"{family}.html").as_uri()
        return made[family]

    return export


def views(page):
    page.get_by_test_id("rail").wait_for()
    ids = [one.get_attribute("data-testid")[5:] for one in page.locator('[data-testid^="view-"]').all()]
    return [id for id in ids if id != "select"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.browser
@pytest.mark.slow
def test_every_view_opens_without_a_server(page, files, faults, family):
    faults.allow("request to file:")
    _, address = files(family)
    page.goto(address)
    page.get_by_test_id("loading").wait_for(state="detached")
    found = views(page)
    assert len(found) >= 14
    for view in found:
        page.get_by_test_id(f"view-{view}").click()
        page.wait_for_timeout(1200)
        said = page.locator("main").inner_text()
        assert "exported without this answer" not in said, (view, said)
        assert len(said) > 100, view


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.browser
@pytest.mark.slow
def test_numbers_are_the_models_own(page, files, faults, family):
    faults.allow("request to file:")
    session, address = files(family)
    (held,) = [one for one in session._passes.values() if one.asked.text == TEXT and not one.asked.ids][:1]
    tower = "decoder." if family == "encoder_decoder" else ""
    name = f"{tower}blocks.1.self_attention.weights"
    expected = held.value(name)[0, 2, 3].tolist()
    page.goto(f"{address}#1?view=attention&tower={tower}&layer=1&head=2&query=3&key=1")
    number = page.get_by_test_id("matrix-value")
    assert value(number) == same(expected[1])
    rows = page.locator('[data-testid="attends"][data-place="3"] li')
    rows.first.wait_for()
    shown = {int(row.get_attribute("data-other")): value(row.get_by_test_id("weight")) for row in rows.all()}
    assert shown == same({place: expected[place] for place in shown})
    number.click()  # sums come along for the weights
    expect(page.get_by_test_id("explain-address")).to_have_text(f"{name}[0, 2, 3, 1]")
    assert value(page.get_by_test_id("explain-value")) == same(expected[1])


@pytest.mark.browser
@pytest.mark.slow
def test_what_needs_a_server_says_so(page, files, faults):
    faults.allow("request to file:")
    _, address = files("decoder")
    page.goto(f"{address}#1?view=size")
    page.get_by_test_id("size-results").wait_for()
    page.get_by_test_id("size-batch").fill("8")
    page.get_by_test_id("size-batch").press("Enter")
    expect(page.get_by_test_id("size-error")).to_have_text(
        "this page: it was exported without this answer. Run pellucid explore to ask a model for it"
    )
    assert page.get_by_test_id("run").is_disabled()


@pytest.mark.browser
@pytest.mark.slow
def test_the_model_that_comes_along(page, tmp_path, faults):
    faults.allow("request to file:")
    path = export_html(open_session(), tmp_path / "dates.html")
    assert path.stat().st_size < 10e6
    page.goto(f"{path.as_uri()}#1?view=residual")
    expect(page.locator("main")).to_contain_text("2071")
