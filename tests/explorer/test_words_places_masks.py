"""What the page is told of tokens, positions and masks is what the model's own modules have."""

import pytest
import torch
from families import FAMILIES, small
from fastapi.testclient import TestClient
from test_server import TARGET, TEXT, TOKENIZER, body, floats, opened, page, traced  # noqa: F401

from pellucid.analysis.embeddings import nearest
from pellucid.analysis.places import without_positions
from pellucid.config import parts
from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.models.checkpoint import Loaded
from pellucid.trace import trace


def with_parts(family, **changes):
    loaded = Loaded(small(family, **changes), TOKENIZER, None)
    return loaded, TestClient(create_app(Session(loaded, family)), raise_server_exceptions=False)


def posted(client, family, **more):
    answer = client.post("/api/passes", json=body(family, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


def towers(family):
    return ("encoder.", "decoder.") if family == "encoder_decoder" else ("",)


def tower_of(loaded, prefix):
    return getattr(loaded.model, prefix[:-1]) if prefix else loaded.model


# ---- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_their_vectors(family):
    loaded, _, client = opened(family)
    for prefix in towers(family):
        table = tower_of(loaded, prefix).embedding.table.weight.detach()
        ids = [*TOKENIZER.encode("cat"), TOKENIZER.eos]
        told = client.get("/api/models/main/tokens", params={"tower": prefix, "ids": ",".join(map(str, ids))}).json()
        assert [each["piece"] for each in told] == ["c", "a", "t", "</s>"]
        assert [each["special"] for each in told] == [False, False, False, True]
        assert [each["norm"] for each in told] == pytest.approx(table[ids].norm(dim=1).tolist())
        row = client.get("/api/models/main/embedding", params={"tower": prefix, "token": ids[0]})
        assert torch.equal(floats(row), table[ids[0]])
        assert torch.equal(floats(client.get("/api/models/main/norms", params={"tower": prefix})), table.norm(dim=1))
        near = client.get("/api/models/main/nearest", params={"tower": prefix, "token": ids[1], "top": 5}).json()
        assert near["piece"] == "a"
        assert [one["id"] for one in near["neighbours"]] == [one.id for one in nearest(table, ids[1], 5)]
        assert near["neighbours"][0]["cosine"] == pytest.approx(nearest(table, ids[1], 1)[0].cosine)


def test_tokens_are_found_by_their_piece():
    _, _, client = opened("decoder")
    told = client.get("/api/models/main/vocabulary", params={"find": "S", "most": 3}).json()
    assert told["entries"][0]["piece"] == "s"
    assert told["found"] >= 3  # <s> and </s> too
    assert told["size"] == 61


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("tokens", {"ids": "5,61"}, "found 61"),
        ("tokens", {"ids": "a"}, 'found "a"'),
        ("embedding", {"token": -1}, "found -1"),
        ("nearest", {"token": 61}, "found 61"),
        ("nearest", {"token": 6, "tower": "encoder."}, 'found "encoder."'),
        ("positions/codes", {"length": 41}, "found 41"),
        ("positions/biases", {"reach": 4}, "nothing is added to the scores"),
    ],
)
def test_what_is_not_there_is_said(path, asked, said):
    _, client = with_parts("decoder", positions=parts.Learned(max_length=40))
    answer = client.get(f"/api/models/main/{path}", params=asked)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["found"]


