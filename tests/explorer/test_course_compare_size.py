"""What the page is told of a run's course, of two models side by side, and of sizes."""

import json
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, small
from fastapi.testclient import TestClient
from test_server import TOKENIZER, body, opened, page  # noqa: F401

from pellucid import size
from pellucid.analysis.compare import diff
from pellucid.config import model as config
from pellucid.config.optimisation import Checkpoints, Training
from pellucid.config.parts import Attention, FeedForward, Stack
from pellucid.config.run import ByteBPE, Causal, NamedData, Run
from pellucid.config.start import LoRA, Pretrained
from pellucid.explorer import session as session_module
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.inference.reading import read_ids
from pellucid.models.checkpoint import Loaded, load_run
from pellucid.nn.lora import merged_weights
from pellucid.training.fit import fit
from pellucid.training.session import prepare
from pellucid.training.watch import read_records

# ---- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "settings", "options"),
    [
        ("gpt2", [], {}),
        ("gpt2", ["num_layers=24", "d_model=1024", "num_heads=16"], {"batch": 8, "machine": "a100"}),
        ("transformer-base", ["encoder.num_layers=3"], {"length": 64, "source_length": 80, "dtype": "float32"}),
        ("bert-base", [], {"length": 128, "checkpointing": True, "devices": 4}),
        ("llama-3-8b", ["num_kv_heads=32"], {"length": 8192, "machine": "h200", "utilization": 0.5, "tokens": 10**9}),
    ],
)
def test_a_size_is_that_of_pellucid_size(target, settings, options):
    _, _, client = opened("decoder")
    told = client.get("/api/size", params={"target": target, "settings": settings, **options}).json()
    told.pop("shape")
    assert told == json.loads(json.dumps(size(target, settings, **options).as_dict()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_size(family):
    loaded, _, client = opened(family)
    told = client.get("/api/size", params={"target": "main", "length": 20}).json()
    assert told["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert told["shape"]["family"] == family
    assert [tower["layers"] for tower in told["shape"]["towers"]] == [2, 2][: 1 + (family == "encoder_decoder")]


def test_the_famous_models():
    _, _, client = opened("decoder")
    told = client.get("/api/size/presets").json()
    by_name = {preset["name"]: preset for preset in told["presets"]}
    assert by_name["gpt2"]["published"]["parameters"] == 124_439_808
    assert by_name["gpt2"]["published"]["source"].startswith("Radford et al. 2019")
    assert by_name["bert-base"]["family"] == "encoder"
    assert told["unpublished"] == [{"name": "gpt-4", "source": told["unpublished"][0]["source"]}]
    assert [machine["key"] for machine in told["machines"]] == ["a100", "h100", "h200", "this"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"target": "gpt-4"}, "not published"),
        ({"target": "gpt2x"}, "no such model"),
        ({"target": "/etc"}, "no such model"),
        ({"target": "openai-community/gpt2"}, "no such model"),
        ({"target": "gpt2", "settings": ["d_model=100"]}, "found 100"),
        ({"target": "gpt2", "settings": ["widht=100"]}, "no such setting"),
        ({"target": "gpt2", "machine": "other.toml"}, "not known"),
        ({"target": "gpt2", "length": 4096}, "found 4096"),
        ({"target": "gpt2", "utilization": 7}, "found 7.0"),
        ({"target": "decoder", "settings": ["num_layers=1000000000"]}, "found 1,000,000,000"),
    ],
)
def test_sizes_that_cannot_be(asked, said):
    _, _, client = opened("decoder")
    answer = client.get("/api/size", params=asked)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["found"]


# ---- compare -------------------------------------------------------------------------------------


def pair(family, **changes):
    """A session of two models that differ in one number of the second layer, or as said."""
    other = small(family, **changes)
    if not changes:
        with torch.no_grad():
            name = next(n for n, _ in other.named_parameters() if n.endswith("blocks.1.self_attention.query.weight"))
            other.get_parameter(name)[3, 4] += 2.0
    session = Session(Loaded(small(family), TOKENIZER, None), others={"other": Loaded(other, TOKENIZER, None)})
    return session, TestClient(create_app(session), raise_server_exceptions=False)


