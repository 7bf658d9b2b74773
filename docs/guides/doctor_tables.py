"""Writes the tables of doctor.md from the code: `python docs/guides/doctor_tables.py`. A test holds them to it."""

from __future__ import annotations

import re
from pathlib import Path

from pellucid.doctor.checks import CHECKS
from pellucid.doctor.spec import ON_PURPOSE

GUIDE = Path(__file__).with_name("doctor.md")


def tables() -> dict[str, str]:
    """Rows of Markdown by the mark that they stand behind."""
    words = [f"| `{word}` | {says} |" for word, says in ON_PURPOSE.items()]
    checks = [f"| `{check.name}` | {check.level} | {check.question} |" for check in CHECKS]
    return {
        "declare": "\n".join(["| word | what it says |", "|---|---|", *words]),
        "checks": "\n".join(["| check | level | question |", "|---|---|---|", *checks]),
    }


def filled(text: str) -> str:
    """The guide with its tables as they should be."""
    for mark, table in tables().items():
        between = re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text = between.sub(lambda found, table=table: f"{table}\n", text, count=1)
    return text


if __name__ == "__main__":
    GUIDE.write_text(filled(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
