"""What a name on the command line stands for: a folder with weights, or code that the user names.

Code is imported and run because it was named, and for no other reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pellucid.config.run import Causal, Classify, NoObjective
from pellucid.doctor.spec import Batch, Spec
from pellucid.errors import ConfigError, PellucidError, UserError, nearest

EXPECTED = "a run or a folder in Hugging Face's format, package.module:function, or file.py:Class"


@dataclass(frozen=True, eq=False)
class Target:
    """A model to be examined.

    Attributes:
        model: a module, or a callable from ids to outputs.
        spec: what the target itself says about it.
        build: lines that make ``model`` again.
        source: where it is written: a file, as it is called from here, and a line.
    """

    model: Any
    spec: Spec = field(default_factory=Spec)
    build: str = ""
    source: tuple[str, int] | None = None


def opened(name: str, *, device: str = "cpu", seed: int = 0) -> Target:
    """What a name stands for.

    Args:
        seed: that a model of the user's own is made with.

    Raises:
        UserError: for what is not there, cannot be imported or made, or is no model.
    """
    if ":" in name and not Path(name).exists():
        target = _written(name, seed)
        if isinstance(target.model, nn.Module):
            _moved(name, target.model, device)
        return target
    if name.endswith(".py"):
        found = "names no class or function" if Path(name).is_file() else "no such file"
        raise UserError(name, found, hint=f"write {Path(name).name}:NAME after the folder it is in")
    return _folder(name, device)


def _moved(name: str, model: nn.Module, device: str) -> None:
    if all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return  # whoever examines it says what it lacks
    try:
        model.to(device)
    except Exception as error:  # of parts that are quantised, offloaded, or not there at all
        raise UserError(
            name, f"cannot be moved to {device}: {_told(error)}", "a model whose weights are all there",
            "make it on that device, and load its weights; --device names another",
        ) from error  # fmt: skip


# ---- folders -----------------------------------------------------------------------------------


def _folder(name: str, device: str) -> Target:
    from pellucid.models.load import load

    if not Path(name).exists() and "/" not in name:
        raise UserError(name, "no such folder", EXPECTED)
    try:
        loaded = load(name, device=device)
    except ConfigError:  # an architecture that is not among ours
        if (model := _by_transformers(Path(name))) is None:
            raise
        kind = type(model).__name__
        build = f"from transformers import {kind}\n\nmodel = {kind}.from_pretrained({name!r})"
        return Target(model.to(device), Spec(pretrained=True), build, ((Path(name) / "config.json").as_posix(), 1))
    spec = Spec(pretrained=True)
    if loaded._tokenizer is not None:
        tokenizer = loaded.tokenizer.target
        spec = replace(spec, pad_id=tokenizer.pad, bos_id=tokenizer.bos, eos_id=tokenizer.eos)
        if not loaded.is_published:
            spec = _with_data(spec, loaded)
    build = f"import pellucid\n\nmodel = pellucid.load({name!r}).model"
    described = next((each for each in ("config.toml", "config.json") if (Path(name) / each).is_file()), None)
    return Target(loaded.model, spec, build, None if described is None else ((Path(name) / described).as_posix(), 1))


def _by_transformers(folder: Path) -> Any:
    """The model as ``transformers`` has it, where that is installed and has its class; ``None`` else."""
    try:
        transformers = importlib.import_module("transformers")
        (name, *_) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (ImportError, OSError, KeyError, ValueError, TypeError):
        return None
    kind = getattr(transformers, name, None)
    try:
        return None if kind is None else kind.from_pretrained(folder, use_safetensors=True)  # nothing is unpickled
    except Exception as error:
        told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        expected = "whole files in safetensors, as save_pretrained writes them"
        raise UserError(folder, f"transformers could not load it: {told}", expected) from error


def _with_data(spec: Spec, loaded: Any) -> Spec:
    """With a batch of the run's own validation data, where that can be had without a network."""
    from pellucid.data.batches import evaluation_batches
    from pellucid.data.corpora import load_corpus

    run = loaded.run
    if isinstance(run.objective, Classify | NoObjective):
        return spec
    try:
        examples = load_corpus(run.data).validation[:64]
        batches = evaluation_batches(examples, loaded.tokenizer, run.objective, batch_tokens=2048)
        found = batches[0]
    except (PellucidError, OSError):  # data that has moved is no fault of the model
        return spec if not isinstance(run.objective, Causal) else replace(spec, eos_id=None)
    batch = Batch(
        ids=found.tokens, keep=found.keep, source=found.source, source_keep=found.source_keep, labels=found.labels
    )
    if isinstance(run.objective, Causal) and spec.eos_id not in batch.ids.flatten().tolist():
        spec = replace(spec, eos_id=None)  # one long text has no ends
    return replace(spec, batch=batch)


# ---- code --------------------------------------------------------------------------------------


def _written(name: str, seed: int) -> Target:
    where, _, attribute = name.rpartition(":")
    if not where or not attribute.replace(".", "_").isidentifier():
        raise UserError(name, "names nothing behind the colon" if where else "names no module", EXPECTED)
    first = attribute.partition(".")[0]
    if where.endswith(".py") or "/" in where:
        module, root, dotted = _from_file(where)
        folder = root.as_posix() if Path(where).is_absolute() else Path(os.path.relpath(root)).as_posix()
        lines = _import_lines(folder, dotted, first)
    else:
        module, lines = _imported(where), f"from {where} import {first}"
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [each for each in vars(found) if not each.startswith("_")]
            raise UserError(name, f'{where} has no "{part}"', hint=nearest(part, known))
        found = getattr(found, part)
    torch.manual_seed(seed)
    made, how = _made(name, found, attribute)
    model, spec = _model_of(name, made)
    if made is not model:
        how += "[0]"
    build = f"{lines}\n\ntorch.manual_seed({seed})\nmodel = {how}"
    return Target(model, spec, build, _line_of(found) or _line_of(type(model)))


