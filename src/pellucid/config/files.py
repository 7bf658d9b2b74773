"""Configs as TOML or JSON files, both ways without loss."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from pellucid.config.schema import Plain, from_dict, to_dict
from pellucid.errors import ConfigError, nearest

Config = TypeVar("Config")


def dumps(config: Any, form: str = "toml") -> str:
    """The text of a config, defaults included, as ``toml`` or ``json``."""
    plain = to_dict(config)
    return tomli_w.dumps(plain) if form == "toml" else json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def loads(text: str, hint: type[Config] | Any, form: str = "toml") -> Config:
    """The config a text describes.

    Raises:
        ConfigError: for text that is not TOML or JSON, a setting that does not exist, or a value that cannot work.
    """
    return from_dict(hint, parse(text, form, "the config"))


def save_config(config: Any, path: str | Path) -> None:
    """Writes a config; the suffix (``.toml`` or ``.json``) decides the form."""
    path = Path(path)
    path.write_text(dumps(config, path.suffix.lstrip(".")), encoding="utf-8")


def load_config(path: str | Path, hint: type[Config] | Any) -> Config:
    """Reads a config file written by hand or by :func:`save_config`."""
    plain = read_plain(path)
    try:
        return from_dict(hint, plain)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.where}", error.found, error.expected, error.hint) from None


def read_plain(path: str | Path) -> Plain:
    """A TOML or JSON file as dictionaries, not yet checked."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        around = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, around) if around else f"there is no folder {path.parent} either"
        raise ConfigError(path, "no such file", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "a TOML or JSON file in UTF-8") from None
    return parse(text, "json" if path.suffix == ".json" else "toml", path)


def parse(text: str, form: str, where: object) -> Plain:
    """TOML or JSON text as dictionaries."""
    try:
        plain = json.loads(text) if form == "json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # torn, a number of thousands of digits, nested without end
        raise ConfigError(where, f"not {form.upper()}: {error}", hint="mend the line named there") from None
    if not isinstance(plain, dict):
        raise ConfigError(where, f"found {type(plain).__name__}", "a table of settings")
    return plain


def dump_json(value: Any) -> str:
    """Any plain value on one line; what is no finite number is told by its name, which JSON has no number for."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
