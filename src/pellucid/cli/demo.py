"""Train a model on real data that comes with the package, and see it answer: a minute or two on two cores.

Examples: `pellucid demo`, `pellucid demo decoder`, `pellucid demo encoder --json`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pellucid.cli.common import Debug, Device, Json, Report, Seed, device_of, end_card, print_json, say
from pellucid.config.defaults import DEMOS, demo_run
from pellucid.config.files import load_config
from pellucid.config.run import Data, NamedData, Run
from pellucid.errors import UserError

if TYPE_CHECKING:
    from pellucid.data.corpus import Pair
    from pellucid.data.files import Document
    from pellucid.models.checkpoint import Loaded
    from pellucid.training.session import Session

Figures = dict[str, Any]


def demo(
    family: Annotated[str, typer.Argument(help="One of " + ", ".join(DEMOS) + ".")] = "encoder-decoder",
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/demo-FAMILY by default.")] = None,
    no_explore: Annotated[
        bool, typer.Option("--no-explore", help="Never open a browser. This version never does.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    debug: Debug = False,
) -> None:
    began = time.perf_counter()
    run = replace(demo_run(family), seed=seed)
    show: dict[str, Callable[[Session, Loaded, bool], Figures]] = {
        "encoder-decoder": _dates,
        "decoder": _writing,
        "encoder": _restoring,
    }
    from pellucid.models.checkpoint import load_run
    from pellucid.nn.memory import keep_freed_memory
    from pellucid.training.fit import fit
    from pellucid.training.session import prepare

    keep_freed_memory()
    folder = out or Path("runs") / f"demo-{family}"
    _check_free(folder, run)
    say("making the data and training the tokenizer …", json)
    session = prepare(run, device=device_of(device))
    parameters = sum(p.numel() for p in session.model.parameters())
    name, data = type(session.model).__name__, run.data.name if isinstance(run.data, NamedData) else "its own"
    say(f"{name}: {parameters:,} parameters on {len(session.corpus.train):,} examples of {data}", json)
    Report(run.training.steps, quiet=json).follow(fit(session, folder))
    # What is judged and shown is the run as saved, read back from its folder.
    figures = show[family](session, load_run(folder, device=device_of(device)), json)
    figures |= {"seconds": round(time.perf_counter() - began, 1), "parameters": parameters, "run": str(folder)}
    end_card(session, folder, f"pellucid demo {family}", figures, seconds=figures["seconds"])
    if json:
        print_json(figures)
    else:
        say(f"\n{figures['seconds']} s in all; saved in {folder} ({_size(folder) / 1e6:.2f} MB). Go on with\n")
        say(f"    {_next(family, folder)}")


def _check_free(folder: Path, run: Run) -> None:
    """Raises :class:`UserError` where something else is in a folder than this demonstration, which may be repeated."""
    if not any((folder / name).exists() for name in ("config.toml", "config.json", "model.safetensors", "checkpoints")):
        return
    data: Data | None = None
    with suppress(UserError):
        data = load_config(folder / "config.toml", Run).data
    if data != run.data:
        raise UserError(folder, "another model is there already", "a folder of its own", "choose another --out")


def _dates(session: Session, loaded: Loaded, quiet: bool) -> Figures:
    from pellucid.inference.predict import translate

    notes, figures = session.corpus.notes, {}
    for name, examples in session.corpus.tests.items():
        pairs = cast("Sequence[Pair]", examples)
        written = translate(loaded, [pair.source for pair in pairs], max_new_tokens=16)
        right = [said == pair.target for said, pair in zip(written, pairs, strict=True)]
        figures[f"exact_{name}"] = round(sum(right) / len(right), 5)
        figures[f"examples_{name}"] = len(right)
        say(f"\n{name} locales, held-out dates: {figures[f'exact_{name}']:.2%} of {len(right):,} exact", quiet)
        # Each language once, spread over the list.
        locales = notes["locales"][name]
        shown = {locale: i for i, locale in enumerate(locales)}
        for locale in sorted(shown)[:: max(1, len(shown) // 12)][:12]:
            i = shown[locale]
            mark = "" if right[i] else f"   ✗ should be {pairs[i].target}"
            say(f"  {_language(locale):24.24} {pairs[i].source:44.44} → {written[i]}{mark}", quiet)
    figures |= {"languages": notes["languages"], "scripts": len(notes["scripts"])}
    say(f"\n{figures['languages']} languages in {figures['scripts']} scripts", quiet)
    return figures


def _language(code: str) -> str:
    from babel import Locale

    return Locale.parse(code).get_display_name("en") or code


def _writing(session: Session, loaded: Loaded, quiet: bool) -> Figures:
    from pellucid.inference.predict import complete
    from pellucid.inference.sampling import Sampling, Temperature, TopP
    from pellucid.training.evaluate import evaluate, text_bytes
    from pellucid.training.session import validation_batches

    held = cast("Sequence[Document]", session.corpus.validation)
    evaluation = evaluate(loaded.model, validation_batches(session), session.run.objective)
    size = text_bytes(held)
    figures: Figures = {"bits_per_byte": round(evaluation.bits_per_byte(size), 4), "perplexity": evaluation.perplexity}
    figures |= _lzma(session.corpus.train, held)
    say(f"\nheld-out text: {size:,} bytes; bits per byte, fewer is better", quiet)
    say(f"  this model                   {figures['bits_per_byte']:.3f}", quiet)
    say(f"  lzma after the training text {figures['lzma_after_training']:.3f}", quiet)
    say(f"  lzma alone                   {figures['lzma_alone']:.3f}", quiet)
    prompts = ["The with statement", "A generator expression", "class "]
    sampling = Sampling([Temperature(0.7), TopP(0.9)], seed=session.run.seed)
    for prompt in prompts:
        (text,) = complete(loaded, [prompt], max_new_tokens=60, sampling=sampling)
        figures.setdefault("samples", []).append(prompt + text)
        say(f"\n> {prompt}{text}", quiet)
    return figures


def _lzma(train: Any, held: Any) -> Figures:
    """Bits per byte of a general compressor, without and with the training text to look things up in."""
    import lzma

    from pellucid.data.files import pieces

    def size(*texts: Any) -> int:
        joined = "".join(piece for text in texts for document in text for piece in pieces(document))
        return len(lzma.compress(joined.encode(), preset=9 | lzma.PRESET_EXTREME))

    size_held = sum(len(piece.encode()) for document in held for piece in pieces(document))
    alone, after = size(held), size(train, held) - size(train)
    return {"lzma_alone": round(8 * alone / size_held, 4), "lzma_after_training": round(8 * after / size_held, 4)}


def _restoring(session: Session, loaded: Loaded, quiet: bool) -> Figures:
    import torch

    from pellucid.data.batch import IGNORE
    from pellucid.inference.predict import fill
    from pellucid.training.evaluate import evaluate
    from pellucid.training.session import validation_batches

    batches = validation_batches(session)
    evaluation = evaluate(loaded.model, batches, session.run.objective)
    labels = torch.cat([batch.labels[batch.labels != IGNORE] for batch in batches])
    train = torch.cat(
        [torch.tensor(ids) for ids in loaded.tokenizer.encode_batch(list(session.corpus.training_texts()))]
    )
    commonest = int(train.bincount().argmax())
    baseline = (labels == commonest).float().mean().item()
    figures: Figures = {
        "masked_accuracy": round(evaluation.accuracy, 4),
        "most_frequent_token": round(baseline, 4),
        "masked_perplexity": round(evaluation.perplexity, 3),
        "masked_tokens": len(labels),
    }
    piece = loaded.tokenizer.pieces([commonest])[0]
    say(f"\nheld-out text: {evaluation.accuracy:.2%} of {len(labels):,} hidden tokens restored", quiet)
    say(f"always the most frequent token ({piece!r}): {baseline:.2%}", quiet)
    for text in (
        "The <mask> statement is used for conditional execution",
        "An exception is <mask> when the name is not found.",
        "If the object is a class <mask>, the method is called",
    ):
        say(f"\n> {text}", quiet)
        for answer in fill(loaded, text, top=3):
            figures.setdefault("samples", []).append(answer.text)
            say(f"  {answer.probability:6.1%}  {answer.text}", quiet)
    return figures


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _next(family: str, folder: Path) -> str:
    match family:
        case "encoder-decoder":
            return f'pellucid translate {folder} "vendredi 13 mars 2071"'
        case "decoder":
            return f'pellucid generate {folder} "The try statement"'
        case _:
            return f'pellucid fill {folder} "A <mask> is an object that can be called."'
