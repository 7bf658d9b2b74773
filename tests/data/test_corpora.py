"""Data named in a config becomes a split corpus, or an error that says what to mend."""

from __future__ import annotations

import json
import sys
import types
from random import Random

import pytest

from pellucid.config import run
from pellucid.data import Corpus, Labelled, Pair, corpora, load_corpus
from pellucid.data.files import LargeFile
from pellucid.errors import DataError


@pytest.fixture
def write(tmp_path):
    def _write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return _write


# ---- text --------------------------------------------------------------------------------------


def test_the_end_of_a_text_is_held_out_at_a_character(write):
    text = "äb\ncdefghijk"
    corpus = load_corpus(run.TextFiles(train=(write("a.txt", text),), held_out=0.25))
    assert (corpus.train, corpus.validation) == ([text[:9]], [text[9:]])


def test_several_files_are_held_out_from_the_end(write):
    names = tuple(write(f"{letter}.txt", letter * 10) for letter in "abc")
    corpus = load_corpus(run.TextFiles(train=names, held_out=0.5))
    assert corpus.train == ["a" * 10, "b" * 5]
    assert corpus.validation == ["b" * 5, "c" * 10]


def test_a_validation_file_leaves_the_training_text_whole(write):
    corpus = load_corpus(run.TextFiles(train=(write("a.txt", "train"),), validation=(write("b.txt", "other"),)))
    assert (corpus.train, corpus.validation) == (["train"], ["other"])


def test_nothing_held_out_is_refused(write):
    with pytest.raises(DataError, match=r"data\.held_out: 0\.0 of the text leaves nothing to validate on"):
        load_corpus(run.TextFiles(train=(write("a.txt", "text"),), held_out=0.0))


def test_large_files_are_split_at_a_line_and_read_in_pieces(write, monkeypatch):
    monkeypatch.setattr("pellucid.data.files.LARGE", 100)
    text = "".join(f"line {i}\n" for i in range(20))
    corpus = load_corpus(run.TextFiles(train=(write("a.txt", text),)))
    assert all(isinstance(document, LargeFile) for document in (*corpus.train, *corpus.validation))
    assert "".join(corpus.training_texts()) + "".join(corpus.validation[0]) == text


def test_the_split_of_a_text_is_the_same_on_every_machine(write, monkeypatch):
    data = run.TextFiles(train=(write("a.txt", "".join(f"line {i}\n" for i in range(20))),))
    here = load_corpus(data)
    monkeypatch.setattr("os.sysconf", lambda name: 1, raising=False)  # a page of memory, of one byte
    there = load_corpus(data)
    assert (there.train, there.validation, there.fingerprint) == (here.train, here.validation, here.fingerprint)


# ---- pairs -------------------------------------------------------------------------------------


def test_pairs_are_split_without_loss_and_the_same_every_time(write):
    source, target = ("".join(f"{side}{i}\n" for i in range(100)) for side in "st")
    data = run.ParallelFiles(source=write("s", source), target=write("t", target))
    corpus = load_corpus(data)
    assert load_corpus(data) == corpus
    assert len(corpus.validation) == 5
    assert sorted([*corpus.train, *corpus.validation]) == sorted(Pair(f"s{i}", f"t{i}") for i in range(100))


def test_pairs_with_a_blank_side_are_dropped_and_counted(write):
    data = run.ParallelFiles(source=write("s", "a\n\nc\nd\n"), target=write("t", "1\n2\n  \n4\n"), held_out=0.5)
    corpus = load_corpus(data)
    assert {*corpus.train, *corpus.validation} == {Pair("a", "1"), Pair("d", "4")}
    assert corpus.notes["pairs_with_an_empty_side_dropped"] == 2


def test_a_side_that_is_shorter_is_told_with_both_counts(write):
    with pytest.raises(DataError, match=r"s and .*t: 3 and 2 lines; expected as many in both"):
        load_corpus(run.ParallelFiles(source=write("s", "a\nb\nc\n"), target=write("t", "1\n2\n")))


