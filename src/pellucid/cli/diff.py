"""Find the first tensor in which two models part, and why. Exit code 0: equal, 1: different, 2: not compared.

Example: `pellucid diff runs/mine ../converted --text "def add(a" --save-test tests/test_port.py`
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.common import RUN_HELP, Debug, Device, Json, Seed, open_run, print_json, say
from pellucid.errors import UserError, nearest

KERNELS = ("explicit", "blocked", "sdpa", "flex", "auto")
DTYPES = ("float64", "float32", "bfloat16", "float16")


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=RUN_HELP, show_default=False)],
    b: Annotated[Path | None, typer.Argument(metavar="B", help="The other one.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="What both read, cut by A's tokenizer; else random tokens.")] = None,
    target: Annotated[str | None, typer.Option(help="With --text: what encoder–decoders are fed as written.")] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="In place of B: A token by token through its cache.")
    ] = False,
    kernel: Annotated[
        str | None, typer.Option(help=f"In place of B: A with another kernel: {', '.join(KERNELS)}.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"In place of B: A in {', '.join(DTYPES)}.")] = None,
    save_test: Annotated[Path | None, typer.Option(help="Write a test that the two stay equal to this file.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.analysis.inputs import drawn
    from pellucid.inference.reading import read

    if sum((b is not None, cached, kernel is not None, dtype is not None)) != 1:
        raise UserError("diff", "nothing or too much to compare with", "B, --cached, --kernel or --dtype")
    if save_test is not None and (b is None or save_test.exists()):
        found = f"{save_test} exists" if b is not None else "one model alone"
        raise UserError("--save-test", found, "a new file, and the paths of two models")
    if target is not None and text is None:
        raise UserError("--target", "no text", "--text beside it")
    ours = open_run(a, device)
    theirs = None if b is None else open_run(b, device).model
    if text is None:
        inputs = drawn(ours.model, ours.model if theirs is None else theirs, seed)
    else:
        inputs = read(ours, text, target).inputs
    result = _compared(ours.model, theirs, inputs, kernel, dtype)
    if save_test is not None:
        replace(result, sources=(str(a), str(b))).save_test(save_test)
    if json:
        print_json(result.as_dict())
    else:
        say(str(result))
    raise typer.Exit(0 if result.equal else 1)


def _compared(model: Any, other: Any, inputs: Any, kernel: str | None, dtype: str | None) -> Any:
    import torch

    from pellucid.analysis.cached import diff_cached
    from pellucid.analysis.compare import diff as compare

    if other is None and kernel is not None:
        other = _with_kernel(model, kernel)
    elif other is None and dtype is not None:
        other = _in(model, dtype)
    if other is not None:
        return compare(model, other, inputs)
    *source, tokens = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    return diff_cached(model, tokens, source=source[0] if source else None)


def _with_kernel(model: Any, name: str) -> Any:
    import copy

    from pellucid.nn import kernels
    from pellucid.nn.attention import Attention

    if name not in KERNELS:
        raise UserError("--kernel", f'found "{name}"', ", ".join(KERNELS), nearest(name, KERNELS))
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, Attention):
            module.kernel = getattr(kernels, name)
    return other


def _in(model: Any, name: str) -> Any:
    import copy

    import torch

    if name not in DTYPES:
        raise UserError("--dtype", f'found "{name}"', ", ".join(DTYPES), nearest(name, DTYPES))
    return copy.deepcopy(model).to(getattr(torch, name))
