"""How quickly does the explorer answer? 512 tokens through 12 layers of 12 heads, and the model that comes along.

The page runs in the system's Chromium, the server in a process of its own, as for a user. A click is counted until the
new head is on the canvas; a frame of hovering is all that the browser's main thread does for it.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from statistics import median
from typing import Any
from urllib.parse import quote

from common import require_quiet, write_page

LAYERS, HEADS, TOKENS = 12, 12, 512
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
LIMITS = {
    "first view of 512 tokens, s": 3.0,
    "a head not seen before, ms": 150.0,
    "a head seen before, ms": 50.0,
    "hovering, ms a frame": 8.0,
    "heap, MB": 400.0,
    "first paint, shipped model, s": 1.0,
    "script, KB gzip": 300.0,
}
READY = "document.querySelector('[data-testid=matrix]')?.dataset.ready"
# Goes to another head by the keyboard and waits until its picture is on the canvas.
NEXT_HEAD = """async (key) => {
  const ready = () => READY;
  const before = ready(), began = performance.now();
  document.querySelector('[data-testid=matrix-grid]').focus();
  document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  while (!ready() || ready() === before) await new Promise(requestAnimationFrame);
  return performance.now() - began;
}""".replace("READY", READY)
# Moves the mouse over the matrix, once a frame.
HOVER = """async (frames) => {
  const canvas = document.querySelector('[data-testid=matrix-canvas]'), box = canvas.getBoundingClientRect();
  for (let i = 0; i < frames; i++) {
    const clientX = box.left + box.width * (0.1 + 0.8 * ((i * 37) % frames) / frames);
    const clientY = box.top + box.height * (0.1 + 0.8 * ((i * 53) % frames) / frames);
    for (const type of ['pointermove', 'mousemove'])
      canvas.dispatchEvent(new PointerEvent(type, {clientX, clientY, bubbles: true, pointerType: 'mouse'}));
    await new Promise(requestAnimationFrame);
  }
}"""


def serve(port: int, large: bool) -> None:
    """The server of one model, until it is stopped."""
    import torch
    import uvicorn

    import pellucid as pl
    from pellucid.config.run import Characters
    from pellucid.data.tokenizers import Tokenizer
    from pellucid.explorer.app import create_app
    from pellucid.explorer.opening import open_session
    from pellucid.explorer.session import Session
    from pellucid.models.checkpoint import Loaded

    if large:
        torch.manual_seed(0)
        tokenizer = Tokenizer.train(Characters(), ["abcdefghijklmnopqrstuvwxyz "])
        session = Session(Loaded(pl.build(pl.preset("gpt2").model).eval(), tokenizer, None), "12 × 768")
    else:
        session = open_session()
    uvicorn.run(create_app(session), host="127.0.0.1", port=port, log_level="error")


def started(port: int, *options: str) -> subprocess.Popen[bytes]:
    """A server that answers."""
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port), *options])
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/session", timeout=60).read()
            return server
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def text_of(tokens: int, seed: int) -> str:
    """As many characters, which are the tokens here."""
    import random

    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=tokens - 1)) + "e"


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_large(browser: Any, rounds: int) -> dict[str, list[float]]:
    """Views of a large model."""
    server, found = started(8651, "--large"), {name: [] for name in list(LIMITS)[:5]}
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable")
        page.goto("http://127.0.0.1:8651/#1?view=attention&text=" + quote(text_of(TOKENS, 0)))
        page.wait_for_function(READY)
        for round in range(rounds):
            before = page.evaluate(READY)
            page.get_by_test_id("text").fill(text_of(TOKENS, round + 1))
            request = seconds(
                lambda before=before: (
                    page.get_by_test_id("run").click(),
                    page.wait_for_function(f"(before) => {READY} && {READY} !== before", arg=before),
                )
            )
            found["first view of 512 tokens, s"].append(request)
            page.wait_for_selector("[data-testid=wall][data-ready]")
            page.wait_for_timeout(1500)  # the neighbours of a head are fetched ahead: then the next is not asked for
            for key in ("}", "}", "}"):  # another layer is never fetched ahead
                found["a head not seen before, ms"].append(page.evaluate(NEXT_HEAD, key))
            for key in ("{", "{", "{"):
                found["a head seen before, ms"].append(page.evaluate(NEXT_HEAD, key))
            frames = 120
            busy = _metric(devtools, "TaskDuration")
            page.evaluate(HOVER, frames)
            found["hovering, ms a frame"].append((_metric(devtools, "TaskDuration") - busy) * 1000 / frames)
            heap = devtools.send("Runtime.getHeapUsage")
            found["heap, MB"].append((heap["usedSize"] + heap.get("backingStorageSize", 0)) / 1e6)
        page.close()
    finally:
        server.terminate()
        server.wait()
    return found


def measure_shipped(browser: Any, rounds: int) -> dict[str, list[float]]:
    """The first paint of the model that comes along, in a browser that has seen nothing."""
    server, found = started(8652), []
    try:
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto("http://127.0.0.1:8652/")
            page.wait_for_selector("[data-testid=model-name]")
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            page.wait_for_function(paint)
            found.append(page.evaluate(paint) / 1000)
            context.close()
    finally:
        server.terminate()
        server.wait()
    return {"first paint, shipped model, s": found}


def _metric(devtools: Any, name: str) -> float:
    told = devtools.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in told if metric["name"] == name)


def script_size() -> float:
    """Kilobytes of all scripts of the page, each compressed."""
    from pellucid.explorer.app import STATIC

    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.rglob("*.js")) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--noisy", action="store_true", help="measure beside others, and write nothing")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.large)
        return
    if not options.noisy:
        require_quiet()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        found = {**measure_large(browser, options.rounds), **measure_shipped(browser, options.rounds)}
        version = browser.version
        browser.close()
    found["script, KB gzip"] = [script_size()]
    rows = [
        f"| {name} | {median(values):.3g} | {max(values):.3g} | {LIMITS[name]:g} |" for name, values in found.items()
    ]
    head = "| what | median | worst | budget |\n|---|---|---|---|\n"
    about = (
        f"{LAYERS} layers of {HEADS} heads, random weights, {TOKENS} tokens; {options.rounds} texts, none seen before. "
        "A head not seen before is one of another layer, asked of the server; one seen before is in the page's memory. "
        f"Scripts are all of the page's, the formulas' included. Chromium {version}, without a GPU."
    )
    if options.noisy:
        print(head + "\n".join(rows))
    else:
        write_page("explorer", "The explorer's budgets", f"{about}\n\n{head}" + "\n".join(rows))


if __name__ == "__main__":
    main()
