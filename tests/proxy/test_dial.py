"""Guarantee: an attempt ends within its deadline, leaves nothing open when it fails, and says why in a verdict."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from ssl import TLSVersion

import pytest

import tls.context
from config.plan import ClusterPlan
from proxy.balance import Endpoint
from proxy.dial import Dialer, _Deadline
from proxy.dialled import Dialled
from tests.kit import peers
from tests.kit.ca import Authority
from tests.kit.peers import Peer
from tests.proxy.rig import SERVER, LoopThread, cluster_plan, trusting, utc_now
from tls.handshake import Established, Refused
from tls.policy import Origination

STRANGER = Authority.root("Stranger Root")


class Catcher(Dialled):
    """What is dialled for: takes the connection, and closes it when told."""

    def __init__(self) -> None:
        self.connected = False
        self.abandoned = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not self.abandoned
        self.connected = True
        self.transport = transport  # type: ignore[assignment]

    def abandon(self) -> None:
        self.abandoned = True


def endpoint_of(peer: Peer) -> Endpoint:
    where = peer.endpoint
    if "port" not in where:
        return Endpoint(where["address"].removeprefix("unix://"), None, False)
    return Endpoint((where["address"], where["port"]), where["address"], False)


def plan(tls_policy: Origination | None = None, timeout_s: float = 5.0) -> ClusterPlan:
    return cluster_plan([], tls=tls_policy, connect_timeout_s=timeout_s)


async def dial(endpoint: Endpoint, to: ClusterPlan, dialer: Dialer | None = None) -> tuple[Established | None, Catcher]:
    """Open, then close in order."""
    catcher = Catcher()
    established = await (dialer or Dialer(utc_now)).open(endpoint, to, catcher)
    assert catcher.transport is not None
    catcher.transport.close()
    await asyncio.sleep(0.01)
    return established, catcher


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port whose queue is full and never emptied: a SYN gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


# Where to


@pytest.mark.parametrize("where", ["127.0.0.1", "::1", "a path", "an abstract name"])
def test_every_kind_of_address(loop: LoopThread, where: str, tmp_path: Path) -> None:
    at = {"a path": str(tmp_path / "s"), "an abstract name": f"@koguma-test-dial-{os.getpid()}"}.get(where, where)
    with Peer(peers.discard, at=at) as peer:
        established, catcher = loop.run(dial(endpoint_of(peer), plan()))
        assert established is None
        assert catcher.connected
        assert peer.wait_for_ending() == "eof"


def test_keep_alive_is_on(loop: LoopThread) -> None:
    async def scenario(peer: Peer) -> int:
        catcher = Catcher()
        await Dialer(utc_now).open(endpoint_of(peer), plan(), catcher)
        assert catcher.transport is not None
        sock = catcher.transport.get_extra_info("socket")
        value: int = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        catcher.transport.close()
        return value

    with Peer(peers.discard) as peer:
        assert loop.run(scenario(peer)) == 1


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("127.0.0.1", 1), ConnectionRefusedError),
        ("a path", FileNotFoundError),
        ("@koguma-nobody", ConnectionRefusedError),
    ],
)
def test_nobody_there(loop: LoopThread, address: tuple[str, int] | str, error: type[OSError], tmp_path: Path) -> None:
    if address == "a path":
        address = str(tmp_path / "nothing")
    with pytest.raises(error):
        loop.run(dial(Endpoint(address, None, False), plan()))


# The deadline


def test_the_deadline_covers_tcp(loop: LoopThread, full_backlog: int) -> None:
    endpoint = Endpoint(("127.0.0.1", full_backlog), "127.0.0.1", False)
    with pytest.raises(TimeoutError, match=r"no connection within 0\.1 s"):
        loop.run(dial(endpoint, plan(timeout_s=0.1)))


def test_the_deadline_covers_the_handshake_and_closes_what_it_gives_up(loop: LoopThread) -> None:
    with Peer(peers.silent) as peer:
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint_of(peer), plan(trusting(), timeout_s=0.1)))
        assert refused.value.verdict.cause == "timed_out"
        assert peer.wait_for_ending(within_s=3) in ("eof", "reset")


def test_a_cancelled_attempt_closes_what_it_had(loop: LoopThread) -> None:
    async def scenario(peer: Peer) -> None:
        task = asyncio.ensure_future(dial(endpoint_of(peer), plan(trusting())))
        while not peer.seen or not peer.seen[0].received_bytes:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Peer(peers.silent) as peer:
        loop.run(scenario(peer))
        assert peer.wait_for_ending(within_s=3) in ("eof", "reset")


def test_the_deadline_spares_a_connection_that_came_in_the_same_moment(one_loop: LoopThread) -> None:
    async def scenario() -> Catcher:
        catcher = Catcher()
        with _Deadline(0.01, catcher):
            catcher.connected = True
            await asyncio.sleep(0.05)
        return catcher

    assert not one_loop.run(scenario()).abandoned


def test_the_deadline_does_not_swallow_a_cancellation_from_outside(one_loop: LoopThread) -> None:
    async def attempt(catcher: Catcher, both: asyncio.Event) -> None:
        with _Deadline(0.01, catcher):
            try:
                await asyncio.sleep(10)
            finally:
                both.set()

    async def scenario() -> None:
        catcher, both = Catcher(), asyncio.Event()
        task = asyncio.ensure_future(attempt(catcher, both))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, task.cancel)  # after the deadline's own timer, in the same moment
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task
        assert catcher.abandoned
        assert both.is_set()

    one_loop.run(scenario())


def test_a_deadline_that_met_another_error_leaves_no_cancellation_behind(one_loop: LoopThread) -> None:
    async def scenario() -> int:
        task = asyncio.current_task()
        assert task is not None

        async def meets_another_error() -> None:
            with _Deadline(0.01, Catcher()):
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    raise ConnectionResetError from None

        with pytest.raises(ConnectionResetError):
            await meets_another_error()
        return task.cancelling()

    assert one_loop.run(scenario()) == 0


# TLS verdicts


@pytest.mark.parametrize(
    ("policy", "causes"),
    [
        (trusting(root=STRANGER), ("untrusted_issuer", "missing_intermediate")),
        (trusting(server_name="other.example.test"), ("san_mismatch",)),
    ],
    ids=["issuer", "name"],
)
def test_a_peer_that_is_not_trusted(loop: LoopThread, policy: Origination, causes: tuple[str, ...]) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        endpoint = endpoint_of(peer)
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint, plan(policy)))
        assert refused.value.verdict.cause in causes
        assert refused.value.verdict.chain, "the chain is there to be shown"
        assert endpoint.explain
        poll_ending = peer.wait_for_ending()
        assert poll_ending != "eof" or peer.seen[0].received_bytes == 0


def test_a_peer_that_does_not_speak_tls(loop: LoopThread) -> None:
    with Peer(peers.plaintext_where_tls_is_expected) as peer:
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint_of(peer), plan(trusting())))
        assert refused.value.verdict.cause == "not_tls"


def test_a_peer_that_closes_in_the_handshake(loop: LoopThread) -> None:
    with Peer(peers.close_after_first_bytes) as peer, pytest.raises((Refused, OSError)):
        loop.run(dial(endpoint_of(peer), plan(trusting())))


def test_a_name_that_cannot_be_sent_is_said_at_once(loop: LoopThread) -> None:
    with Peer(peers.silent) as peer:
        endpoint = Endpoint(("127.0.0.1", peer.port), "a" * 64 + ".example.test", True)
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint, plan(trusting())))
        assert refused.value.verdict.cause == "malformed"
        assert peer.wait_for_ending(within_s=3) in ("eof", "reset")


# Listening for the chain, or not


def test_the_first_success_makes_it_quiet_and_the_next_is_resumed(loop: LoopThread) -> None:
    async def scenario(peer: Peer) -> tuple[Established | None, Established | None]:
        dialer, endpoint = Dialer(utc_now), endpoint_of(peer)
        assert endpoint.explain
        first, _ = await dial(endpoint, plan(POLICY), dialer)
        assert not endpoint.explain
        second, _ = await dial(endpoint, plan(POLICY), dialer)
        return first, second

    POLICY = trusting()
    # Speaks first: the tickets of TLS 1.3 are noticed with the first data.
    with Peer(peers.banner(b"hello"), tls=peers.server_tls(SERVER, maximum=TLSVersion.TLSv1_2)) as peer:
        first, second = loop.run(scenario(peer))
    assert first is not None
    assert second is not None
    assert (first.resumed, second.resumed) == (False, True)
    assert first.chain
    assert first.peer.not_after is not None
    assert first.peer.not_after.tzinfo is UTC


def test_a_trusted_peer_that_goes_bad_is_asked_once_more_for_its_chain(loop: LoopThread) -> None:
    async def scenario(peer: Peer, endpoint: Endpoint) -> None:
        await dial(endpoint, plan(trusting()))

    with Peer(peers.discard, tls=peers.server_tls(SERVER)) as good:
        endpoint = endpoint_of(good)
        loop.run(scenario(good, endpoint))
        port = good.port
    assert not endpoint.explain
    bad = STRANGER.leaf("127.0.0.1")
    with Peer(peers.discard, port=port, tls=peers.server_tls(bad)) as peer:
        with pytest.raises(Refused) as refused:
            loop.run(scenario(peer, endpoint))
        assert len(peer.seen) == 2, "once quietly, once listening"
        assert [facts.sha256 for facts in refused.value.verdict.chain] == [bad.sha256]
        assert endpoint.explain
        with pytest.raises(Refused):
            loop.run(scenario(peer, endpoint))
        assert len(peer.seen) == 3, "it listens by now: once is enough"


def test_a_wrong_name_is_explained_without_asking_again(loop: LoopThread) -> None:
    with Peer(peers.discard, tls=peers.server_tls(SERVER)) as peer:
        endpoint = endpoint_of(peer)
        endpoint.explain = False
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint, plan(trusting(server_name="other.example.test"))))
        assert len(peer.seen) == 1
        assert refused.value.verdict.presented


def test_without_the_hook_the_verdict_goes_without_the_chain(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls.context, "can_observe", lambda: False)
    lonely = Authority.root("Lonely Root")  # no context for it exists yet
    with Peer(peers.discard, tls=peers.server_tls(SERVER)) as peer:
        with pytest.raises(Refused) as refused:
            loop.run(dial(endpoint_of(peer), plan(trusting(root=lonely))))
        assert refused.value.verdict.cause.is_chain_failure
        assert refused.value.verdict.chain == ()


def test_the_session_key_follows_the_policy(one_loop: LoopThread) -> None:
    def scenario() -> tuple[str, str, str]:
        dialer, endpoint = Dialer(utc_now), Endpoint(("127.0.0.1", 443), "127.0.0.1", False)
        first, second = trusting(), trusting(server_name="api.example.test")
        return tuple(dialer._session_key(endpoint, policy) for policy in (first, second, first))  # type: ignore[return-value]

    one, other, again = one_loop.look(scenario)
    assert one == again != other
