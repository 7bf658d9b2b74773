"""Sixteen browsers on one server: one with the longest text there may be, and beside them somebody who sends nonsense."""

import threading
import urllib.error
import urllib.request

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NONSENSE = [
    ("/api/passes", b"\xff{not json", {}),
    ("/api/passes", b'{"text": 5}', {}),
    ("/api/passes", b'{"text": "the cat", "edits": [{"kind": "zero", "name": "nothing"}]}', {}),
    ("/api/passes", b"x" * (1 << 20) + b"x", {}),
    ("/api/passes/nothing/tensor?name=logits", None, {}),
    ("/api/passes", b"{}", {"Origin": "https://elsewhere.example"}),
    ("/api/../../pyproject.toml", None, {}),
]


def refused(url, found):
    for path, body, headers in NONSENSE * 5:
        request = urllib.request.Request(url.rstrip("/") + path, body, {"Content-Type": "application/json", **headers})
        try:
            found.append(urllib.request.urlopen(request, timeout=60).status)
        except urllib.error.HTTPError as error:
            found.append(error.code)
        except urllib.error.URLError:  # it hangs up on a body that is too long before all of it was sent
            found.append(413)


def test_sixteen_browsers(served, opened):
    server = served("decoder")
    limits = server.session.limits
    texts = ["the cat sat on a mat"[: 5 + n] for n in range(15)] + ["the dog " * (limits.tokens // 8)]
    found = []
    nonsense = threading.Thread(target=refused, args=(server.url, found))
    nonsense.start()
    pages = [opened() for _ in texts]
    for page, text in zip(pages, texts, strict=True):
        page.goto(server.link("attention", text=text), wait_until="commit")
    for page, text in zip(pages, texts, strict=True):
        page.locator('[data-testid="wall"][data-ready]').wait_for(timeout=120_000)
        assert page.get_by_test_id("text").input_value() == text
    nonsense.join()
    assert set(found) == {400, 403, 404, 413, 422}
    kept = server.session._passes.values()
    assert len(kept) <= limits.passes
    assert len(kept) == 1 or sum(each.nbytes for each in kept) <= limits.room
