"""Write down what is said in recordings.

Example: `pellucid transcribe openai/whisper-tiny interview.wav --language de`
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Device, Json, RunArgument, Verify, open_run, print_json


def transcribe(
    run: RunArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="wav, flac, ogg or mp3.", show_default=False)],
    language: Annotated[str | None, typer.Option(help="Its code, such as de; found out when left out.")] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate into English.")] = "transcribe",
    times: Annotated[bool, typer.Option(help="Say when each segment is said.")] = True,
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    import torch

    from pellucid.data.sounds import open_sound
    from pellucid.inference.transcribe import transcribe as run_transcription

    waves = [open_sound(path) for path in files]
    loaded = open_run(run, device, verify)
    for path, wave in zip(files, waves, strict=True):
        found = run_transcription(loaded, torch.from_numpy(wave), language=language, task=task, timed=times)
        if json:
            print_json({"file": str(path), **asdict(found)})
        elif found.segments:
            for segment in found.segments:
                print(f"{_clock(segment.start)} – {_clock(segment.end)}\t{segment.text.strip()}")
        else:
            print(found.text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes):02}:{rest:05.2f}"
