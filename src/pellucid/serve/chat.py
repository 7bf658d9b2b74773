"""Messages as the text that a model was trained to answer: its own template, in a sandbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, UserError

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"


class ChatTemplate:
    """The template of a published folder.

    Args:
        text: in Jinja, as in ``tokenizer_config.json``.
        names: what the template may call the special tokens, such as ``bos_token``.

    Raises:
        UserError: for a text that is no template.
    """

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        sandbox.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        sandbox.filters["tojson"] = _json
        try:
            self.template = sandbox.from_string(text)
        except TemplateError as error:
            raise UserError("chat template", str(error), "a template in Jinja") from None

    @classmethod
    def of(cls, folder: Path) -> ChatTemplate | None:
        """That of a folder; ``None`` where there is none.

        Raises:
            CheckpointError: for settings that are torn.
        """
        try:
            told = json.loads((folder / SETTINGS).read_text("utf-8")) if (folder / SETTINGS).exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(folder / SETTINGS, f"cannot be read ({error})", "JSON", "copy it again") from None
        own = told.get("chat_template")
        if isinstance(own, list):  # several, by name
            named = {each.get("name"): each.get("template") for each in own if isinstance(each, dict)}
            own = named.get("default")
        if (folder / TEMPLATE).exists():
            own = (folder / TEMPLATE).read_text("utf-8")
        if not isinstance(own, str):
            return None
        names = {}
        for name, value in told.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                names[name] = text
        return cls(own, names)

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation, up to where the answer begins.

        Special tokens come from the template alone: what a message spells out stays text.

        Raises:
            UserError: for messages that the template does not take.
        """
        nonce = f"\ue000{secrets.token_hex(8)}"
        special = [token for i in tokenizer.special_ids if (token := tokenizer.raw.id_to_token(i))]
        marks = {token: f"{nonce}{number}\ue001" for number, token in enumerate(sorted(special, key=len, reverse=True))}
        safe = [_replaced(message, marks) for message in messages]
        try:
            text = self.template.render(messages=safe, add_generation_prompt=True, **self.names)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError("messages", f"the model's template refuses them ({error})") from None
        ids: list[int] = []
        of_mark = {mark.removeprefix(nonce): token for token, mark in marks.items()}
        first, *others = text.split(nonce)
        ids += tokenizer.encode_marked(first) if first else []
        for part in others:
            mark, _, rest = part.partition("\ue001")
            ids += tokenizer.encode(of_mark[mark + "\ue001"])
            ids += tokenizer.encode_marked(rest) if rest else []
        return ids


class _Generation(Extension):
    """``{% generation %}``: what the model itself said, marked for training; here the words between are all of it."""

    tags = {"generation"}  # noqa: RUF012  # declared so by the library

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements up to the end of the mark."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter ``tojson`` with the settings that it has in ``transformers``, for which templates are written."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _replaced(value: Any, marks: Mapping[str, str]) -> Any:
    """The same with special tokens that are spelled out put aside."""
    match value:
        case str():
            for token, mark in marks.items():
                value = value.replace(token, mark)
            return value
        case Mapping():
            return {name: _replaced(part, marks) for name, part in value.items()}
        case list() | tuple():
            return [_replaced(part, marks) for part in value]
        case _:
            return value


def _refuse(message: str) -> None:
    raise TemplateError(message)
