"""Sound as a sequence: an encoder of frames, a decoder that writes down what is said."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.lab.experiment import Experiment, Kept, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit
from pellucid.lab.reading import spread
from pellucid.lab.spoken import LONGEST, SECONDS, Listener, Voices, error_rate, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rows, the most digits, seconds and steps: single digits are learned first, and how to go on to the next after that.
COURSE = ((64, 1, 1.0, 600), (48, 2, 1.5, 400), (32, LONGEST, SECONDS, 2000))
PEAK, SMOOTHING, EVERY, JUDGED = 2e-3, 0.05, 500, 400
ENOUGH = 0.03
KNOWN, NEW = "speakers who were heard", "a speaker who was not"


def measure(seed: int, say: Say, folder: Path) -> Kept:
    """Errors a digit, by step, on recordings that were held out: of speakers who were heard, and of another."""
    train, test = load(folder)
    speakers = sorted(train.waves)
    new = speakers[seed % len(speakers)]
    known = [speaker for speaker in speakers if speaker != new]
    judged = {
        KNOWN: test.of(*known).say(JUDGED, LONGEST, changed=False),
        NEW: test.of(new).say(JUDGED, LONGEST, changed=False),
    }
    model, voices, steps = Listener(), train.of(*known), sum(steps for *_, steps in COURSE)
    course: dict[str, dict[str, float]] = {who: {} for who in judged}
    taken = count()
    for step, loss in fit(model, lambda: _lesson(voices, next(taken)), steps, peak=PEAK, smoothing=SMOOTHING):
        if step % EVERY == 0 or step == steps:
            for who, rows in judged.items():
                course[who][str(step)] = error_rate(model, rows)
            told = ", ".join(f"{course[who][str(step)]:.1%} for {who}" for who in judged)
            say(f"step {step} of {steps}: {loss:.2f} nats a digit; errors: {told}")
    example, _ = test.of(*known).sequence(LONGEST, changed=False)
    return Kept({"errors": course, "new": new, "judged": JUDGED}, lambda place: model.save(place, example))


def _lesson(voices: Voices, step: int) -> Rows:
    ends = list(accumulate(steps for *_, steps in COURSE))
    rows, most, seconds, _ = COURSE[bisect(ends, step)]
    return voices.say(rows, most, seconds, changed=True)


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether few digits are misheard."""
    last = {who: [list(result["errors"][who].values())[-1] for result in results] for who in (KNOWN, NEW)}
    shares = {who: spread([100 * share for share in last[who]], ".1f") for who in last}
    said = f"Of the digits in {results[0]['judged']} sequences of recordings that were held out {shares[KNOWN]} % are "
    said += f"misheard; by a speaker who was never heard ({', '.join(result['new'] for result in results)}) "
    said += f"{shares[NEW]} %."
    return Verdict(max(last[KNOWN]) <= ENOUGH, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Errors as training goes on."""
    axes = figure.subplots()
    for nth, who in enumerate((KNOWN, NEW)):
        of_seeds = [[100 * share for share in result["errors"][who].values()] for result in results]
        curve(axes, [int(step) for step in results[0]["errors"][who]], of_seeds, who, nth)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("training steps")
    axes.set_ylabel("errors for 100 digits")
    axes.legend(loc="upper right")


def _told() -> str:
    return ", ".join(f"{steps} steps of {rows} sequences of up to {most}" for rows, most, _, steps in COURSE)


EXPERIMENT = Experiment(
    name="sounds",
    question="Can it listen?",
    claim="A spectrogram is a sequence of frames: an encoder reads it, and a decoder that looks at it writes down what "
    "is said, without being told where one word ends.",
    source="Radford et al. 2022 (Whisper), §2.2; the recordings: Jackson et al. 2018 (Free Spoken Digit Dataset)",
    setting=f"One to {LONGEST} recordings of digits joined with silence in a window of {SECONDS} s, 40 mels, Whisper's "
    f"parts with three and two layers of width 96; {_told()}. The first five recordings of each digit by each speaker "
    "are held out, and all of one speaker, another for each seed.",
    minutes=36,
    measure=measure,
    judge=judge,
    draw=draw,
    data="fsdd",
)
