"""The service stays up and keeps to its limits: clients that leave, lines that are full, strangers, faults, the end."""

import asyncio
import json
import math
import threading
import time

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from serving import classifier, endless, http, loaded, served, settled

from pellucid.errors import UserError
from pellucid.serve import run
from pellucid.serve.app import create_app
from pellucid.serve.errors import ServiceError
from pellucid.serve.limits import Limits
from pellucid.serve.metrics import Metrics
from pellucid.serve.service import Service, of_loaded
from pellucid.serve.worker import Worker


def test_a_client_that_leaves_frees_its_row(decoder):
    with served(decoder, slow=0.02) as background, http(background) as client:
        for stream in (True, False):
            body = endless(decoder, max_tokens=4000, stream=stream)
            if stream:
                with client.stream("POST", "/v1/completions", json=body) as answer:
                    next(answer.iter_lines())
                    assert background.service.worker.rows == 1
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/completions", json=body, timeout=0.5)
            assert settled(background)
        counted = client.get("/metrics").text
    assert 'pellucid_texts_total{reason="cancelled"} 2.0' in counted


def test_a_full_line_is_told_to_come_back(decoder):
    limits = Limits(rows=1, waiting=1, new_tokens=10**6)
    with served(decoder, limits=limits, slow=0.02) as background, http(background) as client:
        body = endless(decoder, max_tokens=10**5, stream=True)
        with client.stream("POST", "/v1/completions", json=body) as first:
            lines = first.iter_lines()  # kept: a stream whose lines nobody holds is closed
            next(lines)
            waiting = threading.Thread(target=_given_up, args=(background, {**body, "stream": False}))
            waiting.start()
            while background.service.worker.waiting < 1:
                time.sleep(0.01)
            busy = client.post("/v1/completions", json=body)
            waiting.join()
        assert settled(background)
    assert busy.status_code == 429
    assert int(busy.headers["retry-after"]) >= 1
    assert busy.json()["error"]["code"] == "queue_full"


def _given_up(background, body):
    with pytest.raises(httpx.ReadTimeout):
        http(background).post("/v1/completions", json=body, timeout=1.5)


def test_limits_of_a_request(decoder):
    limits = Limits(prompt_tokens=20, new_tokens=50, seconds=0.5, body_bytes=2000, texts=3)
    with served(decoder, limits=limits, slow=0.05) as background, http(background) as client:

        def refused(status, **body):
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == status, answer.text
            return answer.json()["error"]["message"]

        assert "at most 20" in refused(400, prompt="the cat sat on the mat")
        assert "at most 20" in refused(400, prompt=[3] * 21)
        assert "at most 50" in refused(400, prompt="a", max_tokens=51)
        assert "at most 3" in refused(400, prompt=["a"] * 4)
        assert "at most 3" in refused(400, prompt="a", n=4)
        assert "2,000" in refused(413, prompt="a" * 3000)
        assert "0.5 s" in refused(408, **endless(decoder, max_tokens=50))
        with client.stream("POST", "/v1/completions", json=endless(decoder, max_tokens=50, stream=True)) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert answer.status_code == 200
        assert json.loads(lines[-1][6:])["error"]["code"] == "timeout"
        assert settled(background)


def test_positions_that_a_model_has():
    from pellucid.config import parts

    model = loaded("decoder", positions=parts.Learned(max_length=12))
    with served(model) as background, http(background) as client:
        fits = client.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 6, "temperature": 0})
        usual = client.post("/v1/completions", json={"prompt": "the cat"})
        long = client.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 7})
    assert (fits.status_code, usual.status_code, long.status_code) == (200, 200, 400)
    assert "7 tokens and 7 new ones; this model has positions for 12" in long.json()["error"]["message"]


