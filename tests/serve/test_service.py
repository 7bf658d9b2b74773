"""The service answers what the model would, whoever else asks; and what it cannot answer, it says."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import openai
import pytest
import torch
from serving import classifier, http, loaded, served

from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference import predict
from pellucid.inference.sampling import Sampling, Temperature, TopK
from pellucid.serve.service import of_loaded

TEXT = "the cat sat on the mat a dog did not "
PROMPTS = ["the cat", "a", "on the mat a dog sat"]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as client:
        yield client


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


# ---- what a service may be asked to do besides -------------------------------------------------------


def test_beginnings_are_remembered(decoder):
    prompts = [TEXT + end for end in (" a dog", " the mat", "", " a dog did")]
    with served(decoder, prefix_tokens=200) as background, http(background) as client:
        for prompt in prompts:
            answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 9, "temperature": 0}).json()
            assert [answer["choices"][0]["text"]] == predict.complete(decoder, [prompt], max_new_tokens=9)
        page = client.get("/metrics").text
        reused, held = (float(re.search(rf"^{name} (.+)$", page, re.M)[1]) for name in
                        ("pellucid_prefix_tokens_reused", "pellucid_prefix_tokens"))  # fmt: skip
    assert reused >= 3 * len(decoder.tokenizer.encode(TEXT)) - 3
    assert 0 < held <= 200


def test_bits_do_not_depend_on_who_else_asks(decoder):
    asked = {"prompt": PROMPTS[0], "max_tokens": 6, "temperature": 0, "logprobs": 1}

    def likelihoods(client):
        return client.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]["token_logprobs"]

    with served(decoder, invariant=True) as background, http(background) as client:
        alone = likelihoods(client)
        with ThreadPoolExecutor(6) as pool:
            others = [
                pool.submit(client.post, "/v1/completions", json={"prompt": text, "max_tokens": 30})
                for text in PROMPTS + PROMPTS[::-1]
            ]
            beside = [likelihoods(client) for _ in range(3)]
            assert all(other.result().status_code == 200 for other in others)
    assert beside == [alone] * 3
    with pytest.raises(UserError, match="invariant: prefixes that are remembered"):
        of_loaded(decoder, "demo", invariant=True, prefix_tokens=10)


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
