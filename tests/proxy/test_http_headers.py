"""Guarantee: heads arrive as a mesh's users expect of Envoy: what belongs to a hop ends here, Host is the endpoint's
name, every request can be found again, and nobody steers the next hop through us.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from proxy.http.headers import (
    CONTROL_HEADERS,
    MAX_RENDERINGS,
    rendered_request,
    rendered_response,
    request_block,
    response_block,
)
from proxy.wire import NONE, RequestHead, ResponseHead
from tests.kit.origins import Origin, always, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig
from tests.proxy.rig import LoopThread, Zone, named


def test_the_bytes_of_a_request(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get("/p?q=%20", "X-B: 2", "x-a:  1 ", "X-B: 3", "x-empty:", "x-request-id: r", "x-forwarded-proto: https")
        assert origin.last.head == (
            b"GET /p?q=%20 HTTP/1.1\r\nhost: app.test\r\nx-b: 2\r\nx-a: 1\r\nx-b: 3\r\nx-empty: \r\n"
            b"x-forwarded-proto: https\r\nx-request-id: r\r\n\r\n"
        )


def test_what_is_added_to_a_request(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(300):
            wire.get()
        ids = {message["x-request-id"] for message in origin.requests}
        assert len(ids) == 300
        for text in ids:
            one = uuid.UUID(text)
            assert (one.version, one.variant, str(one)) == (4, uuid.RFC_4122, text)
        assert origin.last["x-forwarded-proto"] == "http"
        assert "x-forwarded-for" not in origin.last


def test_what_belongs_to_a_hop_ends_here(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get(
            "/", "connection: x-mine, keep-alive", "x-mine: 1", "keep-alive: timeout=5", "proxy-connection: close",
            "te: trailers, gzip", "upgrade: websocket", "trailer: x-t", "proxy-authorization: b",
        )  # fmt: skip
        fields = dict(origin.last.fields)
        assert not {"connection", "x-mine", "keep-alive", "proxy-connection", "upgrade"} & fields.keys()
        assert (fields["te"], fields["trailer"], fields["proxy-authorization"]) == ("trailers", "x-t", "b")


@pytest.mark.parametrize("name", sorted(CONTROL_HEADERS | {b"x-forwarded-client-cert"}), ids=bytes.decode)
def test_nobody_steers_the_next_hop(one_loop: LoopThread, name: bytes) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get("/", f"{name.decode().title()}: 1", "x-envoy-foo: passes")
        assert name.decode() not in origin.last
        assert origin.last["x-envoy-foo"] == "passes"


def test_host_is_the_name_of_the_chosen_endpoint(one_loop: LoopThread) -> None:
    zone = Zone()
    with Origin(always(ok())) as origin:
        zone.addresses = {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.1"]}
        endpoints = [named("one.test", origin.port), named("two.test", origin.port)]
        with HttpRig(one_loop, endpoints, zone=zone) as rig, Wire(rig.port) as wire:
            one_loop.until(lambda: len(rig.cluster.balancer) == 2, "two endpoints")
            for _ in range(4):
                wire.get()
            assert [message["host"] for message in origin.requests].count("one.test") == 2
            assert [message["host"] for message in origin.requests].count("two.test") == 2
            assert {message["x-envoy-original-host"] for message in origin.requests} == {"app.test"}


def test_a_host_that_is_the_endpoints_already_is_not_noted(one_loop: LoopThread) -> None:
    zone = Zone()
    zone.addresses = {"app.test": ["127.0.0.1"]}
    with (
        Origin(always(ok())) as origin,
        HttpRig(one_loop, [named("app.test", origin.port)], zone=zone) as rig,
        Wire(rig.port) as wire,
    ):
        wire.get()
        assert "x-envoy-original-host" not in origin.last
        wire.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert (origin.last["host"], "x-envoy-original-host" in origin.last) == ("app.test", False)


@pytest.mark.parametrize("is_unix", [False, True], ids=["ip", "unix"])
def test_an_endpoint_without_a_name_keeps_the_clients_host(one_loop: LoopThread, tmp_path: Path, is_unix: bool) -> None:
    where = str(tmp_path / "s") if is_unix else "127.0.0.1"
    with Origin(always(ok()), at=where) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get()
        assert (origin.last["host"], "x-envoy-original-host" in origin.last) == ("app.test", False)


def test_of_one_head_so_many_forms_are_remembered() -> None:
    """A head is shared by all that send it; what is rendered from it depends on who gets it."""
    request = RequestHead(b"GET", b"app.test", b"/", [], NONE)
    response = ResponseHead(200, [(b"date", b"Sun, 22 Nov 2026 00:00:00 GMT")], 0, 0)
    forms: list[tuple[RequestHead | ResponseHead, Callable[[int], object]]] = [
        (request, lambda n: rendered_request(request, b"h%d.test" % n)),
        (request, lambda n: request_block(request, b"h%d.test" % n, b"http")),
        (response, lambda n: rendered_response(response, n, False, False)),
    ]
    for head, render in forms:
        head.memo = None
        first = render(0)
        assert render(0) is first, "remembered"
        sizes = set()
        for number in range(3 * MAX_RENDERINGS):
            render(number)
            assert isinstance(head.memo, dict)
            sizes.add(len(head.memo))
        assert max(sizes) == MAX_RENDERINGS
    response.memo = {number: None for number in range(MAX_RENDERINGS)}
    response_block(response)
    assert len(response.memo) == 1, "the others made room"


# Responses


def test_the_bytes_of_a_response(one_loop: LoopThread) -> None:
    answer = (
        b"HTTP/1.1 200 Fine\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 00:00:00 GMT\r\nKeep-Alive: timeout=5\r\n"
        b"Connection: keep-alive\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Envoy-Upstream-Service-Time: 99999\r\n"
        b"x-envoy-foo: 1\r\nContent-Length: 2\r\n\r\nhi"
    )
    with Origin(always(answer)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.get()
        assert response.head.startswith(b"HTTP/1.1 200 OK\r\nserver: nginx\r\ndate: Sun, 22 Nov 2026 00:00:00 GMT\r\n")
        assert response.values("set-cookie") == ["a=1", "b=2"]
        assert response["x-envoy-foo"] == "1"
        assert int(response["x-envoy-upstream-service-time"]) < 1000
        assert "keep-alive" not in response
        assert "connection" not in response


def test_a_date_is_added_where_missing(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert parsedate_to_datetime(wire.get()["date"]).tzinfo is not None
        assert "server" not in wire.get()
