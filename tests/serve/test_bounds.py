"""What is asked for is done as asked or refused, within bounds; and one request takes nothing from others."""

import json
import re
import threading
import time

import openai
import pydantic
import pytest
import tokenizers
from serving import endless, http, loaded, served, settled

from pellucid.config import parts
from pellucid.data.tokenizers import Tokenizer
from pellucid.inference import predict
from pellucid.models.checkpoint import Loaded
from pellucid.serve.bodies import CompletionBody
from pellucid.serve.chat import ChatTemplate
from pellucid.serve.limits import Limits


def asked(client, path, status=400, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def why(client, path, status=400, **body):
    return asked(client, path, status, **body)["error"]["message"]


def test_nothing_is_written_beyond_a_stop_string(decoder):
    with served(decoder) as background, http(background) as client:
        body = endless(decoder, max_tokens=4000)
        text = asked(client, "/v1/completions", 200, **{**body, "max_tokens": 20})["choices"][0]["text"]
        began = time.monotonic()
        cut = asked(client, "/v1/completions", 200, **body, stop=text[3], n=2)
        seconds = time.monotonic() - began
        assert settled(background)
        counted = client.get("/metrics").text
    assert [choice["text"] for choice in cut["choices"]] == [text.split(text[3])[0]] * 2
    assert [choice["finish_reason"] for choice in cut["choices"]] == ["stop", "stop"]
    assert 'pellucid_texts_total{reason="stop"} 2.0' in counted
    assert seconds < 30  # 4,000 steps would take minutes


def test_a_search_ends_its_texts_at_a_stop_string(decoder):
    body = {"prompt": "the cat", "beams": 3, "max_tokens": 12}
    with served(decoder) as background, http(background) as client:
        whole = asked(client, "/v1/completions", 200, **body)["choices"][0]["text"]
        stop = whole[2]
        cut = asked(client, "/v1/completions", 200, **body, stop=stop)["choices"][0]
    assert stop not in cut["text"]
    assert len(cut["text"]) < len(whole)


def test_a_search_draws_nothing(decoder, server):
    with http(server) as client:
        for name, value in {"temperature": 0.7, "top_k": 5, "seed": 1, "top_p": 0.5, "min_p": 0.1}.items():
            assert name in why(client, "/v1/completions", prompt="a", beams=2, **{name: value})
        greedy = asked(client, "/v1/completions", 200, prompt="the cat", beams=1, max_tokens=6)
    assert [greedy["choices"][0]["text"]] == predict.complete(decoder, ["the cat"], max_new_tokens=6)


def test_draws_of_a_translation():
    model = loaded("encoder_decoder")
    with served(model) as background, http(background) as client:
        assert "top_p" in why(client, "/translate", text="a", beams=2, top_p=0.5)
        assert "length_penalty" in why(client, "/translate", text="a", length_penalty=0.5)
        drawn = [asked(client, "/translate", 200, text="the cat", seed=n)["translations"][0]["text"] for n in range(8)]
    assert len(set(drawn)) > 1


def test_rules_that_leave_no_way_on_end_a_text(decoder, server):
    pytest.importorskip("llguidance")
    with http(server) as client:
        body = {"prompt": "a", "regex": "at", "min_tokens": 5, "max_tokens": 5}
        (choice,) = asked(client, "/v1/completions", 200, **body)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("at", "stop")


def test_positions_of_a_source():
    model = loaded("encoder_decoder", positions=parts.Learned(max_length=12))
    with served(model) as background, http(background) as client:
        told = why(client, "/translate", text="the cat sat on the mat")
        assert "this model has positions for 12" in told
        assert asked(client, "/translate", 200, text="the cat sat")["translations"]
        # A source and a text are two sequences.
        assert asked(client, "/score", 200, given="the cat sat", text="the cat sa")["tokens"]
        assert "positions for 12" in why(client, "/score", given="the cat", text="the cat sat on")


def test_what_cannot_be_read_takes_nothing_from_others(decoder):
    with served(decoder, slow=0.01) as background, http(background) as client:
        found = []
        others = threading.Thread(
            target=lambda: found.append(asked(client, "/v1/completions", 200, **endless(decoder, max_tokens=60)))
        )
        others.start()
        while background.service.worker.rows < 1:
            time.sleep(0.01)
        writer = background.service.worker.scheduler.writer
        prefill = writer.prefill

        def fails(*given):
            writer.prefill = prefill
            raise RuntimeError("a fault")

        writer.prefill = fails
        assert "log" in why(client, "/v1/completions", 500, prompt="a", max_tokens=2)
        others.join()
        assert settled(background)
    assert found[0]["usage"]["completion_tokens"] == 60


def test_a_message_is_taken_back_as_it_was_sent(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none") as client:
        messages = [{"role": "user", "content": "the cat"}]
        answer = client.chat.completions.create(model="demo", messages=messages, max_tokens=3, temperature=0)
        more = [*messages, answer.choices[0].message, {"role": "user", "content": "a dog"}]
        assert client.chat.completions.create(model="demo", messages=more, max_tokens=3).choices


def test_bytes_of_tokens_join_to_the_text(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none") as client:
        messages = [{"role": "user", "content": "the cat"}]
        answer = client.chat.completions.create(
            model="demo", messages=messages, max_tokens=6, temperature=0, logprobs=True
        )
    (choice,) = answer.choices
    told = b"".join(bytes(each.bytes) for each in choice.logprobs.content if each.bytes is not None)
    assert told.decode() == choice.message.content


def test_counts_are_bounded_before_anything_is_made(server):
    with http(server) as client:
        assert "at most 128" in why(client, "/v1/completions", prompt=[[3]] * 9000, n=128, max_tokens=1)
    with served(loaded("decoder"), limits=Limits(rows=2, waiting=2)) as background, http(background) as client:
        assert "at most 4" in why(client, "/v1/completions", prompt="a", n=5, max_tokens=1)
        assert asked(client, "/v1/completions", 200, prompt="a", n=4, max_tokens=1)["choices"]


def test_alternatives_are_bounded(server):
    with http(server) as client:
        told = why(client, "/alternatives", text="the cat sat on the mat", top=20, max_tokens=64)
    assert "name fewer positions" in told


def test_a_usual_length_fits_into_the_room_there_is():
    limits = Limits(tokens=40, new_tokens=400)
    with served(loaded("decoder"), limits=limits) as background, http(background) as client:
        answer = asked(client, "/v1/completions", 200, prompt="the cat", temperature=0)
        assert answer["usage"]["completion_tokens"] <= 16
        assert "at most 40" in why(client, "/v1/completions", prompt="the cat", max_tokens=200)


def test_a_fault_in_an_answer_has_its_id_and_its_status(decoder, monkeypatch):
    with served(decoder) as background, http(background) as client:

        def fails(*given, **named):
            raise RuntimeError("a fault")

        monkeypatch.setattr("pellucid.serve.native.likelihood_of", fails)
        answer = client.post("/score", json={"text": "a"})
        counted = client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert len(answer.headers["x-request-id"]) == 16
    assert 'pellucid_requests_total{path="/score",status="500"} 1.0' in counted


def sent(client, path, body):
    """As :func:`why`, of what JSON says in ASCII."""
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["message"]


HALVES = {
    "/v1/completions": [
        {"prompt": "caf\ud83d"},
        {"prompt": ["a", "\udc00"]},
        {"prompt": "a", "beams": 2, "stop": "\ud83d"},
        {"prompt": "a", "bad_words": ["\ud83d"]},
        {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["\ud83d"]}}}},
    ],
    "/v1/chat/completions": [{"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}]}],
    "/score": [{"text": "a", "given": "\ud83d"}],
    "/alternatives": [{"text": "\ud83d"}],
}


def test_half_of_a_character_is_refused_and_takes_nothing_from_others(decoder, server):
    with http(server) as client:
        for path, bodies in HALVES.items():
            for body in bodies:
                assert re.search("half of a character|as a unicode string", sent(client, path, body))
        assert asked(client, "/v1/completions", 200, prompt="\U0001f600", max_tokens=2)["choices"]


def test_a_translation_without_a_temperature_is_greedy_whatever_says_so():
    model = loaded("encoder_decoder")
    with served(model) as background, http(background) as client:
        greedy = asked(client, "/translate", 200, text="the cat")["translations"]
        for _ in range(3):
            assert (
                asked(client, "/translate", 200, text="the cat", temperature=None, top_k=None)["translations"] == greedy
            )
        message = why(client, "/translate", text="the cat", beams=3, hypotheses=2, stream=True)
    assert "a stream is of the best text alone" in message


def test_tokens_that_the_model_has_not_are_refused_though_its_tokenizer_has_them(decoder):
    more = Tokenizer(tokenizers.Tokenizer.from_str(decoder.tokenizer.raw.to_str()))
    more.raw.add_special_tokens(["[PAD]"])
    model, beyond = Loaded(decoder.model, Tokenizer(more.raw), None), decoder.tokenizer.vocab_size
    with served(model) as background, http(background) as client:
        assert f"0 to {beyond - 1}" in why(client, "/v1/completions", prompt=[beyond])
        assert f"0 to {beyond - 1}" in why(client, "/v1/completions", prompt="a", logit_bias={str(beyond): 1})
        assert asked(client, "/v1/completions", 200, prompt=[beyond - 1], max_tokens=1)["choices"]


def test_a_setting_that_says_nothing_by_itself_is_refused(server):
    with http(server) as client:
        body = {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 5}
        assert "top_logprobs goes with logprobs" in why(client, "/v1/chat/completions", **body)


def test_the_first_of_many_mistakes_is_enough(server):
    """Each would be told three times, by every kind of list that a prompt may be."""
    with pytest.raises(pydantic.ValidationError) as caught:
        CompletionBody(prompt=[-1] * 10_000)
    assert caught.value.error_count() < 10


def test_a_client_that_repeats_by_itself_is_told_when_that_is_in_vain(decoder):
    with served(decoder, limits=Limits(seconds=0.2), slow=0.05) as background:
        client = openai.OpenAI(base_url=f"{background.url}v1", api_key="none", max_retries=2)
        with pytest.raises(openai.APIStatusError, match=r"not done within 0\.2 s"):
            client.completions.create(
                model="demo", prompt="a", max_tokens=1000, logit_bias={str(decoder.tokenizer.eos): -100}
            )
        assert settled(background)
        with http(background) as plain:
            assert 'pellucid_texts_total{reason="timeout"} 1.0' in plain.get("/metrics").text


def test_alternatives_write_no_more_than_one_text_may():
    model = loaded("decoder")
    with served(model, limits=Limits(new_tokens=20)) as background, http(background) as client:
        assert "40 tokens to be written; at most 20" in why(
            client, "/alternatives", text="the cat", positions=[1, 2], top=2, max_tokens=10
        )


def test_what_a_client_was_sent_may_be_sent_back_with_all_its_empty_fields(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none") as client:
        messages = [{"role": "user", "content": "the cat"}]
        answer = client.chat.completions.create(model="demo", messages=messages, max_tokens=3, temperature=0)
        more = [*messages, answer.choices[0].message.model_dump()]
        idle = {"tools": None, "parallel_tool_calls": None}
        assert client.chat.completions.create(model="demo", messages=more, max_tokens=3, extra_body=idle).choices
    with http(server) as plain:
        body = {"messages": messages, "max_tokens": 1}
        assert "tools is not supported here" in why(plain, "/v1/chat/completions", **body, tools=[])


def test_one_stop_string_is_bounded_as_a_list_of_them_is(server):
    with http(server) as client:
        for stop in ("x" * 201, ["x" * 201]):
            assert "200 characters" in why(client, "/v1/completions", prompt="a", stop=stop)


def test_alternatives_hold_nobody_up_for_long(server):
    with http(server) as client:
        told = why(client, "/alternatives", text="the cat", positions=[1], top=1, max_tokens=65)
        assert "at most 64 may follow" in told
        assert asked(client, "/alternatives", 200, text="the cat", positions=[1], top=1, max_tokens=3)["places"]


def test_errors_name_what_was_sent(server):
    with http(server) as client:
        answer = client.post("/v1/completions", content='{"prompt": "a"}', headers={"Content-Type": "text/plain"})
        assert "Content-Type: application/json" in answer.json()["error"]["message"]
        for body, param in (
            ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
            ({"messages": [{"role": "user"}]}, "messages.0.content"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image", "text": "a"}]}]},
                "messages.0.content.0.type",
            ),
            ({}, "messages"),
        ):
            assert asked(client, "/v1/chat/completions", **body)["error"]["param"] == param
        assert asked(client, "/v1/completions", prompt=[["a"], 5])["error"]["param"].startswith("prompt")


def test_long_conversations_hold_nobody_up(decoder, monkeypatch):
    template, threads = ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}", {}), []
    ids = template.ids

    def heard(*given):
        threads.append(threading.current_thread().name)
        return ids(*given)

    monkeypatch.setattr(template, "ids", heard)
    limits = Limits(prompt_tokens=1000)
    with served(decoder, template=template, limits=limits) as background, http(background) as client:
        for content in ("a" * 30_000, "a" * 65_000):  # more than may be, by tokens; more than can be, by characters
            body = {"messages": [{"role": "user", "content": content}]}
            assert "at most 1,000" in why(client, "/v1/chat/completions", **body)
        loop = background._thread.name
    assert len(threads) == 1
    assert threads[0] != loop
