"""The service answers what the model would, whoever else asks; and what it cannot answer, it says."""

import base64
import json
import threading
import time
from dataclasses import asdict

import httpx
import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from serving import classifier, loaded, served

from pellucid.config import model as config
from pellucid.inference import predict
from pellucid.inference.sampling import Sampling, Temperature, TopK
from pellucid.serve.app import create_app
from pellucid.serve.chat import ChatTemplate
from pellucid.serve.limits import Limits
from pellucid.serve.service import of_loaded

TEMPLATE = ChatTemplate("{% for message in messages %}{{ message.content }} {% endfor %}", {})
PROMPTS = ["the cat", "a", "on the mat a dog sat"]


@pytest.fixture(scope="module")
def decoder():
    return loaded("decoder")


@pytest.fixture(scope="module")
def server(decoder):
    with served(decoder, template=TEMPLATE) as background:
        yield background


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as client:
        yield client


def endless(model, **more):
    """What asks for a text that does not end by itself."""
    return {"prompt": "a", "temperature": 0, "logit_bias": {str(model.tokenizer.eos): -100}, **more}


def http(background, **headers):
    return httpx.Client(base_url=background.url, timeout=60, headers=headers)


def settled(background, seconds=10.0):
    """Waits until nothing is on its way; True when the thread has nothing left either."""
    worker, until = background.service.worker, time.monotonic() + seconds
    while time.monotonic() < until:
        left = worker.open or worker._tickets or worker.rows or worker.scheduler.has_work
        if not left:
            return True
        time.sleep(0.02)
    return False


# ---- OpenAI's client ----------------------------------------------------------------------------


def test_completions_are_the_models_own(decoder, client):
    answer = client.completions.create(model="demo", prompt=PROMPTS, max_tokens=9, temperature=0)
    assert [choice.text for choice in answer.choices] == predict.complete(decoder, PROMPTS, max_new_tokens=9)
    assert answer.usage.prompt_tokens == sum(len(decoder.tokenizer.encode(text)) for text in PROMPTS)
    assert answer.usage.completion_tokens <= 27
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}


def test_draws_are_those_of_the_seed(decoder, client):
    asked = {
        "model": "demo",
        "prompt": "the cat",
        "max_tokens": 9,
        "temperature": 1.5,
        "seed": 7,
        "extra_body": {"top_k": 5},
    }
    texts = [choice.text for choice in client.completions.create(n=2, **asked).choices]
    for nth, text in enumerate(texts):
        sampling = Sampling((Temperature(1.5), TopK(5)), seed=7 + nth)
        assert [text] == predict.complete(decoder, ["the cat"], max_new_tokens=9, sampling=sampling)


