"""Is what is shared meant to be, and what is meant to be shared?

The tie of embedding and output projection is asked of the model's behaviour and not of its names: the row of a token
that was not read is changed, and the score of that token moves if both are one.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.keeping import digests
from pellucid.doctor.measures import gap
from pellucid.doctor.sinusoid import ROTARY
from pellucid.doctor.subject import Subject
from pellucid.doctor.unregistered import unseen

CHECK = Check("params.sharing", "quick", "Is exactly that shared which is meant to be?", awake=False)
DONE = "looked for parameters under several names, for layers with equal numbers, for the tie of the vocabulary, and " \
       "saved and loaded"  # fmt: skip
TABLES = re.compile(r"emb|wte|tok|head|out|decoder|shared|generator|vocab|predictions|bias$", re.IGNORECASE)
POSITIONS = re.compile(r"pos|wpe", re.IGNORECASE)
EXPERTS = re.compile(r"expert", re.IGNORECASE)
LARGEST = 20_000_000
"""Models of more parameters are not copied to try whether saving and loading keeps them."""


@CHECK
def answer(subject: Subject) -> Finding:
    """Embedding and output projection may share, and so may tables; layers may where that is declared."""
    module, spec = subject.module, subject.spec
    if module is None:
        return CHECK.skipped("a callable shows no parameters", "a module in place of a callable")
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    shared = [group for group in names.values() if len(group) > 1]
    return (
        _one_for_several(subject, shared)
        or (_tie(subject, spec.tied) if spec.tied is not None else None)
        or (None if spec.pretrained or "shared_layers" in spec.declare else _twins(module))
        or _lost_in_saving(subject)
        or CHECK.passed(
            DONE, f"{len(shared)} parameters are shared, all of them as they may be{unseen(module)}", shared=shared[:10]
        )
    )


def _one_for_several(subject: Subject, shared: list[list[str]]) -> Finding | None:
    groups = [group for group in shared if not _meant(subject, group)]
    if not groups or "shared_layers" in subject.spec.declare:
        return None
    aliases = _aliases(subject, groups)
    if not (groups := [group for group, alias in zip(groups, aliases, strict=True) if not alias]):
        return None
    more = f", and {len(groups) - 1} more pairs" if len(groups) > 1 else ""
    return _failed(
        f"{groups[0][0]} and {groups[0][1]} are one parameter{more}",
        "[layer] * N holds one layer N times, or one norm or projection is passed to several blocks",
        'nn.ModuleList(make() for _ in range(N)); if layers share on purpose, declare={"shared_layers"}',
        {"groups": groups[:10]},
        f"one, other = names[{groups[0][0]!r}], names[{groups[0][1]!r}]\n"
        'assert one is not other, "one parameter under two names"',
    )


def _aliases(subject: Subject, groups: list[list[str]]) -> list[bool]:
    """Of each group, whether its names are only names of one module, which is called once in a pass.

    ``self.encoder = self.model.encoder`` makes no second layer of the first; one that stands in a list several times is
    called as often.
    """
    assert subject.module is not None
    chains = [_chain(subject.module, group) for group in groups]
    watched = {part: 0 for chain in chains for part in chain}

    def count(part: nn.Module, given: object) -> None:
        watched[part] += 1

    handles = [part.register_forward_pre_hook(count) for part in watched]
    try:
        subject(subject.batch(), grads=True)  # without gradients PyTorch has paths that call no parts
    finally:
        for handle in handles:
            handle.remove()
    calls = [next((watched[part] for part in chain if watched[part]), 0) for chain in chains]
    return [number == 1 for number in calls]


def _chain(module: nn.Module, group: list[str]) -> list[nn.Module]:
    """The modules that all names of a parameter lead through, of different paths each: the outermost first."""
    paths, found = [name.rpartition(".")[0] for name in group], []
    while len(set(paths)) == len(paths) and len({id(module.get_submodule(path)) for path in paths}) == 1:
        found.append(module.get_submodule(paths[0]))
        paths = [path.rpartition(".")[0] for path in paths]
    return found[::-1]


def _meant(subject: Subject, group: list[str]) -> bool:
    """Declared by name; tables, of tokens or positions, or of angles that are not trained; the output of a vocabulary;
    what ``transformers`` ties.
    """
    if all(any(fnmatchcase(name, pattern) for pattern in subject.spec.shared) for name in group):
        return True
    module, size = subject.module, subject.spec.vocab_size
    assert module is not None
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in group]
    if any(isinstance(owner, nn.Embedding) for owner in owners):
        return True
    parameter = module.get_parameter(group[0])
    if not parameter.requires_grad and (parameter.squeeze().dim() < 2 or all(ROTARY.search(name) for name in group)):
        return True
    rows = parameter.size(0) if parameter.dim() else 0
    if size is not None and size <= rows < size + 128 and all(TABLES.search(name) for name in group):
        return True
    return hasattr(module, "_tied_weights_keys") and not any(re.search(r"\.\d+\.", name) for name in group)


def _tie(subject: Subject, meant: bool) -> Finding | None:
    """What is said of the tie against what is; nothing where they agree or cannot be told."""
    module, size = subject.module, subject.spec.vocab_size
    assert module is not None
    if size is None or subject.spec.features is not None or not subject.per_position or subject.output.size(-1) < size:
        return None
    batch = subject.batch(1)
    read = {*batch.ids.flatten().tolist()} | (set() if batch.source is None else {*batch.source.flatten().tolist()})
    unread = [int(word) for word in subject.words if int(word) not in read]
    named = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Embedding)]
    tables = [m for name, m in named if m.num_embeddings >= size and not POSITIONS.search(name)]
    if not unread or not tables:
        return None
    token = unread[-1]
    tied = [table for table in tables if _moves(subject, table.weight, token)]
    if bool(tied) == meant:
        return None
    cause = "the tie was lost when a table was replaced, resized or loaded"
    fix = "head.weight = embedding.weight, after loading as well"
    if not meant:
        cause = "the output projection was set to the embedding's parameter, or is loaded over it"
        fix = "a parameter of its own, or Spec(tied=True)"
    return _failed(
        f"changing the embedding of token {token}, which is not read, {'moved' if tied else 'did not move'} its "
        f"score: embedding and output projection are {1 if tied else 2}, and should be {1 if meant else 2}",
        cause, fix, {"tied": bool(tied), "meant": meant}, _tie_script(token, meant),
    )  # fmt: skip


def _moves(subject: Subject, table: Tensor, token: int) -> bool:
    """Whether the score of a token that is not read moves with its row of a table."""
    batch = subject.batch(1)
    before, row = subject(batch)[..., token], table.detach()[token].clone()
    try:
        with torch.no_grad():
            table[token, ::2] += 1.0  # a number added to all of a row is nothing to what was normed
        return gap(subject(batch)[..., token], before).share > tolerances.EXACT_NOISE
    finally:
        with torch.no_grad():
            table[token] = row


def _twins(module: nn.Module) -> Finding | None:
    """Layers of one list, all of whose matrices hold the same random numbers."""
    pairs = list(_equal_layers(module))
    if not pairs:
        return None
    path, one, other, theirs = pairs[0]
    seen = f"{path}.{one} and {path}.{other} hold the same random numbers: layers were copied after they were drawn"
    if theirs or EXPERTS.search(path):
        cause = "nn.TransformerEncoder and its like copy their layer" if theirs else "experts that are copies of one"
        return CHECK.warned(DONE, seen, cause=cause, evidence={"twins": [p[:3] for p in pairs[:10]]})
    name = next(iter(_matrices(module.get_submodule(f"{path}.{one}"))))
    return _failed(
        seen, "copy.deepcopy(layer) for each layer keeps one draw for all",
        "make each layer anew, or draw all weights after copying", {"twins": [p[:3] for p in pairs[:10]]},
        f"one, other = names['{path}.{one}.{name}'], names['{path}.{other}.{name}']\n"
        'assert not torch.equal(one, other), "two layers hold the same random numbers"',
    )  # fmt: skip


def _equal_layers(module: nn.Module) -> Iterator[tuple[str, int, int, bool]]:
    """Path of the list, two places in it, and whether it is one of PyTorch's own classes that copies."""
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or len(part) < 2:
            continue
        around = type(module.get_submodule(path.rpartition(".")[0])).__module__
        seen: dict[tuple[tuple[str, str], ...], int] = {}
        for place, layer in enumerate(part):
            matrices = _matrices(layer)
            key = tuple(sorted(digests(matrices).items()))
            own = {id(p) for p in matrices.values()}
            if not key or not any(
                isinstance(m, nn.Linear) or m.__class__.__name__ == "Conv1D" for m in layer.modules()
            ):
                continue
            if key in seen and own.isdisjoint({id(p) for p in part[seen[key]].parameters()}):
                yield path, seen[key], place, around.startswith("torch.")
            seen.setdefault(key, place)


