"""Open a running model in the browser: every tensor of it, down to single products. Nothing leaves this machine.

Examples:

`pellucid explore`

`pellucid explore runs/notes --text "The with statement"`

`pellucid explore runs/en-de --other runs/en-de-wide`

`pellucid explore google/vit-base-patch16-224 --text cat.jpg`

`pellucid explore runs/notes --export notes.html`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Device, device_of, say

TARGET_HELP = (
    "A run folder, a folder in Hugging Face's format, or owner/name on their hub; else a model that comes along."
)


def explore(
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help=TARGET_HELP, show_default=False)] = None,
    text: Annotated[
        str | None, typer.Option(help="What the model reads first: a text, or the file of a picture or a sound.")
    ] = None,
    written: Annotated[
        str | None, typer.Option("--target", help="What an encoder–decoder is fed as written; else what it writes.")
    ] = None,
    other: Annotated[
        str | None, typer.Option(metavar="TARGET", help="A second model, to compare.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="0 for any that is free; else 8642 or the next that is.", min=0, max=65535)
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Save the page as one file that needs no server, and end.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many a text may have.", min=1)] = 1024,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    from pellucid.explorer.opening import open_session
    from pellucid.inference.aside import aside

    where = device_of(device)
    session = aside(lambda: open_session(target, text=text, written=written, other=other, tokens=tokens, device=where))
    if export is not None:
        from pellucid.explorer.export import export_html

        path = export_html(session, export)
        say(f"saved in {path} ({path.stat().st_size / 1e6:.1f} MB); it opens in any browser, without a server")
        return
    _serve(session, port, no_open)


def _serve(session: object, port: int | None, no_open: bool) -> None:
    import webbrowser

    from pellucid.explorer.serve import Background, has_screen
    from pellucid.explorer.session import Session

    assert isinstance(session, Session)
    model = session.models["main"]
    background = Background(session, port)
    about = model.as_dict()
    kind = about["family"].replace("_", "–")
    say(f"{model.name}: {kind}, {about['parameters']:,} parameters, on {model.loaded.model.device}")
    say(f"\n    {background.url}\n\nThe page is for this machine alone. Ctrl-C ends it.")
    if not no_open and has_screen():
        webbrowser.open(background.url)
    background.wait()
