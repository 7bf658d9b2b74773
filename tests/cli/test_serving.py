"""`pellucid serve` from the shell: it says where it is, answers, and ends in good order when it is told to."""

import json
import re
import signal
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest

from pellucid.cli.app import app
from pellucid.errors import UserError
from pellucid.explorer.opening import SHIPPED


@pytest.mark.slow
def test_it_answers_and_ends():
    command = [sys.executable, "-m", "pellucid", "serve", str(SHIPPED), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = next(line for line in process.stdout if "http://" in line)
            address = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert address is not None
            body = json.dumps({"text": "vendredi 13 mars 2071"}).encode()
            asked = Request(f"{address[0]}/translate", body, {"content-type": "application/json"})
            with urlopen(asked, timeout=30) as answer:
                assert json.load(answer)["translations"][0]["text"] == "2071-03-13"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_type_that_is_not_known_is_refused():
    command = [sys.executable, "-m", "pellucid", "serve", str(SHIPPED), "--weights", "int4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'found "int4"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", [["--api-key", ""], ["--api-key", " "], []])
def test_an_empty_key_opens_no_service(given, monkeypatch):
    monkeypatch.setenv("PELLUCID_API_KEY", "")
    with pytest.raises(UserError, match="--api-key: an empty one"):
        app(["serve", str(SHIPPED), *given], standalone_mode=False)
