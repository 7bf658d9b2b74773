"""Beginning at another run: its weights and tokenizer are taken over, some frozen, some adapted."""

import signal
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, small
from safetensors.torch import load_file
from test_resume import session

from pellucid.cli.train import _is_same
from pellucid.config.defaults import continued_run, default_run
from pellucid.config.optimisation import CheckpointAverage
from pellucid.config.run import Bytes, Characters, Conventions, LabelledFiles, TextFiles, TokenizerFile
from pellucid.config.start import LoRA, Pretrained
from pellucid.data.corpus import Corpus, Labelled
from pellucid.errors import CheckpointError, ConfigError, DataError, UserError
from pellucid.models.checkpoint import load_description, load_run, save_description
from pellucid.models.load import describe
from pellucid.nn.lora import adapt, merged_weights
from pellucid.training.fit import _batches, fit
from pellucid.training.loop import Step
from pellucid.training.session import prepare, validation_batches


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in folders.items():
        list(fit(session(family), folder))
    return folders


def continued(family, folder, **start):
    before = session(family)
    run = replace(before.run, start=Pretrained(path=str(folder), **start))
    return prepare(run, corpus=before.corpus)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_tokenizer_are_taken_over(runs, family):
    begun, saved = continued(family, runs[family]), load_run(runs[family])
    assert begun.tokenizer.raw.to_str() == saved.tokenizer.raw.to_str()
    expected = dict(saved.model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in begun.model.named_parameters())


@pytest.mark.parametrize(
    ("asked", "told"),
    [(Characters(), False), (default_run("decoder", TextFiles(train=("x",))).tokenizer, False), (Bytes(), True)],
)
def test_a_tokenizer_that_a_run_asks_for_and_does_not_get_is_told(runs, tmp_path, asked, told):
    """That of the start, and the one of the family that nobody asked for, go without a word."""
    before, start = session("decoder"), Pretrained(path=str(runs["decoder"]))
    run = replace(before.run, tokenizer=asked, start=start)
    begun = prepare(run, corpus=before.corpus)
    assert begun.run.tokenizer == Characters()
    save_description(tmp_path, begun.tokenizer, begun.run)
    assert _is_same(tmp_path, run)  # so that it goes on where torchrun starts it again
    assert ("tokenizer" in begun.chosen) == told
    if told:
        assert begun.chosen["tokenizer"] == f"that of {start.path}, not the one that the run asks for"


def test_frozen_weights_stay_and_the_others_move(runs, tmp_path):
    begun = continued("decoder", runs["decoder"], freeze=("embedding.*", "blocks.0.*"))
    before = {name: p.detach().clone() for name, p in begun.model.named_parameters()}
    list(fit(begun, tmp_path))
    for name, p in begun.model.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith(("embedding.", "blocks.0."))


