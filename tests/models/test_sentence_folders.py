"""Folders of sentence-transformers, of every age: what they declare is honoured, carried along, or refused."""

import json
import shutil
from dataclasses import replace

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from pellucid.config import parts, run
from pellucid.config.defaults import default_run, family_of, fitted
from pellucid.config.model import Classification, Embedding, Encoder, MaskedLanguage, Tokens
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, ConfigError
from pellucid.inference.predict import embed
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run
from pellucid.models.convert import convert
from pellucid.models.foreign.hub import CONFIGS
from pellucid.models.load import load

TEXTS = ["the cat sat on the mat", "a mat"]
WORDS = Tokenizer.train(run.ByteBPE(vocab_size=300), TEXTS * 4)
BERT = Encoder(
    front=Tokens(vocab_size=WORDS.vocab_size, token_types=2, norm=True),
    stack=parts.Stack(
        d_model=16,
        num_layers=1,
        attention=parts.Attention(num_heads=2),
        feed_forward=parts.FeedForward(d_ff=24, activation="gelu"),
        positions=parts.Learned(max_length=32),
        norm=parts.LayerNorm(epsilon=1e-12),
    ),
    head=Embedding(pooling="mean"),
)
HEADS = {
    "bert": ("cls.predictions.transform.dense.weight", "cls.predictions.decoder.weight"),
    "roberta": ("lm_head.dense.weight", "lm_head.decoder.weight"),
    "distilbert": ("vocab_transform.weight", "vocab_projector.weight"),
}
STALE = (
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "source.spm",
    "spiece.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def published(root, described):
    torch.manual_seed(0)
    usual = default_run(family_of(described), run.NoData())
    objective, pieces = fitted(usual.objective, described), run.ByteBPE(vocab_size=300)
    settings = replace(usual, model=described, objective=objective, tokenizer=pieces)
    save_run(root / "run", build(described).eval(), WORDS, settings)
    convert(root / "run", root / "out", "hf")
    return root / "out"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return published(tmp_path_factory.mktemp("embedder"), BERT)


@pytest.fixture
def folder(embedder, tmp_path):
    return shutil.copytree(embedder, tmp_path / "bert")


def told(path):
    return json.loads(path.read_text())


def retell(path, **settings):
    path.write_text(json.dumps((told(path) if path.exists() else {}) | settings))


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "first"), ("mean", "mean"), (["max"], "max")])
def test_the_pooling_of_version_6(folder, mode, pooling):
    pooled = {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled))
    assert load(folder).model.config.head == Embedding(pooling=pooling)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling_mode": "lasttoken"}, "found lasttoken; expected one of cls, mean, max"),
        ({"pooling_mode": ["cls", "mean"]}, "found cls, mean; expected one of"),
        ({"pooling_mode": []}, "found no pooling"),
        ({"pooling_mode": {"cls": 1}}, "expected one of cls, mean, max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "found cls, mean; expected one of"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "found mean_sqrt_len; expected one of"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt: found false; expected true"),
    ],
)
def test_poolings_that_are_not_honoured(folder, settings, message):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_prompt_before_every_text(folder):
    path, prompts = folder / "config_sentence_transformers.json", {"query": "find: ", "document": ""}
    for name in (None, "document"):
        path.write_text(json.dumps({"prompts": prompts, "default_prompt_name": name, "similarity_fn_name": "cosine"}))
        load(folder)
    path.write_text(json.dumps({"prompts": prompts, "default_prompt_name": "query"}))
    with pytest.raises(ConfigError, match=r"default_prompt_name: found 'query', which puts 'find: ' before every text"):
        load(folder)
    assert path.name in CONFIGS  # what decides is fetched


@pytest.mark.parametrize(
    "step",
    [
        normalizers.NFC(),
        normalizers.BertNormalizer(lowercase=True),
        normalizers.BertNormalizer(lowercase=False),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]),
    ],
    ids=["other", "uncased", "cased", "several", "lower"],
)
def test_lower_case_that_sentence_transformers_are_told_of(folder, step):
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.normalizer = step
    raw.save(str(folder / "tokenizer.json"))
    retell(folder / "sentence_bert_config.json", do_lower_case=True)
    loaded, text = load(folder), "The CAT sat on the mat"
    ids = loaded.tokenizer.encode(text)
    assert ids == WORDS.encode(text.lower())
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    assert theirs.tokenizer(text)["input_ids"] == loaded.tokenizer.text(ids)
    assert torch.allclose(torch.from_numpy(theirs.encode([text])), embed(loaded, [text]), atol=1e-5)