# ---- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sinusoids(family):
    loaded, _, client = opened(family)
    for prefix in towers(family):
        told = client.get("/api/models/main/positions", params={"tower": prefix}).json()
        assert told["kind"] == "sinusoidal"
        added = tower_of(loaded, prefix).embedding.positions
        assert told["frequencies"] == added.frequency.tolist()
        found = client.get("/api/models/main/positions/codes", params={"tower": prefix, "length": 20})
        assert torch.equal(floats(found), added.code(torch.arange(20)[None])[0].float())
        alike = client.get("/api/models/main/positions/codes", params={"tower": prefix, "length": 5, "alike": True})
        assert floats(alike).shape == (5, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_biases(family):
    _loaded, client = with_parts(family, positions=parts.ALiBi())
    for prefix in towers(family):
        told = client.get("/api/models/main/positions/biases", params={"tower": prefix, "reach": 3}).json()
        causal = prefix == "decoder." or family == "decoder"
        assert told["ahead"] == ([-3, -2, -1, 0] if causal else [-3, -2, -1, 0, 1, 2, 3])
        assert told["heads"][1][0] == pytest.approx(-3 * 2**-4)
        assert told["buckets"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_turned_apart(family):
    attention = parts.Attention(num_heads=4, num_kv_heads=2, qk_norm=True)
    loaded, client = with_parts(family, positions=parts.Rotary(fraction=0.5), attention=attention)
    tape = traced(loaded, family)
    shown = posted(client, family)
    for prefix in towers(family):
        site = f"{prefix}blocks.1.self_attention"
        asked = {"site": site, "head": 3, "query": 4, "key": 1, "reach": 6}
        told = client.get(f"/api/passes/{shown['id']}/turned", params=asked).json()
        at = told["distances"].index(told["own"])
        scale = tower_of(loaded, prefix).blocks[1].self_attention.scale
        expected = tape[f"{site}.scores"][0, 3, 4, 1].item()
        assert sum(told["parts"][at]) * scale == pytest.approx(expected, abs=1e-5)
        assert len(told["parts"][0]) == len(told["pairs"]) + 1
    if family == "encoder_decoder":
        asked = {"site": "decoder.blocks.1.cross_attention", "head": 3, "query": 1, "key": 1}
        refused = client.get(f"/api/passes/{shown['id']}/turned", params=asked)
        assert "not turned" in refused.json()["error"]["found"]


@pytest.mark.parametrize("positions", [parts.Sinusoidal(), parts.Rotary(), parts.ALiBi()])
def test_two_words_that_change_places(positions):
    _loaded, client = with_parts("encoder", positions=positions)
    own = posted(client, "encoder")
    ids = own["reads"]["ids"]
    ids[2], ids[6] = ids[6], ids[2]
    found = {}
    for kind in ("own", "none"):
        before = posted(client, "encoder", positions=kind)
        after = posted(client, "encoder", positions=kind, ids={"reads": ids})
        asked = {"other": after["id"], "first": 2, "second": 6}
        found[kind] = client.get(f"/api/passes/{before['id']}/moved", params=asked).json()
    assert found["own"]["order"][2] == 6
    assert len(found["own"]["moved"]) == 3
    assert max(found["own"]["moved"][-1]) > 1e-2
    assert max(max(row) for row in found["none"]["moved"]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_without_positions_is_explained_like_any_other(family):
    loaded, client = with_parts(family, positions=parts.Rotary())
    shown = posted(client, family, positions="none")
    with without_positions(loaded.model):
        tape = traced(loaded, family)
    found = floats(client.get(f"/api/passes/{shown['id']}/tensor", params={"name": "logits"}))
    torch.testing.assert_close(found, tape["logits"])
    name = f"{towers(family)[-1]}blocks.1.self_attention.scores"
    told = client.get(f"/api/passes/{shown['id']}/explain", params={"name": name, "index": "0,1,2,1"}).json()
    assert told["captured"] == pytest.approx(tape[name][0, 1, 2, 1].item(), abs=1e-5)
    assert told["error"] < 1e-4
    assert torch.equal(traced(loaded, family)["logits"], trace(loaded.model, _inputs(loaded, family))["logits"])


def _inputs(loaded, family):
    from pellucid.inference.reading import read

    return read(loaded, TEXT, TARGET if family == "encoder_decoder" else None).inputs


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_that_were_applied(family):
    loaded, client = with_parts(family, windows=(3,))
    shown = posted(client, family)
    tape = traced(loaded, family)
    told = client.get(f"/api/passes/{shown['id']}/masks").json()
    assert [f"{one['site']}.mask" for one in told] == [name for name in tape.entries if name.endswith(".mask")]
    for one in told:
        allowed = tape[f"{one['site']}.mask"]
        assert one["pairs"] == int(allowed.sum())
        assert (one["queries"], one["keys"]) == tuple(allowed.shape[-2:])
        assert (one["blind"], one["unseen"], one["padding"]) == ([], [], None)
        cross = one["site"].endswith("cross_attention")
        causal = not cross and (family == "decoder" or one["site"].startswith("decoder."))
        assert one["rule"] == {
            "causal": causal, "window": None if cross else 3, "padding": False, "bias": False, "cross": cross,
        }  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_that_is_hidden_changes_nothing_and_padding_that_is_not_does(family, side):
    _loaded, client = with_parts(family)
    own = posted(client, family)
    counts = {"reads": 3, "writes": 2}
    hidden = posted(client, family, padding={**counts, "side": side})
    seen = posted(client, family, padding={**counts, "side": side, "hidden": False})

    def logits(shown):
        written = (shown["writes"] or shown["reads"])["pieces"]
        extra = 2 if shown["writes"] else 3
        found = floats(client.get(f"/api/passes/{shown['id']}/tensor", params={"name": "logits"}))[0]
        assert len(found) == len(written)
        return found[extra:] if side == "left" else found[:-extra]

    real = floats(client.get(f"/api/passes/{own['id']}/tensor", params={"name": "logits"}))[0]
    torch.testing.assert_close(logits(hidden), real, rtol=1e-4, atol=1e-4)
    # A decoder that is padded on the right never looks there: its mask hides what comes later anyhow.
    assert torch.allclose(logits(seen), real, atol=1e-3) == (family == "decoder" and side == "right")
    for one in client.get(f"/api/passes/{hidden['id']}/masks").json():
        assert one["rule"]["padding"]
        assert one["padding"] == [0.0] * 4
        assert len(one["unseen"]) == (2 if one["site"].startswith("decoder.blocks") and not one["rule"]["cross"] else 3)
        assert len(one["blind"]) == (2 if one["site"].startswith("decoder.") else 3)
    on_padding = [max(one["padding"]) for one in client.get(f"/api/passes/{seen['id']}/masks").json()]
    assert (max(on_padding) > 0.01) == (not (family == "decoder" and side == "right"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_changed_cell_by_cell_or_by_a_rule(family):
    _loaded, client = with_parts(family)
    own = posted(client, family)
    name = f"{towers(family)[-1]}blocks.0.self_attention"
    cell = {"kind": "replace", "name": f"{name}.mask", "positions": [4], "units": [1], "value": False}
    changed = posted(client, family, edits=[cell])
    weights = floats(client.get(f"/api/passes/{changed['id']}/tensor", params={"name": f"{name}.weights"}))
    assert weights[0, :, 4, 1].tolist() == [0.0] * 4
    torch.testing.assert_close(weights[0, :, 4].sum(-1), torch.ones(4))
    told = {one["site"]: one for one in client.get(f"/api/passes/{changed['id']}/masks").json()}
    assert told[name]["edited"] == [f"{name}.mask"]
    blind = posted(
        client, family, edits=[{"kind": "replace", "name": f"{name}.mask", "positions": [2], "value": False}]
    )
    told = {one["site"]: one for one in client.get(f"/api/passes/{blind['id']}/masks").json()}
    assert told[name]["blind"] == [2]
    narrow = posted(
        client, family, edits=[{"kind": "mask", "name": "*self_attention.mask", "causal": True, "window": 2}]
    )
    for one in client.get(f"/api/passes/{narrow['id']}/masks").json():
        if not one["rule"]["cross"]:
            assert one["pairs"] == 2 * one["queries"] - 1
    assert len({own["id"], changed["id"], blind["id"], narrow["id"]}) == 4


def test_a_rule_of_order_between_two_texts_is_refused():
    _, client = with_parts("encoder_decoder")
    edit = {"kind": "mask", "name": "*cross_attention.mask", "causal": True}
    answer = client.post("/api/passes", json=body("encoder_decoder", edits=[edit]))
    assert answer.status_code == 422
    assert "a mask of a text over itself" in answer.json()["error"]["expected"]


# ---- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_step_by_step(family):
    attention = parts.Attention(num_heads=4, num_kv_heads=2, softcap=2.0)
    loaded, client = with_parts(family, attention=attention, positions=parts.ALiBi())
    shown = posted(client, family)
    tape = traced(loaded, family)
    site = f"{towers(family)[-1]}blocks.1.self_attention"
    asked = {"site": site, "head": 3, "query": 1}
    told = client.get(f"/api/passes/{shown['id']}/scores", params=asked).json()
    assert (told["group"], told["groups"], told["softcap"]) == (1, 2, 2.0)
    q, k = tape[f"{site}.q"][0, 3, 1].double(), tape[f"{site}.k"][0, 1].double()
    assert [key["sum"] for key in told["keys"]] == pytest.approx((k @ q).tolist())
    for at, key in enumerate(told["keys"]):
        expected = tape[f"{site}.scores"][0, 3, 1, at].item()
        found = float(str(key["captured"]).replace("inf", "inf"))
        assert found == pytest.approx(expected, abs=1e-5)
        assert [step["name"].split()[0] for step in key["steps"]][:3] == ["×", "squashed", "+"]
