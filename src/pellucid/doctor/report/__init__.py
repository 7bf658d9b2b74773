"""A report in other forms: SARIF for code review, JUnit for CI, Markdown and HTML for people."""

from __future__ import annotations

from pellucid.doctor.report.html import html
from pellucid.doctor.report.junit import junit
from pellucid.doctor.report.markdown import markdown
from pellucid.doctor.report.sarif import sarif

__all__ = ["html", "junit", "markdown", "sarif"]
