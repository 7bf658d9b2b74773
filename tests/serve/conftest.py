"""A decoder and a server of it, which tests that only ask share."""

import pytest
from serving import loaded, served

from pellucid.serve.chat import ChatTemplate

TEMPLATE = ChatTemplate("{% for message in messages %}{{ message.content }} {% endfor %}", {})


@pytest.fixture(scope="module")
def decoder():
    return loaded("decoder")


@pytest.fixture(scope="module")
def server(decoder):
    with served(decoder, template=TEMPLATE) as background:
        yield background