def both(client, family):
    a = client.post("/api/passes", json=body(family)).json()
    ids = {"reads": a["reads"]["ids"], **({"writes": a["writes"]["ids"]} if a["writes"] else {})}
    b = client.post("/api/passes", json={"model": "other", "ids": ids})
    return a, b.json()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_models_and_the_first_tensor_that_parts(family):
    session, client = pair(family)
    a, b = both(client, family)
    told = client.get(f"/api/passes/{a['id']}/partings", params={"other": b["id"]}).json()
    prefix = "encoder." if family == "encoder_decoder" else ""
    assert told["first"].startswith(f"{prefix}blocks.1.self_attention.q")
    assert [each["name"] for each in told["profile"]] == [each["name"] for each in a["tensors"]]
    mine, theirs = (session.held(x["id"]).value(told["first"]) for x in (a, b))
    apart = next(each for each in told["profile"] if each["parts"])
    scale = max(mine.abs().max().item(), theirs.abs().max().item())
    assert apart["distance"] == pytest.approx((mine - theirs).abs().max().item() / scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_verdict_is_that_of_diff(family):
    session, client = pair(family)
    a, b = both(client, family)
    told = client.get(f"/api/passes/{a['id']}/verdict", params={"other": b["id"]}).json()
    mine, theirs = (session.model(key).loaded for key in ("main", "other"))
    ids = [a["reads"]["ids"], *([a["writes"]["ids"]] if a["writes"] else [])]
    expected = diff(mine, theirs, read_ids(mine, *ids).inputs)
    assert told["told"] == str(expected)
    assert "blocks.1.self_attention.q" in told["first"]["name"]
    assert "self_attention.query" in told["told"]


def test_models_of_other_shapes_are_told():
    _, client = pair("decoder", d_model=16, num_layers=1)
    a, b = both(client, "decoder")
    told = client.get(f"/api/passes/{a['id']}/partings", params={"other": b["id"]}).json()
    assert any(each.startswith("embedding.out") and each.endswith("in B") for each in told["unmatched"])
    refused = client.get(
        f"/api/passes/{a['id']}/tensor", params={"name": "blocks.0.residual_post", "minus": b["id"]}
    ).json()
    assert "in the other pass" in refused["error"]["found"]
    assert client.get(f"/api/passes/{a['id']}/verdict", params={"other": b["id"]}).status_code in (200, 422)
    once = client.get(f"/api/passes/{a['id']}/verdict", params={"other": a["id"]})
    assert once.json()["error"]["found"] == "one model twice"


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps with its checkpoints."""
    stack = Stack(d_model=16, num_layers=1, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=16))
    described = Run(
        model=config.Decoder(front=config.Tokens(), stack=stack),
        data=NamedData(name="python-docs"),
        tokenizer=ByteBPE(vocab_size=300),
        objective=Causal(length=16),
        training=Training(steps=6, batch_tokens=64, evaluate_every=3, checkpoints=Checkpoints(keep=9, every=2)),
    )
    folder = tmp_path_factory.mktemp("run")
    list(fit(prepare(described), folder))
    return folder


def test_the_course_of_a_run(run):
    session = Session(load_run(run), "run", folder=run)
    client = TestClient(create_app(session))
    told = client.get("/api/training").json()
    records = read_records(run / "metrics.jsonl")
    assert told["steps"] == [record for record in records if "loss" in record]
    assert [line["step"] for line in told["evaluations"]] == [3, 6]
    assert told["checkpoints"] == [{"key": f"step-{step}", "step": step} for step in (2, 4, 6)]
    assert told["planned"] == 6
    assert told["every"] == 1
    assert [line["step"] for line in told["samples"]] == [3, 6]
    assert "every 100 steps" in told["advice"]
    for key in ("step-2", "step-4"):
        made = client.post("/api/passes", json={"model": key, "ids": {"reads": [5, 6, 7]}}).json()
        assert made["model"] == key
    assert session.model("step-2").hash != session.model("step-6").hash


def test_what_else_lies_beside_the_checkpoints_is_none(run):
    session = Session(load_run(run), "run", folder=run)
    before, strays = session.checkpoints, [run / "checkpoints" / "step-2.bak", run / "snapshots" / "step-x.safetensors"]
    for stray in strays:
        stray.mkdir(parents=True)
    try:
        assert session.checkpoints == before
        assert list(before) == ["step-2", "step-4", "step-6"]
    finally:
        for stray in strays:
            stray.rmdir()


def test_steps_of_low_rank_terms_are_shown_as_the_matrices_that_they_make(run, tmp_path):
    begun = prepare(replace(load_run(run).run, start=Pretrained(path=str(run), lora=LoRA(rank=2))))
    list(fit(begun, tmp_path))
    session = Session(load_run(tmp_path), "tuned", folder=tmp_path)
    last = dict(session.model("step-6").loaded.model.named_parameters())
    assert last.keys() == dict(session.models["main"].loaded.model.named_parameters()).keys()
    assert all(torch.equal(last[name], value) for name, value in merged_weights(begun.model))
    assert session.model("step-2").hash != session.model("step-6").hash


def test_a_run_that_kept_nothing_says_how_to_keep(run):
    loaded = load_run(run)
    training = replace(loaded.run.training, checkpoints=Checkpoints(keep=0))
    empty = run.parent / "empty"
    empty.mkdir(exist_ok=True)
    described = Loaded(loaded.model, loaded.tokenizer, replace(loaded.run, training=training))
    told = TestClient(create_app(Session(described, folder=empty))).get("/api/training").json()
    assert "training.checkpoints.keep is 0" in told["advice"]
    assert "training.checkpoints.keep=20 training.checkpoints.every=100" in told["advice"]
    told = opened("encoder")[2].get("/api/training").json()
    assert "held in memory" in told["advice"]
    assert told["steps"] == told["checkpoints"] == told["samples"] == []


def test_only_a_few_checkpoints_are_held(run, monkeypatch):
    monkeypatch.setattr(session_module, "KEPT_CHECKPOINTS", 2)
    session = Session(load_run(run), folder=run)
    first = session.model("step-2")
    assert session.model("step-2") is first
    hashes = [session.model(key).hash for key in ("step-2", "step-4", "step-6")]
    assert len(set(hashes)) == 3
    assert session.model("step-2") is not first  # it had to make room, and was read again
    assert session.model("step-2").hash == hashes[0]
