"""Dead links of a built site: every address in a page leads to a file of the site, every fragment to a place in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

GENERATED = ("404.html",)  # its addresses begin at the root of wherever the site will be


class _Reader(HTMLParser):
    """Collects addresses and the places that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.addresses.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def dead(site: Path) -> list[str]:
    """``PAGE: ADDRESS`` for each link within the site that leads nowhere."""
    pages = [path for path in sorted(site.rglob("*.html")) if path.name not in GENERATED]
    return [f"{page.relative_to(site)}: {address}" for page in pages for address in _dead_in(page, site)]


def _dead_in(page: Path, site: Path) -> Iterator[str]:
    for address in sorted(set(_read(page).addresses)):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue  # another's site
        target = page.resolve() if not parts.path else (page.parent / unquote(parts.path)).resolve()
        target = target / "index.html" if target.is_dir() else target
        inside = target.is_relative_to(site.resolve()) or target == page
        if (
            not inside
            or not target.is_file()
            or (parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).places)
        ):
            yield address


@cache
def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader
