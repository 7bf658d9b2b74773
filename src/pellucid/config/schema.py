"""Frozen dataclasses to plain dictionaries and back, with every value checked.

A union of dataclasses is written as a table with a ``kind``: the snake-case name of the class. ``None`` is written by
leaving the key out, so a field that may be ``None`` has ``None`` as its default.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pellucid.errors import ConfigError, nearest

Plain = dict[str, Any]


def kind_of(cls: type) -> str:
    """The name a class goes by in a file: ``RelativeBias`` is ``relative_bias``, ``ALiBi`` is ``alibi``."""
    return getattr(cls, "kind", None) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def to_dict(config: Any) -> Plain:
    """Everything in a config, defaults included, as dictionaries, lists and numbers."""
    return {"kind": kind_of(type(config)), **_settings(config)}


def _settings(config: Any) -> Plain:
    hints = field_types(type(config))
    present = ((f.name, getattr(config, f.name)) for f in fields(config))
    return {name: _plain(value, hints[name]) for name, value in present if value is not None}


def _plain(value: Any, hint: Any) -> Any:
    if is_dataclass(value):
        alone = sum(is_dataclass(option) for option in _members(hint)) == 1
        return _settings(value) if alone else to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(hint: Any, value: Any, where: str = "") -> Any:
    """Builds the config that ``value`` describes.

    Args:
        hint: the expected type: a dataclass, a union of them, or the type of a field.
        value: what a TOML or JSON file holds.
        where: the dotted path of ``value``, for messages.

    Raises:
        ConfigError: names the path, what was found, what was expected, and for a typo the nearest name.
    """
    options = _members(hint)
    if value is None and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    if any(is_dataclass(option) for option in options):
        return _dataclass(options, value, where)
    if get_origin(options[0]) is tuple:
        return _tuple(options[0], value, where)
    return _scalar(options, value, where)


def _members(hint: Any) -> list[Any]:
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _dataclass(options: list[Any], value: Any, where: str) -> Any:
    by_kind = {kind_of(option): option for option in options}
    if isinstance(value, str):  # positions = "rotary" is short for { kind = "rotary" }
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise ConfigError(
            where, f"found {value!r}", "a table" + (f" with a kind ({', '.join(by_kind)})" if len(options) > 1 else "")
        )
    kind = value.get("kind", next(iter(by_kind)) if len(by_kind) == 1 else None)
    if kind is None:
        raise ConfigError(_dotted(where, "kind"), "missing", "one of " + ", ".join(by_kind))
    if not isinstance(kind, str) or kind not in by_kind:
        raise ConfigError(
            _dotted(where, "kind"),
            f'unknown kind "{kind}"',
            "one of " + ", ".join(by_kind),
            nearest(str(kind), by_kind),
        )
    cls = by_kind[kind]
    known = {f.name: f for f in fields(cls)}
    for name in value:
        if name != "kind" and name not in known:
            raise ConfigError(_dotted(where, name), "no such setting", hint=_nearest_setting(name, cls))
    hints = field_types(cls)
    told = {name: _nothing(hints[name]) if value[name] is None else value[name] for name in known if name in value}
    told = {name: setting for name, setting in told.items() if setting is not None}
    for name, f in known.items():
        if name not in told and _required(f):
            raise ConfigError(_dotted(where, name), "missing", f"a value, since {kind_of(cls)} has no default for it")
    arguments = {name: from_dict(hints[name], setting, _dotted(where, name)) for name, setting in told.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:  # a check knows its own field, the path above it is known here
        if error.where.split(".")[0] in known:
            raise ConfigError(_dotted(where, error.where), error.found, error.expected, error.hint) from None
        raise


def _nothing(hint: Any) -> Any:
    """What ``none`` says of a setting: the choice of that kind, an empty list, or ``None``, which leaves it out."""
    options = _members(hint)
    if type(None) in options:
        return None
    if any(getattr(option, "kind", None) == "none" for option in options):
        return "none"
    return [] if get_args(options[0])[-1:] == (Ellipsis,) else None


def _nearest_setting(name: str, cls: type) -> str:
    """As :func:`nearest`; what is none of its settings, but of a table in it, is told with its path."""
    known = [f.name for f in fields(cls)]
    deeper = {path.rpartition(".")[2]: path for path in reversed([*_paths(cls)])}
    within = get_close_matches(name, deeper, n=1, cutoff=0.8)
    if within and not get_close_matches(name, known, n=1, cutoff=0.8):
        return f'did you mean "{deeper[within[0]]}"?'
    return nearest(name, known)


def _paths(cls: Any) -> Iterator[str]:
    """The dotted paths of all settings in the tables of a config."""
    for name, hint in field_types(cls).items():
        for option in _members(hint):
            if is_dataclass(option):
                for f in fields(option):
                    yield f"{name}.{f.name}"
                yield from (f"{name}.{path}" for path in _paths(option))


def _required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(where, f"found {value!r}", "a list")
    item, *rest = get_args(hint)
    kinds = [item] * len(value) if rest in ([], [...]) else [item, *rest]
    if len(kinds) != len(value):
        raise ConfigError(where, f"found {len(value)} values", f"{len(kinds)}")
    return tuple(
        from_dict(kind, entry, f"{where}[{i}]") for i, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    )


def _scalar(options: list[Any], value: Any, where: str) -> Any:
    for option in options:
        if get_origin(option) is Literal:
            choices = get_args(option)
            if value in choices:
                return value
            raise ConfigError(
                where,
                f"found {value!r}",
                "one of " + ", ".join(map(str, choices)),
                nearest(str(value), map(str, choices)),
            )
        if option is float and type(value) in (int, float):
            return float(value)
        if type(value) is option:  # True is no int here
            return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ConfigError(where, f"found {value!r}", " or ".join(names.get(option, str(option)) for option in options))


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def field_types(cls: Any) -> dict[str, Any]:
    """The evaluated type of every field of a dataclass."""
    return get_type_hints(cls)


def with_overrides(plain: Plain, overrides: list[str]) -> Plain:
    """Applies ``a.b.c=value`` settings, as given on a command line, to a config in plain form.

    A value is read as TOML (``3``, ``0.1``, ``true``, ``[1, 2]``, ``"text"``) and otherwise taken as text; ``none``
    is the choice of that kind, no entries of a list, or the default. A new ``kind`` drops the settings of the old one,
    and none that is given beside it.
    """
    result: Plain = _copy(plain)
    for override in sorted(overrides, key=_depth):  # a table before what is in it, whatever their order
        path, found, text = override.partition("=")
        if not found or not path:
            raise ConfigError(override, "not a setting", "key=value, such as training.steps=500")
        *parents, name = path.strip().split(".")
        table = result
        for parent in parents:
            child = table.setdefault(parent, {})
            if not isinstance(child, dict):
                child = table[parent] = {"kind": child} if isinstance(child, str) else {}
            table = child
        value = _read_value(text)
        if name == "kind" and value is None:
            value = "none"  # a name like any other
        if name == "kind" and table.get("kind") not in (None, value):
            table.clear()
        table[name] = value
    return result


def _depth(override: str) -> int:
    """How deep a setting lies; a kind, which decides what else there is, as deep as its table."""
    *parents, name = override.partition("=")[0].strip().split(".")
    return len(parents) + (name != "kind")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, (list, tuple)) else value


def _read_value(text: str) -> Any:
    import tomllib

    if text.strip().lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def check(holds: bool, where: str, found: object, expected: str, hint: str | Callable[[], str] = "") -> None:
    """Raises :class:`ConfigError` unless the condition holds."""
    if not holds:
        raise ConfigError(where, f"found {found}", expected, hint() if callable(hint) else hint)


def check_positive(config: Any, *names: str) -> None:
    """Every named field that is set must be above zero."""
    for name in names:
        value = getattr(config, name)
        check(value is None or value > 0, name, value, "more than 0")


def check_not_negative(config: Any, *names: str) -> None:
    """Every named field must be 0 or more."""
    for name in names:
        value = getattr(config, name)
        check(value >= 0, name, value, "0 or more")


def check_fraction(config: Any, *names: str) -> None:
    """Every named field must be at least 0 and below 1."""
    for name in names:
        check(0 <= getattr(config, name) < 1, name, getattr(config, name), "at least 0 and below 1")