def test_a_stream_is_the_same_text(client):
    asked = {"model": "demo", "prompt": PROMPTS, "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    texts, usage = [""] * len(PROMPTS), None
    for chunk in client.completions.create(stream=True, stream_options={"include_usage": True}, **asked):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage


def test_conversations(decoder, client):
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    asked = {"model": "demo", "messages": messages, "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **asked)
    (choice,) = whole.choices
    assert [choice.message.content] == predict.complete(decoder, ["the cat sat "], max_new_tokens=6)
    assert len(choice.logprobs.content) == whole.usage.completion_tokens
    assert all(each.top_logprobs[0].logprob == each.logprob for each in choice.logprobs.content)  # greedy
    chunks = list(client.chat.completions.create(stream=True, **asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


def test_stop_strings_end_a_text(client):
    asked = {"model": "demo", "prompt": "the cat", "max_tokens": 30, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[4:6]
    cut = client.completions.create(stop=[stop], **asked)
    assert cut.choices[0].text == whole.split(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 30
    streamed = client.completions.create(stop=stop, stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == cut.choices[0].text


def test_an_answer_of_a_certain_form(client):
    pytest.importorskip("llguidance")
    asked = {"model": "demo", "prompt": "the cat", "max_tokens": 12, "temperature": 0}
    answer = client.completions.create(extra_body={"regex": "(a|t){3}"}, **asked)
    assert len(answer.choices[0].text) == 3
    assert set(answer.choices[0].text) <= set("at")
    with pytest.raises(openai.BadRequestError, match="regex"):
        client.completions.create(extra_body={"regex": "("}, **asked)


def test_models(client):
    (model,) = client.models.list().data
    assert client.models.retrieve("demo").id == model.id == "demo"
    with pytest.raises(openai.NotFoundError, match='this service has "demo"'):
        client.models.retrieve("other/model")


def test_errors_are_in_openais_form(client):
    asked = {"model": "demo", "prompt": "a"}
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-5", prompt="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="suffix is not supported here"):
        client.completions.create(suffix="x", **asked)
    with pytest.raises(openai.BadRequestError, match="at most 4,096") as long:
        client.completions.create(max_tokens=5000, **asked)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="ids of tokens"):
        client.completions.create(logit_bias={"a": 1}, **asked)
    with pytest.raises(openai.BadRequestError, match="it answers /v1/completions"):
        client.embeddings.create(model="demo", input="a")


def test_embeddings_are_the_models_own():
    model = loaded("encoder")
    with served(model) as background, openai.OpenAI(base_url=f"{background.url}v1", api_key="x") as client:
        answer = client.embeddings.create(model="demo", input=PROMPTS)  # asks for base64
        plain = client.embeddings.create(model="demo", input=PROMPTS, encoding_format="float")
        packed = http(background).post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
        wrong = http(background).post("/v1/completions", json={"prompt": "a"})
    wanted = predict.embed(model, PROMPTS).numpy()
    for found in (answer, plain):
        np.testing.assert_allclose([each.embedding for each in found.data], wanted, atol=1e-6)
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, wanted[1], atol=1e-6)
    assert wrong.status_code == 400
    assert "/v1/embeddings" in wrong.json()["error"]["message"]


# ---- what our families do besides ---------------------------------------------------------------


def test_translations_are_the_models_own():
    model = loaded("encoder_decoder")
    with served(model) as background, http(background) as client:
        greedy = client.post("/translate", json={"text": PROMPTS, "max_tokens": 9}).json()["translations"]
        asked = {"text": PROMPTS, "beams": 3, "hypotheses": 2, "max_tokens": 9}
        best = client.post("/translate", json=asked).json()["translations"]
        with client.stream("POST", "/translate", json={"text": "a", "max_tokens": 9, "stream": True}) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        scored = client.post("/score", json={"given": "the cat", "text": "a dog", "top": 2}).json()
        others = client.post("/alternatives", json={"source": "the cat", "text": "a dog", "positions": [2]}).json()
        wrong = client.post("/translate", json={"text": "a", "hypotheses": 2})
    assert [each["text"] for each in greedy] == predict.translate(model, PROMPTS, max_new_tokens=9)
    assert [each["text"] for each in best] == predict.translate(model, PROMPTS, beams=3, max_new_tokens=9)
    assert all(each["hypotheses"][0]["text"] == each["text"] and len(each["hypotheses"]) == 2 for each in best)
    assert "".join(event["text"] for event in events) == predict.translate(model, ["a"], max_new_tokens=9)[0]
    assert len(scored["tokens"]) == len("a dog") + 1  # and the end
    assert scored["logprob"] == pytest.approx(sum(each["logprob"] for each in scored["tokens"]))
    assert [len(each["best"]) for each in scored["tokens"]] == [2] * 6
    (place,) = others["places"]
    assert next(each["text"][:2] for each in place if each["piece"].isalpha()) == "a "
    assert [each["probability"] for each in place] == sorted((each["probability"] for each in place), reverse=True)
    assert wrong.status_code == 400


def test_scores_are_those_of_one_pass(decoder, server):
    ids = decoder.tokenizer.encode("the cat sat")
    with torch.inference_mode():
        scores = decoder.model(torch.tensor([ids]))[0, :-1].log_softmax(dim=-1)
    wanted = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    found = http(server).post("/score", json={"text": "the cat sat"}).json()
    first, *others = found["tokens"]
    assert first["logprob"] is None  # nothing stands before it
    assert [each["logprob"] for each in others] == pytest.approx(wanted, abs=1e-4)
    assert "".join(each["piece"] for each in found["tokens"]) == "the cat sat"


def test_labels_and_gaps():
    model = classifier()
    with served(model) as background, http(background) as client:
        labels = client.post("/classify", json={"text": PROMPTS}).json()["labels"]
        refused = client.post("/fill", json={"text": "a <mask>"})
        scores = client.post("/score", json={"given": "the cat", "text": "sat"}).json()["scores"]
    assert [each["label"] for each in labels] == [each.label for each in predict.classify(model, PROMPTS)]
    assert refused.status_code == 400
    assert list(scores) == ["x", "y"]
    model = loaded("encoder")
    with served(model) as background, http(background) as client:
        fills = client.post("/fill", json={"text": "the <mask>at", "top": 3}).json()["fills"]
        none = client.post("/fill", json={"text": "the cat"})
    assert [each["piece"] for each in fills] == [each.piece for each in predict.fill(model, "the <mask>at", top=3)]
    assert none.status_code == 400
    assert "0 gaps" in none.json()["error"]["message"]


def test_names_in_texts():
    model = classifier(config.TokenClassification(labels=("O", "B-X", "I-X")))
    with served(model) as background, http(background) as client:
        every = client.post("/tag", json={"text": PROMPTS, "words": True}).json()["spans"]
        found = client.post("/tag", json={"text": PROMPTS[0]}).json()["spans"]
        refused = client.post("/classify", json={"text": "a"})
    assert every == [[asdict(span) for span in spans] for spans in predict.tag(model, PROMPTS, words=True)]
    assert found == [[asdict(span) for span in predict.tag(model, PROMPTS[:1])[0]]]
    assert refused.status_code == 400
    assert "it answers /v1/embeddings, /tag" in refused.json()["error"]["message"]


# ---- limits, and leaving ------------------------------------------------------------------------


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
            next(first.iter_lines())
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