def _matrices(layer: nn.Module) -> dict[str, Tensor]:
    """What is drawn at random: more than one axis, not constant, no table."""
    tables = {f"{name}.weight" for name, m in layer.named_modules() if isinstance(m, nn.Embedding)}
    return {
        name: p
        for name, p in layer.named_parameters()
        if p.dim() >= 2 and p.numel() > 16 and name not in tables and bool((p != p.flatten()[0]).any())
    }


def _lost_in_saving(subject: Subject) -> Finding | None:
    """Compares the outputs with those of a copy that was loaded from what was saved."""
    module = subject.module
    assert module is not None
    if sum(p.numel() for p in module.parameters()) > LARGEST or "stochastic" in subject.spec.declare:
        return None
    try:
        kept, share = subject.vanishes(lambda: _apart_when_loaded(subject, module))
    except Exception:  # a model that cannot be copied, or keeps its state in its own way
        return None
    if kept is not False:
        return None
    return _failed(
        f"after saving and loading, outputs differ by {share:.2g} of the largest",
        "a parameter is left out of the state, or loaded over another", "see which key of state_dict() has changed", {},
        "before, state = call(sample(1)), {name: value.clone() for name, value in model.state_dict().items()}\n"
        "for parameter in model.parameters():\n    parameter.data.zero_()\nmodel.load_state_dict(state)\n"
        'assert torch.equal(call(sample(1)), before), "saving and loading changes the outputs"',
    )  # fmt: skip


def _apart_when_loaded(subject: Subject, module: nn.Module) -> float:
    """By how much a copy whose parameters and buffers were zero, and then were loaded, gives something else."""
    other = copy.deepcopy(module)
    saved = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    with torch.no_grad():
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            if name in saved or isinstance(tensor, nn.Parameter):
                tensor.zero_()
    other.load_state_dict(module.state_dict())
    batch = subject.batch()
    return gap(Subject(other, subject.spec, seed=subject.seed)(batch), subject(batch)).share


def _tie_script(token: int, meant: bool) -> str:
    return f"""
model.eval()
tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings > {token}]
ids = sample(1)[:1]
ids[ids == {token}] = {token - 1}  # the token is not read
before, tied = call(ids)[..., {token}].detach(), False
for table in tables:
    table.data[{token}, ::2] += 1.0
    tied |= bool((call(ids)[..., {token}] != before).any())
    table.data[{token}, ::2] -= 1.0
assert tied is {meant}, f"embedding and output projection {{'share' if tied else 'do not share'}} their parameter"
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
