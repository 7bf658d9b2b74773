"""Norms, units, the lens, contributions and architectures: what the server tells is what the model has."""

import math

import numpy as np
import pytest
import torch
from families import FAMILIES, describe, small
from fastapi.testclient import TestClient

from pellucid.analysis.parameters import parameter_count
from pellucid.config import model as model_config
from pellucid.config import parts
from pellucid.config import run as config
from pellucid.config.presets import PRESETS
from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer import app as server
from pellucid.explorer.app import create_app
from pellucid.explorer.describe import described
from pellucid.explorer.session import Session
from pellucid.inference.reading import read
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded
from pellucid.trace import trace

TEXT, TARGET = "the cat sat", "a dog"
TOKENIZER = Tokenizer.train(config.Characters(), ["the cat sat on the mat", "a dog did not"])
GATED = {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)}


@pytest.fixture(autouse=True)
def page(tmp_path, monkeypatch):
    """Whether the page was built is not the question here."""
    (tmp_path / "index.html").write_text("<title>pellucid</title>")
    monkeypatch.setattr(server, "STATIC", tmp_path)


class Opened:
    """A server with one model, and the same input traced beside it."""

    def __init__(self, model):
        family = type(model).__name__
        self.model = model
        loaded = Loaded(model, TOKENIZER, None)
        self.client = TestClient(create_app(Session(loaded, family)), raise_server_exceptions=False)
        target = TARGET if family == "EncoderDecoder" else None
        self.tape = trace(model, read(loaded, TEXT, target).inputs)
        told = self.client.post("/api/passes", json={"text": TEXT, **({"target": target} if target else {})})
        self.pass_ = told.json()

    def get(self, path, **params):
        return self.client.get(f"/api/passes/{self.pass_['id']}/{path}", params=params)

    def json(self, path, **params):
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def floats(self, path, **params):
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        shape = [int(size) for size in answer.headers["x-shape"].split(",")]
        return torch.from_numpy(np.frombuffer(answer.content, "<f4").copy()).view(shape)


# ---- norms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{"placement": "both"}, {"placement": "post"}, {"norm": parts.RMSNorm()}])
def test_norms(family, changes):
    opened = Opened(small(family, **changes))
    norms = opened.json("norms")
    assert [norm["name"] for norm in norms] == [
        name for name in opened.tape if name.endswith(("before.out", "output.out", "after.out", "norm.out"))
    ]
    for norm in norms[::3]:
        before = opened.tape[norm["input"]][0, 2].double()
        told = opened.json("norm", name=norm["name"], at="0,2")
        mean = before.mean().item() if norm["centred"] else 0.0
        assert (told["mean"] or 0.0) == pytest.approx(mean, rel=1e-9)
        variance = (before - mean).square().mean().item()
        assert told["variance"] == pytest.approx(variance, rel=1e-9)
        assert told["deviation"] == pytest.approx(math.sqrt(variance + norm["epsilon"]), rel=1e-9)
        assert told["error"] < 1e-5
        rows = dict(zip(told["rows"], opened.floats("norm/vectors", name=norm["name"], at="0,2"), strict=True))
        torch.testing.assert_close(rows["before"], before.float())
        torch.testing.assert_close(rows["after"], opened.tape[norm["name"]][0, 2])
        torch.testing.assert_close(rows["standard"] * rows["gain"] + rows["bias"], rows["after"], rtol=1e-4, atol=1e-5)


def test_a_norm_over_heads_has_a_place_for_the_head():
    opened = Opened(small("decoder", attention=parts.Attention(num_heads=4, qk_norm=True)))
    name = "blocks.1.self_attention.query_norm.out"
    rows = opened.floats("norm/vectors", name=name, at="0,3,2")
    torch.testing.assert_close(rows[-1], opened.tape[name][0, 3, 2])
    assert "no such place" in opened.get("norm", name=name, at="0,3").text
    assert "is no norm" in opened.get("norm", name="logits", at="0,3").text


@pytest.mark.parametrize("family", FAMILIES)
def test_how_large_the_stream_is(family):
    opened = Opened(small(family, placement="both"))
    for tower in opened.json("streams"):
        states = opened.floats("streams/rms", tower=tower["prefix"])
        written = opened.floats("streams/rms", tower=tower["prefix"], of="written")
        for names, rows in ((tower["states"], states), (tower["written"], written)):
            for name, row in zip(names, rows, strict=True):
                torch.testing.assert_close(row, opened.tape[name][0].square().mean(-1).sqrt())
        assert tower["states"][-1].endswith("blocks.1.residual_post")
        assert all(name.endswith("output.out") for name in tower["written"])
    assert opened.get("streams/rms", tower="no.").status_code == 422


