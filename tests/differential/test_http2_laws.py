"""The law that holds the HTTP/2 engine: one frame script, given to our engine and to the h2 package in the same role,
brings about the same. The same is heard of each stream, and what is wrong is answered with the same code for the same
scope, stream or connection; after every step both would send the same amount on each stream. What differs is in
``h2_divergences.py``; a script ends there, since the two are in different states from then on.
"""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.differential.depth import laws
from tests.differential.h2_divergences import DIVERGENCES, Divergence
from tests.differential.h2_pairs import Pair, Step, plain
from tests.wire.h2.h2_rig import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GET,
    GOAWAY,
    OK,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    goaway,
    raw,
    rst_stream,
    settings,
    window_update,
)

ids = st.sampled_from([1, 1, 3, 3, 5, 5, 7, 2, 0])
EXTRA = [
    (b"x-a", b"b"), (b"cookie", b"a=1"), (b"te", b"trailers"), (b"content-length", b"5"), (b"content-length", b"0"),
    (b"host", b"a.test"), (b"host", b"other"), (b"connection", b"close"), (b"upgrade", b"x"), (b"te", b"gzip"),
    (b"Upper", b"a"), (b"", b"a"), (b"a", b"b\n"), (b"a", b" b"), (b"a", b"\x01"), (b":late", b"x"), (b":path", b"/"),
    (b":status", b"200"), (b"content-length", b"x"),
]  # fmt: skip
CONTROL = [
    raw(PING, 0, 0, b"12345678"), raw(PING, 1, 0, b"12345678"), raw(PING, 0, 0, bytes(7)), raw(PING, 0, 1, bytes(8)),
    settings(), settings({1: 0}), settings({2: 2}), settings({4: 1 << 31}), settings({5: 100}), settings({3: 100}),
    settings({99: 1}), settings({4: 100}), settings({4: 100_000}), raw(SETTINGS, 1), raw(SETTINGS, 1, 0, bytes(6)),
    raw(SETTINGS, 0, 0, bytes(5)), raw(SETTINGS, 0, 1), raw(0x33, 0, 1, b"x"), raw(GOAWAY, 0, 1, bytes(8)),
    raw(PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82"), raw(CONTINUATION, 4, 1),
]  # fmt: skip


class Script(RuleBasedStateMachine):
    role = "server"
    good = GET

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self.pair = Pair(self.role)
        self.over = False

    @precondition(lambda self: self.over)
    @rule()
    def again(self) -> None:
        self.begin()

    def take(self, step: Step) -> None:
        ours, theirs = self.pair.take(step)
        if ours == theirs:
            self.over = ours.error is not None and ours.error[0] == "connection"
            if not self.over:
                self.compare_windows()
            return
        kind = step[3] if isinstance(step, bytes) else -1
        assert any(divergence.applies(kind, ours, theirs) for divergence in DIVERGENCES), (step, ours, theirs)
        self.over = True

    def compare_windows(self) -> None:
        for stream_id in self.pair.ours.sending():
            assert self.pair.ours.send_window(stream_id) == self.pair.theirs.send_window(stream_id)

    @property
    def ready(self) -> list[int]:
        """Streams on which we may send our head (as a server), or data (as a client)."""
        return self.pair.ours.sending()

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, end=st.booleans())
    def head(self, stream_id: int, end: bool) -> None:
        self.take(plain(stream_id, self.good, end))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, end=st.booleans(), extra=st.sampled_from(EXTRA))
    def other_head(self, stream_id: int, end: bool, extra: tuple[bytes, bytes]) -> None:
        self.take(plain(stream_id, [*self.good, extra], end))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, end=st.sampled_from([True, True, False]))
    def trailers(self, stream_id: int, end: bool) -> None:
        self.take(plain(stream_id, [(b"x-trailer", b"1")], end))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, end=st.sampled_from([0, END_STREAM]), size=st.sampled_from([0, 1, 5, 16_384]))
    def data(self, stream_id: int, end: int, size: int) -> None:
        self.take(raw(DATA, end, stream_id, bytes(size)))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, payload=st.sampled_from([b"\x02ab\0\0", b"\0", b"\x05x", b"\x00abcde"]))
    def padded_data(self, stream_id: int, payload: bytes) -> None:
        self.take(raw(DATA, PADDED, stream_id, payload))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, code=st.sampled_from([0, 7, 8]))
    def rst_stream(self, stream_id: int, code: int) -> None:
        self.take(rst_stream(stream_id, code))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, increment=st.sampled_from([0, 1, 1000, (1 << 31) - 1]))
    def window_update(self, stream_id: int, increment: int) -> None:
        self.take(window_update(stream_id, increment))

    @precondition(lambda self: not self.over)
    @rule(stream_id=ids, payload=st.sampled_from([bytes(5), bytes(4), b"\0\0\0\1\0"]))
    def priority(self, stream_id: int, payload: bytes) -> None:
        self.take(raw(PRIORITY, 0, stream_id, payload))

    @precondition(lambda self: not self.over)
    @rule(frame=st.sampled_from(CONTROL))
    def control(self, frame: bytes) -> None:
        self.take(frame)

    @precondition(lambda self: not self.over)
    @rule(last_id=st.sampled_from([0, 3, 9]))
    def goaway(self, last_id: int) -> None:
        """And nothing behind it: h2's state machine is at its end then."""
        self.take(goaway(last_id))
        self.over = True

    @precondition(lambda self: not self.over and self.ready)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.take(("reset", data.draw(st.sampled_from(self.ready))))


class ServerScript(Script):
    def begin(self) -> None:
        super().begin()
        self.answered: set[int] = set()

    @precondition(lambda self: not self.over and self.ready)
    @rule(data=st.data(), end=st.booleans())
    def respond(self, data: st.DataObject, end: bool) -> None:
        stream_id = data.draw(st.sampled_from(self.ready))
        if stream_id in self.answered:
            self.take(("send", stream_id, end))
        else:
            self.answered.add(stream_id)
            self.take(("respond", stream_id, end))


class ClientScript(Script):
    role = "client"
    good = OK

    def begin(self) -> None:
        super().begin()
        for end in (True, False):
            self.take(("open", end))

    @precondition(lambda self: not self.over)
    @rule(end=st.booleans())
    def open(self, end: bool) -> None:
        self.take(("open", end))

    @precondition(lambda self: not self.over and self.ready)
    @rule(data=st.data(), end=st.booleans())
    def send(self, data: st.DataObject, end: bool) -> None:
        self.take(("send", data.draw(st.sampled_from(self.ready)), end))


def short(examples: int) -> hypothesis_settings:
    return hypothesis_settings(laws(examples), stateful_step_count=20)


TestServer = ServerScript.TestCase
TestServer.settings = short(30)
TestClient = ClientScript.TestCase
TestClient.settings = short(30)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: divergence.name)
def test_the_divergence_is_still_one(divergence: Divergence) -> None:
    pair = Pair(divergence.role)
    *before, last = divergence.example
    for step in before:
        ours, theirs = pair.take(step)
        assert ours == theirs
    assert isinstance(last, bytes)
    ours, theirs = pair.take(last)
    assert ours != theirs
    assert divergence.applies(last[3], ours, theirs)
