"""Guarantee: a side that is slow holds up its own exchange, in bounded memory, and no other."""

from __future__ import annotations

import threading

from config.plan import Access
from proxy.http.h1_downstream import Http1Downstream
from tests.kit import payload
from tests.kit.client import Upload
from tests.kit.origins import Conversation, Origin, always, ok
from tests.kit.poll import holds
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig
from tests.proxy.rig import LoopThread, Rig

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
MAX_BUFFERED = 2 * payload.MIB


def buffered(rig: Rig) -> int:
    """What waits in the write buffers of the proxy."""
    sides = [*rig.listener.connections, *rig.cluster.connections]
    return sum(side.transport.get_write_buffer_size() for side in sides)  # type: ignore[union-attr]


def is_congested(rig: Rig) -> bool:
    """Whether a client does not take what is written."""
    return any(isinstance(one, Http1Downstream) and one.congested for one in rig.listener.connections)


def test_a_client_that_does_not_read(loop: LoopThread) -> None:
    size = 64 * payload.MIB
    block = b"x" * payload.MIB

    def script(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(64):
            one.send(block)

    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        loop.until(lambda: is_congested(rig), "the client to be slow")
        holds(lambda: loop.look(lambda: buffered(rig)) < MAX_BUFFERED, "bounded", for_s=0.3)
        assert wire.response().length == size


def test_an_origin_that_does_not_read(loop: LoopThread) -> None:
    gate = threading.Event()
    size = 64 * payload.MIB

    def script(one: Conversation) -> None:
        assert gate.wait(20)
        request = one.request()
        assert request is not None
        one.send(ok(b"%d" % request.length))

    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        body = [b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size, *[b"x" * payload.MIB] * 64]
        upload = threading.Thread(target=lambda: [wire.send(block) for block in body])
        upload.start()
        loop.until(lambda: rig.cluster.byte_totals()[1] > 0, "the request to go out")
        holds(lambda: loop.look(lambda: buffered(rig)) < MAX_BUFFERED, "bounded", for_s=0.5)
        assert upload.is_alive()
        gate.set()
        assert wire.response().body == b"%d" % size
        upload.join()


def test_a_slow_client_leaves_no_connection_behind_that_nobody_reads(loop: LoopThread) -> None:
    """Its response waits here whole, and the origin's connection serves the next client at once."""
    with Origin(always(ok(b"x" * 600_000))) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as slow:
        for _ in range(40):
            slow.send(GET)
        loop.until(lambda: is_congested(rig), "the client to be slow")
        for _ in range(20):
            with Wire(rig.port) as other:
                assert other.get().length == 600_000
        assert {slow.response().length for _ in range(40)} == {600_000}


def test_pipelined_responses_do_not_pile_up(one_loop: LoopThread) -> None:
    with Origin(always(ok(b"x" * 100_000))) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET * 2000)
        one_loop.until(lambda: is_congested(rig), "the client to be slow")
        holds(lambda: one_loop.look(lambda: buffered(rig)) < MAX_BUFFERED, "bounded", for_s=0.3)
        assert len(origin.requests) < 500
        for _ in range(2000):
            assert wire.response().length == 100_000


def test_answers_of_our_own_do_not_pile_up_either(one_loop: LoopThread) -> None:
    with HttpRig(one_loop, [], access=Access.FORBID) as rig, Wire(rig.port) as wire:
        upload = Upload(wire.sock, [GET * 1_000_000])
        one_loop.until(lambda: is_congested(rig), "the client to be slow")
        holds(lambda: one_loop.look(lambda: buffered(rig)) < MAX_BUFFERED, "bounded", for_s=0.3)
        assert upload.is_alive()
        for _ in range(1000):
            assert wire.response().status == 403
