"""Builds the explorer's page (``web/``) into the package, so that ``pip install`` alone gives a working one.

Node comes from a wheel, asked for only when the page at hand was built from other sources than those in ``web/``. An
sdist carries the page, so that installing from it needs neither Node nor a network.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Runs before every sdist, wheel and editable install."""

    def dependencies(self) -> list[str]:
        page = _page(self.root)
        return [] if page.is_current() else [page.NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        page = _page(self.root)
        if not page.is_current():
            page.build()
        if absent := page.missing():
            raise RuntimeError(f"the explorer's page is missing: there is no {page.STATIC / absent[0]}")


def _page(root: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("page", Path(root, "web", "page.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
