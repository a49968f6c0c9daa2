"""A request to the admin interface and its answer, as values; no socket in sight."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

TEXT = "text/plain; charset=UTF-8"
JSON = "application/json"
HTML = "text/html; charset=UTF-8"

MAX_QUERY_FIELDS = 100
MAX_REGEX_CHARS = 256

SLICE = 200
"""How many clusters are read or written between two turns of the event loop."""

JSON_SLICE = 20


class Refusal(Exception):
    """A request that gets an error: its status and the text for people."""

    def __init__(self, status: int, text: str, *, allow: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.allow = allow


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, method: str, target: str) -> Request:
        """From an origin-form target. Raises :class:`Refusal` (400) for any other form and for too long a query."""
        if not target.startswith("/") or target.startswith("//"):
            raise Refusal(400, "only a path may be asked for\n")
        parts = urlsplit(target)
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise Refusal(400, "the query has too many fields\n") from error
        return cls(method, unquote(parts.path), dict(pairs))

    def flag(self, name: str) -> bool:
        """As Envoy has it: present is true, whatever it says."""
        return name in self.query

    def pattern(self) -> re.Pattern[str] | None:
        """``filter=``. Python's engine is not linear as RE2 is: the length is bounded, and it only ever runs over
        names. Raises :class:`Refusal` (400).
        """
        text = self.query.get("filter", "")
        if not text:
            return None
        if len(text) > MAX_REGEX_CHARS:
            raise Refusal(400, f"the filter has more than {MAX_REGEX_CHARS} characters\n")
        try:
            return re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise Refusal(400, f"Invalid regex: {error}\n") from error


@dataclass(frozen=True, slots=True)
class Response:
    """``body`` is whole, or comes in pieces; then the pieces are sent as they come."""

    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = TEXT
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def text(body: str, status: int = 200) -> Response:
    return Response(body.encode(), TEXT, status)


def json_response(value: object) -> Response:
    """As Envoy prints it: one space of indentation."""
    return Response(json.dumps(value, indent=1).encode() + b"\n", JSON)


async def json_objects(entries: Iterable[object], depth: int) -> AsyncGenerator[bytes, None]:
    """The inside of a JSON array, indented by ``depth``; a few entries at a time, for ``json`` indents slowly."""
    margin = " " * depth
    separator = margin
    for number, entry in enumerate(entries, start=1):
        # No string in JSON holds a bare newline: whatever there is belongs to the layout.
        printed = json.dumps(entry, indent=1).replace("\n", f"\n{margin}")
        yield f"{separator}{printed}".encode()
        separator = f",\n{margin}"
        if number % JSON_SLICE == 0:
            await asyncio.sleep(0)
