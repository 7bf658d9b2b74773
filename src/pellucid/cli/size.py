"""Say how large a model is and what it costs: parameters, arithmetic, memory, time.

Examples:

`pellucid size gpt2`

`pellucid size llama-2-7b --batch 8 --length 4096 --checkpointing --machine h200`

`pellucid size decoder d_model=512 num_layers=8 d_ff=1376 vocab_size=32000`

`pellucid size runs/notes --machine this --json`

`pellucid size Qwen/Qwen2.5-7B` (of the hub: its weights are not fetched)

`pellucid size list`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import Debug, Json, console, print_json, say

if TYPE_CHECKING:
    from pellucid.analysis.size import Size

Row = tuple[str, ...]


def size(
    target: Annotated[
        str | None,
        typer.Argument(help="A preset, a family, a run, a .toml file, owner/name of the hub; or list, as without any."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, wherever they stand.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows.")] = 1,
    length: Annotated[int | None, typer.Option(help="Positions of a row; all the model has, or 1024.")] = None,
    source_length: Annotated[int | None, typer.Option(help="Positions of the source.")] = None,
    dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16: products in training, everything in inference.")
    ] = "bfloat16",
    machine: Annotated[str, typer.Option(help="a100, h100, h200, this (measured), or a .toml file.")] = "h100",
    utilization: Annotated[float, typer.Option(help="Share of the peak that training reaches.")] = 0.4,
    tokens: Annotated[int | None, typer.Option(help="To train on; by default 20 a parameter.")] = None,
    devices: Annotated[int | None, typer.Option(help="To train on; by default as few as hold it.")] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute blocks once more instead of keeping them.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.analysis.size import size as measure

    if target in (None, "list"):
        _list(json)
        return
    changes = list(settings or [])
    if target is not None and "=" in target:  # settings alone describe a decoder
        target, changes = "decoder", [target, *changes]
    found = measure(
        target or "decoder",
        changes,
        batch=batch,
        length=length,
        source_length=source_length,
        dtype=dtype,  # type: ignore[arg-type]
        machine=machine,
        utilization=utilization,
        tokens=tokens,
        devices=devices,
        checkpointing=checkpointing,
    )
    if json:
        print_json(found.as_dict())
    else:
        _show(found, utilization)


# ---- the presets -------------------------------------------------------------------------------


def _list(json: bool) -> None:
    from pellucid.analysis.parameters import parameter_count
    from pellucid.analysis.size import published
    from pellucid.config.presets import PRESETS, UNPUBLISHED

    rows: list[Row] = []
    for name, preset in PRESETS.items():
        figures = {"name": name, "parameters": parameter_count(preset.model), "published": published(preset)}
        if json:
            print_json(figures)
        said = "" if preset.parameters is None else f"{preset.parameters:,}"
        rows.append((name, f"{figures['parameters']:,}", said, preset.remark))
    for name, source in UNPUBLISHED.items():
        if json:
            print_json({"name": name, "parameters": None, "published": {"parameters": None, "source": source}})
        rows.append((name, "", "not published", ""))
    if not json:
        _table(("preset", "parameters here", "published", ""), rows)


# ---- one model ---------------------------------------------------------------------------------


def _show(size: Size, utilization: float) -> None:
    from pellucid.analysis.size import described

    say(f"{size.name}\n{described(size.model)}")
    if size.published is not None:
        _published(size)
    total = size.parameters
    rows = [
        (part.name, f"{part.weights + part.bias:,}", f"{part.copies}", "tied" if part.tied else f"{part.parameters:,}")
        for part in size.parts
    ]
    say("")
    _table(("parameters", "each", "times", "in all"), [*rows, ("total", "", "", f"{total:,}")])
    work = size.work
    source = f", source {work.source:,}" if work.source else ""
    say(f"\nA batch of {work.rows} × {work.tokens:,}{source}, products in {size.means.precision}:\n")
    _table(("arithmetic", "a row", "a token"), _arithmetic(size))
    say("")
    _table(("training", "kept", "checkpointed"), _training(size))
    say("")
    _table(("inference", ""), _inference(size))
    say("")
    _table((f"on {size.machine.name}", ""), _machine(size, utilization))


def _published(size: Size) -> None:
    from pellucid.analysis.size import published

    assert size.published is not None
    said = published(size.published)
    count, counted = said["parameters"], said["counted"]
    if count is None:
        text = "no exact count is published"
    elif count == counted:
        text = f"{count:,} parameters published, and counted here"
    else:
        text = f"{count:,} parameters published, {counted:,} counted here"
    say(f"{said['source']}: {text}" + (f"; {said['remark']}" if said["remark"] else ""))


def _arithmetic(size: Size) -> list[Row]:
    flops = size.flops
    named = {
        "forward": flops.forward,
        "  of it attention": flops.attention,
        "  of that hidden by masks": flops.hidden,
        "backward": flops.backward,
        "both": flops.training,
        "checkpointing adds": flops.recomputed,
        "by the rule 6 N": flops.six_n,
    }
    return [(name, _flop(number), _flop(flops.per_token(number))) for name, number in named.items()]


def _training(size: Size) -> list[Row]:
    pair = (size.training, size.checkpointed)
    return [
        ("weights, float32", *(_bytes(memory.weights) for memory in pair)),
        ("gradients", *(_bytes(memory.gradients) for memory in pair)),
        ("AdamW's moments", *(_bytes(memory.optimizer) for memory in pair)),
        ("activations", *(_bytes(memory.activations) for memory in pair)),
        ("  of them copies of weights", *(_bytes(memory.copies) for memory in pair)),
        ("the most at once", *(_bytes(memory.peak) for memory in pair)),
    ]


def _inference(size: Size) -> list[Row]:
    memory = size.inference
    rows = [(f"weights, {size.means.precision}", _bytes(memory.weights))]
    if memory.cache:
        rows += [("cache of a token", _bytes(memory.cache_per_token)), ("cache of the batch", _bytes(memory.cache))]
    if memory.source_cache:
        rows += [("cache of its source", _bytes(memory.source_cache))]
    return [*rows, ("a pass over whole rows", _bytes(memory.activations)), ("the most at once", _bytes(memory.peak))]


def _machine(size: Size, utilization: float) -> list[Row]:
    cost, machine, writing = size.cost, size.machine, size.writing
    kept = "checkpointed" if size.means.checkpointing else "kept"
    rows: list[Row]
    if cost.devices is None:
        rows = [(f"training, {kept}", f"no number of devices: each would need {_bytes(cost.memory)}")]
    else:
        short = "" if cost.fits else f", of which there are {_bytes(machine.memory)}"
        many = f"{cost.devices:,} device{'s' if cost.devices > 1 else ''}, {_bytes(cost.memory)} on each{short}"
        assert cost.seconds is not None
        peak = _flop(machine.peak(size.means.precision))
        what = f"{cost.tokens / 1e9:,.3g} billion tokens at {utilization:.0%} of {peak}/s"
        rows = [(f"training, {kept}", many), (what, _time(cost.seconds))]
    if writing is not None:
        devices = f"{writing.devices:,} device{'s' if writing.devices > 1 else ''}"
        rows.append((f"writing, {devices}", f"at most {writing.tokens_per_second:,.0f} tokens/s"))
    return rows


# ---- figures -----------------------------------------------------------------------------------


def _table(head: Row, rows: Iterable[Row]) -> None:
    from rich.table import Table

    table = Table(*head[:1], box=None, padding=(0, 2, 0, 0))
    for title in head[1:]:
        table.add_column(title, justify="right" if len(head) > 2 and title else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)


def _scaled(number: float, unit: str) -> str:
    for scale, letter in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= scale:
            return f"{number / scale:.3g} {letter}{unit}" if number < 1e27 else f"{number:.3g} {unit}"
    return f"{number / 1e3:.3g} k{unit}" if number >= 1e3 else f"{number:.3g} {unit}"


def _flop(number: float) -> str:
    return _scaled(number, "FLOP")


def _bytes(number: float) -> str:
    return _scaled(number, "B")


def _time(seconds: float) -> str:
    for length, name in ((365.25 * 86_400, "years"), (86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:,.1f} seconds"
