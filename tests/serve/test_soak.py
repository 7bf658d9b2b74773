"""Many clients at once, some of whom leave: nothing is left behind, and everybody is given their own text."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serving import loaded, served

from pellucid.inference import predict
from pellucid.serve.chat import ChatTemplate
from pellucid.serve.limits import Limits

TEMPLATE = ChatTemplate("{% for message in messages %}{{ message.content }}{% endfor %}", {})
PROMPTS = ["the cat", "a", "on the mat a dog sat", "did not", "mat"]


@pytest.mark.slow
def test_nothing_is_left_behind():
    model = loaded("decoder")
    wanted = dict(zip(PROMPTS, predict.complete(model, PROMPTS, max_new_tokens=24), strict=True))
    with served(model) as background:
        with ThreadPoolExecutor(1) as apart:  # this thread may have a loop already, as of a browser
            counts = apart.submit(asyncio.run, _clients(background.url, wanted, seconds=3.0)).result()
        worker = background.service.worker
        until = time.monotonic() + 60
        while (worker.open or worker._tickets or worker.rows) and time.monotonic() < until:
            time.sleep(0.02)
        assert not worker.open
        assert not worker._tickets
        assert worker.rows == 0
        assert not worker.scheduler.has_work
    assert min(counts) >= 1


async def _clients(url, wanted, seconds):
    until = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return await asyncio.gather(*(_client(client, wanted, Random(seed), until) for seed in range(8)))


async def _client(client, wanted, random, until):
    count = 0
    while time.monotonic() < until:
        prompt, length, leaves = random.choice(PROMPTS), random.randint(1, 24), random.random() < 0.2
        body = {"prompt": prompt, "max_tokens": length, "temperature": 0, "stream": True}
        text = ""
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
                    if leaves:
                        break
        assert wanted[prompt].startswith(text)
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder", "encoder"])
def test_whatever_is_sent_nothing_breaks(family):
    """What the OpenAPI description allows, and what it does not, is answered, and never with a fault of ours."""
    import schemathesis
    from schemathesis.checks import not_a_server_error

    limits = Limits(new_tokens=8, prompt_tokens=64, seconds=30)
    with served(loaded(family), template=TEMPLATE, limits=limits) as background:
        schema = schemathesis.openapi.from_url(f"{background.url}openapi.json")
        statuses = set()
        for operation in schema.get_all_operations():
            _try(operation.ok().as_strategy(), not_a_server_error, statuses)
    assert {200, 400, 404} <= statuses


def _try(strategy, check, statuses):
    @settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=strategy)
    def ask(case):
        if isinstance(case.body, dict):
            case.body.pop("model", None)  # a made-up name would be refused before all else
        response = case.call(timeout=60)
        statuses.add(response.status_code)
        case.validate_response(response, checks=[check])

    ask()
