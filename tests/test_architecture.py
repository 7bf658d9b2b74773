"""The map is enforced: a module imports only from the lines above its own; files and functions stay small."""

import ast
import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pellucid"


def read_map():
    """The levels as docs/ARCHITECTURE.md draws them; names on one line do not see each other."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    block = text.split("## The map")[1].split("```")[1]
    rows = [line.split("  ")[0] for line in block.splitlines() if line and not line.startswith(" ")]
    return [{name.strip() for name in row.split("|")} for row in rows]


LEVELS = [{"version"}, *read_map()]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def test_the_map_names_every_package():
    assert set(LEVEL) == {part(path) for path in FILES if path.parent != PACKAGE} | {"errors", "version"}


def test_the_names_of_all_tensors_are_written_down():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text().split("## Names")[1].split("## A run folder")[0]
    source = "".join(path.read_text() for path in FILES if part(path) in ("nn", "models") and path.parent != PACKAGE)
    tapped = set(re.findall(r'\btap\("(\w+)"', source))
    assert {"scores", "pooled", "patches"} < tapped
    assert {name for name in tapped if not re.search(rf"[.`\s]{name}\b", text)} == set()


def part(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(tree):
    """What a file imports of ours, also inside functions, but not for type checkers alone."""
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pellucid"):
            names = [node.module] if node.module != "pellucid" else [f"pellucid.{a.name}" for a in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_up_the_map(path):
    if path.parent == PACKAGE and path.name in ("__init__.py", "__main__.py"):
        return  # the public surface gathers from everywhere
    here = LEVEL[part(path)]
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("pellucid."):
            other = name.split(".")[1]
            assert LEVEL[other] < here or other == part(path), f"{path.name} must not import {name}"
        if part(path) in ("config", "errors"):
            assert name.split(".")[0] != "torch", "a config can be read without torch"


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_bound(path):
    """What linters cannot be asked, since they take jaxtyping's shapes for names: annotations are not evaluated."""
    bound, used = set(dir(builtins)) | {"__file__"}, set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import() | ast.ImportFrom():
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.arg():
                bound.add(node.arg)
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                bound.add(node.name)
            case ast.MatchMapping():
                bound.add(node.rest)
            case ast.Name():
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
    assert used <= bound


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_budgets(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 50, f"{node.name} is long"
            if node.name == "forward":
                branches = sum(isinstance(n, ast.If | ast.IfExp | ast.Match) for n in ast.walk(node))
                assert branches <= 3, f"{path.name}: forward branches {branches} times"


def test_no_two_test_files_have_one_name():
    """Beside one another pytest could import only one of them; each by itself it would."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in files]
    assert sorted(set(names)) == sorted(names)


def test_attention_is_about_twenty_lines():
    tree = ast.parse((PACKAGE / "nn" / "attention.py").read_text())
    (forward,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "forward"]
    assert forward.end_lineno - forward.lineno < 25


def test_configs_and_sizes_need_no_torch():
    import subprocess
    import sys

    for asked in ("import pellucid.config", "from pellucid.analysis.size import size; size('gpt2')"):
        code = f"import sys; {asked}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, asked
