"""Questions that wait at the same time are answered in one go, each as if it were alone."""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import classifier, http, served

from pellucid.inference import predict
from pellucid.serve.together import Asked, answer, next_of


def doubled(calls):
    def work(items):
        calls.append(list(items))
        if "bad" in items:
            raise ValueError("bad is among them")
        return [item * 2 for item in items]

    return work


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_that_fit_are_taken_in_their_order():
    line = deque(Asked(["x"] * count) for count in (2, 1, 3, 1))
    assert [len(asked.items) for asked in next_of(line, 4)] == [2, 1]
    assert [len(asked.items) for asked in next_of(line, 4)] == [3, 1]
    assert not line


def test_what_is_larger_than_the_limit_goes_alone_and_who_has_left_is_passed_over():
    large, gone, small = Asked(["x"] * 9), Asked(["x"]), Asked(["x"])
    gone.has_left = True
    line = deque([large, gone, small])
    assert next_of(line, 4) == [large]
    assert next_of(line, 4) == [small]
    assert next_of(line, 4) == []


def test_each_gets_its_own():
    calls, asked = [], [Asked(["a", "b"]), Asked(["c"])]
    answer(asked, doubled(calls))
    assert [each.taken() for each in asked] == [["aa", "bb"], ["cc"]]
    assert calls == [["a", "b", "c"]]


def test_none_has_the_fault_of_another():
    asked = [Asked(["a"]), Asked(["bad"]), Asked(["c"])]
    answer(asked, doubled([]))
    assert asked[0].taken() == ["aa"]
    assert asked[2].taken() == ["cc"]
    with pytest.raises(ValueError, match="bad is among them"):
        asked[1].taken()


def test_many_clients_at_once_are_read_together(monkeypatch):
    """While the model is busy with one, the others gather."""
    model, reads, first = classifier(), [], threading.Event()
    texts = ["the cat", "a", "on the mat a dog sat", "a dog did not", "the mat", "cat", "dog", "sat"]
    wanted = predict.embed(model, texts).tolist()
    embed = predict.embed

    def slowly(loaded, every):
        reads.append(len(every))
        if len(reads) == 2:  # after the one that warms up
            first.wait(10)
        return embed(loaded, every)

    monkeypatch.setattr(predict, "embed", slowly)
    with served(model) as background, http(background) as client, ThreadPoolExecutor(len(texts)) as pool:

        def ask(text):
            return client.post("/v1/embeddings", json={"input": text}).json()["data"][0]["embedding"]

        answers = [pool.submit(ask, texts[0])]
        until(lambda: len(reads) == 2)
        answers += [pool.submit(ask, text) for text in texts[1:]]
        until(lambda: len(background.service.worker._asked["embed"]) == len(texts) - 1)
        first.set()
        found = [each.result() for each in answers]
    assert reads == [1, 1, len(texts) - 1]
    for own, other in zip(found, wanted, strict=True):
        assert own == pytest.approx(other, abs=1e-5)
