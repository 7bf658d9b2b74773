"""Lessons: from a Python file with cells to an executed notebook, and from that to a page.

A lesson is kept in jupytext's percent format, so that a change of it can be read. What a reader downloads is the
notebook, and what the site shows is the page; both hold what the cells printed when the site was made.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
KEPT = ROOT / "build" / "lessons"  # executed ones, until they or the package change
SECONDS = 120  # a cell that takes longer is broken
EXERCISE, SOLUTION = "# your turn", "solution"
ANSI = re.compile(r"\x1b\[[0-9;]*m")

Notebook = nbformat.NotebookNode


def lessons() -> list[Path]:
    """All lessons, in their order."""
    return sorted(COURSE.glob("[0-9][0-9]-*.py"))


def executed(lesson: Path) -> Notebook:
    """The notebook of a lesson with all that its cells put out; kept until the lesson or the package changes.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell raises, with its text and the traceback.
    """
    kept = KEPT / f"{lesson.stem}-{_fingerprint(lesson)}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.read(lesson)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{lesson.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def verdicts(notebook: Notebook) -> tuple[str, str]:
    """What the judge of the exercise says of what stands there to begin with, and of the solution."""
    first = next(cell for cell in notebook.cells if cell.cell_type == "code" and EXERCISE in cell.source)
    last = [cell for cell in notebook.cells if SOLUTION in cell.metadata.get("tags", [])][-1]
    return _printed(first), _printed(last)


def page(notebook: Notebook, name: str) -> tuple[str, dict[str, bytes]]:
    """The page of an executed notebook, and the pictures that it shows, by file name."""
    pictures: dict[str, bytes] = {}
    parts = [f"[Download the notebook]({name}.ipynb){{ .notebook }}\n"]
    cells = [cell for cell in notebook.cells if not (cell.cell_type == "markdown" and cell.source == "## Solution")]
    for cell in cells:
        shown = cell.source if cell.cell_type == "markdown" else "\n".join(_code(cell, name, pictures))
        hidden = SOLUTION in cell.metadata.get("tags", [])
        parts.append(_folded("Solution", shown) if hidden else shown)
    title, *rest = parts[1].split("\n", 1)
    return "\n\n".join([title, parts[0], *rest, *parts[2:]]) + "\n", pictures


def _code(cell: Notebook, name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    yield _fenced(cell.source, "python")
    for drawn, outputs in groupby(cell.outputs, lambda output: "image/png" in output.get("data", {})):
        if not drawn:  # what was printed at different times is one text
            text = "\n".join(filter(None, map(_text, outputs)))
            yield "\n" + _fenced(text, "text", of="output")
            continue
        for output in outputs:
            file = f"{name}-{len(pictures) + 1}.png"
            pictures[file] = base64.b64decode(output["data"]["image/png"])
            yield f"\n![What the cell above draws]({file})"


def _text(output: Notebook) -> str:
    return ANSI.sub("", output.get("text") or output.get("data", {}).get("text/plain", "")).rstrip()


def _printed(cell: Notebook) -> str:
    return "\n".join(text for output in cell.outputs if (text := _text(output)))


def _fenced(text: str, language: str, of: str = "") -> str:
    return f"```{{ .{language}{' .' + of if of else ''} }}\n{text}\n```"


def _folded(title: str, shown: str) -> str:
    return f'??? success "{title}"\n\n' + "\n".join("    " + line if line else "" for line in shown.split("\n"))


def _fingerprint(lesson: Path) -> str:
    told = hashlib.sha256(lesson.read_bytes())
    for path in sorted((ROOT / "src").rglob("*.py")):
        told.update(path.read_bytes())
    return told.hexdigest()[:12]
