"""The card of a run: what it is, what came out, what it cost; as the run's README and as rows for the terminal.

Shapes: B rows of a batch.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pellucid.config.model import stacks
from pellucid.data.batch import Batch
from pellucid.models.build import Model
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.files import write_whole
from pellucid.models.tower import Tower
from pellucid.nn.attention import Attention
from pellucid.training.curves import CURVES, CURVES_PNG
from pellucid.training.precision import product_seconds
from pellucid.training.sheet import SAMPLES_SVG
from pellucid.training.watch import METRICS, SAMPLES, TENSORBOARD, read_records
from pellucid.version import __version__

if TYPE_CHECKING:
    from pellucid.training.session import Session

CARD = "README.md"
SHOWN = (CARD, CURVES, CURVES_PNG, SAMPLES_SVG)
"""What is shown of a run beside what it was read from."""

MEANING = {
    "step": "the update after which these weights were saved",
    "loss": "mean negative log-likelihood in nats per label",
    "perplexity": "exp(loss)",
    "accuracy": "share of labels with the highest score",
    "count": "labels asked",
    "bits_per_byte": "bits of the whole text over its bytes of UTF-8",
    "exact": "share of outputs equal to their reference",
    "translated": "validation pairs that were translated for these scores, greedily",
}

# ---- what a step computes ----------------------------------------------------------------------


def flops_per_token(model: Model, batch: Batch) -> float:
    """Floating-point operations of a training step over this batch, by the real tokens it reads, source included.

    Six for each weight of a matrix product and each vector that it multiplies: a multiplication and an addition
    forward, twice as many backward (Kaplan et al. 2020, §2.1); four where the weight is frozen, which has no gradient
    itself and passes one on. In attention six again for each of the two products of a query with all keys that its
    layer's window spans: 12 · H · K · S for a query (Chowdhery et al. 2022, appendix B). As there, what a causal mask
    hides is counted; look-ups, norms, padding and recomputation are not. The head is counted where there is a label.
    """
    targets = _lengths(batch.tokens, batch.keep)
    if isinstance(model, EncoderDecoder):
        assert batch.source is not None  # an objective of pairs makes batches of pairs
        sources = _lengths(batch.source, batch.source_keep)
        total = _tower_flops(model.encoder, sources, sources) + _tower_flops(model.decoder, targets, sources)
    else:
        total = _tower_flops(model, targets, targets)
    head = sum(_linear_flops(part) for part in model.head.modules() if isinstance(part, nn.Linear))
    return (total + head * batch.num_labels) / batch.num_tokens


def _lengths(tokens: Tensor, keep: Tensor | None) -> Int[Tensor, "B"]:
    """How many real tokens each row has."""
    return torch.full((tokens.size(0),), tokens.size(1)) if keep is None else keep.sum(dim=1).cpu()


def _tower_flops(tower: Tower, lengths: Int[Tensor, "B"], source: Int[Tensor, "B"]) -> int:
    """Of the blocks. In cross-attention all but the query and the output projection work on the source."""
    total = 0
    for block, window in zip(tower.blocks, tower.windows, strict=True):
        for name, module in block.named_modules():
            crosses = name.startswith("cross_attention")
            if isinstance(module, Attention):
                span = window and (window if tower.causal else 2 * window - 1)
                keys = source if crosses else lengths.clamp(max=span) if span else lengths
                total += 12 * module.out.in_features * int((lengths * keys).sum())
            elif isinstance(module, nn.Linear):
                read = source if crosses and not {"query", "out"} & {*name.split(".")} else lengths
                total += _linear_flops(module) * int(read.sum())
    return total


def _linear_flops(layer: nn.Linear) -> int:
    """For each vector; a tied table counts, since the head does multiply by it."""
    return (6 if layer.weight.requires_grad else 4) * layer.weight.numel()


# ---- what a run costs --------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What a run took, on the machine that it ran on.

    Attributes:
        tokens_per_second: the median over the logged steps, source and target together; ``None`` where none are.
        flops_per_token: as :func:`flops_per_token` counts them.
        matrix_peak: FLOP/s of a large matrix product in the run's precision, of one process.
        memory: the peak in bytes of one process: resident, or on a GPU allocated by torch; ``None`` where the system
            does not tell.
        seconds: from the beginning, or from where it was resumed, to the end; ``None`` where nobody took the time.
        processes: that trained together.
        resumed: the run went on from a checkpoint.
    """

    tokens_per_second: float | None
    flops_per_token: float
    matrix_peak: float
    memory: int | None
    seconds: float | None
    processes: int = 1
    resumed: bool = False

    @property
    def share_of_peak(self) -> float | None:
        """The share of the machine's matrix products that the model's own arithmetic amounts to."""
        speed = self.tokens_per_second
        return None if speed is None else speed * self.flops_per_token / (self.matrix_peak * self.processes)


def measure(
    session: Session,
    folder: Path,
    batch: Batch,
    *,
    seconds: float | None = None,
    processes: int = 1,
    resumed: bool = False,
) -> Costs:
    """Reads what the metrics tell and measures the rest, in about a second.

    Args:
        session: the run, after training.
        folder: of the run.
        batch: one as the run is trained on, or of the validation data.
        seconds: how long it all took.
        processes: that trained together.
        resumed: the run went on from a checkpoint.
    """
    device = session.model.device
    memory = peak_memory(device)  # first, since the product that is timed below takes room of its own
    return Costs(
        _tokens_per_second(folder),
        flops_per_token(session.model, batch),
        matrix_peak(device, session.run.training.precision),
        memory,
        seconds,
        processes,
        resumed,
    )