def test_a_key_is_asked_for(decoder):
    with served(decoder, api_key="sesame") as background:
        for path in ("/healthz", "/readyz"):
            assert http(background).get(path).status_code == 200
        for headers in ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "Basic sesame"}):
            for path in ("/v1/models", "/metrics", "/openapi.json"):
                refused = http(background, **headers).get(path)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
        assert http(background, Authorization="Bearer sesame").get("/v1/models").status_code == 200
        with openai.OpenAI(base_url=f"{background.url}v1", api_key="sesame") as client:
            assert client.models.list().data[0].id == "demo"


def test_other_hosts_and_pages_are_refused(server):
    with http(server) as client:
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/healthz", headers={"Host": "[::"}).status_code == 403
        assert client.get("/healthz", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.get("/healthz", headers={"Origin": "null"}).status_code == 403
        assert client.get("/healthz", headers={"Origin": "http://localhost:3000"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "192.0.2.1"}).status_code == 403


def test_a_service_for_others_takes_addresses_but_no_names():
    app = create_app(of_loaded(loaded("encoder"), "demo"), hosts=("known.example",), addresses=True)
    with TestClient(app, base_url="http://192.0.2.1") as client:  # with the worker's thread
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", headers={"Host": "known.example"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/healthz", headers={"Origin": "http://192.0.2.1"}).status_code == 200
        assert client.get("/healthz", headers={"Origin": "http://192.0.2.2"}).status_code == 403


def test_metrics_and_request_ids(server):
    with http(server) as client:
        answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert len(answer.headers["x-request-id"]) == 16
        text = client.get("/metrics").text
    assert 'pellucid_requests_total{path="/v1/completions",status="200"}' in text
    assert "pellucid_rows 0.0" in text
    assert "pellucid_first_token_seconds_count" in text


def test_what_runs_is_finished_at_the_end(decoder):
    with served(decoder, slow=0.02) as background:
        found = []
        body = endless(decoder, max_tokens=40)

        def ask():
            found.append(http(background).post("/v1/completions", json=body))

        asking = threading.Thread(target=ask)
        asking.start()
        while background.service.worker.rows < 1:
            time.sleep(0.01)
    asking.join()
    assert found[0].status_code == 200
    assert found[0].json()["usage"]["completion_tokens"] == 40
    assert not background.service.worker._thread.is_alive()


def test_what_cannot_be_finished_is_given_up(decoder):
    with served(decoder, slow=0.02, grace=1, limits=Limits(new_tokens=10**6)) as background:
        body = endless(decoder, max_tokens=10**5, stream=True)

        def ask():
            with (
                pytest.raises(httpx.RemoteProtocolError),
                http(background) as client,
                client.stream("POST", "/v1/completions", json=body) as answer,
            ):
                answer.read()

        asking = threading.Thread(target=ask)
        asking.start()
        while background.service.worker.rows < 1:
            time.sleep(0.01)
        began = time.monotonic()
    asking.join()
    assert time.monotonic() - began < 10
    assert not background.service.worker._tickets


def test_a_fault_is_told_and_forgotten(decoder):
    with served(decoder) as background, http(background) as client:
        scheduler = background.service.worker.scheduler
        step = scheduler.step

        def fails():
            scheduler.step = step
            raise RuntimeError("a fault")

        scheduler.step = fails
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 500
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200
        assert settled(background)


def test_a_model_that_cannot_run_says_so(decoder, monkeypatch):
    def fail(self):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(Service, "warm", fail)
    monkeypatch.setattr(run, "PATIENCE", 0.5)
    with served(decoder) as background, http(background) as client:
        for answer in (client.get("/readyz"), client.post("/v1/completions", json={"prompt": "a"})):
            assert answer.status_code == 503
            assert "no memory left" in answer.text


@pytest.mark.parametrize("asked", [{"invariant": True}, {"prefix_tokens": 100}])
def test_what_an_encoder_could_not_obey_is_refused(asked):
    with pytest.raises(UserError, match=next(iter(asked))):
        of_loaded(classifier(), "demo", **asked)


def test_prefixes_are_of_prompts():
    with pytest.raises(UserError, match=r"prefix_tokens.*EncoderDecoder.*decoder"):
        of_loaded(loaded("encoder_decoder"), "demo", prefix_tokens=100)


def test_an_invariant_service_counts_the_room_of_its_groups(decoder):
    service = of_loaded(decoder, "demo", invariant=True, limits=Limits(tokens=1000))
    assert service.limits.tokens == 1000 // service.writer.group


def test_questions_that_are_refused_leave_nothing_behind():
    worker = Worker(None, Limits(), Metrics())
    worker.failure = "the model could not be run"
    with pytest.raises(ServiceError):
        asyncio.run(worker.together("embed", list, ["a"]))
    assert not any(worker._asked.values())


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_model_that_cannot_be_run_any_more_is_not_ready(kind, decoder, monkeypatch):
    model, path = (decoder, "/v1/completions") if kind == "decoder" else (classifier(), "/v1/embeddings")
    body = {"prompt": "a"} if kind == "decoder" else {"input": "a"}

    def fails(*given, **named):
        raise RuntimeError("device-side assert triggered")

    with served(model) as background, http(background) as client:
        assert client.get("/readyz").status_code == 200
        if kind == "decoder":
            monkeypatch.setattr(background.service.worker.scheduler, "step", fails)
        else:
            monkeypatch.setattr("pellucid.inference.predict.embed", fails)
        assert client.post(path, json=body).status_code == 500
        until = time.monotonic() + 10
        while client.get("/readyz").status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.01)
        refused = client.post(path, json=body)
    assert refused.status_code == 503
    assert "device-side assert" in refused.json()["error"]["message"]


