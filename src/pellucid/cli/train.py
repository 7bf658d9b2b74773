"""Train a model from a recipe, or on your own text.

Examples:

`pellucid train decoder --text notes.txt --out runs/notes`

`pellucid train encoder-decoder --source en.txt --target de.txt --out runs/en-de training.steps=8000`

`pellucid train classifier --labelled mails.tsv --out runs/mails`

`pellucid train recipes/shakespeare-char.toml training.steps=500`

`pellucid train --from runs/encoder classifier --labelled mails.tsv --out runs/mails`

`torchrun --nproc-per-node 4 -m pellucid train decoder --text notes.txt --out runs/notes`

`pellucid train --resume runs/notes`

`pellucid train decoder --text notes.txt --watch`
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import Debug, Device, Json, Report, device_of, end_card, print_json, say
from pellucid.cli.watching import Watching
from pellucid.config.defaults import FAMILIES, continued_run, default_run
from pellucid.config.files import read_plain
from pellucid.config.model import labels_of
from pellucid.config.run import Data, LabelledFiles, NamedData, ParallelFiles, Run, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.config.start import LoRA, Pretrained
from pellucid.errors import PellucidError, UserError, nearest

if TYPE_CHECKING:
    from pellucid.training.distributed import World
    from pellucid.training.session import Session
    from pellucid.training.watch import Opener

JUDGED = 1024  # validation pairs that are translated at the end


def train(
    what: Annotated[
        str | None, typer.Argument(help="A recipe (.toml or .json), or one of " + ", ".join(FAMILIES) + ".")
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Plain text to model; may be repeated.")] = None,
    source: Annotated[Path | None, typer.Option(help="The source side, a text a line.")] = None,
    target: Annotated[Path | None, typer.Option(help="The target side, a text a line.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="label<TAB>text lines (.tsv), or .jsonl.")] = None,
    data: Annotated[str | None, typer.Option(help="A set by name; see `pellucid data list`.")] = None,
    mirror: Annotated[str | None, typer.Option(help="A folder to read a catalogue set from.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    start: Annotated[Path | None, typer.Option("--from", help="A run whose weights to begin at: fine-tuning.")] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help='With --from: parameters to leave, as "embedding.*".')
    ] = None,
    lora: Annotated[int | None, typer.Option(help="With --from: train low-rank terms of this rank instead.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder to go on with, exactly where it stopped.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random choice.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there already.")] = False,
    shard: Annotated[bool, typer.Option("--shard", help="Under torchrun: split the weights too (FSDP).")] = False,
    wandb: Annotated[str | None, typer.Option(help="Also log to this Weights & Biases project.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Let the doctor look on, and say what stays wrong.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    options = {
        "--text": text, "--source": source, "--target": target, "--labelled": labelled, "--data": data,
        "--mirror": mirror, "--out": out, "--from": start, "--freeze": freeze, "--lora": lora, "--seed": seed,
        "--force": (force and resume is not None) or None,
    }  # fmt: skip
    _refuse_idle(what, resume, [name for name, value in options.items() if value not in (None, [], ())])
    if resume is not None:
        _train(None, resume, device=device, shard=shard, force=force, json=json, wandb=wandb, watch=watch)
        return
    if what is None and start is None:
        raise UserError("train", "nothing to train", "a recipe or a family", "see `pellucid train --help`")
    given = given_data(text, source, target, labelled, data, mirror)
    if start is None:
        assert what is not None  # or there would be nothing to train
        run, name = _run(what, given, mirror, settings or []), what
    else:
        if what is not None and "=" in what:  # a setting: there is no family to name
            settings, what = [what, *(settings or [])], None
        run, name = _continued(start, what, given, freeze or [], lora, settings or []), what or f"{start.name}-tuned"
    run = run if seed is None else replace(run, seed=seed)
    folder = out or Path("runs") / (Path(name).stem if _is_file(name) else name)
    _train(run, folder, device=device, shard=shard, force=force, json=json, wandb=wandb, watch=watch)


def _refuse_idle(what: str | None, resume: Path | None, given: list[str]) -> None:
    """Refuses options that could not be obeyed beside the others."""
    if resume is not None and (what or given):
        expected = "a run folder alone, since its settings are its own"
        raise UserError("--resume", f"together with {what or given[0]}", expected)
    for option in ("--freeze", "--lora"):
        if option in given and "--from" not in given:
            raise UserError(option, "without --from", "a run to begin at", "in a recipe it is a setting of its start")


def _train(
    run: Run | None,
    folder: Path,
    *,
    device: str,
    shard: bool,
    force: bool,
    json: bool,
    wandb: str | None,
    watch: bool,
) -> None:
    """Trains a run, or goes on with the one in the folder, in however many processes there are; leaves its card."""
    from pellucid.nn.memory import keep_freed_memory
    from pellucid.training.distributed import joined
    from pellucid.training.session import prepare, reopen

    if watch and shard:
        raise UserError("--watch", "together with --shard", "one of the two: no process has the weights to look at")
    with joined(device_of(device), sharded=shard) as (world, own_device):
        if shard and world.size == 1:
            raise UserError("--shard", "one process alone", "several, as `torchrun` starts them")
        quiet = json or not world.leads
        restarted = world.any(world.restarted)  # where no process was lost, torchrun counts no restart
        begun = restarted and world.has_begun(folder)
        if run is not None and world.told(partial(_goes_on, folder, run, force=force, begun=begun)):
            run = None  # torchrun started us again after a process was lost
        keep_freed_memory()
        say("reading the data and training the tokenizer …" if run else "reading the data …", quiet)
        session = reopen(folder, device=own_device) if run is None else prepare(run, device=own_device, world=world)
        parameters = sum(p.numel() for p in session.model.parameters())
        kind, count = type(session.model).__name__, len(session.corpus.train)
        say(f"{kind}: {parameters:,} parameters, {session.tokenizer.vocab_size:,} tokens, {count:,} examples", quiet)
        if world.size > 1:
            say(f"{world.size} processes, {'weights split' if shard else 'weights copied'}", quiet)
        for setting, choice in session.chosen.items():
            say(f"{setting}: {choice}", quiet)
        watchers = _watchers(wandb, session.run) if world.leads else []
        watching = Watching(session.run) if watch and world.leads else None
        _follow(session, folder, watchers, watching, world, resume=run is None, quiet=quiet, json=json)


def _watchers(wandb: str | None, run: Run) -> list[Opener]:
    from pellucid.training.watch import TensorBoard, WeightsAndBiases, require_wandb

    if wandb is None:
        return [TensorBoard]
    require_wandb()
    return [TensorBoard, partial(WeightsAndBiases, project=wandb, config=to_dict(run))]


def _follow(
    session: Session,
    folder: Path,
    watchers: list[Opener],
    watching: Watching | None,
    world: World,
    *,
    resume: bool,
    quiet: bool,
    json: bool,
) -> None:
    from pellucid.training.fit import INTERRUPTED, Evaluated, Stopped, fit, nobody
    from pellucid.training.watch import best_of

    began = time.perf_counter()
    others = Report(session.run.training.steps, quiet=quiet).follow(
        fit(session, folder, resume=resume, watchers=watchers, observer=watching or nobody, world=world)
    )
    if watching is not None:
        say(watching.summary(), quiet)
    if not world.leads:
        return
    parameters = sum(p.numel() for p in session.model.parameters())
    evaluated = any(isinstance(event, Evaluated) for event in others)
    results = best_of(folder) if evaluated else None  # maybe of an evaluation before the run was stopped
    if results is None:
        stopped = [event for event in others if isinstance(event, Stopped)]
        if json:
            print_json({"run": str(folder), "parameters": parameters, **({"step": stopped[0].step} if stopped else {})})
        elif not stopped:
            say("no evaluation had a finite loss: nothing is saved" if evaluated else "this run has ended already")
        return
    if not any(isinstance(event, Stopped) and event.why == INTERRUPTED for event in others):
        results |= _judged(session, folder, results, quiet)
    command = "pellucid " + shlex.join(sys.argv[1:])
    took = time.perf_counter() - began
    rows = end_card(session, folder, command, results, seconds=took, processes=world.size, resumed=resume)
    if json:
        print_json({"run": str(folder), "parameters": parameters, **results})
        return
    say("")
    for label, text in rows.items():
        say(f"{label:>14}  {text}")
    figures = f"loss {results['loss']:.4f}, perplexity {results['perplexity']:.2f}"
    say(f"\nbest: {figures}, after step {results['step']}; saved in {folder}")


def _judged(session: Session, folder: Path, results: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """What else can be said of the weights that were kept: of pairs, how good their translations are."""
    from pellucid.inference.engine import fast
    from pellucid.inference.predict import translate
    from pellucid.models.checkpoint import load_run
    from pellucid.training.evaluate import Evaluation, quality

    corpus, examples = session.corpus, session.corpus.validation
    evaluation = Evaluation(results["loss"], results["accuracy"], results["count"])
    translates = corpus.kind == "pairs"
    if translates:
        examples = examples[:JUDGED]
        say(f"translating {len(examples):,} validation pairs …", quiet)

    def write(sources: list[str]) -> list[str]:
        return translate(fast(load_run(folder, device=str(session.model.device))), sources)

    try:
        figures = quality(session.model, corpus, session.tokenizer, session.run.objective, examples, evaluation, write)
    except (Exception, KeyboardInterrupt) as error:  # whatever it fails of must not lose the end of a run
        say(f"what it writes was not judged ({str(error) or type(error).__name__})", quiet)
        return {}
    return figures | ({"translated": len(examples)} if translates else {})


def _goes_on(folder: Path, run: Run, *, force: bool, begun: bool) -> bool:
    """Whether to go on with what is in a folder: only with this run, and only where we have begun it before
    ``torchrun`` started us again. A run that was refused when we first came is refused again.

    Raises:
        UserError: for another run that is there already, unless it is to be replaced.
    """
    checkpoints = any((folder / "checkpoints").glob("step-*"))
    in_the_way = checkpoints or (folder / "model.safetensors").exists()
    ours = in_the_way and begun and _is_same(folder, run)
    if in_the_way and not ours and not force:
        hint = "choose another --out, go on with it by --resume, or replace it with --force"
        raise UserError(folder, "a run is there already", hint=hint)
    return ours and checkpoints


def _is_same(folder: Path, run: Run) -> bool:
    """Whether the run in a folder is this one, by all that was said of it: it would come out the same again."""
    from pellucid.models.checkpoint import load_description
    from pellucid.training.start import with_own_labels

    try:
        saved, tokenizer = load_description(folder)
    except PellucidError:  # of what cannot be read nobody knows
        return False
    labels = labels_of(saved.model)
    if isinstance(run.start, Pretrained):  # a head that knows other labels was given those of the data
        model = with_own_labels(run.model, run.model, labels)
        run = replace(run, model=model, tokenizer=saved.tokenizer)  # which is that of the start
    run = run.completed(vocab_size=tokenizer.vocab_size, labels=labels)
    chosen = saved.training.precision if run.training.precision == "auto" else run.training.precision
    return saved == replace(run, training=replace(run.training, precision=chosen), conventions=saved.conventions)


def _is_file(what: str) -> bool:
    return Path(what).suffix in (".toml", ".json")


def _continued(
    start: Path, what: str | None, given: Data | None, freeze: list[str], lora: int | None, settings: list[str]
) -> Run:
    from pellucid.models.load import describe

    if given is None:
        raise UserError("train --from", "no data", "--text, --source and --target, --labelled or --data")
    if idle := [each for each in settings if each.startswith("tokenizer.")]:
        raise UserError(idle[0], "a tokenizer beside --from", f"that of {start}, which its model was trained with")
    model, objective, _ = describe(start)
    run = continued_run(model, objective, str(start), what, given)
    low_rank = None if lora is None else LoRA(rank=lora, alpha=2.0 * lora)
    run = replace(run, start=Pretrained(path=str(start), freeze=tuple(freeze), lora=low_rank))
    changed: Run = from_dict(Run, with_overrides(to_dict(run), settings))
    return changed


def _run(what: str, given: Data | None, mirror: str | None, settings: list[str]) -> Run:
    if _is_file(what):
        plain = read_plain(what)
        if given is not None:
            plain["data"] = to_dict(given)
        elif mirror is not None:
            plain["data"] = {**plain.get("data", {}), "mirror": mirror}
    elif what in FAMILIES:
        if given is None:
            raise UserError("train", "no data", "--text, --source and --target, --labelled or --data")
        plain = to_dict(default_run(what, given))
    else:
        raise UserError(f'"{what}"', "no recipe and no family", "a .toml file or a family", nearest(what, FAMILIES))
    run: Run = from_dict(Run, with_overrides(plain, settings))
    return run


def given_data(
    text: list[Path] | None,
    source: Path | None,
    target: Path | None,
    labelled: Path | None,
    name: str | None,
    mirror: str | None,
) -> Data | None:
    """The data that the options of a command name, where they name any.

    Raises:
        UserError: for one side of pairs, or data of several kinds.
    """
    if (source is None) != (target is None):
        raise UserError("--source" if source is None else "--target", "missing", "both sides of the pairs")
    found: list[Data] = []
    if text:
        found.append(TextFiles(train=tuple(map(str, text))))
    if source and target:
        found.append(ParallelFiles(source=str(source), target=str(target)))
    if labelled:
        found.append(LabelledFiles(train=str(labelled)))
    if name:
        found.append(NamedData(name=name, mirror=mirror))
    if mirror is not None and found and name is None:
        raise UserError("--mirror", "files of your own", "a set of the catalogue beside it")
    if len(found) > 1:
        raise UserError("data", f"{len(found)} kinds", "one of --text, --source and --target, --labelled, --data")
    return found[0] if found else None