def _tokens_per_second(folder: Path) -> float | None:
    steps = [record for record in read_records(folder / METRICS) if record.get("seconds") and "tokens" in record]
    return statistics.median(step["tokens"] / step["seconds"] for step in steps) if steps else None


def matrix_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a square matrix product: the median of five.

    2048³ on a CPU, or less where that takes long; 8192³ elsewhere, where less would measure how fast products are asked
    for.
    """
    size, seconds = product_seconds(device, precision, 2048 if device.type == "cpu" else 8192)
    return 2 * size**3 / statistics.median(seconds)


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the highest: allocated on a GPU, else resident in this process; ``None`` on a system without rusage."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


# ---- the card ----------------------------------------------------------------------------------


def card_rows(session: Session, folder: Path, results: Mapping[str, Any], costs: Costs) -> dict[str, str]:
    """What the terminal shows at the end of a training: a label and a short text each, in this order."""
    figures = {
        name: f"{figure} ({how})" if isinstance(results[name], Mapping) else figure
        for name, figure, how in _figures(results)
    }
    rows = {"model": _model(session), **figures, **_cost_rows(session, costs)}
    pictures = [str(folder / name) for name in (CURVES, SAMPLES_SVG) if (folder / name).exists()]
    return {**rows, **({"pictures": ", ".join(pictures)} if pictures else {})}


def write_card(
    session: Session,
    folder: Path,
    *,
    command: str,
    results: Mapping[str, Any],
    costs: Costs,
    chosen: Mapping[str, str] | None = None,
) -> None:
    """Writes the README of a run folder.

    Args:
        session: the run.
        folder: of the run; pictures that are there are shown.
        command: what was typed.
        results: figures by name. One that is ``{"score": ..., "signature": ...}`` is shown with how it was measured.
        costs: what :func:`measure` found.
        chosen: settings that were decided by a measurement, with the reason.

    Raises:
        CheckpointError: when it cannot be written.
    """
    parts = [
        f"# {folder.resolve().name}",
        f"{_model(session)}, trained by pellucid {__version__}:",
        f"    {command}",
        _picture("The loss over the steps", folder, CURVES),
        "## Result",
        _grid(("what", "figure", "how it is measured"), _figures(results)),
        "## Cost",
        _grid(("what", "figure"), _cost_rows(session, costs).items()),
        f"A token takes {costs.flops_per_token:.4g} floating-point operations, forward and backward: six for each "
        "weight of a matrix product, four where it is frozen, and those of attention (Chowdhery et al. 2022, "
        "appendix B).",
        *(["## Chosen by measurement", _grid(("setting", "choice"), chosen.items())] if chosen else []),
        "## Data",
        _list({"training examples": f"{len(session.corpus.train):,}", **session.corpus.notes}),
        *(
            ["## Samples", _picture("Samples over the steps", folder, SAMPLES_SVG)]
            if _is_in(folder, SAMPLES_SVG)
            else []
        ),
        "## Files",
        _files(folder),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_whole(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))


def _model(session: Session) -> str:
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    width = stacks(session.run.model)[-1].d_model
    return f"{type(session.model).__name__} of {parameters:,} parameters (d_model {width})"


def _figures(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, figure and how it is measured, which for sacreBLEU's is the signature."""
    rows = []
    for name, value in results.items():
        if isinstance(value, Mapping) and "score" in value:
            rows.append((name, _short(value["score"]), str(value.get("signature", ""))))
        else:
            rows.append((name, _short(value), MEANING.get(name, "")))
    return rows


def _cost_rows(session: Session, costs: Costs) -> dict[str, str]:
    device, precision = session.model.device, session.run.training.precision
    rows = {}
    if costs.tokens_per_second is not None and costs.share_of_peak is not None:
        rows["speed"] = f"{costs.tokens_per_second:,.0f} tokens/s"
        peak = f"{_rate(costs.matrix_peak)} in {precision}"
        whose = "this machine's" if costs.processes == 1 else f"{costs.processes} processes'"
        each = "" if costs.processes == 1 else " each"
        rows["share of peak"] = f"{costs.share_of_peak:.0%} of {whose} matrix products ({peak}{each})"
    if costs.memory is not None:
        rows["peak memory"] = f"{costs.memory / 1e9:.2f} GB" + (" in the first process" if costs.processes > 1 else "")
    if costs.seconds is not None:
        rows["time"] = _duration(costs.seconds) + (" since it was resumed" if costs.resumed else "")
    rows["machine"] = f"{_processor(device)}, {platform.system()}"
    rows["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()}"
    rows["software"] = f"torch {torch.__version__}, Python {platform.python_version()}"
    return rows


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _short(value: Any, limit: int = 400) -> str:
    match value:
        case bool() | str():
            text = str(value)
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:.6g}"
        case list() | tuple():
            text = ", ".join(map(_short, value))
        case Mapping():
            text = "; ".join(f"{name}: {_short(part, 120)}" for name, part in value.items())
        case _:
            text = str(value)
    return text if len(text) <= limit else text[:limit].rsplit(",", 1)[0] + ", …"


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _list(items: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_short(value)}" for name, value in items.items())


def _is_in(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _picture(what: str, folder: Path, name: str) -> str:
    return f"![{what}]({name})" if _is_in(folder, name) else ""


def _files(folder: Path) -> str:
    what = {
        "config.toml": "all settings, defaults included",
        METRICS: "the course of training",
        CURVES: "its picture",
        CURVES_PNG: "the same in pixels",
        SAMPLES: "what the model said on the way",
        TENSORBOARD: "for `tensorboard --logdir`",
    }
    return "\n".join(f"- [{name}]({name}): {text}" for name, text in what.items() if _is_in(folder, name))