def test_a_model_that_can_be_run_again_is_ready_again(decoder, monkeypatch):
    monkeypatch.setattr("pellucid.serve.worker.AGAIN", 0.05)
    with served(decoder) as background, http(background) as client:
        worker = background.service.worker
        step, warm, failed = worker.scheduler.step, worker._warm, []

        def fails(*given):
            failed.append(client.get("/readyz").status_code)
            if len(failed) == 2:  # a step, and the trial after it
                worker.scheduler.step, worker._warm = step, warm
            raise RuntimeError("out of memory")

        worker.scheduler.step = worker._warm = fails
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 500
        until = time.monotonic() + 10
        while len(failed) < 2 or client.get("/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_first_token_is_counted_when_it_is_there_whoever_waits_for_the_last(decoder):
    with served(decoder, slow=0.02) as background, http(background) as client:
        client.post("/v1/completions", json=endless(decoder, max_tokens=40))
        counted = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(counted["pellucid_first_token_seconds_count"]) == 1
    first, whole = (float(counted[f"pellucid_{name}_seconds_sum"]) for name in ("first_token", "text"))
    assert first < whole / 2


def test_a_service_may_take_any_time_to_end(decoder):
    app = create_app(of_loaded(decoder, "demo"))
    assert run.server(app, grace=math.inf).config.timeout_graceful_shutdown is None
    assert run.server(app, grace=1.5).config.timeout_graceful_shutdown == 2


@pytest.mark.parametrize("name", ["example.org:8000", "https://example.org", "[::1]:80", ""])
def test_a_name_that_no_request_could_bring_is_refused(name):
    with pytest.raises(UserError, match="a name alone"):
        run.names_of("0.0.0.0", [name])


@pytest.mark.parametrize("api_key", [None, "sesame"])
def test_a_page_of_this_machine_may_ask_and_none_from_elsewhere(decoder, api_key):
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with served(decoder, api_key=api_key) as background:
        with http(background, Origin="http://localhost:3000", Authorization="Bearer sesame") as page:
            before = page.options("/v1/completions", headers=asks)
            assert before.status_code == 200
            assert "authorization" in before.headers["access-control-allow-headers"]
            answer = page.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        with http(background, Origin="https://elsewhere.example") as page:
            assert page.options("/v1/completions", headers=asks).status_code == 403
