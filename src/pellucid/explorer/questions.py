"""What a page asks of a server while somebody walks through one pass: what an exported page has to bring along.

In the order of importance, for a file of bounded size: first what every view opens with, then every place of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any
from urllib.parse import quote, urlencode

from pellucid.analysis.units import feed_forward_layers
from pellucid.config.presets import PRESETS
from pellucid.explorer.passes import Pass
from pellucid.explorer.session import MAIN, Session
from pellucid.trace.operations import Norm

Question = tuple[str, Any]
"""A path, and the body that is posted to it; ``None`` for what is only asked for."""

EXPLAINED = 2000  # numbers that come with their sums, at the most
UNITS = 12  # of a feed-forward network, at each position
WRITTEN = 48  # tokens of greedy writing, at the most
LENS = 32  # positions of one table of the logit lens,
STEP = 16  # which goes on by so many: web/src/views/Residual.svelte
CODES = 64  # positions at the least in the tables of web/src/views/positions/Added.svelte,
MOST_CODES, MOST_ALIKE = 512, 128  # and at the most
REACH = {"biases": 48, "turned": 64}  # how far Biases.svelte and Turned.svelte beside it look


def questions(session: Session, held: Pass) -> Iterator[Question]:
    """What is asked about one pass, the most important first."""
    yield from _of_session(session, held)
    yield from _of_pass(held)
    yield from _of_models(held)
    yield _ask(f"/api/models/{quote(held.explored.key)}/doctor", identity=held.identity, level="quick")
    yield from _of_writing(session, held)
    yield from _of_places(held)
    yield from islice(_of_numbers(held), EXPLAINED)
    yield from _of_presets()


def asked(session: Session, text: str, target: str | None, model: str = MAIN) -> dict[str, Any]:
    """The body with which the page has a text read."""
    return {"model": model, "text": text, **({} if target is None else {"target": target})}


def compared(a: Pass, b: Pass) -> Iterator[Question]:
    """What is asked about two passes side by side."""
    yield _ask(f"/api/passes/{a.id}/partings", other=b.id)
    for held in (a, b):
        for name in held.tape.entries:
            yield _ask(f"/api/passes/{held.id}/statistics", name=name)
        for position in range(_length(held) if _answers(held) else 0):
            yield _ask(f"/api/passes/{held.id}/answers", position=position, top=200)


def _ask(path: str, **parameters: Any) -> Question:
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()}
    return (f"{path}?{urlencode(plain, doseq=True)}" if plain else path), None


def _of_session(session: Session, held: Pass) -> Iterator[Question]:
    yield _ask("/api/session")
    for key in session.models:
        yield _ask(f"/api/models/{quote(key)}")
    yield _ask("/api/training")
    yield _ask("/api/size/presets")
    yield _ask("/api/size", target=MAIN, dtype="bfloat16", machine="h100")


def _of_pass(held: Pass) -> Iterator[Question]:
    path, about = f"/api/passes/{held.id}", held.explored.description
    yield _ask(path)
    for name in ("heads", "masks", "norms", "streams"):
        yield _ask(f"{path}/{name}")
    for tower, sites in _sites(held).items():
        for kind in ("self", "cross"):
            if own := [site for site in sites if site.endswith(f"{kind}_attention")]:
                yield _ask(f"{path}/atlas", sites=own)
        for of in ("states", "written"):
            yield _ask(f"{path}/streams/rms", tower=tower, of=of)
    for name in held.tape.entries:
        yield _ask(f"{path}/statistics", name=name)
    if not _answers(held):
        return
    yield _ask(f"{path}/answers", position=-1, top=3)
    length = _length(held)
    for start, stop in windows(length):
        yield _ask(f"{path}/lens", start=start, stop=stop, top=3)
    more = {"masked": (3, 100), "classification": (100,), "token_classification": (100,)}.get(about["head"], ())
    for position in range(length):
        for top in (8, 10, 20, *more):
            yield _ask(f"{path}/answers", position=position, top=top)
        yield _ask(f"{path}/contributions", position=position)


def windows(length: int) -> list[tuple[int, int]]:
    """The tables of the logit lens that are asked for as somebody goes through a text: from, to."""
    starts = (max(0, min(place // STEP * STEP - STEP // 2, length - LENS)) for place in range(length))
    return [(start, min(length, start + LENS)) for start in dict.fromkeys(starts)]


def _of_models(held: Pass) -> Iterator[Question]:
    """Tokens and positions."""
    path = f"/api/models/{held.explored.key}"
    for nth, (tower, ids) in enumerate(_read(held).items()):
        of_tokens = nth > 0 or held.reading.seen is None
        if of_tokens:
            yield _ask(f"{path}/tokens", tower=tower, ids=",".join(map(str, ids)))
            yield _ask(f"{path}/norms", tower=tower)
        yield _ask(f"{path}/positions", tower=tower)
        yield from _of_positions(held, tower, len(ids))
        for token in dict.fromkeys(ids if of_tokens else ()):
            for centred in (False, True):
                yield _ask(f"{path}/nearest", token=token, tower=tower, centred=centred)


def _of_positions(held: Pass, tower: str, length: int) -> Iterator[Question]:
    """How a tower is told where a token stands."""
    path, told = f"/api/models/{held.explored.key}/positions", _tower(held, tower)["positions"]
    match told["kind"]:
        case "sinusoidal" | "learned":
            most = min(told.get("max_length", MOST_CODES), max(CODES, length))
            for size in dict.fromkeys((length, most)):
                yield _ask(f"{path}/codes", length=size, tower=tower, alike=False)
            yield _ask(f"{path}/codes", length=min(most, MOST_ALIKE), tower=tower, alike=True)
        case "alibi" | "relative_bias":
            yield _ask(f"{path}/biases", reach=REACH["biases"], tower=tower)
        case "rotary":
            yield from islice(_turned(held, tower), 1)


def _turned(held: Pass, tower: str) -> Iterator[Question]:
    """The last query and the first key of each head, where they are turned by their positions."""
    if _tower(held, tower)["positions"]["kind"] != "rotary":
        return
    for site in _sites(held)[tower]:
        _, heads, queries, _ = held.tape.entry(f"{site}.weights").shape
        for head in range(heads if site.endswith(".self_attention") else 0):
            place = {"head": head, "query": queries - 1, "key": 0, "reach": REACH["turned"]}
            yield _ask(f"/api/passes/{held.id}/turned", site=site, **place)


def _of_writing(session: Session, held: Pass) -> Iterator[Question]:
    """The model's own continuation, token by token, each the likeliest."""
    about, loaded = held.explored.description, held.explored.loaded
    if about["head"] != "language" or about["family"] == "encoder" or held.reading.seen is not None:
        return
    text, written = held.asked.text, list[int]()
    ends, layers = loaded.tokenizer.target.ends, about["towers"][-1]["layers"]
    yield "/api/writing/continue", {"model": held.explored.key, "text": text, "edits": [], "max_new_tokens": 24}
    while len(written) < WRITTEN:
        yield "/api/writing", {"model": held.explored.key, "text": text, "written": list(written)}
        draft = session.drafts.draft(held.explored, text, tuple(written))
        yield _ask(f"/api/writing/{draft.id}/logits")
        for layer in range(layers):
            for what in ("keys", "values"):
                yield _ask(f"/api/writing/{draft.id}/cache", layer=layer, what=what)
        given = {"writes": draft.ids} if draft.prompt.source is not None else {}
        reads = draft.ids if draft.prompt.source is None else draft.prompt.source[0].tolist()
        yield "/api/passes", {"model": held.explored.key, "text": "", "ids": {"reads": reads, **given}}
        if draft.left < 1 or (written and written[-1] in ends):
            return
        written.append(int(draft.logits.argmax()))


