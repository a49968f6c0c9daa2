"""Guarantee: a TLS stream delivers exactly what the peer encrypted, whatever else TLS does in between, and names the
first thing that went wrong. In memory: the raw transport is a fake, the peer a real TLS server.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from proxy.dialled import Dialled
from proxy.large_reads import LARGE_READ_BYTES, SMALL_READ_BYTES, SMALL_READS, LargeReads
from proxy.outcome import Outcome
from proxy.tls_stream import MAX_ENCRYPTED_BYTES, MAX_RECORD_BYTES, TlsStream
from tests.kit import client, peers
from tests.kit.ca import Authority
from tests.kit.peers import Peer, Visit
from tests.proxy.rig import ROOT, SERVER, LoopThread, Rig, trusting, utc_now
from tests.tls.duet import HOST, V12, V13, Duet, originate, server_context, shake
from tests.tls.test_tls_renegotiation import RenegotiatingServer, ffi, lib
from tests.tls.test_tls_renegotiation import connect as connect_renegotiating
from tls.handshake import Refused
from tls.sessions import SessionCache
from tls.verdict import Cause

LEAF = ROOT.leaf(HOST)


def arrive(stream: TlsStream, data: bytes) -> None:
    """As an event loop hands what it has read to the protocol that the stream has given it."""
    below = getattr(stream._raw, "protocol", None) or stream
    if isinstance(below, asyncio.BufferedProtocol):
        below.get_buffer(-1)[: len(data)] = data
        below.buffer_updated(len(data))
    else:
        below.data_received(data)


class FakeRaw:
    """The transport below, as far as a stream uses it."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []
        self.reading = True
        self.protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.sent += data

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def take(self) -> bytes:
        sent, self.sent = self.sent, b""
        return sent

    def write_eof(self) -> None:
        assert not self.is_closing(), "write_eof() after close()"
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls

    def get_write_buffer_size(self) -> int:
        return len(self.sent)


class Above(Dialled):
    """The protocol above: records, and keeps its direction open at an end of stream."""

    __slots__ = ("calls", "keep_open", "received")

    def __init__(self) -> None:
        self.received = b""
        self.calls: list[object] = []
        self.keep_open = True

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(exc)

    def abandon(self) -> None:
        self.calls.append("abandoned")


