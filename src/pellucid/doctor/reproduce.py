"""Completes the script of a finding, so that it shows the fault with torch alone, besides the model.

A check writes what it does in a few names, such as ``call`` and ``sample``. What these are for the model at hand is
found out here: by watching how the spec calls the model, else from the text of the spec's own functions. What is found
is tried before it is written down; what cannot be known is a line to fill in.

The names, (B, T) ids, (B, S) source, (B, T, V) outputs:

- ``sample(seed)``, ``sample_source(seed)``: ids and a source; another seed gives another token in every place.
- ``call(ids)``: outputs. Of an encoder–decoder with the same source for all rows.
- ``masked(ids, keep)``: outputs, padding hidden; of an encoder–decoder ``masked(source, ids, keep)``, of the source,
  and ``masked_target(source, ids, keep)``.
- ``translated(source, ids)``: outputs of an encoder–decoder.
- ``step(ids, cache, source=None)``: outputs of new ids, and the cache; ``stepped(ids, cache, keep)``: with padding, of
  which ``keep`` covers what is in the cache as well.
- ``reorder(cache, rows)``, ``poison(cache)``: as in the spec.
- ``loss_of(ids)``: loss and outputs; ``padded_loss(ids, keep)``: with padding.
- ``batch_loss(batch)``: loss and outputs of ``as_batch(ids, keep=…, labels=…)``; ``accumulate(batches)``: gathers
  gradients.
- ``schedule(step)``: the learning rate.
- ``attention(ids)``: products of queries and keys, scores and weights of every place that attends.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from torch import nn

from pellucid.doctor.finding import Finding
from pellucid.doctor.scripts.definition import Definition
from pellucid.doctor.scripts.definitions import DEFINITIONS
from pellucid.doctor.scripts.models import model_lines
from pellucid.doctor.subject import Subject

GRADIENTS = re.compile(r"grad|backward|attention\(|optimizer")
"""What a script does that takes gradients, or must not take the fast paths that PyTorch has where there are none."""
FORWARD = ("call", "translated", "masked", "masked_target", "step", "stepped")

WAKE = """
for parameter in model.parameters():  # what starts at zero hides all that is behind it
    if parameter.dim() > 1 and not parameter.any():
        torch.nn.init.normal_(parameter, std=0.02)
"""


class Reproduction:
    """Completes the scripts of findings about one model; each name is found out once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._known: dict[str, Definition] = {}

    def complete(self, finding: Finding, *, awake: bool) -> Finding:
        """A finding whose script defines all that it uses.

        Args:
            awake: whether the check saw parameters that are zero throughout as if they were not.
        """
        if not finding.script:
            return finding
        wanted = self._wanted(finding.script)
        imports = dict.fromkeys(line for name in wanted for line in self._of(name).imports)
        parts = ["\n".join(imports)] if imports else []
        parts += [WAKE.strip()] if awake and _asleep(self.subject.module) else []
        free = not GRADIENTS.search(finding.script)
        parts += [_free(name, self._of(name).text) if free else self._of(name).text for name in wanted]
        build = self.subject.build or model_lines(self.subject.model)
        return replace(finding, build=build, script="\n\n".join([*parts, finding.script.strip()]))

    def _of(self, name: str) -> Definition:
        if name not in self._known:
            self._known[name] = DEFINITIONS[name](self.subject)
        return self._known[name]

    def _wanted(self, script: str) -> list[str]:
        """The names that a script needs, each after those that it needs itself."""
        order: list[str] = []

        def visit(text: str) -> None:
            for name in [name for name in DEFINITIONS if name in _names(text)]:
                if name not in order:
                    visit(self._of(name).text)
                    order.append(name)

        visit(script)
        return order


def _names(text: str) -> set[str]:
    """The names that a script reads and does not define itself."""
    tree = list(ast.walk(ast.parse(text)))
    names = [node for node in tree if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
    made |= {node.arg for node in tree if isinstance(node, ast.arg)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - made


def _asleep(module: nn.Module | None) -> bool:
    parameters = [] if module is None else list(module.parameters())
    return any(p.dim() > 1 and p.numel() and p.device.type != "meta" and not bool(p.any()) for p in parameters)


def _free(name: str, text: str) -> str:
    """A definition of a pass as it is in use: without gradients."""
    return text.replace(f"def {name}(", f"@torch.no_grad()\ndef {name}(", 1) if name in FORWARD else text