# ---- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, GATED])
def test_units_of_a_layer(family, changes):
    opened = Opened(small(family, **changes))
    site = ("decoder." if family == "encoder_decoder" else "") + "blocks.1.feed_forward"
    told = opened.json("units", site=site, position=2, top=5)
    hidden = opened.tape[f"{site}.hidden"][0]
    on = opened.tape[f"{site}.{'gate' if changes else 'pre'}"][0] > 0
    assert [entry["unit"] for entry in told["entries"]] == hidden[2].topk(5).indices.tolist()
    assert told["entries"][0]["hidden"] == hidden[2].max().item()
    assert (told["entries"][0]["gate"] is None) != bool(changes)
    assert told["share"] == pytest.approx(on.float().mean().item())
    assert told["dead"]["units"] == [i for i in range(48) if not on[:, i].any()]
    down = opened.model.get_submodule(site).down.weight
    written = (hidden[2].abs() * down.norm(dim=0)).topk(3).indices.tolist()
    assert [
        entry["unit"] for entry in opened.json("units", site=site, position=2, top=3, by="written")["entries"]
    ] == written


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_one_unit(family):
    opened = Opened(small(family))
    site = ("decoder." if family == "encoder_decoder" else "") + "blocks.1.feed_forward"
    told = opened.json("unit", site=site, unit=6, position=1, top=3)
    hidden = opened.tape[f"{site}.hidden"][0, :, 6]
    assert told["order"] == hidden.argsort(descending=True, stable=True).tolist()
    assert told["hidden"] == hidden[1].item()
    assert told["exact"]
    promoted, suppressed = told["promotes"]
    assert promoted[0]["score"] >= promoted[1]["score"] > suppressed[0]["score"]
    share = opened.json("contributions", position=1, token=promoted[0]["id"], units=48)["sublayers"][-1]["units"]
    own = next(each["value"] for each in share if each["unit"] == 6)
    assert promoted[0]["score"] * told["hidden"] == pytest.approx(own, rel=1e-4, abs=1e-6)
    assert len(told["responds"]) == 3
    if family == "encoder_decoder":
        other = opened.json("unit", site="encoder.blocks.0.feed_forward", unit=6, position=1)
        assert other["promotes"] is None
        assert "no head reads as tokens" in other["why_not"]
        assert other["responds"]
    assert opened.get("unit", site=site, unit=99, position=1).status_code == 422
    assert opened.get("units", site="nothing", position=1).status_code == 422


# ---- the lens and contributions ----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_lens(family, placement):
    opened = Opened(small(family, placement=placement))
    told = opened.json("lens", top=3, start=1, stop=4)
    probabilities = opened.tape["logits"][0].softmax(-1)
    assert told["positions"] == [1, 2, 3]
    assert [cell["id"] for cell in told["top"][-1][0]] == probabilities[1].topk(3).indices.tolist()
    assert told["top"][-1][2][0]["probability"] == pytest.approx(probabilities[3].max().item(), rel=1e-5)
    assert told["chosen"][-1] == pytest.approx(probabilities[1:4].max(-1).values.tolist(), rel=1e-5)
    assert told["rank"][-1] == [1, 1, 1]
    more = opened.json("lens", sublayers=True, token=5)
    assert len(more["states"]) == (7 if family == "encoder_decoder" else 5)
    assert more["chosen"][-1][0] == pytest.approx(probabilities[0, 5].item(), rel=1e-5)
    cell = opened.json("lens/cell", state=told["states"][-1], position=2, top=4)
    assert [entry["id"] for entry in cell["entries"]] == probabilities[2].topk(4).indices.tolist()
    assert opened.get("lens/cell", state="logits", position=2).status_code == 422
    assert opened.get("lens", start=5, stop=2).status_code == 422
    assert opened.get("lens", token=61).status_code == 422
    assert opened.get("lens", token=1 << 70).status_code == 422


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_add_up_to_the_captured_logit(family):
    opened = Opened(small(family))
    told = opened.json("contributions", position=-1)
    logits = opened.tape["logits"][0, -1]
    assert told["tokens"][0]["id"] == logits.argmax().item()
    assert told["logit"] == logits.max().item()
    total = told["embedding"] + told["bias"] + sum(layer["total"] for layer in told["sublayers"])
    assert total == pytest.approx(told["logit"], abs=1e-4)
    assert told["total"] == pytest.approx(told["logit"], abs=1e-4)
    for layer in told["sublayers"]:
        if layer["parts"] is not None:
            assert sum(layer["parts"]) + layer["bias"] == pytest.approx(layer["total"], abs=1e-5)
    apart = opened.json("contributions", position=-1, token=4, against=9)
    assert apart["logit"] == pytest.approx((logits[4] - logits[9]).item(), abs=1e-5)
    assert apart["total"] == pytest.approx(apart["logit"], abs=1e-4)
    assert opened.get("contributions", position=99).status_code == 422
    assert opened.get("contributions", position=0, token=61).status_code == 422


def test_what_a_model_cannot_tell_is_said():
    post = Opened(small("decoder", placement="post")).get("contributions", position=0)
    assert post.status_code == 422
    assert "no sum of what layers wrote" in post.text
    head = model_config.Classification(labels=("no", "yes"))
    classifier = build(
        model_config.Encoder(front=describe("encoder").front, stack=describe("encoder").stack, head=head)
    )
    opened = Opened(classifier.eval())
    assert "a language head" in opened.get("lens").text
    assert opened.get("contributions", position=0).status_code == 422
    assert opened.json("norms")
    told = opened.json("unit", site="blocks.0.feed_forward", unit=0, position=0)
    assert "a language head" in told["why_not"]


# ---- architectures -----------------------------------------------------------------------------


def test_every_preset_has_an_architecture_with_the_shapes_of_its_weights():
    for name, preset in PRESETS.items():
        told = described(preset.model)
        assert told["parameters"] == parameter_count(preset.model), name
        for part in told["parts"]:
            assert sum(math.prod(shape) for shape in part["shapes"].values()) == part["weights"] + part["bias"]


def test_a_preset_is_told_and_nothing_else_is_read():
    client = Opened(small("decoder")).client
    told = client.get("/api/architecture", params={"target": "gpt2"}).json()
    assert (told["name"], told["parameters"], told["vocabulary"]) == ("gpt2", 124_439_808, 50_257)
    shapes = {part["name"]: part["shapes"] for part in told["parts"]}
    assert shapes["blocks.*.feed_forward.up"] == {"weight": [3072, 768], "bias": [3072]}
    assert told["towers"][0]["final_norm"]
    for target in ("../pyproject.toml", "openai-community/gpt2", "/etc", "gpt-2"):
        answer = client.get("/api/architecture", params={"target": target})
        assert answer.status_code == 422
        assert "no such preset" in answer.text
