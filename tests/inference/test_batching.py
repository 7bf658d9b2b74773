"""Each request is given what it would be given alone, whatever comes and goes beside it."""

from dataclasses import replace
from random import Random

import pytest
import torch
from families import VOCAB, small
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pellucid.errors import UserError
from pellucid.inference.batching import Finished, ReadError, Request, Scheduler, Wrote
from pellucid.inference.beam import Beams, Power, beam_search
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.rules import FrequencyPenalty, NoRepeat
from pellucid.inference.sampling import GREEDY, Never, Sampling, Temperature, TopK, TopP
from pellucid.inference.writer import Plain

ENDS = (1, 7, 9)
MODELS = {name: small(name) for name in ("decoder", "encoder_decoder")}
SAMPLINGS = [
    GREEDY,
    Sampling((Never((3, 4)), FrequencyPenalty(1.0), NoRepeat(2))),
    Sampling((Temperature(1.5),), seed=1),
    Sampling((Temperature(1.5),), seed=2),
    Sampling((FrequencyPenalty(2.0), TopK(9), TopP(0.9)), seed=3),
]


def some_ids(random):
    return [random.randrange(VOCAB) for _ in range(random.randint(1, 9))]


def some_request(random, family):
    beams = random.choice(
        [
            None,
            None,
            Beams(random.randint(1, 3), penalty=Power(random.choice([1.0, 0.4])), written=random.randint(0, 1)),
        ]
    )
    sampling = random.choice(SAMPLINGS if beams is None else SAMPLINGS[:2])
    source = some_ids(random) if family == "encoder_decoder" else None
    return Request(some_ids(random), random.randint(1, 7), ENDS, source, sampling, beams, random.choice([None, 2]))


def alone(model, request):
    source = None if request.source is None else torch.tensor([request.source])
    prompt = Prompt(torch.tensor([list(request.prompt)]), source=source)
    if request.beams is None:
        (text,) = generate(
            model, prompt, max_new_tokens=request.max_new_tokens, ends=request.ends, sampling=request.sampling
        )
        return text
    (found,) = beam_search(
        model,
        prompt,
        beams=request.beams.width,
        max_new_tokens=request.max_new_tokens,
        ends=request.ends,
        penalty=request.beams.penalty,
        filters=request.sampling.filters,
        written=request.beams.written,
    )
    return [list(hypothesis.tokens) for hypothesis in found]


def given_to(job):
    return job.tokens if job.request.beams is None else [list(h.tokens) for h in job.hypotheses]


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_request_is_given_what_it_is_given_alone(family, seed):
    random = Random(seed)
    model = MODELS[family]
    asked = [some_request(random, family) for _ in range(random.randint(1, 7))]
    scheduler = Scheduler(
        Plain(model),
        max_rows=random.randint(3, 8),
        max_tokens=random.choice([80, 150, 1000]),
        max_prompt_tokens=random.choice([1, 20, 200]),
    )
    jobs, events, cancelled = [], [], set()
    while len(jobs) < len(asked) or scheduler.has_work:
        for request in asked[len(jobs) : len(jobs) + random.randint(0, 3)]:
            jobs.append(scheduler.add(request))
        if jobs and random.random() < 0.2:
            job = random.choice(jobs)
            cancelled |= {job} if not job.is_over else set()
            scheduler.cancel(job)
        events += scheduler.step()
        assert scheduler.rows == sum(len(slot.next) for slot in scheduler._slots) <= scheduler.max_rows
        assert scheduler.tokens <= scheduler.max_tokens
    assert scheduler.rows == 0
    for job in jobs:
        written = [event.token for event in events if isinstance(event, Wrote) and event.job is job]
        over = [event.reason for event in events if isinstance(event, Finished) and event.job is job]
        assert job.is_over
        if job in cancelled:
            assert job.is_cancelled
            assert over == []
            assert job.request.beams or given_to(job) == alone(model, job.request)[: len(job.tokens)]
            continue
        assert given_to(job) == alone(model, job.request)
        assert written == job.tokens
        assert over == [job.reason]
        if job.request.beams is None:
            assert job.reason == ("length" if len(job.tokens) == job.limit else "end")


def test_requests_are_begun_in_the_order_of_their_arrival():
    scheduler = Scheduler(Plain(MODELS["decoder"]), max_rows=2)
    wide, narrow = Request([3], 3, beams=Beams(2)), Request([4], 3)
    first, second, third = (scheduler.add(request) for request in (narrow, wide, narrow))
    scheduler.step()
    assert scheduler.running == [first]  # the search does not fit beside it, and nobody overtakes
    while second.reason is None:
        assert third not in scheduler.running
        scheduler.step()
    assert first.reason == "length"


