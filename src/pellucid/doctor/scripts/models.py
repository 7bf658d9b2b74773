"""Lines that make a model of the same class, as well as can be known from the model alone."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from pellucid.doctor.scripts.literals import Literal, literal

FILL = "# fill in"
UNTOLD = ("transformers_version", "architectures", "model_type", "dtype", "torch_dtype", "_name_or_path")


def model_lines(model: Any) -> str:
    """Python that defines ``model``: by its config, by what it keeps of its arguments, or a line to fill in."""
    kind = type(model)
    if not isinstance(model, nn.Module):
        home, name = getattr(model, "__module__", None), getattr(model, "__qualname__", "")
        if home and home != "__main__" and name.isidentifier() and not home.startswith("pellucid"):
            return f"from {home} import {name}\n\nmodel = {name}"
        return f"model = ...  {FILL}: your callable, from ids to outputs"
    if not kind.__qualname__.isidentifier():
        return f"model = ...  {FILL}: your {kind.__qualname__.rpartition('.')[-1]}"
    made = _published(model) or _told(model)
    where = f"from {kind.__module__} import {kind.__name__}"
    if kind.__module__ == "__main__":
        where = f"# {kind.__name__}: as in your script"
    lines = [where, *dict.fromkeys(made.imports), "", "torch.manual_seed(0)", f"model = {kind.__name__}({made.text}"]
    return "\n".join(lines)


def _published(model: Any) -> Literal | None:
    """A model of ``transformers``: from its folder, else from what its config has that is not the default."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_diff_dict"):
        return None
    kind, attention = type(config), getattr(config, "_attn_implementation", None)
    told = {name: value for name, value in config.to_diff_dict().items() if name not in UNTOLD}
    try:
        plain = kind().to_dict()
        told = {name: value for name, value in told.items() if name not in plain or plain[name] != value}
    except Exception:  # a config that needs arguments: all is said
        pass
    if attention == "eager":
        told["attn_implementation"] = attention
    texts = {name: found.text for name, value in told.items() if (found := literal(value)) and not found.imports}
    inside = ", ".join(f"{name}={text}" for name, text in texts.items() if name.isidentifier())
    folder = getattr(config, "_name_or_path", "")
    more = f"  # its weights are drawn anew: from_pretrained({str(folder)!r}) reads yours" if folder else ""
    return Literal(f"{kind.__name__}({inside})){more}", (f"from {kind.__module__} import {kind.__name__}",))


def _told(model: nn.Module) -> Literal:
    """Arguments of the constructor that the model keeps under their own names; others are to be filled in."""
    try:
        parameters = list(inspect.signature(type(model)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    texts: list[str] = []
    imports: list[str] = []
    missing: list[str] = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        held = _held(model, parameter.name)
        if held is not None and type(held) is type(parameter.default) and held == parameter.default:
            continue
        found = None if held is None else literal(held)
        if found is not None:
            texts.append(f"{parameter.name}={found.text}")
            imports += found.imports
        elif parameter.default is parameter.empty:
            texts.append(f"{parameter.name}=...")
            missing.append(parameter.name)
    note = f"  {FILL}: {', '.join(missing)}" if missing else "  # as you make it" if parameters else ""
    return Literal(f"{', '.join(texts)}){note}", tuple(imports))


def _held(model: nn.Module, name: str) -> Any:
    """What a model keeps under the name of an argument, unless that is a part of it."""
    value = getattr(model, name, None)
    return None if isinstance(value, nn.Module | Tensor) or callable(value) else value