def _of_places(held: Pass) -> Iterator[Question]:
    """Every place in turn, as far as there is room."""
    path = f"/api/passes/{held.id}"
    entries = held.tape.entries
    for name, entry in entries.items():
        if isinstance(entry.operation, Norm) and len(entry.shape) == 3:
            for position in range(entry.shape[1]):
                for what in ("norm", "norm/vectors"):
                    yield _ask(f"{path}/{what}", name=name, at=f"0,{position}")
    for sites in _sites(held).values():
        for site in sites:
            _, heads, queries, _ = entries[f"{site}.weights"].shape
            for query in range(queries):
                for head in range(heads):
                    yield _ask(f"{path}/scores", site=site, head=head, query=query)
    for layer in feed_forward_layers(held.explored.loaded.model):
        for position in range(entries[layer.hidden].shape[1]):
            for by in ("activation", "written"):
                yield _ask(f"{path}/units", site=layer.site, position=position, by=by, top=UNITS)
            active = held.value(layer.hidden)[0, position].sort(descending=True, stable=True).indices
            for unit in active[:UNITS].tolist():
                yield _ask(f"{path}/unit", site=layer.site, unit=unit, position=position)
    if _answers(held):
        states = [name for name in entries if name.endswith(("residual_pre", "residual_post"))]
        states = [name for name in states if not name.startswith("encoder.")]
        for state in states:
            for position in range(_length(held)):
                yield _ask(f"{path}/lens/cell", state=state, position=position, top=20)
    for tower in _sites(held):
        yield from _turned(held, tower)


def _of_numbers(held: Pass) -> Iterator[Question]:
    """How the likeliest answers' scores and the weights of attention came about."""
    if _answers(held):
        logits = held.value("logits")
        for place in product(*(range(size) for size in logits.shape[:-1])):
            for token in logits[place].topk(min(8, logits.size(-1))).indices.tolist():
                yield _explained(held, "logits", (*place, token))
    for sites in reversed(_sites(held).values()):  # what writes before what reads
        for name in (f"{site}.weights" for site in sites):
            for place in product(*(range(size) for size in held.tape.entry(name).shape)):
                yield _explained(held, name, place)


def _explained(held: Pass, name: str, index: tuple[int, ...]) -> Question:
    return _ask(f"/api/passes/{held.id}/explain", name=name, index=",".join(map(str, index)))


def _of_presets() -> Iterator[Question]:
    for name in PRESETS:
        yield _ask("/api/size", target=name, dtype="bfloat16", machine="h100")


def _sites(held: Pass) -> dict[str, list[str]]:
    """The attentions of each tower."""
    return {tower["prefix"]: tower["sites"] for tower in held.explored.description["towers"]}


def _tower(held: Pass, prefix: str) -> dict[str, Any]:
    """What is known of a tower."""
    towers: list[dict[str, Any]] = held.explored.description["towers"]
    return next(one for one in towers if one["prefix"] == prefix)


def _read(held: Pass) -> dict[str, list[int]]:
    """The tokens that each tower reads."""
    prefixes = [tower["prefix"] for tower in held.explored.description["towers"]]
    return dict(zip(prefixes, held.reading.ids, strict=False))


def _length(held: Pass) -> int:
    """Positions that there are answers at."""
    shape = held.tape.entry("logits").shape
    return shape[1] if len(shape) == 3 else 1


def _answers(held: Pass) -> bool:
    """Whether the model answers with tokens or labels, not with a vector."""
    return held.explored.description["head"] != "embedding"
