"""The admin interface as an HTTP server: what is refused, what is bounded, and how it ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.admin import routes, server
from proxy.admin.context import AdminContext
from proxy.admin.http import Request, Response, text
from proxy.admin.server import AdminServer, is_literal
from proxy.sockets import StartError
from tests.proxy.admin_world import run, world

CHANGING = [path for path, route in routes.ROUTES.items() if route.changes]


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_an_answer_carries_envoys_headers() -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask("/ready")
            assert (reply.status, reply.text) == (200, "LIVE\n")
            assert reply.headers["content-type"] == "text/plain; charset=UTF-8"
            assert reply.headers["cache-control"] == "no-cache, max-age=0"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["server"] == "koguma"
            assert reply.headers["date"].endswith(" GMT")

    run(scenario())


@pytest.mark.parametrize("path", ["/nope", "/ready/nope", "/..", "/READY", "/stats%2fprometheus/x"])
def test_an_unknown_path_gets_404_and_the_help(path: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask(path)
            assert reply.status == 404
            assert reply.text.startswith("invalid path. admin commands are:\n  /: ")
            assert "  /quitquitquit (POST): exit the server\n" in reply.text

    run(scenario())


def test_help_lists_every_path() -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask("/help")
            assert reply.text.startswith("admin commands are:\n")
            listed = [line.split(":")[0].strip().removesuffix(" (POST)") for line in reply.text.splitlines()[1:]]
            assert listed == list(routes.ROUTES)

    run(scenario())


@pytest.mark.parametrize("path", CHANGING)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_changes_something_needs_post(path: str, method: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask(path, method)
            assert (reply.status, reply.headers["allow"]) == (405, "POST")
            assert reply.text == ("" if method == "HEAD" else "Method GET not allowed, POST required.")
            assert here.actions.asked == []

    run(scenario())


def test_other_methods_are_refused() -> None:
    async def scenario() -> None:
        async with world() as here:
            assert (await here.ask("/ready", "DELETE")).status == 405
            assert (await here.ask("/ready", "POST", b"ignored")).text == "LIVE\n"

    run(scenario())


def test_head_has_the_headers_and_no_body() -> None:
    async def scenario() -> None:
        async with world() as here:
            for path in ("/ready", "/stats"):
                reply = await here.ask(path, "HEAD")
                assert (reply.status, reply.body) == (200, b"")
                assert reply.headers["content-type"].startswith("text/plain")

    run(scenario())


def test_a_connection_serves_many_requests() -> None:
    async def scenario() -> None:
        async with world() as here:
            one = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
            last = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await here.raw(one * 5 + last)
            assert answer.count(b"HTTP/1.1 200") == 6
            assert answer.count(b"LIVE\n") == 5
            assert answer.endswith(b"0\r\n\r\n")

    run(scenario())


def test_http_1_0_gets_a_plain_body_and_a_close() -> None:
    async def scenario() -> None:
        async with world() as here:
            head, _, body = (await here.raw(b"GET /stats HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert b"server.live: 1\n" in body

    run(scenario())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /ready\r\n\r\n", 400),
        (b"GET  /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /ready HTTP/1.1\r\n\r\n", 400),
        (b"GET /ready HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET http://localhost/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET //ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /stats?" + b"&".join([b"a=1"] * 101) + b" HTTP/1.1\r\nHost: 1.2.3.4\r\nConnection: close\r\n\r\n", 400),
        (b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 4000, 431),
        (b"POST /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, 413),
    ],
)  # fmt: skip
def test_garbage_is_refused_and_the_server_lives(data: bytes, expected: int) -> None:
    async def scenario() -> None:
        async with world() as here:
            assert status(await here.raw(data)) == expected
            assert (await here.ask("/ready")).text == "LIVE\n"

    run(scenario())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_request_may_come_in_pieces_of_any_size(size: int) -> None:
    async def scenario() -> None:
        data = b"POST /logging HTTP/1.1\r\nHost: [::1]:9901\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
            assert status(await reader.read()) == 200
            writer.close()

    run(scenario())


def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.05)

    async def scenario() -> None:
        async with world() as here:
            assert await here.raw(b"") == b""
            assert await here.raw(b"GET /ready HTT") == b""

    run(scenario())


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    sent = 0

    async def pieces() -> object:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65536

    def endless(context: AdminContext, request: Request) -> Response:
        return Response(pieces())  # type: ignore[arg-type]

    monkeypatch.setitem(routes.ROUTES, "/endless", routes.Route(endless, "never ends"))

    async def scenario() -> None:
        async with world() as here:
            with socket.create_connection(("127.0.0.1", here.server.port)) as client:
                client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
                async with asyncio.timeout(10):
                    while not sent or here.server._connections:
                        await asyncio.sleep(0.01)
            assert sent < 1000  # the writer waited instead of filling memory

    run(scenario())


def test_more_connections_than_the_limit_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)

    async def scenario() -> None:
        async with world() as here:
            held = [await asyncio.open_connection("127.0.0.1", here.server.port) for _ in range(2)]
            for _, writer in held:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for reader, _ in held:
                await reader.readuntil(b"LIVE\n")
            assert status(await here.raw(b"")) == 503
            for _, writer in held:
                writer.close()

    run(scenario())


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_name_that_points_at_loopback_is_refused(host: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask("/config_dump", Host=host)
            assert reply.status == 403

    run(scenario())


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("localhost", True), ("LOCALHOST:9901", True), ("127.0.0.1", True), ("127.0.0.1:80", True),
        ("[::1]", True), ("[::1]:9901", True), ("::1", True), ("10.1.2.3", True),
        ("", False), ("example.test", False), ("[example.test]", False), ("localhost:1:2", False),
    ],
)  # fmt: skip
def test_is_literal(host: str, *, literal: bool) -> None:
    assert is_literal(host) is literal


def test_a_page_of_another_site_cannot_post() -> None:
    async def scenario() -> None:
        async with world() as here:
            for origin in ("http://evil.example", "null", f"https://127.0.0.1:{here.server.port}"):
                assert (await here.ask("/quitquitquit", "POST", Origin=origin)).status == 403
            assert here.actions.asked == []
            own = f"http://127.0.0.1:{here.server.port}"
            assert (await here.ask("/quitquitquit", "POST", Origin=own)).status == 200
            assert here.actions.asked == [("quit", None)]

    run(scenario())


@pytest.mark.parametrize(
    ("target", "site", "mode", "expected"),
    [
        ("/stats?filter=(.%2B)%2B!", "cross-site", "no-cors", 403),
        ("/stats?filter=(.%2B)%2B!", "cross-site", "navigate", 403),
        ("/stats", "same-site", "no-cors", 403),
        ("/", "cross-site", "navigate", 200),
        ("/stats?filter=server", "same-origin", "navigate", 200),
        ("/stats?filter=server", "none", "navigate", 200),
    ],
)
def test_a_page_of_another_site_may_link_but_not_fetch(target: str, site: str, mode: str, expected: int) -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask(target, **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})
            assert reply.status == expected

    run(scenario())


def test_a_view_that_fails_gets_500_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(context: AdminContext, request: Request) -> Response:
        raise KeyError("a secret detail")

    monkeypatch.setitem(routes.ROUTES, "/broken", routes.Route(broken, "fails"))

    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask("/broken")
            assert reply.status == 500
            assert "secret" not in reply.text
            assert (await here.ask("/ready")).status == 200

    run(scenario())
    assert "/broken failed" in caplog.text


def test_an_answer_that_fails_half_way_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def pieces() -> object:
        yield b"begun"
        raise ValueError("and failed")

    def broken(context: AdminContext, request: Request) -> Response:
        return Response(pieces())  # type: ignore[arg-type]

    monkeypatch.setitem(routes.ROUTES, "/broken", routes.Route(broken, "fails"))

    async def scenario() -> None:
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
            assert not answer.endswith(b"0\r\n\r\n")
            writer.close()

    run(scenario())
    assert "half-way" in caplog.text


def test_a_taken_port_is_a_start_error() -> None:
    async def scenario() -> None:
        async with world() as here:
            other = AdminServer(here.context)
            with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{here.server.port}: the port is taken"):
                await other.start("127.0.0.1", here.server.port)
            await other.close()

    run(scenario())


def test_close_lets_an_answer_finish_and_drops_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: AdminContext, request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return text("late\n")

    monkeypatch.setitem(routes.ROUTES, "/slow", routes.Route(slow, "waits"))

    async def scenario() -> None:
        async with world() as here:
            idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            idle_writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await idle_reader.readuntil(b"LIVE\n")
            asked = asyncio.create_task(here.ask("/slow"))
            await begun.wait()
            closing = asyncio.create_task(here.server.close())
            try:
                assert await idle_reader.read() == b""
            except ConnectionResetError:
                pass
            idle_writer.close()
            go_on.set()
            assert (await asked).text == "late\n"
            await closing
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", here.server.port)

    run(scenario())
