"""Takes the README's pictures of the explorer: the model that comes along, in a browser, at 1280 pixels.

Run after the page was built: ``python docs/screenshots.py``. It needs Chromium and the ``dev`` extra.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import pellucid as pl

HERE = Path(__file__).parent / "pictures"
COLOURS = 200  # of a picture's palette: pages have few, and files of them are a third as large
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


class Camera:
    """One browser window on one explorer.

    Args:
        page: of the browser.
        url: of the explorer.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def look(self, view: str, ready: str, **pinned: Any) -> Page:
        """Opens a view with something chosen, and waits for an element of it."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}#1?{urlencode({'view': view, **pinned})}")
        self.page.get_by_test_id(ready).first.wait_for()
        self.settle()
        return self.page

    def settle(self) -> None:
        """Waits until nothing is under way any more."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(400)

    def take(self, path: Path, height: int | None = None) -> None:
        """Saves the page from its top, as high as the window or as is asked for."""
        size = self.page.viewport_size
        assert size is not None
        self.page.evaluate("scrollTo(0, 0)")
        self.page.set_viewport_size({"width": size["width"], "height": height or size["height"]})
        self.settle()
        self.shot(path)
        self.page.set_viewport_size(size)

    def shot(self, path: Path, testid: str | None = None) -> None:
        """Saves what the window shows now, or one element."""
        seen = self.page if testid is None else self.page.get_by_test_id(testid)
        raw = seen.screenshot()
        path.parent.mkdir(exist_ok=True)
        Image.open(io.BytesIO(raw)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def camera(explorer: Any, width: int = 1280, height: int = 800) -> Iterator[Camera]:
    """A browser on an explorer, closed with it at the end."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with explorer, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        yield Camera(page, explorer.url)
        browser.close()


def main() -> None:
    """All three."""
    with camera(pl.explore()) as at:
        at.look("architecture", "view-architecture")
        at.take(HERE / "architecture.png", 1100)

        # What is written after the first dash is the month, and this head looks it up.
        across = {"tower": "decoder.", "kind": "cross", "head": 0}
        page = at.look("attention", "matrix", **across, query=2, key=6)
        page.get_by_test_id("matrix-value").click()
        page.get_by_test_id("explain-value").wait_for()
        at.take(HERE / "attention.png", 1000)

        page = at.look("generation", "draft")
        for _ in range(3):
            page.get_by_role("button", name="Take the likeliest").click()
            at.settle()
        at.take(HERE / "generation.png", 900)


if __name__ == "__main__":
    main()
