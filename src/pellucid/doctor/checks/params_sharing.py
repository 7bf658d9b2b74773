"""Is what is shared meant to be, and what is meant to be shared?"""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatchcase

import torch
from torch import nn

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("params.sharing", "quick", "Is exactly that shared which is meant to be?", awake=False)
DONE = "looked for parameters under several names, for layers with equal numbers, and for the tie of the vocabulary"
TABLES = re.compile(r"emb|wte|tok|head|out|proj|decoder$|shared|generator|unembed|vocab|predictions", re.IGNORECASE)


@CHECK
def answer(subject: Subject) -> Finding:
    """Embedding and output projection may share; layers may where that is declared."""
    module, spec = subject.module, subject.spec
    if module is None:
        return CHECK.skipped("a callable shows no parameters", "a module in place of a callable")
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    groups = [group for group in names.values() if len(group) > 1 and not _meant(subject, group)]
    if groups and "shared_layers" not in spec.declare:
        return _failed(
            f"{groups[0][0]} and {groups[0][1]} are one parameter" + (f", and {len(groups) - 1} more pairs" if len(groups) > 1 else ""),
            "[layer] * N holds one layer N times, or one norm or projection is passed to several blocks",
            'nn.ModuleList(make() for _ in range(N)); if layers share on purpose, declare={"shared_layers"}',
            {"groups": groups[:10]},
            f"one, other = names[{groups[0][0]!r}], names[{groups[0][1]!r}]\n"
            'assert one is not other, "one parameter under two names"',
        )  # fmt: skip
    if spec.tied is not None and (odd := _tie(subject)):
        return _failed(odd, "the tie was lost when a table was replaced, resized or loaded, or is made in one place alone",
                       "head.weight = embedding.weight, after loading as well", {"tied": spec.tied},
                       _tie_script(spec.vocab_size, spec.tied))  # fmt: skip
    twins, ours = _twins(module)
    if twins and "shared_layers" not in spec.declare:
        seen = f"{twins[0][0]} and {twins[0][1]} hold the same random numbers: layers were copied after they were drawn"
        if not ours:
            return CHECK.warned(
                DONE, seen, cause="nn.TransformerEncoder copies its layer", evidence={"twins": twins[:10]}
            )
        return _failed(seen, "copy.deepcopy(layer) for each layer keeps one draw for all",
                       "make each layer anew, or draw all weights after copying", {"twins": twins[:10]},
                       f"one, other = names[{twins[0][0]!r}], names[{twins[0][1]!r}]\n"
                       'assert not torch.equal(one, other), "two layers hold the same random numbers"')  # fmt: skip
    shared = [group for group in names.values() if len(group) > 1]
    return CHECK.passed(DONE, f"{len(shared)} parameters are shared, all of them as they may be", shared=shared[:10])


def _meant(subject: Subject, group: list[str]) -> bool:
    """Declared by name; or tables of a vocabulary, that of the source, of the target and of the output."""
    if all(any(fnmatchcase(name, pattern) for pattern in subject.spec.shared) for name in group):
        return True
    module = subject.module
    assert module is not None
    parameter = module.get_parameter(group[0])
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in group]
    if len({id(owner) for owner in owners}) == 1 and len(owners) > 1:
        layered = {re.sub(r"\.\d+\.", ".N.", f".{name}") for name in group}
        if len(layered) == 1:
            return False  # one module at several places of a list
    size = subject.spec.vocab_size
    if parameter.dim() == 2 and size is not None and abs(parameter.size(0) - size) <= 512:
        return True
    if parameter.dim() == 1 and size is not None and abs(parameter.numel() - size) <= 512:
        return True  # a bias of the vocabulary, under two names
    return hasattr(module, "_tied_weights_keys") and not any(re.search(r"\.\d+\.", name) for name in group)


def _tie(subject: Subject) -> str:
    """What is said of the tie against what is; empty where they agree or cannot be told."""
    module, size = subject.module, subject.spec.vocab_size
    assert module is not None
    tables = [
        m for m in module.modules() if isinstance(m, nn.Embedding) and size and abs(m.num_embeddings - size) <= 512
    ]
    heads = [m for m in module.modules() if isinstance(m, nn.Linear) and size and abs(m.out_features - size) <= 512]
    if not tables or not heads:
        return ""
    tied = any(t.weight.data_ptr() == h.weight.data_ptr() for t in tables for h in heads)
    if tied == subject.spec.tied:
        return ""
    return f"embedding and output projection are {'one' if tied else 'two'} parameter{'s' * (not tied)}, and should be {'two' if tied else 'one'}"


def _twins(module: nn.Module) -> tuple[list[tuple[str, str]], bool]:
    """Pairs of distinct parameters with equal numbers, none of them constant, in layers of one list."""
    found, ours = [], False
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or len(part) < 2:
            continue
        first, second = part[0], part[1]
        for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=False):
            if (
                a is not b
                and a.dim() >= 2
                and a.shape == b.shape
                and a.numel() > 16
                and bool((a != a.flatten()[0]).any())
            ):
                if torch.equal(a, b):
                    found.append((f"{path}.0.{name}", f"{path}.1.{name}"))
                    ours |= not type(first).__module__.startswith("torch.")
    return found, ours


def _tie_script(size: int | None, tied: bool) -> str:
    return f"""
parts, size = list(model.modules()), {size}
tables = [m.weight for m in parts if isinstance(m, torch.nn.Embedding) and abs(m.num_embeddings - size) <= 512]
heads = [m.weight for m in parts if isinstance(m, torch.nn.Linear) and abs(m.out_features - size) <= 512]
tied = any(table.data_ptr() == head.data_ptr() for table in tables for head in heads)
assert tied is {tied}, f"embedding and output projection {{'share' if tied else 'do not share'}} their parameter"
"""


def _failed(seen: str, cause: str, fix: str, evidence: dict[str, object], law: str) -> Finding:
    return CHECK.failed(
        DONE,
        seen,
        cause=cause,
        fix=fix,
        references=("IDEA-Research/DAB-DETR#17", "pytorch/pytorch#86274", "vllm-project/vllm#5621"),
        evidence=evidence,
        script=f"names = dict(model.named_parameters(remove_duplicate=False))\n{law}",
    )
