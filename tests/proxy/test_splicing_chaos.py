"""Guarantee: whatever two ends do to a relay, and whenever its directions are taken over and given back, each byte that
arrives is the one that was sent there, an orderly end comes behind the last of them, and a reset is told as a reset. So
it is with responses of HTTP/1.1, whose lengths are kept.

A seed makes scripts of what the ends do: how much they send and take at a time, when they rest, whether and where they
give up. This thread plays all those of relays in rounds, and rests are so many rounds: nothing waits for a clock.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from config.plan import EndpointPlan, UnixTarget
from proxy import splicing
from proxy.outcome import Outcome
from proxy.relay import Downstream, Upstream
from tests.kit import client, payload, poll
from tests.kit.origins import Conversation, Origin, Script
from tests.proxy.http_rig import HttpRig, stats_of, wait_for_endings, wait_until_idle
from tests.proxy.rig import LoopThread, Rig, at

SEEDS = range(12)
CONNECTIONS = 6
LONGEST_BYTES = 4 * payload.MIB
LONGEST_REST = 40
SWEEPS = 0.03
WITHIN_S = 10.0
IDLE_S = 0.0005

STREAM = b"".join(payload.blocks(LONGEST_BYTES + payload.MIB))
APART_BYTES = 4099
"""Each direction sends it from another place on: what belongs to another shows."""


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "MAX_SPLICES", 4)
    monkeypatch.setattr(splicing, "SWEEP_INTERVAL_S", 1000.0)


@dataclass(slots=True)
class Step:
    """So much, and then so many rounds of nothing."""

    size: int
    rest: int


def steps(rng: Random, total: int | None, largest: int) -> Iterator[Step]:
    """``total``: of all of them; ``None`` for ever."""
    while total is None or total > 0:
        size = int(largest ** rng.random()) if rng.random() < 0.3 else rng.randint(largest // 4, largest)
        size = size if total is None else min(size, total)
        yield Step(size, rng.randint(1, LONGEST_REST) if rng.random() < 0.1 else 0)
        total = total if total is None else total - size


class Way:
    """What one end sends and the other takes. ``told``: how the taker has learned that it is over."""

    def __init__(self, rng: Random, number: int, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.total = rng.choice((0, rng.randint(1, payload.MIB), rng.randint(1, LONGEST_BYTES), LONGEST_BYTES))
        self.ends = True
        self.sent = self.taken = 0
        self.is_ended = False  # by its source
        self.told = ""
        self._begin = number * APART_BYTES
        self._sends = steps(rng, self.total, 2 * payload.MIB)
        self._takes = steps(rng, None, payload.MIB)
        self._sending = Step(0, rng.randint(0, LONGEST_REST))
        self._taking = Step(0, rng.choice((0, rng.randint(0, 4 * LONGEST_REST))))

    def __repr__(self) -> str:
        return f"<{self.taken} of {self.sent} of {self.total} taken; ended: {self.is_ended}, told: {self.told!r}>"

    def send(self) -> bool:
        """A step of the source: whether anything was done."""
        step = self._sending
        if self.is_ended:
            return False
        if not step.size:
            if step.rest:
                step.rest -= 1
                return False
            following = next(self._sends, None)
            if following is None:
                if self.ends:
                    self.is_ended = True
                    self.source.shutdown(socket.SHUT_WR)
                return self.ends
            self._sending = step = following
        at = self._begin + self.sent
        try:
            sent = self.source.send(memoryview(STREAM)[at : at + step.size])
        except BlockingIOError:
            return False
        step.size -= sent
        self.sent += sent
        return True

    def take(self) -> bool:
        """A step of the sink."""
        step = self._taking
        if self.told:
            return False
        if not step.size:
            if step.rest:
                step.rest -= 1
                return False
            self._taking = step = next(self._takes)
        try:
            data = self.sink.recv(step.size)
        except BlockingIOError:
            return False
        if not data:
            self.told = "end"
            return True
        at = self._begin + self.taken
        assert data == STREAM[at : at + len(data)], f"other bytes than were sent, from {self.taken} on: {self}"
        self.taken += len(data)
        step.size = max(0, step.size - len(data))
        return True


class Pair:
    """Two ends of a relay. ``quits``: which of them gives up, if any, when as much has been sent and taken: it closes,
    or ``resets``, and then the other does not end by itself, so that there is something to be reset.
    """

    def __init__(self, rng: Random, number: int, app: socket.socket, peer: socket.socket, *, is_tcp: bool) -> None:
        self.ends = {"app": app, "peer": peer}
        up, down = Way(rng, 2 * number, app, peer), Way(rng, 2 * number + 1, peer, app)
        self.ways = {"app": up, "peer": down}  # of what each sends
        self.quits = rng.choice((None, "app", "peer"))
        self.is_tcp = is_tcp
        self.resets = is_tcp and rng.random() < 0.7  # a unix socket has no way to tell of one
        self.is_over = False
        self._quits_at = (0, 0)
        if self.quits is not None:
            own, others = self._seen_from(self.quits)
            own.ends, others.ends = False, not self.resets
            self._quits_at = rng.randint(0, own.total), rng.randint(0, others.total)

    def __repr__(self) -> str:
        how = "" if self.quits is None else f"{self.quits} {'resets' if self.resets else 'closes'}, "
        return f"<{how}up {self.ways['app']}, down {self.ways['peer']}, over: {self.is_over}>"

    def _seen_from(self, end: str) -> tuple[Way, Way]:
        """What it sends, and what it takes."""
        return self.ways[end], self.ways["peer" if end == "app" else "app"]

    def play(self) -> bool:
        """A round: whether anything was done."""
        done = False
        for end in self.ends:
            own, others = self._seen_from(end)
            if end == self.quits and self.is_over:
                continue
            try:
                done |= own.send()
                done |= others.take()
            except OSError as error:
                if error.errno not in client.BROKEN:
                    raise
                own.is_ended = True
                others.told = "reset"
        if self.quits is None:
            self.is_over = all(way.told for way in self.ways.values())
        elif not self.is_over:
            own, others = self._seen_from(self.quits)
            if own.sent >= self._quits_at[0] and others.taken >= self._quits_at[1]:
                end = self.ends[self.quits]
                if self.resets:
                    client.reset(end)
                else:
                    end.close()
                self.is_over = True
        return done

    @property
    def is_done(self) -> bool:
        """Whoever is left has learned how it ended, and has ended."""
        if not self.is_over or self.quits is None:
            return self.is_over
        own, others = self._seen_from(self.quits)
        return bool(own.told) and (others.is_ended or own.told == "reset")

    def check(self, down: Downstream, up: Upstream) -> None:
        """In the end, what the relay has made of it."""
        for way, side in ((self.ways["app"], down), (self.ways["peer"], up)):
            assert way.taken <= side.received <= way.sent, self
            assert side.splice is None
        if self.quits is None:
            assert down.outcome is Outcome.COMPLETED, self
            for way, side in ((self.ways["app"], down), (self.ways["peer"], up)):
                assert way.taken == side.received == way.sent == way.total, self
                assert way.told == "end", self
            return
        was_reset = Outcome.DOWNSTREAM_RESET if self.quits == "app" else Outcome.UPSTREAM_RESET
        if self.resets:
            assert (down.outcome, self.ways[self.quits].told) == (was_reset, "reset"), self
        else:  # a close is a reset as well where something comes for whom nobody is there
            assert down.outcome in (Outcome.COMPLETED, was_reset), self
            if self.ways[self.quits].told == "end" and (self.is_tcp or down.outcome is Outcome.COMPLETED):
                assert self.ways[self.quits].taken == self.ways[self.quits].sent, self


def play(rng: Random, rig: Rig, pairs: list[Pair]) -> None:
    """Until all are done."""
    deadline = time.monotonic() + WITHIN_S

    def sweep() -> None:
        for one in tuple(rig.services.splices.active):
            one.give_way_if_idle()

    while not all(pair.is_done for pair in pairs):
        done = [pair.play() for pair in pairs]
        if rng.random() < SWEEPS:
            rig.loop.look(sweep)
        if not any(done):
            assert time.monotonic() < deadline, f"it hangs: {pairs}"
            select.select([], [], [], IDLE_S)  # the relay and the kernel have something to do


def connect_pairs(rng: Random, rig: Rig, listener: socket.socket, opened: ExitStack, *, is_tcp: bool) -> list[Pair]:
    pairs: list[Pair] = []
    for number in range(CONNECTIONS):
        app = opened.enter_context(client.connect(rig.port))
        peer, _ = listener.accept()
        opened.enter_context(peer)
        for sock in (app, peer):
            sock.setblocking(False)
            if rng.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rng.choice((256 * 1024, payload.MIB)))
        pairs.append(Pair(rng, number, app, peer, is_tcp=is_tcp))
    return pairs


def relays_of(rig: Rig, pairs: list[Pair]) -> list[tuple[Downstream, Upstream]]:
    """In the order of the pairs."""
    ports = [pair.ends["app"].getsockname()[1] for pair in pairs]
    found: dict[int, tuple[Downstream, Upstream]] = {}
    for relay in rig.listener.connections:
        assert isinstance(relay, Downstream)
        peer = relay.transport.get_extra_info("peername")
        assert isinstance(peer, tuple)
        if relay.upstream is not None:
            found[peer[1]] = relay, relay.upstream
    return [found[port] for port in ports] if len(found) == len(ports) else []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_chaos(where: str, seed: int, one_loop: LoopThread, tmp_path: Path) -> None:
    rng = Random(seed)
    with ExitStack() as opened:
        listener = opened.enter_context(
            socket.create_server(("127.0.0.1", 0)) if where == "tcp" else socket.socket(socket.AF_UNIX)
        )
        if where == "tcp":
            target = at("127.0.0.1", listener.getsockname()[1])
        else:
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
            target = EndpointPlan(UnixTarget(str(tmp_path / "socket")))
        listener.settimeout(WITHIN_S)
        rig = opened.enter_context(Rig(one_loop, [target]))
        before = descriptors()
        with ExitStack() as connected:
            pairs = connect_pairs(rng, rig, listener, connected, is_tcp=where == "tcp")
            one_loop.until(lambda: relays_of(rig, pairs), "the relays to be joined")
            relays = one_loop.look(lambda: relays_of(rig, pairs))
            play(rng, rig, pairs)
            rig.wait_for_end(CONNECTIONS)
            for pair, relay in zip(pairs, relays, strict=True):
                pair.check(*relay)
        assert rig.cluster.stats.upstream_cx_spliced_total
        assert not rig.services.splices.active
        assert not rig.listener.connections
        poll.until(lambda: descriptors() <= before, "every descriptor to be closed")


# HTTP


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: ``fate`` says who cuts its response short, if anybody, after ``cut`` bytes of its body."""

    size: int
    fate: str
    cut: int
    version: bytes = b"1.1"
    upload: int = 0

    @property
    def rendered(self) -> bytes:
        method = b"HEAD" if self.fate == "head" else b"POST" if self.upload else b"GET"
        length = b"content-length: %d\r\n" % self.upload if self.upload else b""
        path = b"/%d/%s/%d" % (self.size, self.fate.encode(), self.cut)
        return b"%s %s HTTP/%s\r\nhost: a\r\n%s\r\n%s" % (method, path, self.version, length, bytes(self.upload))


FATES = ("whole", "whole", "whole", "head", "origin-ends", "origin-resets", "client-resets", "client-ends")


def visits(rng: Random) -> list[Asked]:
    """What one client asks for on one connection: pipelined, and the last response may be cut short."""
    asked: list[Asked] = []
    while len(asked) < 4 and rng.random() < 0.8:
        size = rng.choice((rng.randint(0, payload.MIB), rng.randint(1, LONGEST_BYTES), LONGEST_BYTES))
        fate = rng.choice(FATES)
        version = b"1.0" if rng.random() < 0.1 else b"1.1"
        upload = rng.choice((0, 0, 1, 100_000)) if fate == "whole" else 0
        asked.append(Asked(size, fate, rng.randint(0, size), version, upload))
        if fate not in ("whole", "head") or version == b"1.0":
            break
    return asked or [Asked(LONGEST_BYTES, "whole", 0)]


def body(size: int) -> memoryview:
    """Those of two responses begin at places of their own."""
    begin = size % payload.MIB
    return memoryview(STREAM)[begin : begin + size]


def origin_of(seed: int) -> Script:
    def converse(one: Conversation) -> None:
        rng = Random(seed + one.number)
        while (request := one.request()) is not None:
            method, target, _ = request.head.split(b" ", 2)
            _, size, fate, cut = target.split(b"/")
            if rng.random() < 0.3:
                one.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            one.send(b"HTTP/1.1 200 OK\r\ncontent-length: %s\r\n\r\n" % size)
            left = body(int(size))[: int(cut) if fate.startswith(b"origin") else None]
            if method != b"HEAD":
                for step in steps(rng, len(left), payload.MIB):
                    one.send(bytes(left[: step.size]))
                    left = left[step.size :]
            if fate == b"origin-ends":
                return
            if fate == b"origin-resets":
                one.reset()
                return

    return converse