def test_a_share_too_small_for_one_pair_is_refused(write):
    data = run.ParallelFiles(source=write("s", "a\nb\n"), target=write("t", "1\n2\n"), held_out=0.1)
    with pytest.raises(DataError, match=r"0\.1 of 2 pairs leaves none to validate on; expected at least 0\.5"):
        load_corpus(data)


@pytest.mark.parametrize("copies", [1, 3])
def test_what_is_held_out_has_no_copy_in_training(write, copies):
    lines = [f"{i}" for i in range(40)] * copies
    source, target = write("s", "\n".join(lines)), write("t", "\n".join(lines))
    corpus = load_corpus(run.ParallelFiles(source=source, target=target, held_out=0.1))
    assert not set(corpus.train) & set(corpus.validation)
    assert len(corpus.train) + len(corpus.validation) == len(lines)
    assert 4 * copies <= len(corpus.validation) < 4 * copies + copies
    rows = "".join(f"{'rare' if i < '3' else 'common'}\ttext {i[:1]}\n" for i in lines)
    corpus = load_corpus(run.LabelledFiles(train=write("a.tsv", rows), held_out=0.4))
    assert not set(corpus.train) & set(corpus.validation)
    assert corpus.labels == ("common", "rare")


def test_what_is_held_out_is_read_nowhere_in_training(write):
    source = write("s", "\n".join(["yes", "no", "maybe"] * 20))
    target = write("t", "\n".join(f"{i}" for i in range(60)))  # each source with twenty targets
    corpus = load_corpus(run.ParallelFiles(source=source, target=target, held_out=0.4))
    assert not {pair.source for pair in corpus.train} & {pair.source for pair in corpus.validation}
    rows = "".join(f"{label}\ttext {i}\n" for i in range(20) for label in ("a", "b"))  # each text with two labels
    corpus = load_corpus(run.LabelledFiles(train=write("a.tsv", rows + "c\ttext 7\n"), held_out=0.4))
    assert not {one.text for one in corpus.train} & {one.text for one in corpus.validation}
    assert corpus.labels == ("a", "b", "c")


def test_a_share_that_is_too_small_is_told_with_one_that_is_not(write):
    rows = "".join(f"a\ttext {i}\n" for i in range(7))
    with pytest.raises(DataError, match=r"at least 0\.143") as told:
        load_corpus(run.LabelledFiles(train=write("a.tsv", rows), held_out=0.1))
    share = float(str(told.value).split("at least ")[1].split(",")[0])
    assert len(load_corpus(run.LabelledFiles(train=write("a.tsv", rows), held_out=share)).validation) == 1


def test_the_split_of_lines_that_differ_is_the_one_it_always_was(write):
    lines = "\n".join(map(str, range(60)))
    corpus = load_corpus(run.ParallelFiles(source=write("s", lines), target=write("t", lines)))
    assert [pair.source for pair in corpus.validation] == sorted(map(str, Random(0).sample(range(60), 3)), key=int)


def test_copies_of_one_pair_cannot_be_split(write):
    data = run.ParallelFiles(source=write("s", "a\na\n"), target=write("t", "1\n1\n"), held_out=0.5)
    with pytest.raises(DataError, match=r"0\.5 of 2 pairs leaves none to train on"):
        load_corpus(data)


# ---- labels ------------------------------------------------------------------------------------


def test_labels_are_read_from_both_forms(write):
    tsv = write("a.tsv", "good\ta fine day\nbad\ta\tbad day\n\n")
    jsonl = write("b.jsonl", '{"text": "fine", "label": "good"}\n')
    corpus = load_corpus(run.LabelledFiles(train=tsv, validation=jsonl))
    assert corpus.train == [Labelled("a fine day", "good"), Labelled("a\tbad day", "bad")]
    assert corpus.validation == [Labelled("fine", "good")]
    assert corpus.labels == ("bad", "good")


def test_holding_out_takes_no_label_from_training(write):
    rows = [f"common\ttext {i}\n" for i in range(40)] + ["rare\tonce\n"]
    corpus = load_corpus(run.LabelledFiles(train=write("a.tsv", "".join(rows)), held_out=0.5))
    assert corpus.labels == ("common", "rare")
    assert len(corpus.validation) == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "good\tfine\nno tab here\n", r"a\.tsv, line 2: no tab in this line; expected label<TAB>text"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text"\n', r"a\.jsonl, line 2: not JSON \(.*column 8\)"),
        ("a.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}\n", r"a\.jsonl, line 1: not read"),
        ("a.jsonl", "[" * 100_000 + "\n", r"a\.jsonl, line 1: not read"),
        ("a.jsonl", '{"text": "a", "lable": "b"}\n', r'line 1: no "label"; expected .* Its keys are text, lable'),
        ("a.jsonl", "[1, 2]\n", r"line 1: found list"),
        ("a.jsonl", '{"text": "\\ud83d", "label": "b"}\n', r"line 1, \"text\": half of a character, '\\ud83d'"),
        ("a.jsonl", '{"text": " ", "label": "b"}\n', r'line 1: "text" is " "; expected more than spaces'),
        ("a.jsonl", '{"text": "a", "label": ""}\n', r'line 1: "label" is ""'),
        ("a.tsv", "label\ttext\ngood\tfine\n", r"a\.tsv, line 1: a header; expected label<TAB>text .*Delete it"),
        ("a.tsv", "Text\tLabel\r\nfine\tgood\r\n", r"a\.tsv, line 1: a header; expected label<TAB>text"),
    ],
)
def test_a_broken_line_is_told_by_its_number(write, name, text, message):
    with pytest.raises(DataError, match=message):
        load_corpus(run.LabelledFiles(train=write(name, text)))


def test_texts_where_labels_should_be_are_told(write):
    rows = "".join(f"text {i}\t{'ab'[i % 2]}\n" for i in range(1000))
    with pytest.raises(DataError, match=r"no label has a text to spare.*label<TAB>text.*validation file") as told:
        load_corpus(run.LabelledFiles(train=write("a.tsv", rows)))
    assert "at least" not in str(told.value)


def test_a_label_unknown_to_training_is_named_with_the_nearest(write):
    data = run.LabelledFiles(
        train=write("a.tsv", "positive\ta\nnegative\tb\n"), validation=write("b.tsv", "postive\tc\n")
    )
    with pytest.raises(DataError, match=r'the label "postive" is not in the training data.*mean "positive"'):
        load_corpus(data)


# ---- the hub -----------------------------------------------------------------------------------


class Table(list):
    """As much of a table of ``datasets`` as is used."""

    def __init__(self, rows, names=None):
        super().__init__(rows)
        self.column_names = list(rows[0]) if rows else []
        self.features = {column: types.SimpleNamespace(names=names) for column in self.column_names}
        self.features["inner"] = {"label": types.SimpleNamespace(names=names)}

    def __getitem__(self, column):
        return [row[column] for row in self]


def hub(monkeypatch, rows, names=None) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = lambda name, subset, split: Table(rows, names)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_columns_decide_the_kind(monkeypatch):
    rows = [{"text": "a", "label": 1, "translation": {"en": "a", "de": "b"}}] * 2
    hub(monkeypatch, rows, names=["no", "yes"])
    assert load_corpus(run.HubDataset(name="x", columns=("text",))).train == ["a", "a"]
    labelled = load_corpus(run.HubDataset(name="x", columns=("text", "label")))
    assert (labelled.kind, labelled.train[0], labelled.labels) == ("labelled", Labelled("a", "yes"), ("yes",))
    pairs = load_corpus(run.HubDataset(name="x", columns=("translation.en", "translation.de")))
    assert (pairs.kind, pairs.train[0]) == ("pairs", Pair("a", "b"))


def test_hub_labels_inside_a_column_and_rows_without_one(monkeypatch):
    rows = [{"text": "a", "inner": {"label": 1}}, {"text": None, "inner": {"label": 0}}, {"text": "b", "inner": None},
            {"text": "c", "inner": {"label": 0}}, {"text": "d", "inner": {"label": None}}]  # fmt: skip
    hub(monkeypatch, rows, names=["no", "yes"])
    corpus = load_corpus(run.HubDataset(name="x", columns=("text", "inner.label")))
    assert corpus.train == [Labelled("a", "yes"), Labelled("c", "no")]
    assert corpus.notes["rows_with_an_empty_column_dropped"] == "6"  # of both splits
    hub(monkeypatch, [{"text": None}])
    with pytest.raises(DataError, match="every row lacks text"):
        load_corpus(run.HubDataset(name="x", columns=("text",)))
    hub(monkeypatch, [{"text": 3.5}])
    with pytest.raises(DataError, match=r"x, train, text: found '3\.5', no text"):
        load_corpus(run.HubDataset(name="x", columns=("text",)))


