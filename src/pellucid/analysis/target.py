"""What a model is called: a preset, a family, a file, a folder; and what of it is to be changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pellucid.config.defaults import FAMILIES, default_run
from pellucid.config.files import load_config, read_plain
from pellucid.config.model import Model, with_vocab_size
from pellucid.config.presets import PRESETS, UNPUBLISHED, preset
from pellucid.config.run import NamedData, Run
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.errors import ConfigError, UserError, nearest
from pellucid.models.foreign.hub import NAME


def model_of(target: str | Path | Model, settings: Sequence[str] = ()) -> Model:
    """The config of a model.

    Args:
        target: a preset, a family, a TOML or JSON file of a model or of a run, a folder that holds a model, or
            ``owner/name`` of the hub, whose weights are not fetched.
        settings: ``key=value``, the key being the end of a path: ``d_model`` is set wherever there is one.

    Raises:
        ConfigError: for a setting that does not exist or a value that cannot work.
        UserError: for a target that is nothing of this, with the nearest name.
    """
    model = _named(target) if isinstance(target, str | Path) else target
    if not settings:
        return model
    known = list(_paths(model, ""))
    changed = with_overrides(to_dict(model), [full for setting in settings for full in _in_full(setting, known)])
    result: Model = from_dict(Model, changed, "model")
    return result


def _named(target: str | Path) -> Model:
    name, path = str(target), Path(target)
    if name in PRESETS or name in UNPUBLISHED:
        return preset(name).model
    if name in FAMILIES:
        return _of_run(default_run(name, NamedData(name="python-docs")))
    if path.suffix in (".toml", ".json"):
        return _of_run(load_config(path, Run)) if "model" in read_plain(path) else load_config(path, Model)
    if path.is_dir():
        return _in_folder(path)
    if NAME.fullmatch(name) and not path.parent.is_dir():
        from pellucid.models.foreign.folder import read_named

        return read_named(name)
    close = get_close_matches(name, [*PRESETS, *UNPUBLISHED, *FAMILIES], n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else "`pellucid size list` shows the presets"
    raise UserError(f'"{name}"', "no such model", "a preset, a family, a .toml file, or a folder", hint)


def _in_folder(path: Path) -> Model:
    """The model of a run folder, or of one that Hugging Face's libraries wrote."""
    if (path / "config.toml").is_file():
        return _of_run(load_config(path / "config.toml", Run))
    if (path / "config.json").is_file():
        from pellucid.models.foreign.folder import read_published

        return read_published(path)
    raise UserError(path, "no config in this folder", "a run folder with config.toml, or one with config.json")


def _of_run(run: Run) -> Model:
    """The model of a run; in a recipe the vocabulary is as large as its tokenizer may become."""
    return with_vocab_size(run.model, getattr(run.tokenizer, "vocab_size", 0))


def _paths(config: Any, prefix: str) -> Iterator[str]:
    """Every setting of a config, tables included."""
    for field in fields(config):
        value = getattr(config, field.name)
        yield f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from _paths(value, f"{prefix}{field.name}.")


def _in_full(setting: str, known: Sequence[str]) -> list[str]:
    """A setting for every path that its key is the end of; ``positions.kind`` is one too, since ``positions`` is."""
    key, _, value = setting.partition("=")
    words = key.strip().removeprefix("model.").split(".")
    for end in range(len(words), 0, -1):
        head, rest = ".".join(words[:end]), "".join(f".{word}" for word in words[end:])
        found = [path for path in known if f".{path}".endswith(f".{head}")]
        if found:
            return [f"{path}{rest}={value}" if "=" in setting else setting for path in found]
    names = sorted({path.split(".")[-1] for path in known})
    raise ConfigError(key, "no such setting in this model", hint=nearest(words[-1], names))
