"""Gathers what the site shows in build/pages.

The site has the folders of the repository, so that a link that works in one works in the other. What it shows is
gathered: documents as they are, and pages made of what the project knows (lessons with what they print, docstrings,
lists of a folder's pages).
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import nbformat
from lessons import ROOT, executed, lessons, page
from plots import plotted
from reference import reference

PAGES = ROOT / "build" / "pages"
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
FOLDERS = ("docs/*.md", "docs/course/*.md", "docs/guides/*.md", "docs/decisions/*.md", "benchmarks/results/**/*.md")
LISTED = {"docs/decisions": "Decisions", "benchmarks/results": "Benchmarks", "docs/guides": "Guides"}
LINK = re.compile(r"(\]\(|src=\")([^)\s\"#]+)")


def gather() -> None:
    """Everything that the site shows, in ``build/pages``."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in (*DOCUMENTS, *FOLDERS):
        for path in sorted(ROOT.glob(pattern)):
            _copy(path)
    for folder, title in LISTED.items():
        _list(PAGES / folder, title)
    for lesson in lessons():
        _teach(lesson)
    for path in sorted((PAGES / "benchmarks" / "results").glob("*.md")):
        text, plots = plotted(path.read_text(encoding="utf-8"), path.stem)
        _write(path, text)
        for name, plot in plots.items():
            (path.parent / name).write_bytes(plot)
    for name, text in reference():
        _write(PAGES / "docs" / "reference" / f"{name}.md", text)
    _write(PAGES / "docs" / "site.css", (Path(__file__).parent / "site.css").read_text())
    for path in sorted(PAGES.rglob("*.md")):
        path.write_text(LINK.sub(partial(_lead, path), path.read_text(encoding="utf-8")), encoding="utf-8")


def _teach(lesson: Path) -> None:
    print(f"lesson {lesson.stem}", flush=True)
    notebook = executed(lesson)
    text, pictures = page(notebook, lesson.stem)
    folder = PAGES / "docs" / "course"
    _write(folder / f"{lesson.stem}.md", text)
    nbformat.write(notebook, folder / f"{lesson.stem}.ipynb")
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)


def _list(folder: Path, title: str) -> None:
    """A page for a folder that has none: links to it as a whole lead there."""
    pages = [path for path in sorted(folder.glob("*.md")) if path.name != "index.md"]
    lines = [f"- [{_title(path)}]({path.name})" for path in pages]
    _write(folder / "index.md", f"# {title}\n\n" + "\n".join(lines) + "\n")


def _title(path: Path) -> str:
    return next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")).removeprefix(
        "# "
    )


def _lead(page: Path, link: re.Match[str]) -> str:
    """Leads a link of a page somewhere in the site: to a folder's page, a lesson's page, a copy of a file."""
    before, address = link[1], link[2]
    if "://" in address or address.startswith("mailto:"):
        return link[0]
    target = (page.parent / address).resolve()
    if target.is_dir() or (not target.exists() and (ROOT / target.relative_to(PAGES)).is_dir()):
        inside = next((name for name in ("README.md", "index.md") if (target / name).is_file()), "")
        return before + address.rstrip("/") + "/" + inside
    if target.suffix == ".py" and target.with_suffix(".md").is_file():
        return before + address.removesuffix(".py") + ".md"
    if not target.exists() and (source := ROOT / target.relative_to(PAGES)).is_file():
        _copy(source)
    return link[0]


def _copy(path: Path) -> None:
    to = PAGES / path.relative_to(ROOT)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