def test_hub_columns_that_do_not_exist_are_named(monkeypatch):
    hub(monkeypatch, [{"text": "a", "translation": {"en": "a"}}])
    with pytest.raises(DataError, match=r'x, train: has no column "texts"\. Did you mean "text"'):
        load_corpus(run.HubDataset(name="x", columns=("texts",)))
    with pytest.raises(DataError, match=r'"translation\.fr" is not in its columns'):
        load_corpus(run.HubDataset(name="x", columns=("translation.en", "translation.fr")))
    with pytest.raises(DataError, match=r"data\.columns: found 3"):
        load_corpus(run.HubDataset(name="x", columns=("a", "b", "c")))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "pellucid\[datasets\]"'):
        load_corpus(run.HubDataset(name="x", columns=("text",)))


# ---- names -------------------------------------------------------------------------------------


def test_every_built_in_name_is_answered(monkeypatch):
    for name in corpora.BUILT_IN:
        loader = f"load_{name.replace('-', '_')}"
        monkeypatch.setattr(corpora, loader, lambda name=name: name)
        assert load_corpus(run.NamedData(name=name)) == name


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r'no data set is called "multi30"\. Did you mean "multi30k"'):
        load_corpus(run.NamedData(name="multi30"))
    with pytest.raises(DataError, match=r"data\.reverse: dates has one direction only"):
        load_corpus(run.NamedData(name="dates", reverse=True))
    for name in corpora.BUILT_IN:
        with pytest.raises(DataError, match=rf"data\.mirror: {name} comes with pellucid; expected none"):
            load_corpus(run.NamedData(name=name, mirror="data"))


def test_the_texts_a_tokenizer_learns_from_can_be_read_twice():
    pairs = Corpus(kind="pairs", train=[Pair("a", "b")], validation=[])
    labelled = Corpus(kind="labelled", train=[Labelled("a", "b")], validation=[])
    for corpus, expected in ((pairs, ["a", "b"]), (labelled, ["a"])):
        texts = corpus.training_texts()
        assert list(texts) == list(texts) == expected


def test_reversing_twice_changes_nothing():
    corpus = Corpus(kind="pairs", train=[Pair("a", "b")], validation=[Pair("c", "d")], tests={"t": [Pair("e", "f")]})
    assert corpus.reversed().train == [Pair("b", "a")]
    assert corpus.reversed().reversed() == corpus


def test_notes_are_plain(write):
    json.dumps(load_corpus(run.TextFiles(train=(write("a.txt", "0123456789"),))).notes)


def test_a_fingerprint_changes_with_what_is_trained_on_and_validated_with(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 40 + "\n")
    large, shorter = (LargeFile(tmp_path / "a.txt", start, 81) for start in (0, 2))
    corpora = [
        Corpus("text", ["a", "b"], ["c"]), Corpus("text", ["ab"], ["c"]), Corpus("text", ["a"], ["b", "c"]),
        Corpus("text", ["b", "a"], ["c"]), Corpus("text", [large], ["c"]), Corpus("text", [shorter], ["c"]),
        Corpus("pairs", [Pair("a", "b")], []), Corpus("pairs", [Pair("b", "a")], []),
        Corpus("labelled", [Labelled("a\ud83d", "b")], []),
    ]  # fmt: skip
    assert len({corpus.fingerprint for corpus in corpora}) == len(corpora)
    assert Corpus("text", ["a", "b"], ["c"], {"test": ["d"]}).fingerprint == corpora[0].fingerprint
    (tmp_path / "b.txt").write_bytes((tmp_path / "a.txt").read_bytes())
    assert Corpus("text", [LargeFile(tmp_path / "b.txt", 0, 81)], ["c"]).fingerprint == corpora[4].fingerprint
