"""The server behind the page: what it answers is what the model has, and nothing can break it."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from families import CHOICES, FAMILIES, small
from fastapi.testclient import TestClient

from pellucid.config import run as config
from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer import app as server
from pellucid.explorer import passes
from pellucid.explorer.app import create_app
from pellucid.explorer.passes import Explored
from pellucid.explorer.session import Limits, Session
from pellucid.inference.reading import read
from pellucid.models.checkpoint import Loaded
from pellucid.trace import edits, trace

TEXT, TARGET = "the cat sat", "a dog"
TOKENIZER = Tokenizer.train(config.Characters(), ["the cat sat on the mat", "a dog did not"])


@pytest.fixture(autouse=True)
def page(tmp_path, monkeypatch):
    """Whether the page was built is not the question here."""
    (tmp_path / "index.html").write_text("<title>pellucid</title>")
    monkeypatch.setattr(server, "STATIC", tmp_path)


def opened(family, **limits):
    loaded = Loaded(small(family), TOKENIZER, None)
    session = Session(loaded, family, limits=Limits(**limits))
    return loaded, session, TestClient(create_app(session), raise_server_exceptions=False)


def body(family, **more):
    return {"text": TEXT, **({"target": TARGET} if family == "encoder_decoder" else {}), **more}


def traced(loaded, family, **options):
    reading = read(loaded, TEXT, TARGET if family == "encoder_decoder" else None)
    return trace(loaded.model, reading.inputs, **options)


def floats(answer):
    assert answer.status_code == 200, answer.text
    shape = [int(size) for size in answer.headers["x-shape"].split(",") if size]
    return torch.from_numpy(np.frombuffer(answer.content, "<f4").copy()).view(shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_the_models_own(family):
    loaded, _, client = opened(family)
    told = client.post("/api/passes", json=body(family)).json()
    tape = traced(loaded, family)
    assert [each["name"] for each in told["tensors"]] == list(tape.entries)
    for each in told["tensors"]:
        found = floats(client.get(f"/api/passes/{told['id']}/tensor", params={"name": each["name"]}))
        assert list(found.shape) == each["shape"]
        torch.testing.assert_close(found, tape[each["name"]].float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_differences_and_bytes(family):
    loaded, _, client = opened(family)
    first = client.post("/api/passes", json=body(family)).json()
    tape = traced(loaded, family)
    name = next(name for name in tape if name.endswith("self_attention.weights"))
    weights = tape[name]
    url = f"/api/passes/{first['id']}/tensor"
    torch.testing.assert_close(floats(client.get(url, params={"name": name, "at": "0,1,2:5,:"})), weights[0, 1, 2:5])
    torch.testing.assert_close(floats(client.get(url, params={"name": name, "at": "0,-1,2,3"})), weights[0, -1, 2, 3])
    small_bytes = client.get(url, params={"name": name, "encoding": "sqrt8"})
    again = (np.frombuffer(small_bytes.content, np.uint8) / 255.0) ** 2 * float(small_bytes.headers["x-high"])
    assert np.abs(again - weights.flatten().numpy()).max() < 0.005
    context = name.replace("weights", "context")
    second = client.post(
        "/api/passes", json=body(family, edits=[{"kind": "zero", "name": context, "heads": [1]}])
    ).json()
    assert second["id"] != first["id"]
    changed = traced(loaded, family, edits={context: edits.zero(edits.Where(heads=[1]))})
    output = "logits"
    apart = floats(client.get(url, params={"name": output, "minus": second["id"]}))
    torch.testing.assert_close(apart, tape[output] - changed[output], rtol=1e-5, atol=1e-5)
    signed = client.get(url, params={"name": output, "minus": second["id"], "encoding": "sym8"})
    again = np.frombuffer(signed.content, np.int8) / 127.0 * float(signed.headers["x-high"])
    assert np.abs(again - apart.flatten().numpy()).max() < 0.01 * float(signed.headers["x-high"])


def test_what_a_mask_hides_in_both_does_not_differ():
    _, _, client = opened("decoder")
    first, second = (client.post("/api/passes", json={"text": text}).json()["id"] for text in (TEXT, "the mat sat"))
    params = {"name": "blocks.1.self_attention.scores", "minus": second}
    apart = floats(client.get(f"/api/passes/{first}/tensor", params=params))
    assert apart.isfinite().all()
    assert not apart.triu(1).any()
    assert apart.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_is_explained_against_what_the_model_had(family):
    _, _, client = opened(family)
    told = client.post("/api/passes", json=body(family)).json()
    for kind in ("scores", "weights", "context", "out"):
        name = next(each["name"] for each in told["tensors"] if each["name"].endswith(f"self_attention.{kind}"))
        index = "0,2,1" if kind == "out" else "0,1,2,1"
        found = client.get(f"/api/passes/{told['id']}/explain", params={"name": name, "index": index}).json()
        assert found["name"] == name
        assert found["error"] < 1e-5
        assert found["terms"]


@pytest.mark.parametrize("kind", ["scores", "weights", "mask"])
def test_explaining_changes_nothing(kind):
    _, _, client = opened("decoder")
    told = client.post("/api/passes", json=body("decoder")).json()
    name = f"blocks.1.self_attention.{kind}"
    url = f"/api/passes/{told['id']}"
    index = "0,0,3,1"
    before = client.get(f"{url}/tensor", params={"name": name}).content
    first = client.get(f"{url}/explain", params={"name": name, "index": index}).json()
    assert client.get(f"{url}/tensor", params={"name": name}).content == before
    assert client.get(f"{url}/explain", params={"name": name, "index": index}).json() == first


def test_hidden_scores_have_a_name_in_json():
    _, _, client = opened("decoder")
    told = client.post("/api/passes", json=body("decoder")).json()
    params = {"name": "blocks.0.self_attention.scores", "index": "0,0,0,3"}
    assert client.get(f"/api/passes/{told['id']}/explain", params=params).json()["captured"] == "-inf"


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_answers(family):
    loaded, _, client = opened(family)
    told = client.post("/api/passes", json=body(family)).json()
    tape = traced(loaded, family)
    heads = client.get(f"/api/passes/{told['id']}/heads").json()
    weights = tape[f"{heads[5]['site']}.weights"][0, heads[5]["head"]]
    assert math.isclose(heads[5]["entropy"], torch.special.entr(weights).sum(-1).mean().item(), rel_tol=1e-5)
    assert {head["site"] for head in heads} == {n.removesuffix(".weights") for n in tape if n.endswith(".weights")}
    answers = client.get(f"/api/passes/{told['id']}/answers", params={"position": 2, "top": 3}).json()
    probabilities = tape["logits"][0, 2].double().softmax(-1)
    assert [entry["id"] for entry in answers["entries"]] == probabilities.topk(3).indices.tolist()
    assert math.isclose(answers["hidden"], 1 - probabilities.topk(3).values.sum().item(), rel_tol=1e-9)


def test_a_pass_that_made_room_is_run_again():
    _, session, client = opened("decoder", passes=2)
    ids = [client.post("/api/passes", json={"text": "the cat"[:length]}).json()["id"] for length in (3, 4, 5, 6)]
    assert len(session._passes) == 2
    name = {"name": "blocks.0.residual_post"}
    assert floats(client.get(f"/api/passes/{ids[0]}/tensor", params=name)).shape[1] == 3
    assert client.post("/api/passes", json={"text": "the"}).json()["id"] == ids[0]  # known by what was asked


def test_memory_is_bounded():
    _, session, client = opened("decoder", bytes=300_000)
    for length in range(1, 12):
        assert client.post("/api/passes", json={"text": TEXT[:length]}).status_code == 200
    assert len(session._passes) == 1 or sum(each.nbytes for each in session._passes.values()) <= 300_000
    refused = client.post("/api/passes", json={"text": TEXT * 20})
    assert refused.status_code == 422
    assert "at most" in refused.text


def test_a_source_that_is_too_long_is_refused_before_anything_is_written(monkeypatch):
    _, _, client = opened("encoder_decoder", tokens=16)
    told = client.post("/api/passes", json={"text": TEXT}).json()
    assert len(told["writes"]["ids"]) <= 16
    monkeypatch.setattr("pellucid.inference.reading.generate", None)
    refused = client.post("/api/passes", json={"text": TEXT * 2})
    assert refused.status_code == 422
    assert refused.json()["error"]["expected"] == "at most 16"


def test_a_pass_is_known_by_all_that_decides_its_answers(monkeypatch):
    def explored(tokenizer=TOKENIZER, **changes):
        return Explored("main", "decoder", Loaded(small("decoder", **changes), tokenizer, None))

    seeing = explored()
    seeing.loaded.model.causal = False
    others = [explored(**CHOICES["softcap"]), explored(**CHOICES["window"]), seeing]
    others += [explored(Tokenizer.train(config.Characters(), ["a dog did not"]))]
    plain = explored()
    assert {other.hash for other in others} == {plain.hash}
    assert len({other.identity for other in (plain, *others)}) == 5
    assert explored().identity == plain.identity
    monkeypatch.setattr("pellucid.explorer.passes.__version__", "0")
    assert explored().identity != plain.identity


@torch.no_grad()
def trained(model):
    for parameter in model.parameters():
        parameter.mul_(1.1)


def written_to(model):
    for parameter in model.parameters():
        parameter.data.mul_(1.1)  # which counts as no version


def without_a_head(model):
    model.blocks[0].self_attention.out.weight.data[:, 8:16] = 0  # whole columns


def unmasked(model):
    model.causal = False


@pytest.mark.parametrize("change", [trained, written_to, without_a_head, unmasked])
def test_a_model_that_is_trained_on_is_another(change):
    loaded, _, client = opened("decoder")
    first = client.post("/api/passes", json=body("decoder")).json()
    draft = client.post("/api/writing", json={"text": TEXT}).json()
    change(loaded.model)
    time.sleep(2 * passes.AGAIN)
    for address in (f"passes/{first['id']}", f"writing/{draft['id']}/logits"):
        gone = client.get(f"/api/{address}")
        assert gone.status_code == 422  # a browser keeps what was answered under the old id
        assert gone.json()["error"]["found"] == "the model has changed since"
    second = client.post("/api/passes", json=body("decoder")).json()
    assert second["id"] != first["id"]
    assert second["identity"] != first["identity"]
    assert (second["hash"] == first["hash"]) == (change is unmasked)  # the hash is that of the weights
    found = floats(client.get(f"/api/passes/{second['id']}/tensor", params={"name": "logits"}))
    torch.testing.assert_close(found, traced(loaded, "decoder")["logits"], rtol=1e-6, atol=1e-6)
    assert client.post("/api/writing", json={"text": TEXT}).json()["id"] != draft["id"]


BAD = [
    ({"text": 5}, "valid string"),
    ({"colour": 1}, "not permitted"),
    ({"model": "mian"}, "no such model"),
    ({"text": "a" * 100_001}, "100000"),
    ({"text": "the cat " * 200}, "tokens"),
    ({"text": "the", "target": "x"}, "reads one text"),
    ({"text": "", "ids": {"reads": [9999]}}, "ids from 0"),
    ({"edits": [{"kind": "zero", "name": "blocks.0.residual_pst"}]}, "no such tensor"),
    ({"edits": [{"kind": "zero", "name": "*"} for _ in range(65)]}, "64"),
    ({"edits": [{"kind": "zero", "name": "blocks.0.self_attention.context", "heads": [99]}]}, "numbers below"),
    ({"edits": [{"kind": "patch", "name": "logits", "from": "nothing"}]}, "not known"),
    ({"edits": [{"kind": "boom", "name": "logits"}]}, "tag"),
    ({"edits": [{"kind": "mean", "name": "blocks.0.self_attention.mask"}]}, "have no mean"),
    (
        {"edits": [{"kind": "steer", "name": "blocks.0.self_attention.q", "towards": {"text": "a cat"}}]},
        "a vector for each position",
    ),
]


@pytest.mark.parametrize(("asked", "words"), BAD)
def test_bad_input_is_told_in_a_sentence(asked, words):
    _, _, client = opened("decoder")
    answer = client.post("/api/passes", json={"text": "the cat", **asked})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert words in " ".join(error.values())
    assert client.post("/api/passes", json={"text": "the cat"}).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["name=nix", "name=logits&at=0,0", "name=logits&at=0,99,0", "name=logits&at=x,y,z", "name=logits&encoding=f64",
     "name=logits&at=0,5:2,:", "name=logits&minus=nothing", ""],
)  # fmt: skip
def test_bad_parts_are_told_in_a_sentence(query):
    _, _, client = opened("decoder")
    told = client.post("/api/passes", json=body("decoder")).json()
    answer = client.get(f"/api/passes/{told['id']}/tensor?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]["found"]


def test_only_this_machine_is_answered():
    _, _, client = opened("decoder")
    assert client.get("/api/session", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/api/session", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/api/session", headers={"host": "127.0.0.1:8642"}).status_code == 200
    elsewhere = {"sec-fetch-site": "cross-site"}  # a picture of another page, which names no origin
    assert client.get("/api/session", headers=elsewhere).status_code == 403
    assert client.get("/", headers=elsewhere).status_code == 200  # a link to the page, or a notebook around it
    assert client.post("/api/passes", content=b"x" * ((1 << 20) + 1)).status_code == 413
    assert client.get("/../pyproject.toml").status_code == 404
    assert client.get("/api/nothing").status_code == 404
    assert client.post("/api/passes", content=b"{").status_code == 422


def test_many_at_once():
    """Sixteen readers, one of them with the longest text, another with nonsense: all are answered."""
    _, session, client = opened("decoder")
    long = "the cat sat on a mat "[:20] * 50

    def reader(number):
        if number == 3:
            return {client.post("/api/passes", content=b"\xff{nonsense").status_code for _ in range(8)}
        text = long if number == 5 else TEXT[: 2 + number % 9]
        told = client.post("/api/passes", json={"text": text})
        if told.status_code != 200:
            return {told.status_code}
        url = f"/api/passes/{told.json()['id']}"
        got = [client.get(f"{url}/heads"), client.get(f"{url}/tensor", params={"name": "blocks.1.residual_post"})]
        return {answer.status_code for answer in got}

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(reader, range(16)))
    assert found[3] == {422}
    assert all(codes == {200} for number, codes in enumerate(found) if number != 3), found
    assert len(session._passes) <= session.limits.passes


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_in_small(family):
    loaded, _, client = opened(family)
    told = client.post("/api/passes", json=body(family)).json()
    url = f"/api/passes/{told['id']}/atlas"
    tape = traced(loaded, family)
    sites = [name.removesuffix(".weights") for name in tape if name.endswith("self_attention.weights")]
    answer = client.get(url, params={"sites": sites[:2]})
    weights = torch.cat([tape[f"{site}.weights"][0] for site in sites[:2]])
    assert answer.headers["x-shape"] == ",".join(map(str, weights.shape))
    again = (np.frombuffer(answer.content, np.uint8) / 255.0) ** 2 * float(answer.headers["x-high"])
    assert np.abs(again - weights.flatten().numpy()).max() < 0.005
    assert client.get(url, params={"sites": "nothing"}).status_code == 422
    if family == "encoder_decoder":
        assert client.get(url).status_code == 422  # maps of three sizes are no one wall
