"""The reference has the modules that guides name, and every setting of a run."""

import re
from dataclasses import is_dataclass
from typing import get_args, get_type_hints

import lessons
import pytest
import reference

from pellucid.config.run import Run

GUIDES = [*sorted((lessons.ROOT / "docs" / "guides").glob("*.md")), lessons.ROOT / "README.md"]
SHOWN = {module for _, text in reference.reference() for module in re.findall(r"^::: (\S+)", text, re.MULTILINE)}


def settings(of, seen=()):
    """The modules of a dataclass and of all the dataclasses that its fields may be."""
    if not is_dataclass(of) or of in seen:
        return {module for part in get_args(of) for module in settings(part, seen)}
    hints = get_type_hints(of).values()
    return {of.__module__} | {module for hint in hints for module in settings(hint, (*seen, of))}


def test_all_that_can_be_set_is_shown():
    assert settings(Run) >= {"pellucid.config.run", "pellucid.config.parts", "pellucid.config.start"}
    assert settings(Run) <= SHOWN


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_module_that_a_guide_sends_its_reader_to_is_shown(guide):
    told = re.findall(rf"`(pellucid\.(?:{'|'.join(reference.SHOWN)})\.\w+)`", guide.read_text())
    assert set(told) <= SHOWN
