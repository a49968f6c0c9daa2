"""Guarantee: where a policy names what decides about an endpoint, requests that have the same go to the same endpoint,
also when many come at once, and to another only while that cannot be reached.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from config.plan import HashPolicyPlan, HashSource, LoadBalancer, Protocol, RetryPlan
from proxy.http.affinity import key_of
from proxy.wire import NONE, RequestHead
from proxy.xxh64 import xxh64
from tests.kit.http2_peers import H2Client, H2Origin, respond
from tests.kit.origins import Conversation, Origin, always, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig, wait_until_idle
from tests.proxy.rig import LoopThread, Rig, at
from tests.proxy.test_cluster import closed_port

USER = HashPolicyPlan(HashSource.HEADER, "X-User")
COOKIE = HashPolicyPlan(HashSource.COOKIE, "sticky", cookie_ttl_s=60.0, cookie_path="/app")
PEER = ("192.0.2.9", 40000)
MASK = (1 << 64) - 1


def head(path: bytes = b"/", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(b"GET", b"app.test", path, fields, NONE)


@pytest.mark.parametrize(
    ("policy", "request_", "hashed"),
    [
        (USER, head(b"/", (b"x-user", b"ann")), b"ann"),
        (USER, head(b"/", (b"x-user", b"b"), (b"x-user", b"a")), b"ab"),
        (USER, head(), None),
        (HashPolicyPlan(HashSource.HEADER, ":path"), head(b"/x?y"), b"/x?y"),
        (HashPolicyPlan(HashSource.HEADER, "Host"), head(), b"app.test"),
        (HashPolicyPlan(HashSource.HEADER, ":method"), head(), b"GET"),
        (HashPolicyPlan(HashSource.COOKIE, "a"), head(b"/", (b"cookie", b"b=2; a=1")), b"1"),
        (HashPolicyPlan(HashSource.COOKIE, "a"), head(b"/", (b"cookie", b"b=2"), (b"cookie", b'a="1"')), b"1"),
        (HashPolicyPlan(HashSource.COOKIE, "a"), head(b"/", (b"cookie", b"aa=2; a=")), None),
        (HashPolicyPlan(HashSource.CONNECTION), head(), b"192.0.2.9"),
        (HashPolicyPlan(HashSource.QUERY_PARAMETER, "q"), head(b"/?p=1&q=2&q=3"), b"2"),
        (HashPolicyPlan(HashSource.QUERY_PARAMETER, "q"), head(b"/q=1"), None),
        (HashPolicyPlan(HashSource.QUERY_PARAMETER, "q"), head(b"/?qq=1"), None),
        (HashPolicyPlan(HashSource.FILTER_STATE, "k"), head(), None),
    ],
)
def test_what_is_hashed(policy: HashPolicyPlan, request_: RequestHead, hashed: bytes | None) -> None:
    assert key_of([policy], request_, PEER) == (None if hashed is None else xxh64(hashed), ())


def test_a_connection_without_an_address_has_no_hash() -> None:
    assert key_of([HashPolicyPlan(HashSource.CONNECTION)], head(), None) == (None, ())


def test_how_hashes_are_combined() -> None:
    query = HashPolicyPlan(HashSource.QUERY_PARAMETER, "q")
    both = head(b"/?q=2", (b"x-user", b"ann"))
    user, parameter = xxh64(b"ann"), xxh64(b"2")
    turned = (user << 1 | user >> 63) & MASK
    assert key_of([USER, query], both, PEER)[0] == turned ^ parameter
    assert key_of([USER, USER], both, PEER)[0] == turned ^ user != 0
    terminal = HashPolicyPlan(HashSource.HEADER, "x-user", terminal=True)
    assert key_of([terminal, query], both, PEER)[0] == user
    assert key_of([terminal, query], head(b"/?q=2"), PEER)[0] == parameter, "it found nothing"


def test_a_cookie_is_made_where_it_is_missing() -> None:
    key, (cookie,) = key_of([COOKIE], head(), PEER)
    value = re.fullmatch(rb'sticky="([0-9a-f]{16})"; Max-Age=60; Path=/app; HttpOnly', cookie)
    assert value is not None
    assert key == xxh64(value[1])
    assert key_of([COOKIE], head(b"/", (b"cookie", b"sticky=" + value[1])), ("192.0.2.1", 1)) == (key, ())
    assert key_of([COOKIE], head(), ("192.0.2.9", 40001))[0] != key, "another client, another cookie"
    (session,) = key_of([HashPolicyPlan(HashSource.COOKIE, "s", cookie_ttl_s=0.0)], head(), PEER)[1]
    assert session.endswith(b'"; HttpOnly')


# Through the proxy


def numbered(stack: ExitStack, count: int) -> list[Origin]:
    return [stack.enter_context(Origin(always(ok(b"%d" % number)))) for number in range(count)]


@pytest.mark.parametrize("kind", [LoadBalancer.RING_HASH, LoadBalancer.MAGLEV])
def test_a_header_decides(one_loop: LoopThread, kind: LoadBalancer) -> None:
    with ExitStack() as stack:
        origins = numbered(stack, 3)
        rig = stack.enter_context(HttpRig(one_loop, origins, load_balancer=kind, hash_policies=(USER,)))
        seen: dict[int, set[bytes]] = {}
        for _ in range(2):
            wire = stack.enter_context(Wire(rig.port))
            for user in range(30):
                seen.setdefault(user, set()).add(wire.get("/", f"x-user: {user}").body)
        assert {len(bodies) for bodies in seen.values()} == {1}
        assert len(set.union(*seen.values())) == 3
        assert len({stack.enter_context(Wire(rig.port)).get().body for _ in range(30)}) == 3, "without it, any"


def test_a_burst_goes_where_it_belongs(one_loop: LoopThread) -> None:
    """Each request waits for a connection to its own endpoint, although others become free before."""
    with ExitStack() as stack:
        origins = numbered(stack, 3)
        more: dict[str, Any] = {"load_balancer": LoadBalancer.RING_HASH, "hash_policies": (USER,)}
        rig = stack.enter_context(HttpRig(one_loop, origins, **more))
        rig.update(max_connections=4)
        wire = stack.enter_context(Wire(rig.port))
        expected = {user: wire.get("/", f"x-user: {user}").body for user in range(40)}
        wires = {user: stack.enter_context(Wire(rig.port)) for user in expected}
        for user, other in wires.items():
            other.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n".encode())
        assert {user: other.response().body for user, other in wires.items()} == expected
        wait_until_idle(rig)
        assert rig.cluster.stats.upstream_rq_pending_active == 0


@pytest.mark.parametrize("count", [1, 20])
def test_who_belongs_to_an_endpoint_that_cannot_be_reached_goes_elsewhere(one_loop: LoopThread, count: int) -> None:
    with ExitStack() as stack:
        (origin,) = numbered(stack, 1)
        dead = [at("127.0.0.1", closed_port()) for _ in range(2)]
        more: dict[str, Any] = {"load_balancer": LoadBalancer.RING_HASH, "hash_policies": (USER,)}
        rig = stack.enter_context(HttpRig(one_loop, [*dead, at("127.0.0.1", origin.port)], **more))
        wires = {user: stack.enter_context(Wire(rig.port)) for user in range(count)}
        for _ in range(2):
            for user, other in wires.items():
                other.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n".encode())
            assert [other.response().body for other in wires.values()] == [b"0"] * count


def test_the_first_connection_to_an_endpoint_is_always_allowed(one_loop: LoopThread) -> None:
    """Else a request would wait for one that nobody dials."""
    with ExitStack() as stack:
        origins = numbered(stack, 3)
        more: dict[str, Any] = {"load_balancer": LoadBalancer.MAGLEV, "hash_policies": (USER,)}
        rig = stack.enter_context(HttpRig(one_loop, origins, **more))
        rig.update(max_connections=1)
        wire = stack.enter_context(Wire(rig.port))
        assert {wire.get("/", f"x-user: {user}").body for user in range(30)} == {b"0", b"1", b"2"}


@pytest.mark.parametrize("is_http2", [False, True])
def test_a_cookie_is_given_and_honoured(one_loop: LoopThread, is_http2: bool) -> None:
    with ExitStack() as stack:
        origins = numbered(stack, 5)
        more: dict[str, Any] = {"load_balancer": LoadBalancer.RING_HASH, "hash_policies": (COOKIE,)}
        rig = stack.enter_context(HttpRig(one_loop, origins, **more))
        if is_http2:
            client = stack.enter_context(H2Client(rig.port))
            answer = client.ask("GET", "/")
            body, cookie = bytes(answer.body), dict(answer.head)["set-cookie"]
        else:
            response = stack.enter_context(Wire(rig.port)).get()
            body, cookie = response.body, response["set-cookie"]
        pair = cookie.partition(";")[0]
        for _ in range(10):
            again = stack.enter_context(Wire(rig.port)).get("/", f"cookie: {pair}")
            assert again.body == body
            assert "set-cookie" not in again


def test_over_http2(one_loop: LoopThread) -> None:
    with ExitStack() as stack:
        origins = [stack.enter_context(H2Origin(respond(body=b"%d" % number))) for number in range(3)]
        more: dict[str, Any] = {"load_balancer": LoadBalancer.MAGLEV, "hash_policies": (USER,)}
        rig = stack.enter_context(Rig(one_loop, origins, protocol=Protocol.HTTP2, **more))
        client = stack.enter_context(H2Client(rig.port))
        first = [bytes(client.ask("GET", "/", ("x-user", str(user))).body) for user in range(20)]
        assert [bytes(client.ask("GET", "/", ("x-user", str(user))).body) for user in range(20)] == first
        assert len(set(first)) == 3


def test_a_retry_goes_to_the_next_and_comes_back(one_loop: LoopThread) -> None:
    with ExitStack() as stack:
        origins = numbered(stack, 3)
        bad = stack.enter_context(Origin(always(ok(b"bad", status="503 x"))))
        retry = RetryPlan(retry_on=frozenset({"5xx"}), back_off_base_s=0.001, back_off_max_s=0.001)
        more: dict[str, Any] = {"load_balancer": LoadBalancer.RING_HASH, "hash_policies": (USER,), "retry": retry}
        rig = stack.enter_context(HttpRig(one_loop, [*origins, bad], **more))
        wire = stack.enter_context(Wire(rig.port))
        first = [wire.get("/", f"x-user: {user}").body for user in range(30)]
        assert b"bad" not in first
        assert [wire.get("/", f"x-user: {user}").body for user in range(30)] == first
        assert len(bad.requests) > 0


def test_a_change_of_the_way_is_in_force_at_once(one_loop: LoopThread) -> None:
    with ExitStack() as stack:
        origins = numbered(stack, 3)
        rig = stack.enter_context(HttpRig(one_loop, origins, hash_policies=(USER,)))
        wire = stack.enter_context(Wire(rig.port))
        turns = Counter(wire.get("/", "x-user: ann").body for _ in range(9))
        assert turns == {b"0": 3, b"1": 3, b"2": 3}
        connections = [origin.connections for origin in origins]
        rig.update(load_balancer=LoadBalancer.MAGLEV)
        assert len({wire.get("/", "x-user: ann").body for _ in range(9)}) == 1
        rig.update(load_balancer=LoadBalancer.ROUND_ROBIN)
        assert len({wire.get("/", "x-user: ann").body for _ in range(3)}) == 3
        assert [origin.connections for origin in origins] == connections, "connections stay"


def test_the_least_busy_endpoint_is_used(one_loop: LoopThread) -> None:
    release = threading.Event()

    def slow(one: Conversation) -> None:
        while one.request() is not None:
            assert release.wait(10)
            one.send(ok(b"slow"))

    with (
        Origin(slow) as busy,
        Origin(always(ok(b"free"))) as free,
        HttpRig(one_loop, [busy, free], load_balancer=LoadBalancer.LEAST_REQUEST, least_request_choices=20) as rig,
    ):
        first = Wire(rig.port)
        with Wire(rig.port) as wire:
            while not busy.requests:
                first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                one_loop.until(lambda: busy.requests or free.requests, "the request to arrive")
                if not busy.requests:
                    first.response()
                    free.requests.clear()
            assert [wire.get().body for _ in range(20)] == [b"free"] * 20
            release.set()
            assert first.response().body == b"slow"
        first.close()
