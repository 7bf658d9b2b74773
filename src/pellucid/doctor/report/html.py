"""A report as one HTML page that fetches nothing: causes first, the map drawn, a script that shows each fault."""

from __future__ import annotations

from html import escape

from pellucid.doctor.finding import Finding, Report, Status
from pellucid.doctor.report.parts import explained, headline, influence, leaks, question, references, told, unanswered
from pellucid.doctor.report.picture import svg

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: 0.3rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.8rem; border: 1px solid #8886; }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: 0.2rem 1rem; margin: 0 0 0.8rem; } dt { opacity: 0.7; }
dd { margin: 0; overflow-wrap: anywhere; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.6rem; border-bottom: 1px solid #8884; }
.status { font-weight: 700; border: 1px solid; border-radius: 4px; padding: 0 0.4rem; margin-right: 0.5rem; }
.FAIL { color: light-dark(#b71c1c, #ff8a80); } .WARN { color: light-dark(#7a4f01, #ffd180); }
.INCONCLUSIVE { color: light-dark(#4a4a4a, #bdbdbd); } .PASS { color: light-dark(#1b5e20, #a5d6a7); }
.fix { border-left: 4px solid #1565c0; padding: 0.2rem 0.8rem; }
"""
CAPTION = "Darker: by more, on a scale of powers of ten; empty: not at all."


def html(report: Report) -> str:
    """All of a report; whatever a model's parts are called, nothing of it is taken for markup."""
    parts = [f"<h1>{escape(headline(report))}</h1>"]
    for number, (cause, findings) in enumerate(explained(report), 1):
        parts.append(f"<h2>{number}. {escape(cause.name)}</h2>\n<p>{escape(cause.why)}</p>")
        parts.append(f'<p class="fix"><b>Fix:</b> {escape(cause.fix)}</p>')
        parts += [_finding(finding, dict(told(finding, cause))) for finding in findings]
        if more := references(cause, findings):
            parts.append(f"<p>See {escape(more)}.</p>")
    for status, title in ((Status.WARN, "Warnings"), (Status.INCONCLUSIVE, "Not clear")):
        if found := report.of(status):
            parts.append(f"<h2>{title}</h2>")
            parts += [_finding(finding, dict(told(finding))) for finding in found]
    parts += [*_map(report), *_inferred(report), *_answers(report)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(headline(report))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _finding(finding: Finding, fields: dict[str, str]) -> str:
    status, check = finding.status.value, escape(finding.check)
    head = (
        f'<h3><span class="status {status}">{status}</span><code>{check}</code> {escape(question(finding.check))}</h3>'
    )
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in fields.items())
    script = ""
    if finding.script:
        code = escape(finding.repro())
        script = f"<details><summary>A script that shows it</summary><pre><code>{code}</code></pre></details>"
    return f"<section>{head}<dl>{rows}</dl>{script}</section>"


def _map(report: Report) -> list[str]:
    drawn = influence(report)
    if not drawn:
        return []
    figure = svg(drawn, forbidden=leaks(report))
    return [f"<h2>What moves what</h2>\n<figure>{figure}<figcaption>{CAPTION}</figcaption></figure>"]


def _inferred(report: Report) -> list[str]:
    if not report.inferred:
        return []
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.inferred)
    return [f"<h2>Found out about the model</h2><ul>{notes}</ul>"]


def _answers(report: Report) -> list[str]:
    parts = []
    if passed := report.of(Status.PASS):
        rows = "".join(
            f'<tr><td class="PASS"><code>{escape(finding.check)}</code></td><td>{escape(finding.seen)}</td></tr>'
            for finding in passed
        )
        parts.append(f"<h2>Passed</h2><table><tr><th>check</th><th>seen</th></tr>{rows}</table>")
    if left := unanswered(report):
        rows = "".join(
            f"<tr><td>{escape(names)}</td><td>{escape(why)}</td><td><code>{escape(enable)}</code></td></tr>"
            for names, why, enable in left
        )
        parts.append(f"<h2>Not asked</h2><table><tr><th>checks</th><th>why</th><th>to ask it</th></tr>{rows}</table>")
    return parts
