"""The explorer from a script or a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer.opening import Target, open_session
from pellucid.explorer.serve import Background
from pellucid.explorer.session import Session
from pellucid.models.checkpoint import Loaded


class Explorer:
    """A page about a model, shown in a notebook as the last value of a cell.

    Attributes:
        session: what it looks at.
        url: where it is, on this machine alone.
        height: of the page in a notebook, in pixels.
    """

    def __init__(self, session: Session, *, port: int | None = 0, height: int = 800) -> None:
        self.session, self.height = session, height
        self._background = Background(session, port)
        self.url = self._background.url

    def wait(self) -> None:
        """Keeps a script alive until Ctrl-C."""
        self._background.wait()

    def close(self) -> None:
        """Ends the server; the page then answers no more."""
        self._background.close()

    def export_html(self, path: str | Path, **options: Any) -> Path:
        """Saves the page with what it shows as one file: see :func:`pellucid.explorer.export.export_html`."""
        from pellucid.explorer.export import export_html

        return export_html(self.session, path, app=self._background.app, **options)

    def __enter__(self) -> Explorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._background.is_running else ", closed"
        return f"<pellucid explorer of {self.session.models['main'].name} at {self.url}{state}>"

    def _repr_html_(self) -> str:
        title = escape(f"pellucid explorer: {self.session.models['main'].name}")
        return (
            f'<iframe src="{self.url}" title="{title}" allow="clipboard-write" '
            f'width="100%" height="{self.height}" style="border: 0"></iframe>'
            f'<p>In a window of its own: <a href="{self.url}" target="_blank">{self.url}</a></p>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}


def explore(
    model: Target = None,
    tokenizer: Tokenizer | None = None,
    *,
    text: str | None = None,
    target: str | None = None,
    other: Loaded | str | Path | None = None,
    port: int | None = 0,
    height: int = 800,
    tokens: int | None = None,
    device: str | torch.device = "cpu",
) -> Explorer:
    """Opens a model in the explorer; the server lives as long as the program, or until ``close``.

    >>> import pellucid as pl
    >>> page = pl.explore("runs/demo-encoder-decoder", text="3 March 2021")
    >>> page.url
    'http://127.0.0.1:…/'

    Args:
        model: a run folder, a published folder, a name of the hub, what :func:`pellucid.load` returns, or a model of
            ours together with ``tokenizer``; the model that comes with the package when left out.
        text: to begin with.
        target: what an encoder–decoder is fed as written; what it writes itself when left out.
        other: a second model, to be compared with the first.
        port: of this machine; 0 for any that is free.
        height: of the page in a notebook, in pixels.
        tokens: how many a text may have.
        device: for what is loaded; a model in memory stays where it is.

    Raises:
        UserError: for what cannot be opened.
        CheckpointError: for a folder that holds no model, or when the page was not built into this installation.
    """
    session = open_session(model, tokenizer, text=text, written=target, other=other, tokens=tokens, device=device)
    return Explorer(session, port=port, height=height)