@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_terms_begin_at_nothing_and_merge_exactly(family):
    torch.manual_seed(0)
    model, plain = small(family).eval(), small(family).eval()
    plain.load_state_dict(model.state_dict())
    adapted = adapt(model, ("query", "value"), rank=2, alpha=4.0, dropout=0.0)
    assert all(name.endswith((".query", ".value")) for name in adapted)
    assert all(torch.equal(value, dict(plain.named_parameters())[name]) for name, value in merged_weights(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        for name, value in merged_weights(model):
            plain.get_parameter(name).copy_(value)
    tokens = torch.randint(2, 50, (2, 7))
    inputs = (tokens, tokens) if family == "encoder_decoder" else (tokens,)
    torch.testing.assert_close(model(*inputs), plain(*inputs), atol=1e-4, rtol=1e-4)


def test_an_adapted_run_trains_little_and_loads_as_a_plain_one(runs, tmp_path):
    begun = continued("decoder", runs["decoder"], lora=LoRA(rank=2))
    trained = [name for name, p in begun.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    list(fit(begun, tmp_path))
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(runs["decoder"] / "model.safetensors"))
    load_run(tmp_path)


@pytest.mark.parametrize("freeze", [(), ("*.lora_A.weight",)])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_puts_the_terms_back(runs, tmp_path, family, freeze):
    peft = pytest.importorskip("peft")
    begun = continued(family, runs[family], lora=LoRA(rank=3, alpha=4.0, targets=("query", "up")), freeze=freeze)
    list(fit(begun, tmp_path))
    base, tuned = load_run(runs[family]).model, load_run(tmp_path).model
    assert not torch.equal(base.get_parameter(name := next(iter(adapted(begun)))), tuned.get_parameter(name))
    restored = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    tokens = torch.randint(2, 9, (2, 7))
    inputs = (tokens, tokens) if family == "encoder_decoder" else (tokens,)
    with torch.no_grad():
        torch.testing.assert_close(restored(*inputs), tuned(*inputs), atol=1e-5, rtol=1e-4)


def adapted(begun):
    names = [name for name, _ in begun.model.named_parameters() if ".lora_A." in name]
    return [name.replace(".lora_A.", ".") for name in names]


def test_an_encoder_becomes_a_classifier(runs, tmp_path):
    examples = [Labelled("abba cab" if i % 2 else "deaf dad", "ab" if i % 2 else "de") for i in range(20)]
    corpus = Corpus("labelled", examples[:16], examples[16:], labels=("ab", "de"))
    run = continued_run(*describe(runs["encoder"])[:2], str(runs["encoder"]), "classifier", LabelledFiles(train="x"))
    run = replace(run, training=replace(run.training, steps=30, batch_tokens=64, evaluate_every=0, precision="float32"))
    begun = prepare(run, corpus=corpus)
    assert "head.project.weight" in begun.chosen["begins at random"]
    list(fit(begun, tmp_path))
    assert load_run(tmp_path).run.model.head.labels == ("ab", "de")


def test_what_cannot_be_is_told(runs):
    with pytest.raises(UserError, match="holds a decoder"):
        continued_run(*describe(runs["decoder"])[:2], "runs/x", "classifier", LabelledFiles(train="x"))
    with pytest.raises(ConfigError, match="fits nothing"):
        continued("decoder", runs["decoder"], freeze=("blokcs.*",))
    with pytest.raises(ConfigError, match="fits nothing"):
        continued("decoder", runs["decoder"], lora=LoRA(targets=("quary",)))
    before = session("decoder")
    model = replace(before.run.model, stack=replace(before.run.model.stack, d_model=16))
    run = replace(before.run, model=model, start=Pretrained(path=str(runs["decoder"])))
    with pytest.raises(CheckpointError, match="another shape"):
        prepare(run, corpus=before.corpus)


def test_a_replaced_run_leaves_nothing_behind(runs, tmp_path):
    begun = continued("decoder", runs["decoder"], lora=LoRA(rank=2))
    averaging = replace(begun.run.training, average=CheckpointAverage(count=2))
    list(fit(replace(begun, run=replace(begun.run, training=averaging)), tmp_path))
    assert (tmp_path / "adapter").exists()
    assert (tmp_path / "snapshots").exists()
    (tmp_path / "README.md").write_text("the loss of other weights")
    events = fit(session("encoder"), tmp_path)
    for event in events:
        if isinstance(event, Step) and event.step == 2:
            signal.raise_signal(signal.SIGINT)  # before anything is evaluated
    assert type(load_run(tmp_path, verify=True).model).__name__ == "Encoder"
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "snapshots").exists()
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_around_texts_is_trained_with_as_it_will_be_read(tmp_path, family):
    begun = session(family)
    begun.tokenizer.save(tmp_path / "tokenizer.json")
    said = Conventions(pad=3, mask=4, before=(2,), after=(3,), start=(2,), ends=(3,))
    tokenizer = TokenizerFile(path=str(tmp_path / "tokenizer.json"))
    again = prepare(replace(begun.run, tokenizer=tokenizer, conventions=said), corpus=begun.corpus)
    assert again.tokenizer.conventions == said
    save_description(tmp_path, again.tokenizer, again.run)
    assert load_description(tmp_path)[1].fingerprint == again.tokenizer.fingerprint


def test_data_of_another_kind_is_refused_before_anything_is_built():
    before = session("decoder")
    with pytest.raises(DataError, match="expected documents of text, which the objective Causal is about"):
        prepare(before.run, corpus=Corpus("labelled", [Labelled("a", "b")], [Labelled("a", "b")]))


def labelled(*labels):
    texts = ("abba cab", "deaf dad", "face bead")
    examples = [Labelled(texts[i % len(labels)], labels[i % len(labels)]) for i in range(20)]
    return Corpus("labelled", examples[:16], examples[16:], labels=tuple(sorted(labels)))


def classifier(folder, family=None, labels=None):
    """A short run that begins at another, before its data is read."""
    run = continued_run(*describe(folder)[:2], str(folder), family, LabelledFiles(train="x"))
    model = run.model if labels is None else replace(run.model, head=replace(run.model.head, labels=labels))
    training = replace(run.training, steps=2, batch_tokens=64, evaluate_every=0, precision="float32")
    return replace(run, model=model, training=training)


def test_a_head_goes_on_where_it_knows_the_labels_and_begins_anew_where_not(runs, tmp_path):
    first = prepare(classifier(runs["encoder"], "classifier"), corpus=labelled("ab", "de"))
    list(fit(first, tmp_path))
    saved = load_run(tmp_path).model.head.project.weight
    for known in (("ab", "de"), ("de",)):
        again = prepare(classifier(tmp_path), corpus=labelled(*known))
        assert again.run.model.head.labels == ("ab", "de")
        assert torch.equal(again.model.head.project.weight, saved)
        assert "begins at random" not in again.chosen
    for others in (("cat", "dog"), ("ab", "de", "fa")):
        anew = prepare(classifier(tmp_path), corpus=labelled(*others))
        assert anew.run.model.head.labels == others
        assert anew.chosen["begins at random"] == "head.project.weight, head.project.bias"


def test_classes_are_numbered_as_the_head_names_them(runs):
    asked = classifier(runs["encoder"], "classifier", labels=("de", "ab"))
    begun = prepare(asked, corpus=labelled("ab", "de"))
    for batch in (*validation_batches(begun), _batches(begun)[0]):
        for tokens, label in zip(batch.tokens, batch.labels, strict=True):
            text = begun.tokenizer.decode(tokens.tolist())
            assert begun.run.model.head.labels[label] == ("ab" if text.startswith("abba") else "de")
    asked = classifier(runs["encoder"], "classifier", labels=("ab", "xy"))
    with pytest.raises(ConfigError, match=r'model\.head\.labels: no "de", which the data has; expected all labels'):
        prepare(asked, corpus=labelled("ab", "de"))


@pytest.mark.parametrize(("family", "name"), [("decoder", "front"), ("encoder_decoder", "source")])
def test_a_table_of_fewer_rows_than_tokens_is_refused(family, name):
    before = session(family)
    fronts = ("source", "target") if family == "encoder_decoder" else ("front",)
    few = {front: replace(getattr(before.run.model, front), vocab_size=5) for front in fronts}
    with pytest.raises(ConfigError, match=rf"model\.{name}\.vocab_size: found 5; expected at least 1\d, as many"):
        prepare(replace(before.run, model=replace(before.run.model, **few)), corpus=before.corpus)


def test_what_leaves_nothing_to_train_is_told(runs):
    with pytest.raises(ConfigError, match=r"start\.freeze: nothing is left to train"):
        continued("decoder", runs["decoder"], freeze=("*",))
    for family in FAMILIES:
        with pytest.raises(ConfigError, match=r"start\.lora\.targets: project, whose weights the loss takes"):
            continued(family, runs[family], lora=LoRA(targets=("query", "project")))
