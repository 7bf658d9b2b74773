"""Write on from a prompt with a decoder.

Example: `pellucid generate runs/notes "Once upon" --tokens 200 --temperature 0.8 --top-p 0.95`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import Debug, Device, Json, RunArgument, Texts, Verify, open_run, print_json, texts_or_stdin

if TYPE_CHECKING:
    from pellucid.inference.sampling import Sampling


def generate(
    run: RunArgument,
    text: Texts = None,
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder; 0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that reach p together.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw among those at least p times the likeliest.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the draws.")] = 0,
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.predict import complete, write

    loaded, prompts = open_run(run, device, verify), texts_or_stdin(text)
    sampling = sampling_of(temperature, top_k, top_p, min_p, seed)
    if len(prompts) == 1 and not json:  # one text can be watched as it grows
        print(prompts[0], end="", flush=True)
        for piece in write(loaded, prompts[0], max_new_tokens=tokens, sampling=sampling):
            print(piece, end="", flush=True)
        print()
        return
    written = complete(loaded, prompts, max_new_tokens=tokens, sampling=sampling)
    for prompt, continuation in zip(prompts, written, strict=True):
        if json:
            print_json({"prompt": prompt, "text": continuation})
        else:
            print(prompt + continuation)


def sampling_of(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, seed: int) -> Sampling:
    """The pipeline that the options describe; a temperature of 0 is greedy."""
    from pellucid.inference.sampling import GREEDY, Filter, MinP, Sampling, Temperature, TopK, TopP

    if temperature == 0:
        return GREEDY
    filters: list[Filter] = [Temperature(temperature)]
    filters += [TopK(top_k)] if top_k is not None else []
    filters += [TopP(top_p)] if top_p is not None else []
    filters += [MinP(min_p)] if min_p is not None else []
    return Sampling(filters, seed=seed)