def test_a_cancelled_row_leaves_before_the_next_step():
    scheduler = Scheduler(Plain(MODELS["decoder"]))
    jobs = [scheduler.add(Request([token], 9)) for token in (3, 4, 5)]
    scheduler.step()
    scheduler.cancel(jobs[1])
    assert scheduler.rows == 3
    assert {event.job for event in scheduler.step()} == {jobs[0], jobs[2]}
    assert scheduler.rows == 2
    assert scheduler.clear() == [jobs[0], jobs[2]]
    assert scheduler.rows == 0
    assert not scheduler.has_work


def test_log_probabilities_are_those_of_the_model():
    model = MODELS["decoder"]
    request = Request([3, 5], 4, sampling=Sampling((Temperature(2.0),), seed=5), logprobs=2)
    scheduler = Scheduler(Plain(model))
    scheduler.add(Request([6], 9))
    job = scheduler.add(request)
    told = []
    while scheduler.has_work:
        told += [event.likelihood for event in scheduler.step() if isinstance(event, Wrote) and event.job is job]
    whole = torch.tensor([[*request.prompt, *job.tokens]])
    with torch.inference_mode():
        scores = model(whole)[0, 1:-1].log_softmax(dim=-1)
    for row, token, likelihood in zip(scores, job.tokens, told, strict=True):
        assert likelihood.logprob == pytest.approx(row[token].item(), abs=1e-5)
        best = row.topk(2)
        assert [token for token, _ in likelihood.best] == best.indices.tolist()
        assert [value for _, value in likelihood.best] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_no_more_is_written_than_there_are_positions():
    from pellucid.config import parts

    model = small("decoder", positions=parts.Learned(max_length=8))
    (job,) = Scheduler(Plain(model)).run([Request([3] * 6, 99)])
    assert (len(job.tokens), job.reason) == (3, "length")  # the last is never fed back
    with pytest.raises(UserError, match="9 tokens; expected at most 8"):
        Scheduler(Plain(model)).add(Request([3] * 9, 1))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 3), "no tokens"),
        (Request([3], 0), "1 or more"),
        (Request([3], 30), "at most 20"),
        (Request([3], 2, beams=Beams(5)), "at most 4"),
        (Request([3], 2, sampling=SAMPLINGS[2], beams=Beams(2)), "drawing goes with one"),
    ],
)
def test_what_can_never_be_begun_is_refused(request_, message):
    with pytest.raises(UserError, match=message):
        Scheduler(Plain(MODELS["decoder"]), max_rows=4, max_tokens=20).add(request_)


def test_rooms_are_rectangles():
    scheduler = Scheduler(Plain(MODELS["decoder"]), max_tokens=40)
    short, long = Request([3], 4), Request([3], 14)
    jobs = [scheduler.add(request) for request in (short, short, long, short)]
    scheduler.step()
    assert scheduler.running == jobs[:2]  # three rows of 15 would be 45
    assert scheduler.tokens == 10


def test_a_stop_ends_a_text_and_a_search():
    for beams in (None, Beams(2)):
        request = Request([3, 5], 9, beams=beams)
        (whole,) = Scheduler(Plain(MODELS["decoder"])).run([request])
        at = whole.tokens[2]
        (cut,) = Scheduler(Plain(MODELS["decoder"])).run([replace(request, stops=lambda text: text[-1] == at)])  # noqa: B023
        assert at not in cut.tokens[:-1]
        if beams is None:
            assert cut.tokens == whole.tokens[: whole.tokens.index(at) + 1]
            assert cut.reason == "stop"


def test_rules_that_leave_nothing_end_a_text():
    request = Request([3], 9, sampling=Sampling((Never(tuple(range(VOCAB))),)))
    stuck, other = Scheduler(Plain(MODELS["decoder"])).run([request, Request([3], 4)])
    assert (stuck.tokens, stuck.reason) == ([], "stuck")
    assert len(other.tokens) == 4


def test_what_cannot_be_read_is_lost_alone():
    writer = Plain(MODELS["decoder"])
    scheduler = Scheduler(writer)
    first = scheduler.add(Request([3], 9))
    scheduler.step()
    prefill, writer.prefill = writer.prefill, lambda *given: 1 / 0
    second = scheduler.add(Request([4], 9))
    with pytest.raises(ReadError) as lost:
        scheduler.step()
    writer.prefill = prefill
    assert lost.value.jobs == [second]
    assert second.is_cancelled
    scheduler.run([])
    assert first.reason == "length"
    assert first.tokens == alone(MODELS["decoder"], first.request)
