"""From what a user names to a session: a run, a published folder, a name of the hub, a model in memory, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.explorer.made_up import drawn, sung
from pellucid.explorer.session import Limits, Session
from pellucid.inference.drawing import AUTOENCODER, load_coder
from pellucid.inference.seen import Sense, sense_of
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.load import find, load
from pellucid.training.watch import SAMPLES, read_records

SHIPPED = Path(__file__).parent / "model"
"""A small run that comes with the package, to look at where there is none yet."""

SHIPPED_NAME, SHIPPED_TEXT = "dates", "vendredi 13 mars 2071"
OTHER, EXAMPLE = "other", "example.txt"

Target = Loaded | nn.Module | str | Path | None


def open_session(
    target: Target = None,
    tokenizer: Tokenizer | None = None,
    *,
    text: str | None = None,
    written: str | None = None,
    other: Loaded | str | Path | None = None,
    tokens: int | None = None,
    device: str | torch.device = "cpu",
) -> Session:
    """A session for a page to look at.

    Args:
        target: a run folder, a published folder, a name of the hub, what :func:`pellucid.load` returns, or a model of
            ours together with ``tokenizer``; the model that comes with the package when left out.
        text: to begin with; when left out an example that the run left, or a sentence. For a model that reads pictures
            or sounds the name of a file; when left out one is made up.
        written: what an encoder–decoder is fed as written; what it writes itself when left out.
        other: a second model, to be compared with the first.
        tokens: how many a text may have.
        device: for what is loaded; a model in memory stays where it is.

    Raises:
        UserError: for what cannot be opened, or a second model that reads something else than the first.
    """
    loaded, name, folder = _opened(target, tokenizer, device)
    sense = sense_of(loaded.model.config)
    others = {}
    if other is not None:
        second, called, _ = _opened(other, None, device)
        if (reads := sense_of(second.model.config)) != sense:
            raise UserError("--other", f"reads {reads}", f"a model that reads {sense} too")
        others[OTHER] = second
    shown = {} if sense == "text" else _shown(sense, text)
    if shown:
        text = next(iter(shown))
    elif text is None:
        text = SHIPPED_TEXT if folder == SHIPPED else _sample(folder)
    session = Session(
        loaded,
        name,
        folder=folder,
        others=others,
        limits=Limits() if tokens is None else Limits(tokens=tokens),
        example=None if text is None else (text, written),
        shown=shown,
        coder=load_coder(folder) if folder is not None and (folder / AUTOENCODER).exists() else None,
    )
    if others:
        session.models[OTHER].name = called if called != name else f"{called} (other)"
    return session


def _opened(target: Target, tokenizer: Tokenizer | None, device: str | torch.device) -> tuple[Loaded, str, Path | None]:
    """A model, what people call it, and the folder it is from."""
    match target:
        case None:
            return load(SHIPPED, device=device), SHIPPED_NAME, SHIPPED
        case str() | Path():
            folder = find(target)
            name = str(target) if not Path(target).exists() else folder.resolve().name
            return load(target, device=device), name, folder
        case Loaded():
            return target, type(target.model).__name__, None
        case Decoder() | Encoder() | EncoderDecoder():
            if sense_of(target.config) == "picture":
                return Loaded(target.eval(), None, None), type(target).__name__, None
            if not isinstance(tokenizer, Tokenizer):
                found = "no tokenizer" if tokenizer is None else f"a tokenizer of type {_type(tokenizer)}"
                hint = "pellucid.load gives both in one"
                raise UserError("explore", found, "a pellucid.data.Tokenizer beside the model", hint)
            return Loaded(target.eval(), tokenizer, None), type(target).__name__, None
    hint = "save a model of transformers with save_pretrained(folder) and explore the folder"
    supported = (
        "a Decoder, Encoder or EncoderDecoder of pellucid with its tokenizer, what pellucid.load returns, or a path"
    )
    raise UserError("explore", f"found {_type(target)}", supported, hint)


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _shown(sense: Sense, path: str | None) -> dict[str, bytes]:
    """The file that a model of pictures or sounds begins with, by its name."""
    if path is None:
        return {"made up": drawn() if sense == "picture" else sung()}
    try:
        return {Path(path).name: Path(path).read_bytes()}
    except OSError as error:
        hint = "this model reads no text"
        raise UserError("--text", f'"{path}" cannot be read ({error.strerror})', f"a {sense}", hint) from None


def _sample(folder: Path | None) -> str | None:
    """What a folder says the model may read, or what a run was last tried with, while it was trained."""
    if folder is None:
        return None
    if (folder / EXAMPLE).exists():
        return (folder / EXAMPLE).read_text(encoding="utf-8", errors="replace").strip()
    texts = [sample.get("input") for record in read_records(folder / SAMPLES) for sample in record.get("samples", ())]
    return next((text for text in reversed(texts) if text), None)
