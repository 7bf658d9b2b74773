"""All experiments of a folder as one page, which needs no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from pellucid.errors import UserError
from pellucid.lab.catalogue import NAMES
from pellucid.lab.figures import SVG
from pellucid.lab.running import Outcome, read_outcome
from pellucid.models.files import write_whole

REPORT = "report.html"

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Why the Transformer is as it is</title>
<style>
  body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff; max-width: 46rem; margin: 2rem auto;
         padding: 0 1rem; }
  h1 { line-height: 1.2; } h2 { margin: 3.5rem 0 .3rem; }
  figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
  .source, .setting, footer { color: #555; font-size: .9em; }
  .verdict { border-left: 4px solid #D55E00; padding: .1rem 0 .1rem 1rem; } .verdict.shows { border-color: #0072B2; }
  nav li { margin: .15rem 0; }
  @media (prefers-color-scheme: dark) {
    body { background: #161616; color: #e8e8e8; } .source, .setting, footer { color: #aaa; } a { color: #8cc8ff; }
    figure { background: #fff; border-radius: 4px; }
  }
</style>
<h1>Why the Transformer is as it is</h1>
<p>Each claim below was run on this machine, with {{ seeds }}. A blue line says that it shows at this size with every
seed, a red one that it does not.</p>
<nav><ul>
{%- for one in outcomes %}
<li><a href="#{{ one.name }}">{{ one.question }}</a></li>
{%- endfor %}
</ul></nav>
{%- for one in outcomes %}
<section id="{{ one.name }}">
<h2>{{ one.question }}</h2>
<p>{{ one.claim }} <span class="source">{{ one.source }}</span></p>
<p class="setting">{{ one.setting }}</p>
<figure role="img" aria-label="{{ one.verdict.said }}">{{ figures[one.name]|safe }}</figure>
<p class="verdict{{ ' shows' if one.verdict.shows }}">
<strong>{{ 'It shows.' if one.verdict.shows else 'It does not show.' }}</strong> {{ one.verdict.said }}</p>
</section>
{%- endfor %}
<footer><p>Lines are means over the seeds, bands go from the least to the greatest. {{ made_with }}.</p></footer>
</html>
"""


def outcomes_of(folder: Path) -> list[Outcome]:
    """What a folder holds, in the order of the catalogue."""
    found = [read_outcome(folder / name) for name in NAMES]
    return [outcome for outcome in found if outcome is not None]


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` about all experiments in a folder.

    Raises:
        UserError: for a folder without any.
    """
    outcomes = outcomes_of(folder)
    if not outcomes:
        raise UserError(folder, "holds no experiment", "one that has been run", "pellucid lab all")
    seeds = sorted({len(outcome.measured) for outcome in outcomes})
    text = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            outcomes=outcomes,
            figures={outcome.name: _embedded(folder / outcome.name / SVG, outcome.name) for outcome in outcomes},
            seeds=_counted(seeds),
            made_with="; ".join(dict.fromkeys(outcome.made_with for outcome in outcomes)),
        )
    )
    write_whole(folder / REPORT, lambda path: path.write_text(text, encoding="utf-8"))
    return folder / REPORT


def _counted(seeds: Sequence[int]) -> str:
    if seeds == [1]:
        return "one seed"
    return f"{' or '.join(map(str, seeds))} seeds"


def _embedded(path: Path, name: str) -> str:
    """An SVG as a part of a page, its identifiers made its own."""
    if not path.exists():
        return "<p>The figure is missing; run the experiment again.</p>"
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
