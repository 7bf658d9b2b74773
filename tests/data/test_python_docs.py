import sys

import pytest

from pellucid.data.python_docs import held_out_topics, load_python_docs, without_copies
from pellucid.errors import DataError


@pytest.fixture(scope="module")
def corpus():
    return load_python_docs()


def lines(texts):
    return {line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= 30}


def test_held_out_topics_are_not_trained_on(corpus):
    assert not set(corpus.train) & set(corpus.validation)


def test_hardly_a_held_out_line_stands_in_training(corpus):
    held_out = lines(corpus.validation)
    assert len(held_out & lines(corpus.train)) < 0.05 * len(held_out)


def test_about_a_tenth_is_held_out_and_counted(corpus):
    train, held_out = (sum(len(text.encode()) for text in part) for part in (corpus.train, corpus.validation))
    assert 0.08 < held_out / (train + held_out) <= 0.1
    assert (corpus.notes["train_bytes"], corpus.notes["held_out_bytes"]) == (train, held_out)
    assert corpus.notes["python"] == sys.version.split()[0].rstrip("+")


def test_a_copy_is_left_out_and_the_whole_kept():
    section = "\n".join(f"a line that is long enough to count, number {n}" for n in range(5))
    topics = {"whole": f"{section}\nand a line that only the whole document has", "section": section, "other": "short"}
    assert set(without_copies(topics)) == {"whole", "other"}


def test_new_topics_do_not_reshuffle_the_others():
    topics = {f"topic {n}": "x" * 100 for n in range(100)}
    more = {**topics, "topic 100": "x" * 100}
    assert len(held_out_topics(topics) - held_out_topics(more)) <= 1


def test_a_python_without_them_is_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"packaged without pydoc_data; expected its language reference. Use another"):
        load_python_docs()
