"""Memory of a process: what is allocated stands in large pages. Each is tried in a process of its own."""

import subprocess
import sys

import pytest

from pellucid.nn import memory
from pellucid.nn.memory import huge_pages, keep_freed_memory

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc on Linux")
HEAP = """
heap, told = False, set()
for line in open("/proc/self/smaps"):
    heap = line.rstrip().endswith("[heap]") if "-" in line.split()[0] else heap
    told |= set(line.split()[1:]) if heap and line.startswith("VmFlags") else set()
print("hg" in told)  # that large pages are wanted
"""


def told(code):
    """What a fresh process prints."""
    words = [sys.executable, "-c", "import resource\nfrom pellucid.nn.memory import huge_pages\n" + code]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=100).stdout.split()


@LINUX
def test_the_heap_is_of_large_pages():
    is_told, wanted = told(f"print(huge_pages())\n{HEAP}")
    assert is_told == wanted
    if not memory._is_bound():
        assert is_told == "True"


@LINUX
def test_a_process_with_a_bound_of_its_own_is_left_as_it_is():
    limit = "resource.setrlimit(resource.RLIMIT_AS, (1 << 46, 1 << 46))"
    assert told(f"{limit}\nprint(huge_pages())\n{HEAP}") == ["False", "False"]


@LINUX
def test_where_promises_are_counted_nothing_is_taken(monkeypatch, tmp_path):
    (tmp_path / "counted").write_text("2\n")
    monkeypatch.setattr(memory, "_PROMISES", tmp_path / "counted")
    monkeypatch.setattr(memory, "_libc", lambda: pytest.fail("nothing is to be asked for"))
    assert not huge_pages()


def test_elsewhere_there_is_no_such_switch(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert not huge_pages()