def test_modules_nested_without_end(folder):
    (folder / "modules.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"modules\.json: cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    ("limit", "longest"), [(8, 8), (int(1e30), None), (1e30, None), (True, None), (0, None), ("x", None)]
)
def test_the_longest_text_of_version_6(folder, limit, longest):
    retell(folder / "tokenizer_config.json", model_max_length=limit)
    assert load(folder).tokenizer.conventions.longest == longest
    retell(folder / "sentence_bert_config.json", max_seq_length=5)
    assert load(folder).tokenizer.conventions.longest == 5
    (folder / "sentence_bert_config.json").unlink()
    (folder / "modules.json").unlink()
    assert load(folder).tokenizer.conventions.longest is None


@pytest.mark.parametrize("longest", ["x", 0, -1, True, [5]])
def test_a_longest_text_that_is_no_number(folder, longest):
    retell(folder / "sentence_bert_config.json", max_seq_length=longest)
    with pytest.raises(ConfigError, match=r"max_seq_length: found .*expected a number of tokens"):
        load(folder)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_the_pooling_does_without(folder, kind):
    expected = embed(load(folder), TEXTS)
    if kind != "bert":
        front = replace(BERT.front, token_types=0 if kind == "distilbert" else 2)
        positions = parts.Learned(max_length=32, offset=WORDS.pad + 1 if kind == "roberta" else 0)
        other = replace(BERT, front=front, stack=replace(BERT.stack, positions=positions))
        folder = published(folder.parent / kind, other)
        expected = embed(load(folder), TEXTS)
    tensors = {f"{kind}.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= {name: torch.zeros(2, 2) for name in HEADS[kind]}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    retell(folder / "config.json", architectures=["XForMaskedLM"])
    assert told(folder / "config.json")["model_type"] == kind
    assert torch.equal(embed(load(folder), TEXTS), expected)
    (folder / "modules.json").unlink()
    retell(folder / "config.json", architectures=["XModel"])
    with pytest.raises(CheckpointError, match="unknown"):
        load(folder)


def test_one_score_is_written_as_it_is(tmp_path):
    one = published(tmp_path / "one", replace(BERT, head=Classification(labels=("x",))))
    assert told(one / "config.json")["sentence_transformers"]["activation_fn"].endswith("Identity")
    two = published(tmp_path / "two", replace(BERT, head=Classification(labels=("x", "y"))))
    masked = published(tmp_path / "masked", replace(BERT, head=MaskedLanguage(), tie=("source", "output")))
    assert not any("sentence_transformers" in told(folder / "config.json") for folder in (two, masked))


@pytest.mark.parametrize(
    "said",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "6.2.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {},
    ],
    ids=["new", "old", "none"],
)
def test_what_is_done_with_a_score_goes_along(tmp_path, said):
    folder = published(tmp_path, replace(BERT, head=Classification(labels=("x",))))
    plain = told(folder / "config.json")
    del plain["sentence_transformers"]
    (folder / "config.json").write_text(json.dumps(plain | said))
    convert(folder, tmp_path / "again", "hf")
    names = ("sentence_transformers", "sbert_ce_default_activation_function")
    assert {name: value for name, value in told(tmp_path / "again" / "config.json").items() if name in names} == said


@pytest.mark.parametrize("to", ["hf", "pellucid"])
def test_nothing_old_wins_over_what_is_written(embedder, tmp_path, to):
    convert(embedder, tmp_path / "clean", to)
    out = tmp_path / "out"
    (out / "1_Pooling").mkdir(parents=True)
    for name in (*STALE, "notes.txt", "README.md"):
        (out / name).write_text("of another model")
    convert(embedder, out, to, force=True)
    left = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    written = {path.relative_to(tmp_path / "clean").as_posix() for path in (tmp_path / "clean").rglob("*")}
    assert left.keys() - written == {"notes.txt", "README.md"}
    assert all(left[name].read_text() != "of another model" for name in STALE if name in left)


def test_the_template_of_a_chat_goes_along(embedder, tmp_path):
    (tmp_path / "source").mkdir()
    for path in embedder.glob("*.*"):
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "source" / "modules.json").unlink()
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages }}")
    convert(tmp_path / "source", tmp_path / "out", "hf")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