def _import_lines(folder: str, dotted: str, name: str) -> str:
    """Lines that import a name from a module below a folder; what no ``import`` can spell is imported by a string."""
    path = f"sys.path.insert(0, {folder!r})"
    if all(part.isidentifier() and not iskeyword(part) for part in dotted.split(".")):
        return f"import sys\n\n{path}\nfrom {dotted} import {name}"
    return f"import importlib\nimport sys\n\n{path}\n{name} = importlib.import_module({dotted!r}).{name}"


def _made(name: str, found: Any, attribute: str) -> tuple[Any, str]:
    """What a class, a factory or a model gives, and the expression that gives it."""
    if isinstance(found, nn.Module | tuple) or not callable(found):
        return found, attribute
    needed = _needed(found)
    if needed and not isinstance(found, type) and len(needed) == 1:
        return found, attribute  # a function of one argument is a model: from ids to outputs
    if needed:
        raise UserError(
            name,
            f"{attribute} needs {', '.join(needed)}, and nothing says what to give it",
            "a class or a function that needs no arguments, or a function of ids alone",
            f"write one that makes it, such as def make(): return {attribute}(…), and name that",
        )
    return _called(name, found), f"{attribute}()"


def _needed(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of something that is not written in Python
        return []
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.default is p.empty]


def _called(name: str, function: Any) -> Any:
    try:
        return function()
    except PellucidError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(name, f"making the model raised {_told(error)}") from error


def _model_of(name: str, made: Any) -> tuple[Any, Spec]:
    """A model and what is said about it, from a model alone or from both."""
    if isinstance(made, tuple):
        if len(made) == 2 and callable(made[0]) and isinstance(made[1], Spec | None):
            return made[0], made[1] or Spec()
        kinds = ", ".join(type(part).__name__ for part in made)
        raise UserError(name, f"gives ({kinds})", "a model, or a model and a Spec")
    if isinstance(made, type) or not callable(made):
        found = f"the class {made.__name__}" if isinstance(made, type) else f"{type(made).__name__}"
        raise UserError(name, f"gives {found}, which is no model", "a model, or a model and a Spec")
    return made, Spec()


def spec_named(name: str) -> Spec:
    """A spec that stands in somebody's code, or what a function without arguments gives.

    Raises:
        UserError: for what is not there, or is none.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute.isidentifier():
        raise UserError("--spec", f'found "{name}"', "package.module:SPEC or file.py:SPEC")
    module = _from_file(where)[0] if where.endswith(".py") else _imported(where)
    if not hasattr(module, attribute):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise UserError("--spec", f'{where} has no "{attribute}"', hint=nearest(attribute, known))
    found = getattr(module, attribute)
    if inspect.isfunction(found) and not _needed(found):
        found = _called(name, found)
    if not isinstance(found, Spec):
        raise UserError("--spec", f"{name} is {type(found).__name__}", "a pellucid.Spec")
    return found


# ---- imports -----------------------------------------------------------------------------------


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m has it
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "run this from the folder that the package is in, install it, or write file.py:NAME"
            raise UserError(name, f'there is no module "{error.name}"', EXPECTED, hint) from error
        raise _unimported(name, error) from error
    except (Exception, SystemExit) as error:
        raise _unimported(name, error) from error


def _from_file(name: str) -> tuple[ModuleType, Path, str]:
    """A module by its file: under its dotted name if it belongs to a package, beside its neighbours if not.

    Also the folder in which whoever imports it has to be, and the name that it has there.
    """
    path = Path(name)
    if not path.is_file():
        around = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = nearest(path.name, around) if around else ""
        raise UserError(name, "no such file", hint=hint)
    root, parts = path.resolve().parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    dotted = ".".join(parts)
    known = sys.modules.get(dotted)
    if len(parts) > 1 or (known is not None and getattr(known, "__file__", None) == str(path.resolve())):
        return _imported(dotted), root, dotted
    title = path.stem if known is None else f"_examined_{path.stem}"
    spec = importlib.util.spec_from_file_location(title, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses and inspect look a class's module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[title]
        raise _unimported(name, error) from error
    return module, root, dotted


def _unimported(name: str, error: Exception | SystemExit) -> UserError:
    script = """put what it runs under 'if __name__ == "__main__":', or name a module without it"""
    return UserError(name, f"importing it raised {_told(error)}", hint=script if isinstance(error, SystemExit) else "")


def _told(error: BaseException) -> str:
    """An exception in a line: what, and where in the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _theirs(frame.filename)]
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        at = f" ({Path(error.filename or '').name}, line {error.lineno})"
        return f"SyntaxError: {error.msg}{at}"
    return f"{type(error).__name__}{': ' if str(error) else ''}{error}{at}"


def _theirs(file: str) -> bool:
    return not file.startswith("<") and "site-packages" not in file and "importlib" not in file and file != __file__


def _line_of(found: Any) -> tuple[str, int] | None:
    """Where a class or a function is written, if that is below the folder we are in."""
    try:
        path, line = Path(inspect.getsourcefile(found) or "").resolve(), inspect.getsourcelines(found)[1]
    except (OSError, TypeError):
        return None
    here = Path.cwd().resolve()
    return (path.relative_to(here).as_posix(), line) if path.is_relative_to(here) else None
