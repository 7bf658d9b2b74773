"""Show the named tensors of a model while it reads a text; explain any number, draw, save.

Examples: `pellucid trace runs/demo-decoder "def add(a" --watch "*.weights"`,
`pellucid trace runs/demo-decoder "def add(a" --explain "blocks.0.self_attention.scores[0, 2, 3, 1]" --script`
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pellucid.cli.common import Debug, Device, Json, RunArgument, Verify, console, open_run, print_json, say
from pellucid.errors import UserError, nearest

WIDEST = 300  # columns, where nothing says how wide the terminal is


def trace(
    run: RunArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the model reads.", show_default=False)],
    target: Annotated[
        str | None, typer.Option(help="What an encoder–decoder is fed as written; else what it writes itself.")
    ] = None,
    watch: Annotated[list[str] | None, typer.Option(help='Names to show, as "*.weights"; may be repeated.')] = None,
    explain: Annotated[
        list[str] | None, typer.Option(metavar="NAME[INDEX]", help="A number to explain; may be repeated.")
    ] = None,
    script: Annotated[bool, typer.Option("--script", help="Print the numbers to explain as PyTorch programs.")] = False,
    terms: Annotated[int, typer.Option(help="How many of the largest terms to list.", min=1)] = 8,
    picture: Annotated[Path | None, typer.Option(help="Draw the watched tensor to this file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Save the tensors to this new folder.")] = None,
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.reading import read
    from pellucid.trace import trace as traced

    addresses = [_address(given) for given in explain or ()]
    if script and not addresses:
        raise UserError("--script", "found no number to write as a program", '--explain "NAME[INDEX]"')
    if save is not None and save.exists() and (save.is_file() or any(save.iterdir())):
        raise UserError("--save", f"{save} exists", "a new folder")
    loaded = open_run(run, device, verify)
    reading = read(loaded, text, target)
    patterns = watch or ([name for name, _ in addresses] if addresses else ["*"])
    tape = traced(loaded.model, reading.inputs, watch=patterns)
    if not len(tape) and (watch or not addresses):
        hint = nearest(patterns[0], tape.names)
        raise UserError("--watch", f'"{patterns[0]}" matches none of {len(tape.entries)} tensors', hint=hint)
    explanations = [tape.explain(name, index, terms=terms) for name, index in addresses]
    if picture is not None:
        _draw(tape, reading, picture)
    if save is not None:
        tape.save(save)
    if json:
        print_json(_told(tape, reading, explanations))
    elif script:
        typer.echo("\n".join(explanation.script for explanation in explanations), nl=False)
    else:
        _show(tape, reading, explanations)


def _show(tape: Any, reading: Any, explanations: list[Any]) -> None:
    say("reads   " + " ".join(f"{i}:{piece}" for i, piece in enumerate(reading.pieces)))
    if reading.target is not None:
        say("writes  " + " ".join(f"{i}:{piece}" for i, piece in enumerate(reading.target)))
    for explanation in explanations:
        say("\n" + str(explanation))
    if not explanations:
        wide = not console.is_terminal
        (Console(width=WIDEST) if wide else console).print(tape.table())


def _address(given: str) -> tuple[str, tuple[int, ...]]:
    found = re.fullmatch(r"\s*([^\[\]\s]+)\s*\[([-\d,\s]*)\]\s*", given)
    try:
        assert found is not None
        return found[1], tuple(int(part) for part in found[2].split(",") if part.strip())
    except (AssertionError, ValueError):
        raise UserError("--explain", f'found "{given}"', "such as blocks.0.self_attention.scores[0, 2, 3, 1]") from None


def _draw(tape: Any, reading: Any, path: Path) -> None:
    from pellucid.trace.pictures import draw

    if len(tape) > 1:
        raise UserError("--picture", f"{len(tape)} tensors are watched", "one", f'--watch "{next(iter(tape))}"')
    (name,) = tape
    written = reading.target is not None and not name.startswith("encoder.")
    rows = reading.target if written else reading.pieces
    keys = () if not name.endswith(("scores", "weights", "mask")) else rows
    draw(tape[name], path, title=name, rows=rows, columns=reading.pieces if "cross_attention" in name else keys)


def _told(tape: Any, reading: Any, explanations: list[Any]) -> dict[str, Any]:
    return {
        "reads": list(reading.pieces),
        "writes": None if reading.target is None else list(reading.target),
        "tensors": [
            {
                "name": name,
                "shape": list(tape.entry(name).shape),
                "dtype": str(tape.entry(name).dtype).removeprefix("torch."),
                "formula": tape.entry(name).operation.formula,
                "inputs": list(tape.entry(name).input_names),
                **tape.statistics(name).as_dict(),
            }
            for name in tape
        ],
        "explanations": [explanation.as_dict() for explanation in explanations],
    }
