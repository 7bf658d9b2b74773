"""A published folder, opened: which layout it has, and the model in it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Set
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from pellucid.config import model as config
from pellucid.config.files import read_plain
from pellucid.data.published import MODULES
from pellucid.errors import ConfigError, nearest
from pellucid.models.build import Model, build_empty
from pellucid.models.foreign.bart import BART, MARIAN
from pellucid.models.foreign.bert import BERT, DISTILBERT, ROBERTA
from pellucid.models.foreign.gpt2 import GPT2
from pellucid.models.foreign.hub import hub_outline
from pellucid.models.foreign.layout import Folder, Layout
from pellucid.models.foreign.llama import GEMMA2, LLAMA
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.t5 import T5
from pellucid.models.foreign.table import Place, Row, places
from pellucid.models.foreign.vit import VIT
from pellucid.models.foreign.weights import Weights, assign, is_beside, read_as
from pellucid.models.foreign.whisper import WHISPER

LAYOUTS = (GPT2, DISTILBERT, BERT, ROBERTA, T5, BART, MARIAN, LLAMA, GEMMA2, VIT, WHISPER)
CONFIG = "config.json"
PROMPTS = "config_sentence_transformers.json"
POOLINGS: Mapping[str, config.Pooling] = {"cls": "first", "mean": "mean", "max": "max"}


def is_published(folder: Path) -> bool:
    """Whether a folder is one of those that Hugging Face's libraries write."""
    return (folder / CONFIG).is_file() and not (folder / "config.toml").is_file()


def load_published(folder: Path, dtype: torch.dtype | None = torch.float32) -> Model:
    """The model in a folder, its weights mapped into memory.

    Args:
        dtype: of the weights; ``None`` as they are stored. What is stored otherwise is converted, which copies it.

    Raises:
        ConfigError: for an architecture or a setting that is not supported.
        CheckpointError: for weights that are missing, unknown, torn, pickled, or of another shape.
    """
    settings = read_settings(folder)
    layout = layout_of(settings)
    weights = Weights(folder, layout.renamed)
    described = _translated(layout, settings, weights.names, folder)
    model = build_empty(described)
    found = places_among(weights.names, layout, model)
    patterns = layout.unread + (layout.heads if (folder / MODULES).exists() else ())
    unread = {name for name in weights.names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    assign(model, found, weights, frozenset(unread), dtype)
    return model


def read_published(folder: Path) -> config.Model:
    """The config of the model in a folder. See :func:`load_published`."""
    settings = read_settings(folder)
    layout = layout_of(settings)
    return _translated(layout, settings, Weights(folder, layout.renamed).names, folder)


def read_named(name: str) -> config.Model:
    """The config of a model of the hub, whose weights are not fetched. See :func:`hub_outline`."""
    folder, stored = hub_outline(name)
    settings = read_settings(folder)
    layout = layout_of(settings)
    return _translated(layout, settings, {read_as(each, layout.renamed) for each in stored}, folder)


def read_settings(folder: Path) -> Settings:
    """The config.json of a folder.

    Raises:
        ConfigError: when it is missing or torn.
    """
    return Settings(read_plain(folder / CONFIG), folder / CONFIG)


def layout_of(settings: Settings) -> Layout:
    """The layout a config.json asks for.

    Raises:
        ConfigError: for one that is not supported, naming the nearest.
    """
    wanted = settings.values.get("model_type")
    by_type = {kind: layout for layout in LAYOUTS for kind in layout.model_types}
    if not isinstance(wanted, str) or wanted not in by_type:
        found = f"found {wanted!r}" if wanted else "missing"
        raise ConfigError(f"{settings.where}: model_type", found, "a supported one", nearest(str(wanted), by_type))
    return by_type[wanted]


def _translated(layout: Layout, settings: Settings, names: Set[str], path: Path) -> config.Model:
    folder = Folder(settings, names, _declared_pooling(path))
    try:
        described = layout.read(folder)
        settings.finish()
    except ConfigError as error:
        if str(error.where).startswith(str(path)):
            raise
        raise ConfigError(f"{settings.where}: {error.where}", error.found, error.expected, error.hint) from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        found = f"a value of the wrong kind ({type(error).__name__}: {error})"
        raise ConfigError(settings.where, found, "the settings of this architecture", "copy the file again") from error
    layers = sum(stack.num_layers for stack in config.stacks(described))
    if layers > len(names):
        raise ConfigError(settings.where, f"{layers} layers", f"no more than the {len(names)} tensors there are")
    return described


def _declared_pooling(path: Path) -> config.Embedding | None:
    """What the files of sentence-transformers say is done with the last states.

    Raises:
        ConfigError: for a module or a pooling that is not supported.
    """
    modules = path / MODULES
    if not modules.exists():
        return None
    try:
        entries = json.loads(modules.read_text(encoding="utf-8"))
        kinds = [str(entry["type"]).rpartition(".")[2] for entry in entries]
        paths = [str(entry.get("path", "")) for entry in entries]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(modules, f"cannot be read ({error})", "a list of modules", "copy it again") from None
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ConfigError(modules, f"found {', '.join(kinds)}", "Transformer, Pooling and maybe Normalize")
    if not is_beside(paths[1]):
        raise ConfigError(modules, f"found path {paths[1]!r}", "a folder beside it")
    _refuse_prompt(path)
    pooling = Settings(read_plain(path / paths[1] / CONFIG), path / paths[1] / CONFIG)
    return config.Embedding(pooling=_pooling(pooling), normalized=kinds[2:] == ["Normalize"])


def _refuse_prompt(path: Path) -> None:
    """Raises ConfigError where sentence-transformers put a prompt before every text, which is not done here."""
    if not (path / PROMPTS).exists():
        return
    settings = Settings(read_plain(path / PROMPTS), path / PROMPTS)
    name = settings.get("default_prompt_name", "")
    prompts: Mapping[str, object] = settings.get("prompts", {})
    if prompt := prompts.get(name):
        found = f"found {name!r}, which puts {prompt!r} before every text"
        hint = "set it to null and put the prompt before your texts yourself"
        raise ConfigError(f"{settings.where}: default_prompt_name", found, "null: texts are read as given", hint)


def _pooling(settings: Settings) -> config.Pooling:
    """By the present setting ``pooling_mode``, or by the older ones, a switch for each mode."""
    if not settings.values.get("include_prompt", True):
        raise ConfigError(f"{settings.where}: include_prompt", "found false", "true: a prompt is pooled like any text")
    told = settings.values.get("pooling_mode")
    if told is None:
        on = [name for name, value in settings.values.items() if name.startswith("pooling_mode_") and value]
        told = [re.sub("_tokens?$", "", name.removeprefix("pooling_mode_")) for name in on]
    names = [str(name) for name in (told if isinstance(told, list) else [told])]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise ConfigError(settings.where, f"found {', '.join(names) or 'no pooling'}", "one of " + ", ".join(POOLINGS))
    return POOLINGS[names[0]]


def places_among(names: Collection[str], layout: Layout, model: Model) -> list[Place]:
    """Where each parameter is found among these names, which leave the prefix out where the bare model was saved."""
    found = places(layout.table(model.config), model)
    if layout.prefix and not any(name.startswith(layout.prefix) for name in names):
        return [_bare(place, layout.prefix) for place in found]
    return found


def _bare(place: Place, prefix: str) -> Place:
    """The same place in a file that leaves the prefix out."""
    rows = tuple(Row(row.theirs.removeprefix(prefix), row.ours, row.transposed, row.shape) for row in place.rows)
    return Place(rows, place.parameters)
