"""The HTTP codecs: bytes in, calls out, no I/O and no clock.

This module is the contract between the codecs and whatever speaks through them. A reader is given bytes as they arrive
and calls its *sink* as the message unfolds; what is to be sent is made by plain functions that return bytes. The heads
are neutral: nothing in them belongs to one version of HTTP. What concerned one connection only (``connection`` and
what it names, ``transfer-encoding``, ``content-length``, ``te``, ``upgrade``) has been read, judged and taken out of
``fields``, and lives in the attributes, so that whoever forwards a head cannot forward framing by mistake.

**Heads are shared.** Equal bytes give the *same* head object, on many connections at a time. Nobody may change one, or
the list in ``fields``, after it was made; ``memo`` is the exception: the layer above may keep there what it derived
from the head alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol, TypeVar

Field = tuple[bytes, bytes]
"""A field's name, in lower case, and its value without blanks around it."""

Framing = int
"""How a body ends. From 0 up: after so many bytes. Else one of the three below."""

NONE: Final = -1
"""There is no body, and nothing was said about one."""
CHUNKED: Final = -2
"""A last chunk ends it (HTTP/2: END_STREAM does, and no length was given)."""
UNTIL_CLOSE: Final = -3
"""The end of the connection ends it (responses only)."""


class BadMessage(Exception):
    """The peer broke the protocol; its connection must not be used any more.

    ``status`` is what to answer (for a response that came from upstream: 502), ``code`` is Envoy's response code detail
    where it has one, ``detail`` says what was wrong and never repeats a value.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class NotHttp(BadMessage):
    """The start line names no version of HTTP: whoever sent it may speak another protocol."""


class Leniency(Enum):
    """What an upstream may do although RFC 9112 says otherwise. Each use is to be counted."""

    MISSING_REASON = "missing_reason"
    """A status line that ends after the status, without the blank that RFC 9112 §4 asks for."""


class RequestHead:
    """What a request says before its body. Shared: see the module.

    ``authority``: the target's, else Host; empty where HTTP/1.0 named none. ``path``: with the query, starting with
    ``/``; ``*`` for ``OPTIONS *``. ``expects_continue``: there is a body, and its sender waits for a 100. ``upgrade``:
    what the client would rather speak, as it wrote it. ``te_trailers``: it reads trailers.
    """

    __slots__ = (
        "authority", "body", "expects_continue", "fields", "keep_alive", "memo", "method", "path", "te_trailers",
        "upgrade", "version",
    )  # fmt: skip

    def __init__(
        self,
        method: bytes,
        authority: bytes,
        path: bytes,
        fields: Sequence[Field],
        body: Framing,
        version: tuple[int, int] = (1, 1),
        keep_alive: bool = True,
        expects_continue: bool = False,
        upgrade: bytes | None = None,
        te_trailers: bool = False,
    ) -> None:
        self.method = method
        self.authority = authority
        self.path = path
        self.fields = fields
        self.body = body
        self.version = version
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.upgrade = upgrade
        self.te_trailers = te_trailers
        self.memo: object | None = None


class ResponseHead:
    """What a response says before its body. Shared: see the module.

    ``body`` is what follows this head on this connection. ``declared`` is what the head says of the body that a GET
    would have had: it differs from ``body`` for HEAD and 304 only, and is what to render for the client.
    """

    __slots__ = ("body", "declared", "fields", "keep_alive", "leniency", "memo", "status", "upgrade", "version")

    def __init__(
        self,
        status: int,
        fields: Sequence[Field],
        body: Framing,
        declared: Framing,
        version: tuple[int, int] = (1, 1),
        keep_alive: bool = True,
        upgrade: bytes | None = None,
        leniency: Leniency | None = None,
    ) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.declared = declared
        self.version = version
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.leniency = leniency
        self.memo: object | None = None


HeadT_contra = TypeVar("HeadT_contra", contravariant=True)


class Sink(Protocol[HeadT_contra]):
    """Takes a message: one ``on_head``, any number of ``on_data``, one ``on_end`` (``trailers``: None for none).

    An interim response (1xx) is an ``on_head`` without an ``on_end``; the final one follows.
    """

    def on_head(self, head: HeadT_contra, /) -> None: ...
    def on_data(self, data: bytes, /) -> None: ...
    def on_end(self, trailers: list[Field] | None, /) -> None: ...


RequestSink = Sink[RequestHead]
ResponseSink = Sink[ResponseHead]
