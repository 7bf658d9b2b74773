"""Writing and edits over the server: the model's own caches, trees, text under edits, sweeps."""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES, small
from fastapi.testclient import TestClient

from pellucid.analysis.places import without_positions
from pellucid.config import parts
from pellucid.config import run as config
from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer import app as server
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Limits, Session
from pellucid.inference.beam import Power, beam_search
from pellucid.inference.decode import generate
from pellucid.inference.reading import beginning, read
from pellucid.models.checkpoint import Loaded
from pellucid.trace import Where, edit, trace, zero

TEXT = "the cat sat"
TOKENIZER = Tokenizer.train(config.Characters(), ["the cat sat on the mat", "a dog did not"])
writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


@pytest.fixture(autouse=True)
def page(tmp_path, monkeypatch):
    """Whether the page was built is not the question here."""
    (tmp_path / "index.html").write_text("<title>pellucid</title>")
    monkeypatch.setattr(server, "STATIC", tmp_path)


def opened(family, limits=None, **changes):
    model = small(family, **changes)
    loaded = Loaded(model, TOKENIZER, None)
    session = Session(loaded, family, limits=limits)
    return loaded, session, TestClient(create_app(session), raise_server_exceptions=False)


def asked(client, written=(), **more):
    answer = client.post("/api/writing", json={"text": TEXT, "written": list(written), **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def floats(answer):
    assert answer.status_code == 200, answer.text
    shape = [int(size) for size in answer.headers["x-shape"].split(",") if size]
    return torch.from_numpy(np.frombuffer(answer.content, "<f4").copy()).view(shape)


def lines(answer):
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@torch.no_grad()
def whole(loaded, written):
    prompt = beginning(loaded, TEXT)
    tokens = torch.cat([prompt.tokens, torch.tensor([written], dtype=torch.long)], dim=1)
    model = loaded.model
    return (model(prompt.source, tokens) if prompt.source is not None else model(tokens))[0, -1]


@writers
def test_a_token_more_is_one_step_and_the_scores_are_those_of_a_whole_pass(family):
    loaded, _, client = opened(family)
    written = []
    for count in range(5):
        told = asked(client, written)
        assert told["how"] == ("step" if count else "prefill")
        assert told["fed"] == (1 if count else len(told["prompt"]["ids"]))
        assert told["written"]["ids"] == written
        logits, plain = floats(client.get(f"/api/writing/{told['id']}/logits")), whole(loaded, written)
        torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
        assert told["check"]["difference"] == pytest.approx((logits - plain).abs().max().item(), abs=1e-6)
        assert told["check"]["difference"] < 1e-4
        probabilities = logits.double().softmax(-1)
        assert [each["id"] for each in told["entries"][:3]] == probabilities.topk(3).indices.tolist()
        for layer in told["cache"]:
            assert len(layer["positions"]) == len(told["prompt"]["ids"]) + count
            assert layer["source"] == (len(told["source"]["ids"]) if told["source"] else None)
        written.append(int(logits.argmax()))
    (greedy,) = generate(loaded.model, beginning(loaded, TEXT), max_new_tokens=5)
    assert written == greedy


@writers
def test_turning_off_at_an_earlier_token_cuts_the_cache_back(family):
    loaded, _, client = opened(family)
    for written in ([], [7], [7, 8], [7, 8, 9]):
        asked(client, written)
    told = asked(client, [7, 10])
    assert (told["how"], told["fed"]) == ("rewind", 1)
    found = floats(client.get(f"/api/writing/{told['id']}/logits"))
    torch.testing.assert_close(found, whole(loaded, [7, 10]), atol=1e-4, rtol=0)
    again = asked(client, [7, 8, 9])  # its scores were kept, though its cache has moved on
    torch.testing.assert_close(
        floats(client.get(f"/api/writing/{again['id']}/logits")), whole(loaded, [7, 8, 9]), atol=1e-4, rtol=0
    )


def test_models_of_the_same_weights_are_told_apart():
    loaded = {key: Loaded(small("decoder"), TOKENIZER, None) for key in ("main", "twin", "seeing")}
    loaded["seeing"].model.causal = False
    session = Session(loaded.pop("main"), others=loaded)
    client = TestClient(create_app(session), raise_server_exceptions=False)
    told = [asked(client, [7], model=key) for key in session.models]
    assert [each["model"] for each in told] == ["main", "twin", "seeing"]
    assert len({each["hash"] for each in told}) == 1
    own, twin, seeing = (floats(client.get(f"/api/writing/{each['id']}/logits")) for each in told)
    torch.testing.assert_close(twin, own, atol=1e-4, rtol=0)
    assert (seeing - own).abs().max() > 1e-3


def test_a_ring_cannot_be_cut_back_and_says_what_it_dropped():
    loaded, _, client = opened("decoder", windows=(3, 0), positions=parts.Rotary())
    for written in ([], [7], [7, 8]):
        told = asked(client, written)
    near, far = told["cache"]
    length = len(told["prompt"]["ids"]) + 2
    assert (near["window"], near["dropped"], len(near["positions"])) == (3, length - 3, 3)
    assert (far["window"], far["dropped"], len(far["positions"])) == (None, 0, length)
    told = asked(client, [9])
    assert told["how"] == "prefill"
    found = floats(client.get(f"/api/writing/{told['id']}/logits"))
    torch.testing.assert_close(found, whole(loaded, [9]), atol=1e-4, rtol=0)


@writers
def test_the_keys_that_a_layer_keeps_are_those_of_the_pass(family):
    loaded, _, client = opened(family)
    asked(client)
    told = asked(client, [7])
    asked(client, [7, 8])  # the cache moves on, and is read anew
    keys = floats(client.get(f"/api/writing/{told['id']}/cache", params={"layer": 1}))
    prompt = beginning(loaded, TEXT)
    tokens = torch.cat([prompt.tokens, torch.tensor([[7]])], dim=1)
    inputs = (tokens,) if prompt.source is None else (prompt.source, tokens)
    prefix = "" if prompt.source is None else "decoder."
    tape = trace(loaded.model, inputs)
    torch.testing.assert_close(keys, tape[f"{prefix}blocks.1.self_attention.k"][0], atol=1e-4, rtol=0)
    source = client.get(f"/api/writing/{told['id']}/cache", params={"layer": 1, "what": "source_values"})
    if family == "decoder":
        assert source.status_code == 422
    else:
        torch.testing.assert_close(floats(source), tape["decoder.blocks.1.cross_attention.v"][0], atol=1e-4, rtol=0)


@writers
def test_a_token_can_be_looked_for(family):
    _, _, client = opened(family)
    told = asked(client)
    found = client.get(f"/api/writing/{told['id']}/find", params={"piece": "T"}).json()
    assert {each["piece"] for each in found} == {
        piece for piece in map(TOKENIZER._piece, range(TOKENIZER.vocab_size)) if "t" in piece.casefold()
    }
    assert [each["logit"] for each in found] == sorted((each["logit"] for each in found), reverse=True)


@writers
def test_a_search_is_a_tree_whose_best_leaf_is_its_result(family):
    loaded, _, client = opened(family)
    body = {"text": TEXT, "beams": 3, "max_new_tokens": 6, "penalty": "power", "alpha": 1.0}
    told = client.post("/api/writing/beams", json=body).json()
    prompt = beginning(loaded, TEXT)
    (found,) = beam_search(loaded.model, prompt, beams=3, max_new_tokens=6, ends=TOKENIZER.ends, penalty=Power(1.0))
    assert [tuple(each["tokens"]) for each in told["found"]] == [each.tokens for each in found]
    assert [each["score"] for each in told["found"]] == [each.score for each in found]
    best = told["nodes"][told["found"][0]["leaf"]]
    assert best["score"] == max(found, key=lambda each: each.score).score


@writers
def test_text_under_edits(family):
    loaded, _, client = opened(family)
    prefix = "" if family == "decoder" else "decoder."
    name = f"{prefix}blocks.1.self_attention.context"
    body = {"text": TEXT, "max_new_tokens": 6, "edits": [{"kind": "zero", "name": name, "heads": [0, 1]}]}
    told = lines(client.post("/api/writing/continue", json=body))
    prompt = beginning(loaded, TEXT)
    with edit(loaded.model, {name: zero(Where(heads=[0, 1]))}):
        (expected,) = generate(loaded.model, prompt, max_new_tokens=6, ends=TOKENIZER.ends)
    assert [each["id"] for each in told if not each["ended"]] == expected
    plain = lines(client.post("/api/writing/continue", json={**body, "edits": []}))
    (expected,) = generate(loaded.model, prompt, max_new_tokens=6, ends=TOKENIZER.ends)
    assert [each["id"] for each in plain if not each["ended"]] == expected


def test_a_patch_stays_with_the_positions_it_has_while_the_text_grows():
    _, _, client = opened("decoder")
    patch = {"kind": "patch", "name": "blocks.0.residual_post", "from": {"text": "a dog did t"}}
    body = {"text": TEXT, "max_new_tokens": 4, "edits": [patch]}
    told = lines(client.post("/api/writing/continue", json=body))
    assert len(told) == 4
    assert all("error" not in line for line in told)


def test_an_edit_that_cannot_be_told_in_a_line():
    _, _, client = opened("decoder")
    body = {"text": TEXT, "edits": [{"kind": "zero", "name": "blocks.0.residual_post", "positions": [99]}]}
    assert "numbers below" in lines(client.post("/api/writing/continue", json=body))[-1]["error"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_takes_every_head_away_in_turn(family):
    loaded, _, client = opened(family)
    target = {"target": "a dog"} if family == "encoder_decoder" else {}
    told = client.post("/api/passes", json={"text": TEXT, **target}).json()
    found = lines(client.get(f"/api/passes/{told['id']}/sweep", params={"position": 2, "token": 9}))
    reading = read(loaded, TEXT, target.get("target"))
    before = trace(loaded.model, reading.inputs)["logits"][0, 2].double().log_softmax(-1)[9].item()
    assert found[0]["before"] == pytest.approx(before, abs=1e-6)
    assert found[0]["total"] == len(found) - 1 == found[-1]["done"]
    line = found[6]
    name = f"{line['site']}.context"
    tape = trace(loaded.model, reading.inputs, edits={name: zero(Where(heads=[line["head"]]))})
    after = tape["logits"][0, 2].double().log_softmax(-1)[9].item()
    assert line["effect"] == pytest.approx(after - before, abs=1e-5)
    mean = lines(client.get(f"/api/passes/{told['id']}/sweep", params={"position": 2, "token": 9, "by": "mean"}))
    assert [each.get("effect") for each in mean] != [each.get("effect") for each in found]


@pytest.mark.parametrize(
    "more", [{"padding": {"reads": 3}}, {"positions": "none"}, {"padding": {"reads": 2, "side": "left"}}]
)
def test_a_sweep_is_of_the_input_as_it_was_asked(more):
    _, _, client = opened("encoder")
    asked = {"text": TEXT, **more}
    told = client.post("/api/passes", json=asked).json()
    first, *heads = lines(client.get(f"/api/passes/{told['id']}/sweep", params={"position": 5, "token": 7}))
    for line in heads[::3]:
        zeroed = {"kind": "zero", "name": f"{line['site']}.context", "heads": [line["head"]]}
        other = client.post("/api/passes", json={**asked, "edits": [zeroed]}).json()
        logits = floats(client.get(f"/api/passes/{other['id']}/tensor", params={"name": "logits", "at": "0,5,:"}))
        after = logits.double().log_softmax(-1)[7].item()
        assert line["effect"] == pytest.approx(after - first["before"], abs=1e-4)


def test_text_without_positions():
    loaded, _, client = opened("decoder")
    body = {"text": TEXT, "max_new_tokens": 5, "positions": "none"}
    told = [each["id"] for each in lines(client.post("/api/writing/continue", json=body))]
    with without_positions(loaded.model):
        (expected,) = generate(loaded.model, beginning(loaded, TEXT), max_new_tokens=5, ends=TOKENIZER.ends)
    assert told[: len(expected)] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_shift_swap_and_steer(family):
    _, _, client = opened(family)
    target = {"target": "a dog"} if family == "encoder_decoder" else {}
    prefix = "encoder." if family == "encoder_decoder" else ""
    plain = client.post("/api/passes", json={"text": TEXT, **target}).json()
    swap = {"kind": "swap", "name": f"{prefix}embedding.tokens", "positions": [1, 4]}
    other = client.post("/api/passes", json={"text": TEXT, **target, "edits": [swap]}).json()
    found = floats(client.get(f"/api/passes/{other['id']}/shift", params={"minus": plain["id"], "prefix": prefix}))
    assert found.shape == (3, len(plain["reads"]["ids"]))
    assert found[0].nonzero().flatten().tolist() == [1, 4]
    ids = plain["reads"]["ids"]
    ids[1], ids[4] = ids[4], ids[1]
    reads = {"reads": ids, **({"writes": plain["writes"]["ids"]} if plain["writes"] else {})}
    swapped = client.post("/api/passes", json={"ids": reads}).json()
    logits = {"name": "logits", "minus": swapped["id"]}
    assert floats(client.get(f"/api/passes/{other['id']}/tensor", params=logits)).abs().max() < 1e-4
    steer = {"kind": "steer", "name": f"{prefix}blocks.0.residual_post", "value": 0.5, "positions": [2]}
    shown = {"text": "the dog", **target}
    steer |= {"towards": shown, "away": {**shown, "text": "a mat"}}
    pushed = client.post("/api/passes", json={"text": TEXT, **target, "edits": [steer]}).json()
    found = floats(client.get(f"/api/passes/{pushed['id']}/shift", params={"minus": plain["id"], "prefix": prefix}))
    assert found[1, 2].item() == pytest.approx(0.5, abs=1e-4)  # a share of the length
    same = {**steer, "away": shown}
    refused = client.post("/api/passes", json={"text": TEXT, **target, "edits": [same]})
    assert "both inputs mean the same" in refused.text


BAD = [
    ("/api/writing", {"text": TEXT, "written": [999]}, "ids from 0"),
    ("/api/writing", {"text": TEXT, "written": [3] * 50}, "at most 40"),
    ("/api/writing", {"text": TEXT, "model": "nix"}, "no such model"),
    ("/api/writing/beams", {"text": TEXT, "beams": 9}, "equal to 8"),
    ("/api/writing/continue", {"text": TEXT, "max_new_tokens": 1000}, "equal to 64"),
    ("/api/writing/continue", {"text": TEXT * 4}, "at most 40"),
]


@pytest.mark.parametrize(("path", "body", "words"), BAD)
def test_what_cannot_be_written_is_told_in_a_sentence(path, body, words):
    _, _, client = opened("decoder", limits=Limits(tokens=40))
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert words in answer.text


def test_a_pass_writes_what_the_model_writes_by_itself():
    """Also where it was told never to write a token."""
    model = small("encoder_decoder")
    likeliest = read(Loaded(model, TOKENIZER, None), TEXT).ids[1][1]
    around = {"after": (TOKENIZER.eos,), "start": TOKENIZER.start, "ends": TOKENIZER.ends}
    conventions = config.Conventions(pad=TOKENIZER.pad, **around, never=(likeliest,))
    session = Session(Loaded(model, Tokenizer(TOKENIZER.raw, conventions), None))
    client = TestClient(create_app(session), raise_server_exceptions=False)
    _start, *written = client.post("/api/passes", json={"text": TEXT}).json()["writes"]["ids"]
    told = lines(client.post("/api/writing/continue", json={"text": TEXT, "max_new_tokens": 8}))
    assert written[:8] == [line["id"] for line in told if not line["ended"]]
    assert likeliest not in written


def test_an_encoder_writes_nothing():
    _, _, client = opened("encoder")
    for path in ("/api/writing", "/api/writing/beams", "/api/writing/continue"):
        answer = client.post(path, json={"text": TEXT})
        assert answer.status_code == 422
        assert "an encoder writes nothing" in answer.text


def test_few_caches_are_kept():
    _, session, client = opened("decoder")
    for token in range(6, 16):
        asked(client, [token])
        asked(client, [token, token])
    assert len(session.drafts._states) <= 4
    assert client.get("/api/writing/nothing/logits").status_code == 422
