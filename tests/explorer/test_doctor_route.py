"""What the page is told by the doctor is what ``pl.doctor`` says of the same model."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from exploring import loaded
from families import FAMILIES
from fastapi.testclient import TestClient
from test_server import page  # noqa: F401

import pellucid as pl
from pellucid.config.files import dump_json
from pellucid.doctor.checks import CHECKS
from pellucid.explorer.app import create_app
from pellucid.explorer.asked import Input
from pellucid.explorer.questions import questions
from pellucid.explorer.routes import doctor as route
from pellucid.explorer.session import Session

pytestmark = pytest.mark.usefixtures("page")


def opened(family, **more):
    one = loaded(family)
    session = Session(one, family, example=("the cat sat", "a dog" if family == "encoder_decoder" else None), **more)
    return one, session, TestClient(create_app(session), raise_server_exceptions=False)


def asked(client, key="main", level="quick"):
    answer = client.get(f"/api/models/{key}/doctor", params={"level": level})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def without_time(report):
    return {name: value for name, value in report.items() if name not in ("seconds", "headline", "questions")}


@pytest.mark.parametrize("level", ["quick", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_is_that_of_the_doctor(family, level):
    one, session, client = opened(family)
    *before, last = asked(client, level=level)
    expected = pl.doctor(one.model, route.spec_of(session, session.models["main"]), level)
    assert without_time(last["report"]) == json.loads(dump_json(without_time(expected.as_dict())))
    assert [line["done"] for line in before] == list(range(len(before)))
    assert {line["total"] for line in before} == {len(before)} == {len(expected.findings)}
    assert {line["question"] for line in before} <= set(last["report"]["questions"].values())
    assert last["report"]["questions"] == {check.name: check.question for check in CHECKS}
    assert not one.model.training
    assert expected.healthy


def test_it_is_asked_once_for_each_model_and_level():
    other = loaded("decoder")
    other.model.causal = False  # the same weights, and another model
    _, session, client = opened("decoder", others={"other": other})
    first, again = asked(client), asked(client)
    assert len(first) > len(again) == 1
    assert first[-1] == again[-1]
    assert first[-1]["report"]["healthy"]
    broken = asked(client, "other")[-1]["report"]
    failed = {finding["check"] for finding in broken["findings"] if finding["status"] == "FAIL"}
    assert {"causal.prefix_invariance", "attn.mask"} <= failed
    assert {(key, level) for key, _, level in session.reports} == {("main", "quick"), ("other", "quick")}


def test_a_model_that_has_changed_is_examined_anew():
    one, _, client = opened("decoder")
    assert asked(client)[-1]["report"]["healthy"]
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.mul_(torch.nan)
    assert not asked(client)[-1]["report"]["healthy"]


def test_what_cannot_be_asked():
    _, _, client = opened("encoder")
    assert client.get("/api/models/mine/doctor").status_code == 422
    for level in ("deep", "full"):  # the full one takes long: it is asked for in a terminal
        assert client.get("/api/models/main/doctor", params={"level": level}).status_code == 422


def test_an_exported_page_has_the_report():
    _, session, client = opened("decoder")
    held = session.run(Input(text="the cat sat"))
    path = f"/api/models/main/doctor?identity={session.models['main'].identity}&level=quick"  # as the page asks
    assert (path, None) in list(questions(session, held))[:200]
    assert client.get(path).status_code == 200


def test_whoever_leaves_ends_it_at_the_next_question():
    one, session, _ = opened("decoder")
    weights = {name: value.clone() for name, value in one.model.state_dict().items()}
    ended = threading.Event()

    async def do(work):
        def worked():
            try:
                return work()
            finally:
                ended.set()

        return await asyncio.to_thread(worked)

    async def leave():
        found = route._examined(SimpleNamespace(session=session, do=do), session.models["main"], "quick")
        line = await anext(found)
        await found.aclose()
        return line

    with ThreadPoolExecutor(1) as apart:  # this thread may have a loop already, as of a browser
        line = apart.submit(asyncio.run, leave()).result()
    assert line["done"] == 0
    assert ended.wait(30)
    assert not session.reports  # it did not go on to the end
    assert all(value.equal(weights[name]) for name, value in one.model.state_dict().items())