class Asker(threading.Thread):
    """A client, and what it has seen: ``fault`` is what should not be."""

    def __init__(self, port: int, rng: Random, swept: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._rng = rng
        self._swept = swept
        self.asked = visits(rng)
        self.fault: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with client.connect(self._port) as sock:
                self._ask(sock)
        except BaseException as error:
            error.add_note(str(self.asked))
            self.fault = error

    def _ask(self, sock: socket.socket) -> None:
        sock.sendall(b"".join(asked.rendered for asked in self.asked))
        last = self.asked[-1]
        if last.fate == "client-ends":
            sock.shutdown(socket.SHUT_WR)
        for asked in self.asked:
            try:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += client.read_exactly(sock, 1)
                assert b" 200 " in head, head
                assert b"content-length: %d\r\n" % asked.size in head.lower(), head
                if asked.fate != "head":
                    self._take(sock, asked)
            except (EOFError, ConnectionResetError):
                if not asked.fate.startswith("origin"):
                    raise
                return
        if last.fate == "client-resets":
            client.reset(sock)
        elif last.fate == "client-ends" or last.version == b"1.0":
            assert sock.recv(1) == b""

    def _take(self, sock: socket.socket, asked: Asked) -> None:
        """The body, or less if it is the client who gives up. Raises where it ends before, as the origin may end it."""
        taken, sent = 0, body(asked.size)
        last = asked.cut if asked.fate == "client-resets" else asked.size
        while taken < last:
            if self._rng.random() < 0.02:
                self._swept.wait(0.05)
            data = sock.recv(min(self._rng.randint(1, payload.MIB), last - taken))
            if not data:
                assert asked.fate.startswith("origin"), (asked, taken)
                raise EOFError
            assert data == bytes(sent[taken : taken + len(data)]), f"other bytes than were sent, from {taken} on"
            taken += len(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos_of_responses(seed: int, one_loop: LoopThread) -> None:
    rng = Random(seed)
    swept = threading.Event()
    with Origin(origin_of(seed)) as origin, HttpRig(one_loop, [origin]) as rig:
        askers = [Asker(rig.port, Random(rng.random()), swept) for _ in range(2 * CONNECTIONS)]

        def sweep() -> None:
            for one in tuple(rig.services.splices.active):
                one.give_way_if_idle()

        deadline = time.monotonic() + WITHIN_S
        while any(asker.is_alive() for asker in askers):
            assert time.monotonic() < deadline, f"it hangs: {[asker.asked for asker in askers if asker.is_alive()]}"
            one_loop.look(sweep)
            swept.set()
            swept.clear()
            askers[0].join(0.002)
        for asker in askers:
            if asker.fault is not None:
                raise asker.fault
        wait_until_idle(rig)
        wait_for_endings(rig, len(askers))
        assert stats_of(rig).downstream_rq_total == stats_of(rig).downstream_rq_completed
        assert not rig.services.splices.active
        assert rig.cluster.stats.upstream_cx_spliced_total
