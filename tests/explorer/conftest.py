"""A browser, and servers of small models to be looked at in it.

A machine without Chromium skips these tests; where ``PELLUCID_BROWSER=required`` is set, as in ``.ci/run``, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from urllib.parse import urlsplit

import pytest
from exploring import TARGET, TEXT, Served, loaded, serve

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --host-resolver-rules=MAP%20*%20~NOTFOUND,EXCLUDE%20127.0.0.1"
)


@pytest.hookimpl(tryfirst=True)  # before what is not asked for is left out
def pytest_collection_modifyitems(items):
    """Of each browser test three cases spread over its families and parts run everywhere, the others in the sweep."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("browser"):
            cases[item.path, item.originalname].append(item)
    for group in cases.values():
        most = 1 if "axe" in group[0].fixturenames else 3
        kept = {round(place * (len(group) - 1) / max(1, most - 1)) for place in range(most)}
        for place, item in enumerate(group):
            if place not in kept:
                item.add_marker(pytest.mark.sweep)


@pytest.fixture(scope="session")
def served():
    """A function from a family, and parts to be exchanged, to a server with such a small model; each is started once."""
    from pellucid.explorer.app import create_app
    from pellucid.explorer.session import Session

    started, servers = {}, []

    def start(family: str, **parts) -> Served:
        key = f"{family} {parts}"
        if key not in started:
            session = Session(
                loaded(family, **parts), family, example=(TEXT, TARGET if family == "encoder_decoder" else None)
            )
            url, server = serve(create_app(session))
            # The test has a model of its own, equal to the server's: two threads cannot trace one at a time.
            started[key] = Served(family, loaded(family, **parts), session, url)
            servers.append(server)
        return started[key]

    yield start
    for server in servers:
        server.should_exit = True


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "there is no Chromium on this machine"
        pytest.fail(reason) if os.environ.get("PELLUCID_BROWSER") == "required" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [flag.replace("%20", " ") for flag in FLAGS.split()]
        started = playwright.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()


class Faults(list):
    """What went wrong on a page; a test that provokes a refusal says so with ``allow``."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()

    def allow(self, *texts: str) -> None:
        self.allowed += texts

    def note(self, text: str) -> None:
        if not any(allowed in text for allowed in self.allowed):
            self.append(text)


@pytest.fixture
def faults():
    """Errors of the page under test; none may be left."""
    return Faults()


@pytest.fixture
def opened(browser, faults):
    """A function that opens pages of a size and colour scheme; whatever goes wrong on one fails the test."""
    contexts = []

    def new(width=1280, height=800, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and faults.note(f"console: {said.text}"))
        page.on("pageerror", lambda error: faults.note(f"error: {error}"))
        page.on("request", lambda asked: _is_local(asked.url) or faults.note(f"request to {asked.url}"))
        return page

    yield new
    for context in contexts:
        context.close()
    assert not faults, "\n".join(faults)


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "file") or parts.hostname == "127.0.0.1"


@pytest.fixture
def page(opened):
    """A page 1280 pixels wide."""
    return opened()


@pytest.fixture
def axe():
    """A function that fails where axe-core finds a serious or critical fault on a page."""
    from axe_playwright_python.sync_playwright import Axe

    def check(page) -> None:
        found = Axe().run(page).response["violations"]
        grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        told = [f"{fault['id']}: {fault['help']}\n  {node['html'][:300]}" for fault in grave for node in fault["nodes"]]
        assert not told, "\n".join(told)

    return check
