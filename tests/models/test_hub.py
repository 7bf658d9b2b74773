"""Names of the hub, against a small hub of our own: what is fetched of a model, and what is said when it cannot be."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 100,
    "n_positions": 32,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "activation_function": "gelu_new",
}


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as those of ``owner/name``, and counts the bytes that it sends of each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.sent = folder, Counter()


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        file = self.server.folder / name
        if self.path.startswith("/api/"):
            return self._send(200, json.dumps(self._about("/tree/" in self.path)).encode(), with_body)
        if not file.is_file():
            return self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
        data, status = file.read_bytes(), 200
        if (asked := self.headers.get("range")) and asked.lower().startswith("bytes="):
            first, last = (int(end) for end in asked[len("bytes=") :].split("-"))
            data, status = data[first : last + 1], 206
        self.server.sent[name] += len(data) if with_body else 0
        return self._send(status, data, with_body, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    def _about(self, tree: bool) -> object:
        files = sorted(self.server.folder.iterdir())
        if tree:
            return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
        return {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}

    def _send(self, status: int, data: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT2))
    names = ("wte.weight", "wpe.weight", "h.0.ln_1.weight")  # the size is that of the config: names tell of a head
    save_file({name: torch.zeros(500_000) for name in names}, folder / "model.safetensors")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def size(hub, tmp_path, *, offline=False):
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    command = [sys.executable, "-m", "pellucid", "size", "owner/name", "--json"]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_the_size_of_a_model_is_told_without_its_weights(hub, tmp_path):
    told = size(hub, tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["parameters"] == 100 * 8 + 32 * 8 + 12 * 8**2 + 13 * 8 + 2 * 8
    assert 0 < hub.sent["model.safetensors"] <= 100_001 < (hub.folder / "model.safetensors").stat().st_size


def test_a_model_without_safetensors_is_told(hub, tmp_path):
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    told = size(hub, tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert "owner/name: has no safetensors" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr


def test_what_was_never_fetched_and_is_not_to_be_had_is_told(hub, tmp_path):
    assert size(hub, tmp_path).returncode == 0  # of which the cache keeps the settings alone
    told = size(hub, tmp_path, offline=True)
    assert (told.returncode, told.stdout) == (2, "")
    assert "model.safetensors and tokenizer.json are not all in the cache" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr
