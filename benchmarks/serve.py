"""The service against the engine that it is built on: the same requests, with and without HTTP between.

A decoder of 10 million parameters; 64 clients in another process on loopback, who stream texts of mixed lengths for a
minute, of whom one in ten leaves midway. Then the same requests are given to the scheduler itself. What is asked:
no error, no row or task left behind, memory that stays, and at least 80 % of the engine's tokens a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

LEAVING = 0.1  # of the clients, at each request
PROMPTS, LENGTHS = (4, 96), (16, 160)  # tokens, evenly mixed
VOCAB = 5000
BAR = 0.8


@dataclass(frozen=True)
class Asked:
    """A request, and after how many events its client leaves; ``None`` for one that stays."""

    prompt: list[int]
    length: int
    leaves: int | None


def requests_of(client: int, *, leaving: float = LEAVING) -> Any:
    """The endless requests of one client, always the same."""
    random = Random(client)
    while True:
        prompt = [random.randrange(10, VOCAB) for _ in range(random.randint(*PROMPTS))]
        length = random.randint(*LENGTHS)
        yield Asked(prompt, length, random.randint(1, 5) if random.random() < leaving else None)


# ---- the clients, in a process of their own ------------------------------------------------------


async def ask(host: str, port: int, asked: Asked) -> dict[str, Any]:
    """One request over a connection of its own: plain bytes, as a client library would take the machine's time."""
    body = json.dumps(
        {"prompt": asked.prompt, "max_tokens": asked.length, "temperature": 0, "stream": True,
         "stream_options": {"include_usage": True}}
    ).encode()  # fmt: skip
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        first, events, data = None, 0, bytearray()
        while chunk := await reader.read(1 << 16):
            data += chunk
            events += chunk.count(b"data: {")
            if events and first is None:
                first = time.perf_counter() - began
            if asked.leaves is not None and events >= asked.leaves:
                return {"status": status, "left": True, "first": first}
        usage = bytes(data).rpartition(b'"usage":{')[2]
        written = int(usage.partition(b'"completion_tokens":')[2].partition(b",")[0] or 0) if usage else 0
        seconds = time.perf_counter() - began
        if status != 200 or b"data: [DONE]" not in data or b'"error"' in data:
            return {"status": status, "error": bytes(data[-300:]).decode(errors="replace")}
        return {"status": status, "tokens": written, "first": first, "seconds": seconds}
    finally:
        writer.close()


async def client(number: int, host: str, port: int, until: float, told: list[dict[str, Any]]) -> None:
    for asked in requests_of(number):
        if time.time() >= until:
            return
        try:
            told.append(await ask(host, port, asked))
        except (OSError, ValueError, IndexError) as error:
            told.append({"status": 0, "error": repr(error)})


async def clients(host: str, port: int, count: int, seconds: float) -> None:
    """Prints what all of them saw, as JSON."""
    told: list[dict[str, Any]] = []
    began = time.time()
    await asyncio.gather(*(client(number, host, port, began + seconds, told) for number in range(count)))
    print(json.dumps({"seconds": time.time() - began, "told": told}))


# ---- the service, and the engine by itself -------------------------------------------------------


def model_of(layers: int, width: int) -> Any:
    """A decoder that never ends by itself: its lengths are those that are asked for."""
    import torch

    from pellucid.config import model as config
    from pellucid.config import parts
    from pellucid.config.run import ByteBPE
    from pellucid.data.tokenizers import Tokenizer
    from pellucid.models.build import build
    from pellucid.models.checkpoint import Loaded

    torch.manual_seed(0)
    sources = Path(__file__).parents[1].glob("src/**/*.py")  # enough words for so many pieces
    tokenizer = Tokenizer.train(ByteBPE(vocab_size=VOCAB), [path.read_text() for path in sorted(sources)])
    assert tokenizer.vocab_size == VOCAB
    stack = parts.Stack(
        d_model=width,
        num_layers=layers,
        attention=parts.Attention(num_heads=width // 64),
        feed_forward=parts.FeedForward(d_ff=4 * width),
        positions=parts.Sinusoidal(),
        placement="pre",
    )
    model = build(config.Decoder(front=config.Tokens(vocab_size=VOCAB), stack=stack)).eval()
    return Loaded(model, tokenizer, None)


def resident() -> float:
    """MB of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1e6


def served(service: Any, count: int, seconds: float) -> dict[str, Any]:
    """What the clients saw; what is left behind; memory after a sixth of the time and at the end."""
    from pellucid.serve.app import create_app
    from pellucid.serve.run import SWITCH, Background

    sys.setswitchinterval(SWITCH)
    with Background(create_app(service), level="error") as background:
        host, _, port = background.url.removeprefix("http://").strip("/").partition(":")
        words = [sys.executable, __file__, "--clients", str(count), "--at", host, port, "--seconds", str(seconds)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
            time.sleep(seconds / 6)
            early = resident()
            output, _ = asking.communicate()
        late = resident()
        worker, until = service.worker, time.monotonic() + 10
        while (worker.open or worker._tickets or worker.rows) and time.monotonic() < until:
            time.sleep(0.05)
        left = {"requests": len(worker.open), "jobs": len(worker._tickets), "rows": worker.rows}
    return {**json.loads(output), "left": left, "memory": (early, late)}


def offline(writer: Any, ends: tuple[int, ...], count: int, rows: int, wanted: int) -> float:
    """Tokens a second of the same requests without a service: as many in flight, each followed by its client's next."""
    from pellucid.inference.batching import Finished, Request, Scheduler, Wrote

    scheduler = Scheduler(writer, max_rows=rows)
    lines = [requests_of(number, leaving=0.0) for number in range(count)]
    owner = {}

    def next_of(number: int) -> None:
        asked = next(lines[number])
        owner[scheduler.add(Request(asked.prompt, asked.length, ends))] = number

    for number in range(count):
        next_of(number)
    written, began = 0, time.perf_counter()
    while written < wanted:
        for event in scheduler.step():
            if isinstance(event, Wrote):
                written += 1
            elif isinstance(event, Finished):
                next_of(owner.pop(event.job))
    return written / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--at", nargs=2, metavar=("HOST", "PORT"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args()
    if options.at:
        asyncio.run(clients(options.at[0], int(options.at[1]), options.clients, options.seconds))
        return
    from common import prepare, write_page

    prepare()
    from pellucid.inference.aside import aside
    from pellucid.serve.limits import Limits
    from pellucid.serve.service import Service, of_loaded

    def opened() -> Service:
        loaded, limits = model_of(options.layers, options.width), Limits(rows=options.count)
        return of_loaded(loaded, "bench", weights=options.weights, limits=limits)

    def alone(wanted: int) -> float:
        ends = service.loaded.tokenizer.ends
        return aside(lambda: offline(service.writer, ends, options.count, options.count, wanted))

    service = aside(opened)
    alone(2000)  # to warm up
    before = alone(30_000)
    found = served(service, options.count, options.seconds)
    after = alone(30_000)
    size = sum(parameter.numel() for parameter in service.loaded.model.parameters())
    text = page(found, service, (before, after), size, options)
    write_page("serve", "The service beside the engine without one", text)


def page(found: dict[str, Any], service: Any, alone: tuple[float, float], size: int, options: Any) -> str:
    """The results as Markdown."""
    told, seconds = found["told"], found["seconds"]
    wrong = [each for each in told if "error" in each]
    gone = [each for each in told if each.get("left")]
    whole = [each for each in told if "tokens" in each]
    written = service.metrics.registry.get_sample_value("pellucid_tokens_total", {"kind": "written"}) or 0.0
    ratio = written / seconds / median(alone)
    if not whole:
        raise SystemExit(f"no request was answered; the first errors: {wrong[:3]}")
    first = quantiles([each["first"] * 1e3 for each in told if each.get("first")], n=20)
    early, late = found["memory"]
    lines = [
        f"A decoder of {size / 1e6:.1f}M parameters, weights {options.weights}; {options.count} clients in another"
        f" process stream for {seconds:.0f} s texts of {LENGTHS[0]} to {LENGTHS[1]} tokens after prompts of"
        f" {PROMPTS[0]} to {PROMPTS[1]}. The clients use the same two cores.",
        "",
        "| | |",
        "|---|---|",
        f"| requests finished / left midway / errors | {len(whole):,} / {len(gone):,} / {len(wrong)} |",
        f"| tokens a second, service | {written / seconds:,.0f} |",
        f"| tokens a second, scheduler without a service, before and after | {alone[0]:,.0f}, {alone[1]:,.0f} |",
        f"| share (bar: {BAR:.0%}) | **{ratio:.0%}** |",
        f"| first token, median / 95 % | {first[9]:.0f} / {first[18]:.0f} ms |",
        f"| left behind: requests, jobs, rows | {', '.join(map(str, found['left'].values()))} |",
        f"| memory after {seconds / 6:.0f} s / at the end | {early:,.0f} / {late:,.0f} MB |",
    ]
    lines += ["", *(f"Error: {each}" for each in wrong[:5])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
