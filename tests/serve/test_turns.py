"""The model and the loop take turns: streams are written to together, and nobody's slowness holds up the others."""

import json
import time
from types import SimpleNamespace

import httpx
from serving import loaded, served

from pellucid.serve import worker
from pellucid.serve.limits import Limits
from pellucid.serve.metrics import Metrics

PROMPT = {"prompt": "the cat", "max_tokens": 40, "temperature": 0, "logit_bias": {"1": -100, "2": -100}}


def events_of(background, body):
    """When each came, and the text of all."""
    times, text = [], ""
    with httpx.stream("POST", f"{background.url}v1/completions", json={**body, "stream": True}, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
                text += json.loads(line[6:])["choices"][0]["text"]
    return times, text


def whole(background, body):
    answer = httpx.post(f"{background.url}v1/completions", json=body, timeout=60)
    return answer.json()["choices"][0]["text"]


def test_a_lone_stream_is_written_to_after_every_step():
    with served(loaded("decoder"), slow=0.01) as background:
        times, text = events_of(background, PROMPT)
        assert text == whole(background, PROMPT)
        assert len(times) > 30


def test_where_streams_are_many_several_tokens_are_written_at_once(monkeypatch):
    monkeypatch.setattr(worker, "WRITES", 10)  # one stream is then as many as a hundred
    with served(loaded("decoder"), slow=0.02) as background:
        began = time.monotonic()
        times, text = events_of(background, PROMPT)
        assert text == whole(background, PROMPT)
        assert 3 <= len(times) < 20
        assert times[0] - began < (times[-1] - began) / 2  # the first is not waited for


def test_the_model_does_not_wait_for_a_loop_that_hears_nothing(monkeypatch):
    monkeypatch.setattr(worker, "TURN", 0.001)
    monkeypatch.setattr(worker.Worker, "_hear", _deaf(worker.Worker._hear))
    with served(loaded("decoder")) as background:
        assert whole(background, PROMPT)


def test_questions_do_not_hold_up_what_is_being_written(monkeypatch):
    monkeypatch.setattr(worker, "ASIDE", 0.0)
    own, asked = worker.Worker(SimpleNamespace(has_work=True), Limits(), Metrics()), []

    def question():
        asked.append(len(asked))
        if len(asked) < 100:  # whoever is answered asks again before the next step
            own._orders.put(question)

    own._orders.put(question)
    own._obey()
    assert asked == [0]


def _deaf(hear):
    """Hears everything, and never says so."""

    class Nobody:
        def set(self):
            pass

    return lambda self, news, heard: hear(self, news, Nobody())
