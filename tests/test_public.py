"""The public surface is what it says it is."""

import subprocess
import sys

import pellucid


def test_every_public_name_is_there():
    for name in pellucid.__all__:
        assert getattr(pellucid, name) is not None
    assert dir(pellucid) == pellucid.__all__


def test_trace_is_the_function_even_after_its_package_was_imported():
    code = "import pellucid.trace, pellucid; from pellucid.models.build import build; assert callable(pellucid.trace)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version():
    done = subprocess.run([sys.executable, "-m", "pellucid", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pellucid {pellucid.__version__}"
