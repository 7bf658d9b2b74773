"""Opening the explorer: from the command line, from Python, and with nothing at all."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import torch
import uvicorn
from families import FAMILIES, small
from test_server import TOKENIZER, page  # noqa: F401

import pellucid as pl
from pellucid.config import model as config
from pellucid.config.run import Causal, Characters, NoData, Run
from pellucid.data import Tokenizer
from pellucid.errors import UserError
from pellucid.explorer.opening import SHIPPED, open_session
from pellucid.explorer.serve import PORT, Background, free_socket
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run


def got(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a decoder, with what it wrote while it was trained."""
    folder = tmp_path_factory.mktemp("runs") / "notes"
    folder.mkdir()
    tokenizer = Tokenizer.train(Characters(), ["the cat sat on the mat"])
    model = small("decoder")
    described = config.Decoder(front=config.Tokens(vocab_size=tokenizer.vocab_size), stack=model.config.stack)
    described_run = Run(model=described, data=NoData(), tokenizer=Characters(), objective=Causal())
    save_run(folder, build(described), tokenizer, described_run)
    samples = [{"input": "the cat", "output": "sat"}, {"input": "on the mat", "output": "sat"}]
    (folder / "samples.jsonl").write_text(json.dumps({"step": 1, "name": "samples", "samples": samples}) + "\n")
    return folder


# ---- what is opened ------------------------------------------------------------------------------


def test_the_model_that_comes_along():
    session = open_session()
    assert session.folder == SHIPPED
    assert session.example == ("vendredi 13 mars 2071", None)
    assert pl.translate(session.models["main"].loaded, ["vendredi 13 mars 2071"]) == ["2071-03-13"]
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 2_000_000


def test_a_run_with_its_own_example(run):
    session = open_session(run, other=run)
    assert session.example == ("on the mat", None)
    assert session.models["main"].name == "notes"
    assert session.models["other"].name == "notes (other)"
    assert open_session(str(run), text="a cat", tokens=7).example == ("a cat", None)
    assert open_session(run, tokens=7).limits.tokens == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_memory(family):
    session = open_session(small(family), TOKENIZER)
    assert session.folder is None
    told = session.as_dict()
    assert told["models"][0]["family"] == family
    assert told["example"]["text"]
    assert not told["training"]


def test_what_cannot_be_opened(tmp_path):
    for given, said in (
        ((small("decoder"),), "no tokenizer"),
        ((small("decoder"), {"a": 1}), "a tokenizer of type dict"),
        ((torch.nn.Linear(2, 2), TOKENIZER), "torch.nn.modules.linear.Linear"),
        ((42,), "found int"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            open_session(*given)
    with pytest.raises(UserError, match="no such folder"):
        open_session(tmp_path / "nothing")


# ---- from Python ---------------------------------------------------------------------------------


def test_explore_serves_until_it_is_closed():
    with pl.explore(small("encoder_decoder"), TOKENIZER, text="the cat", target="a dog", height=500) as shown:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", shown.url)
        told = json.loads(got(f"{shown.url}api/session"))
        assert told["example"] == {"text": "the cat", "target": "a dog"}
        assert b"<title>" in got(shown.url)
        bundle = shown._repr_mimebundle_()
        assert f'<iframe src="{shown.url}"' in bundle["text/html"]
        assert 'allow="clipboard-write"' in bundle["text/html"]
        assert 'height="500"' in bundle["text/html"]
        assert bundle["text/plain"] == repr(shown) == f"<pellucid explorer of EncoderDecoder at {shown.url}>"
    assert repr(shown).endswith("closed>")
    with pytest.raises(OSError):
        got(f"{shown.url}api/session")


def test_ctrl_c_ends_the_server_before_the_program(monkeypatch):
    ended, run = threading.Event(), uvicorn.Server.run

    def followed(server, sockets=None):
        run(server, sockets)
        ended.set()

    monkeypatch.setattr(uvicorn.Server, "run", followed)
    shown = Background(open_session(small("decoder"), TOKENIZER))
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    shown.wait()
    assert ended.is_set()
    assert not shown.is_running


def test_two_at_once():
    with pl.explore(small("encoder"), TOKENIZER) as one, pl.explore(small("decoder"), TOKENIZER) as two:
        assert one.url != two.url
        families = [json.loads(got(f"{page.url}api/session"))["models"][0]["family"] for page in (one, two)]
        assert families == ["encoder", "decoder"]


def test_ports():
    with free_socket(0) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {number}: cannot be used"):
            free_socket(number)
    with free_socket() as one, free_socket() as two:
        assert PORT <= one.getsockname()[1] < two.getsockname()[1]
        assert one.getsockname()[0] == "127.0.0.1"


# ---- from the command line -----------------------------------------------------------------------


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "pellucid", "explore", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_serves_and_leaves_cleanly(run):
    command = started(run, "--port", "0", "--no-open", "--other", run)
    try:
        told = ""
        while "Ctrl-C" not in told:
            line = command.stdout.readline()
            assert line, command.stderr.read()
            told += line
        assert "notes: decoder" in told
        url = re.search(r"http://127\.0\.0\.1:\d+/", told)[0]
        session = json.loads(got(f"{url}api/session"))
        assert [model["key"] for model in session["models"]] == ["main", "other"]
        assert session["example"]["text"] == "on the mat"
        command.send_signal(signal.SIGINT)
        out, error = command.communicate(timeout=90)
        assert command.returncode == 0, error
        assert "Traceback" not in out + error
    finally:
        command.kill()


@pytest.mark.slow
def test_the_commands_errors(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, said in (
            (("runs/nothing-here",), "nothing-here"),
            ((run, "--port", taken.getsockname()[1]), "cannot be used"),
            ((run, "--device", "tpu"), "--device"),
            ((run, "--export", run / "no" / "page.html"), "page.html"),
        ):
            began = time.monotonic()
            command = started(*arguments)
            _, error = command.communicate(timeout=60)
            assert command.returncode == 2, error
            assert said in error, (arguments, time.monotonic() - began)
            assert "Traceback" not in error