class Talk:
    """A verified stream between :class:`Above` and a server, the bytes carried by hand."""

    def __init__(self, version: ssl.TLSVersion = V13, **more: Any) -> None:
        self.sessions = SessionCache()
        self.duet: Duet = shake(
            originate(ROOT.pem), server_context(LEAF, versions=(version, version), **more), sessions=self.sessions
        )
        self.server = self.duet.server
        self.raw, self.above = FakeRaw(), Above()
        self.stream = TlsStream(self.raw, self.duet.accepted, self.above, utc_now)  # type: ignore[arg-type]

    def server_sends(self, data: bytes) -> None:
        arrive(self.stream, self.server.send(data))

    def server_ends(self) -> bytes:
        """The server's close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.server.sslobj.unwrap()
        return self.server._outgoing.read()


def test_no_more_is_asked_of_openssl_than_a_record() -> None:
    """Python allocates all that is asked for, whatever there is."""
    talk, asked = Talk(), []
    read = talk.stream._read

    def spying(size: int) -> bytes:
        asked.append(size)
        return read(size)

    talk.stream._read = spying  # type: ignore[assignment]
    talk.server_sends(bytes(3 * MAX_RECORD_BYTES))
    assert len(talk.above.received) == 3 * MAX_RECORD_BYTES
    assert max(asked) == MAX_RECORD_BYTES


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_both_ways_and_both_endings(version: ssl.TLSVersion) -> None:
    talk = Talk(version)
    talk.stream.write(b"question")
    talk.server.feed(talk.raw.take())
    assert talk.server.received == b"question"
    talk.stream.write_eof()
    assert talk.raw.calls == ["write_eof"]
    assert talk.raw.sent, "close_notify goes out before the FIN"
    talk.server_sends(b"answer" * 10_000)
    assert talk.above.received == b"answer" * 10_000, "reading goes on after our own end"
    arrive(talk.stream, talk.server_ends())
    assert talk.above.calls == ["eof"]
    assert not talk.raw.is_closing(), "the protocol above keeps its direction"


def test_the_tickets_of_tls_13_are_no_data_and_are_remembered() -> None:
    talk = Talk(V13)
    assert len(talk.sessions) == 0, "the tickets still wait"
    talk.stream.deliver_pending()
    assert talk.above.received == b""
    talk.server_sends(b"hello")
    assert talk.above.received == b"hello"
    talk.stream.connection_lost(None)
    assert len(talk.sessions) > 0


@pytest.mark.parametrize("cut", [1, 4, 5, 100, 16_000])
def test_half_close_in_the_middle_of_a_record_loses_nothing(cut: int) -> None:
    talk = Talk()
    wire = talk.server.send(b"x" * 16_384)
    arrive(talk.stream, wire[:cut])
    talk.stream.write_eof()
    arrive(talk.stream, wire[cut:])
    talk.server_sends(b"y")
    assert talk.above.received == b"x" * 16_384 + b"y"


def test_any_cut_of_the_bytes_gives_the_same_data() -> None:
    talk = Talk()
    wire = talk.server.send(b"one") + talk.server.send(b"two" * 9000)
    for start in range(0, len(wire), 7):
        arrive(talk.stream, wire[start : start + 7])
    assert talk.above.received == b"one" + b"two" * 9000


@pytest.mark.parametrize("cut", [1, 5, 21, 22, 40, 16_000])
def test_a_record_whose_rest_comes_with_another(cut: int) -> None:
    """What is asked of OpenSSL follows from what has just come, which is less than the record has."""
    talk = Talk()
    wire = talk.server.send(b"x" * 16_384) + talk.server.send(b"y")
    first = len(wire) - cut if cut < 1000 else cut
    arrive(talk.stream, wire[:first])
    arrive(talk.stream, wire[first:])
    assert talk.above.received == b"x" * 16_384 + b"y"


def test_large_reads_go_by_a_buffer_and_small_ones_do_not() -> None:
    talk = Talk()
    sent = b""
    for size, is_large in (
        (LARGE_READ_BYTES - 1000, False),
        (LARGE_READ_BYTES, True),
        (SMALL_READ_BYTES, True),
        *[(SMALL_READ_BYTES - 1000, True)] * (SMALL_READS - 1),
        (SMALL_READ_BYTES, True),
        *[(10, True)] * (SMALL_READS - 1),
        (10, False),
        (1_000_000, True),
    ):
        data = (b"%d," % size * size)[:size]
        sent += data
        wire = talk.server.send(data)
        for start in range(0, len(wire), 256 * 1024):
            arrive(talk.stream, wire[start : start + 256 * 1024])
        assert isinstance(talk.raw.protocol, asyncio.BufferedProtocol) is is_large, size
    assert talk.above.received == sent


class Showing(Above):
    """Puts large reads between itself and its transport, as far as that goes, and writes down what it is shown."""

    __slots__ = ("shown",)

    def __init__(self, stream: TlsStream) -> None:
        super().__init__()
        self.shown: list[int] = []
        stream.set_protocol(LargeReads(self, stream))

    def large_read(self, data: memoryview) -> None:
        self.shown.append(len(data))
        self.received += bytes(data)


@pytest.mark.parametrize("sizes", [(5, 3), (200_000, 100_000), (256 * 1024, 256 * 1024, 256 * 1024)])
def test_a_protocol_above_is_shown_what_came_in_one_buffer(sizes: tuple[int, ...]) -> None:
    """Whatever is left of the last record of a read is kept by TLS, and there is room for it in the next."""
    talk = Talk()
    above = Showing(talk.stream)
    data = b"".join(bytes([65 + number]) * size for number, size in enumerate(sizes))
    wire = talk.server.send(data)
    reads = range(0, len(wire), 256 * 1024)
    for start in reads:
        arrive(talk.stream, wire[start : start + 256 * 1024])
    assert above.received == data
    assert len(above.shown) == len(reads)
    talk.server_sends(b"more" * 3)
    arrive(talk.stream, talk.server_ends())
    assert above.received == data + b"more" * 3
    assert above.calls == ["eof"]


def test_a_buffer_that_is_too_small_is_shown_again_and_again() -> None:
    talk = Talk()
    shown: list[bytes] = []
    buffer = bytearray(1000)

    class Narrow(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return buffer

        def buffer_updated(self, nbytes: int) -> None:
            shown.append(bytes(buffer[:nbytes]))

    talk.stream.set_protocol(Narrow())
    talk.server_sends(b"x" * 2500)
    assert shown == [b"x" * 1000, b"x" * 1000, b"x" * 500]


def test_what_stands_below_large_reads_passes_everything_on() -> None:
    talk = Talk()
    talk.server_sends(b"x" * LARGE_READ_BYTES)
    below = talk.raw.protocol
    assert isinstance(below, asyncio.BufferedProtocol)
    below.pause_writing()
    below.resume_writing()
    assert below.eof_received() is True
    below.connection_lost(None)
    assert talk.above.calls == ["pause", "resume", "eof", None]


def test_pieces_of_a_message_are_one_record_and_whole_records_stay() -> None:
    talk = Talk()
    talk.stream.writelines([b"5\r\n", b"hello", b"\r\n"])
    assert records(talk.raw.sent) == 1
    talk.server.feed(talk.raw.take())
    whole = [b"x" * MAX_RECORD_BYTES, b"y" * MAX_RECORD_BYTES, b"z"]
    talk.stream.writelines(whole)
    assert records(talk.raw.sent) == 3
    talk.server.feed(talk.raw.take())
    assert talk.server.received == b"5\r\nhello\r\n" + b"".join(whole)


def test_pieces_of_all_sizes_arrive_in_order_and_go_out_as_they_are_made() -> None:
    talk = Talk()
    writes: list[int] = []
    talk.stream._raw_write = lambda data: (writes.append(len(data)), talk.raw.write(data))[1]  # type: ignore[assignment, func-returns-value]
    pieces = [b"head" * 5, b"a" * MAX_ENCRYPTED_BYTES, b"b" * 10, b"c" * 20_000, b"d" * MAX_ENCRYPTED_BYTES, b"e", b"f"]
    talk.stream.writelines(pieces)
    talk.server.feed(talk.raw.take())
    assert talk.server.received == b"".join(pieces)
    assert len(writes) == 3
    assert max(writes) < MAX_ENCRYPTED_BYTES * 1.1


def records(wire: bytes) -> int:
    count = 0
    while wire:
        wire = wire[5 + int.from_bytes(wire[3:5]) :]
        count += 1
    return count


def test_an_end_without_close_notify_is_an_end() -> None:
    talk = Talk()
    talk.server_sends(b"the last")
    assert talk.stream.eof_received() is True
    assert (talk.above.received, talk.above.calls) == (b"the last", ["eof"])


def test_an_end_that_the_protocol_above_does_not_survive_closes() -> None:
    talk = Talk()
    talk.above.keep_open = False
    arrive(talk.stream, talk.server_ends())
    assert talk.raw.calls == ["close"]


def test_half_close_when_data_and_the_peers_end_already_wait() -> None:
    """A TLS 1.2 server greets and leaves in the flight that ends the handshake; the application ended before."""
    talk = Talk(V12)
    talk.above.keep_open = False
    talk.duet.accepted.incoming.write(talk.server.send(b"hello") + talk.server_ends())
    talk.stream.write_eof()
    assert talk.above.received == b"hello"
    assert talk.above.calls == ["eof"]
    assert talk.raw.calls == ["close"]


# Faults


def test_what_is_broken_is_said_once_and_first_things_stay_first() -> None:
    talk = Talk()
    wire = bytearray(talk.server.send(b"good"))
    wire[-1] ^= 1
    arrive(talk.stream, bytes(wire))
    assert talk.raw.is_closing()
    assert talk.raw.sent, "an alert"
    talk.stream.write(b"more from the application, in the same moment")
    talk.stream.connection_lost(None)
    (failure,) = talk.above.calls
    assert isinstance(failure, ssl.SSLError)
    assert failure.reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")  # OpenSSL 3.0, 3.5
    assert talk.above.received == b""


def test_data_before_a_fatal_record_is_delivered() -> None:
    talk = Talk()
    good = talk.server.send(b"good")
    bad = bytearray(talk.server.send(b"bad"))
    bad[-1] ^= 1
    arrive(talk.stream, good + bytes(bad))
    assert talk.above.received == b"good"
    assert talk.raw.is_closing()


def test_a_session_that_ended_in_a_fault_is_not_remembered() -> None:
    talk = Talk()
    arrive(talk.stream, b"\x17\x03\x03\x00\x20" + b"\0" * 32)
    talk.stream.connection_lost(None)
    assert len(talk.sessions) == 0


# Renegotiation


class ListeningServer(RenegotiatingServer):
    """One that keeps what it reads."""

    received = b""

    def feed(self, data: bytes) -> bytes:
        lib.BIO_write(self._incoming, data, len(data))
        buffer = ffi.new("char[]", 16384)
        while (count := lib.SSL_read(self._ssl, buffer, 16384)) > 0:
            self.received += bytes(ffi.buffer(buffer, count))
        lib.ERR_clear_error()
        return self._take()


class RenegotiatingTalk:
    def __init__(self) -> None:
        self.server = ListeningServer(LEAF)
        established = connect_renegotiating(originate(ROOT.pem, allow_renegotiation=True), self.server)
        self.raw, self.above = FakeRaw(), Above()
        self.stream = TlsStream(self.raw, established, self.above, utc_now)  # type: ignore[arg-type]

    def to_end(self) -> None:
        """Carry bytes until the handshake that is under way is over."""
        for _ in range(6):
            answer = self.server.feed(self.raw.take())
            if not answer:
                return
            arrive(self.stream, answer)


def test_what_is_written_during_a_renegotiation_waits_for_it() -> None:
    talk = RenegotiatingTalk()
    arrive(talk.stream, talk.server.renegotiate())
    for number in range(3):
        talk.stream.write(b"%d" % number)
    assert talk.above.calls == ["pause"], "what waits is bounded"
    talk.to_end()
    assert talk.above.calls[-1] == "resume"
    assert talk.server.received == b"012"
    assert not talk.raw.is_closing()
    arrive(talk.stream, talk.server.send(b"after"))
    assert talk.above.received == b"after"


def test_whole_records_wait_for_a_renegotiation_too() -> None:
    talk = RenegotiatingTalk()
    arrive(talk.stream, talk.server.renegotiate())
    whole = [b"x" * MAX_RECORD_BYTES, b"y" * MAX_RECORD_BYTES]
    talk.stream.writelines(whole)
    talk.stream.writelines([b"z"])
    assert talk.above.calls == ["pause"]
    talk.to_end()
    assert talk.server.received == b"".join(whole) + b"z"


def test_a_half_close_during_a_renegotiation_comes_after_what_waits() -> None:
    talk = RenegotiatingTalk()
    arrive(talk.stream, talk.server.renegotiate())
    talk.stream.write(b"the last words")
    talk.stream.write_eof()
    assert talk.raw.calls == []
    talk.to_end()
    assert talk.raw.calls == ["write_eof"]
    assert talk.server.received == b"the last words"


def test_a_loss_during_a_renegotiation_is_told() -> None:
    talk = RenegotiatingTalk()
    arrive(talk.stream, talk.server.renegotiate())
    talk.stream.connection_lost(ConnectionResetError())
    assert isinstance(talk.above.calls[-1], ConnectionResetError)


def test_a_peer_that_becomes_somebody_else_is_dropped_with_what_it_said() -> None:
    talk = RenegotiatingTalk()
    talk.server.become(ROOT.leaf("somebody.else.test"))
    arrive(talk.stream, talk.server.renegotiate())
    for _ in range(6):
        answer = talk.server.feed(talk.raw.take())
        if not answer or talk.raw.is_closing():
            break
        arrive(talk.stream, answer)
    assert talk.raw.is_closing()
    talk.stream.connection_lost(None)
    failure = talk.above.calls[-1]
    assert isinstance(failure, Refused)
    assert failure.verdict.cause is Cause.SAN_MISMATCH
    assert "somebody.else.test" in str(failure)
    assert "somebody.else.test" in str(failure)
    assert talk.above.received == b""


# With sockets, through a relay


def test_an_end_without_close_notify_reaches_the_application_in_order(loop: LoopThread) -> None:
    def ragged(visit: Visit) -> None:
        visit.send(b"ragged")
        visit.stream.sock.shutdown(1)
        visit.read_to_end()

    with Peer(ragged, tls=peers.server_tls(SERVER)) as peer, Rig(loop, [peer], tls=trusting()) as rig:
        with client.connect(rig.port) as app:
            assert client.read_to_end(app) == b"ragged"
        assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_a_server_that_wants_a_client_certificate_says_so_after_the_handshake(loop: LoopThread) -> None:
    """TLS 1.3: the handshake is over for us before the server has judged."""
    context = peers.server_tls(SERVER, client_ca_pem=Authority.root("Clients").pem)
    with Peer(peers.echo, tls=context) as peer, Rig(loop, [peer], tls=trusting()) as rig:
        with client.connect(rig.port) as app:
            assert client.read_to_end(app) == b""
        assert rig.wait_for_end() == [Outcome.UPSTREAM_TLS_FAILED]
        (endpoint,) = rig.cluster.balancer
        assert endpoint.last_verdict is not None
        assert endpoint.last_verdict.cause == "client_certificate_required"
        assert endpoint.explain, "the next handshake listens"
        assert rig.cluster.stats.ssl_connection_error == 1
        assert rig.cluster.stats.upstream_cx_destroy_remote == 1
