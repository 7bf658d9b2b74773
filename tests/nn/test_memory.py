"""Memory of a process: what is freed stays, and what is allocated stands in large pages. Each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.nn import memory

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def told(code):
    """What a fresh process prints."""
    words = [sys.executable, "-c", "import resource, torch\nfrom pellucid.nn import memory\n" + code]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=100).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc on Linux")
def test_what_is_allocated_stands_in_large_pages():
    if not SWITCH.exists() or "[never]" in SWITCH.read_text():
        pytest.skip("this machine has none")
    make = "kept = [torch.ones(1 << 20) for _ in range(100)]"
    count = "print(sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('AnonHuge')))"
    is_told, huge = told(f"print(memory.huge_pages())\n{make}\n{count}")
    if is_told == "True":
        assert int(huge) > 100_000  # KB, of 400 MB: as far as there are any


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc on Linux")
def test_a_process_that_may_not_have_half_of_the_memory_takes_less():
    limit = "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))"
    found = told(f"{limit}\nprint(memory.huge_pages())\nprint(float(torch.ones(1 << 20).sum()))")
    assert found[-1] == "1048576.0"


def test_elsewhere_there_is_no_such_switch(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
    assert not memory.huge_pages()


def test_where_promises_are_counted_nothing_is_taken(monkeypatch):
    monkeypatch.setattr(memory, "_promises", lambda: "2")
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(memory, "_libc", lambda: pytest.fail("nothing is to be asked for"))
    assert not memory.huge_pages()
