"""Guarantee: the programs that people have speak HTTP/2 through the proxy: curl, nghttp and h2load as clients, nginx
and nghttpd as endpoints, in plain text and over TLS, whose ALPN must be ``h2`` for either of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.upstreams import ROOT, trusting
from tests.kit import payload
from tests.kit.apps import App, Nghttpd, Nginx
from tests.kit.http2_tools import PRIOR_KNOWLEDGE, Loaded, curl, h2load, nghttp
from tests.kit.koguma import Koguma
from tests.kit.payload import MIB

IDENTITY = ROOT.leaf("127.0.0.1")
BIG = b"".join(payload.blocks(8 * MIB))
STREAMS = 200_000
MAX_GROWTH = 8 * MIB


def app_of(kind: str, directory: Path, *options: str) -> App:
    """``/`` is small, ``/big`` is :data:`BIG`; what is PUT comes back at once (nghttpd), or when asked for (nginx)."""
    name, _, security = kind.partition(" ")
    identity = IDENTITY if security == "tls" else None
    if name == "nginx":
        return Nginx(directory, identity=identity, body_bytes=BIG, http2=True)
    app = Nghttpd(directory, *options, identity=identity)
    (directory / "big").write_bytes(BIG)
    (directory / "index.html").write_bytes(b"hello from nghttpd")
    return app


def serve(koguma: Koguma, app: App, *, protocol: str = "http2", tls: bool = False) -> None:
    koguma.service("app", [app.endpoint], tls=trusting() if tls else None, protocol=protocol)


def url_of(koguma: Koguma, path: str = "/") -> str:
    return f"http://127.0.0.1:{koguma.port('app')}{path}"


@dataclass(frozen=True, slots=True)
class World:
    koguma: Koguma
    kind: str

    def url(self, path: str = "/") -> str:
        return url_of(self.koguma, path)


@pytest.fixture(scope="module", params=["nginx plain", "nginx tls", "nghttpd plain", "nghttpd tls"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    koguma = Koguma(directory / "koguma")
    with app_of(request.param, directory / "app") as app:
        serve(koguma, app, tls=request.param.endswith("tls"))
        with koguma:
            yield World(koguma, request.param)


# Clients


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl(world: World, tmp_path: Path, version: str) -> None:
    option = PRIOR_KNOWLEDGE if version == "2" else "--http1.1"
    small = curl(world.url(), tmp_path, option)
    assert (small.status, small.version) == (200, version)
    assert small.body == f"hello from {world.kind.partition(' ')[0]}".encode()
    big = curl(world.url("/big"), tmp_path, option)
    assert hashlib.sha256(big.body).hexdigest() == payload.sha256(len(BIG))
    head = curl(world.url("/big"), tmp_path, option, "--head")
    assert f"content-length: {len(BIG)}\r\n" in head.head.lower()
    assert curl(world.url("/none"), tmp_path, option).status == 404


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("how", ["sized", "expect", "unsized"])
def test_curl_uploads(world: World, tmp_path: Path, version: str, how: str) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(BIG[: 3 * MIB])
    option = PRIOR_KNOWLEDGE if version == "2" else "--http1.1"
    more = {"sized": "expect:", "expect": "expect: 100-continue", "unsized": "transfer-encoding: chunked"}[how]
    url = world.url(f"/uploads/{version}-{how}")
    got = curl(url, tmp_path, option, "-H", more, "-T", str(upload))
    assert got.status in (200, 201)
    assert (" 100" in got.head) == (how == "expect" or (how, version) == ("unsized", "1.1"))
    if world.kind.startswith("nginx"):
        got = curl(url, tmp_path, option)
    assert hashlib.sha256(got.body).hexdigest() == payload.sha256(3 * MIB)


def test_an_upgrade_to_h2c_is_ignored(world: World, tmp_path: Path) -> None:
    """curl asks for it by itself, and takes the answer in HTTP/1.1: RFC 9113 knows no such upgrade any more."""
    got = curl(world.url(), tmp_path, "--http2")
    assert (got.status, got.version) == (200, "1.1")
    assert "101" not in got.head


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--padding=200"],
        ["--continuation"],
        ["--header-table-size=0"],
        ["--header-table-size=0", "--header-table-size=100"],
        ["--window-bits=6", "--connection-window-bits=16"],
        ["--no-content-length"],
        ["--no-rfc7540-pri"],
        ["--no-dep"],
    ],
    ids=" ".join,
)
def test_nghttp(world: World, options: list[str]) -> None:
    """Padding, CONTINUATION, header tables that change and windows that are tiny do not matter."""
    said = nghttp("--null-out", "--verbose", "--multiply=10", *options, world.url())
    assert len(re.findall(r":status: 200", said)) == 10
    assert "RST_STREAM" not in said
    assert "GOAWAY frame <length=8, flags=0x00, stream_id=0>\n          (last_stream_id=0, error_code=NO_ERROR" in said


@pytest.mark.parametrize("options", [[], ["--padding=100"], ["--expect-continue"], ["--no-content-length"]])
def test_nghttp_uploads_with_trailers(world: World, tmp_path: Path, options: list[str]) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(BIG[:MIB])
    words = ["--null-out", "--verbose", *options, f"--data={upload}", "--trailer=x-sum: 1", world.url()]
    said = nghttp(*words)
    assert ":status: 200" in said
    if "--expect-continue" in options:
        assert ":status: 100" in said


@pytest.mark.parametrize("options", [[], ["--h1"]], ids=["h2", "h1"])
def test_h2load(world: World, options: list[str]) -> None:
    loaded = h2load(world.url(), "-n2000", "-c8", "-m16", *options)
    assert (loaded.succeeded, loaded.failed, loaded.errored) == (2000, 0, 0)
    assert h2load(world.url("/big"), "-n24", "-c4", "-m3", *options).is_clean
    assert world.koguma.stat("app", "upstream_rq_pending_overflow") == 0


# Endpoints


@pytest.mark.parametrize(
    "options", ["--padding=200", "--window-bits=10", "--header-table-size=0", "--trailer=x-sum: 1"]
)
def test_nghttpd_with_odd_settings(koguma: Koguma, tmp_path: Path, options: str) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(BIG[:MIB])
    with app_of("nghttpd plain", tmp_path / "app", options) as app:
        serve(koguma, app)
        with koguma:
            assert h2load(url_of(koguma), "-n500", "-c4", "-m8").is_clean
            for option in (PRIOR_KNOWLEDGE, "--http1.1"):
                got = curl(url_of(koguma), tmp_path, option, "--data-binary", f"@{upload}")
                assert hashlib.sha256(got.body).hexdigest() == payload.sha256(MIB)
            said = nghttp("--null-out", "--verbose", url_of(koguma))
            assert ("x-sum: 1" in said) == ("trailer" in options)


def test_an_endpoint_that_takes_two_streams_at_a_time(koguma: Koguma, tmp_path: Path) -> None:
    with app_of("nghttpd plain", tmp_path / "app", "--max-concurrent-streams=2") as app:
        serve(koguma, app)
        with koguma:
            assert h2load(url_of(koguma), "-n3000", "-c2", "-m50").is_clean
            assert 1 < koguma.stat("app", "upstream_cx_total") < 3000


@pytest.mark.parametrize("security", ["plain", "tls"])
def test_an_endpoint_that_says_goaway_now_and_then(koguma: Koguma, tmp_path: Path, security: str) -> None:
    """nginx closes each connection after 50 requests, as it does after 1,000 by default. What it did not begin is sent
    again; with a body too, as long as that is short.
    """
    identity = IDENTITY if security == "tls" else None
    upload = tmp_path / "upload"
    upload.write_bytes(b"x" * 1000)
    nginx = Nginx(tmp_path / "nginx", identity=identity, http2=True, keepalive_requests=50)
    with nginx:
        serve(koguma, nginx, tls=security == "tls")
        with koguma:
            assert h2load(url_of(koguma), "-n3000", "-c4", "-m16").is_clean
            assert h2load(url_of(koguma), "-n1000", "-c4", "-m16", "--h1").is_clean
            posted = h2load(url_of(koguma), "-n1000", "-c4", "-m16", f"--data={upload}")
            assert posted == Loaded(1000, 0, 0, posted.by_class)
            assert posted.by_class["5xx"] == 0
            assert koguma.stat("app", "upstream_cx_total") >= 5000 // 50


@pytest.mark.parametrize("protocol", ["http", "http2"])
def test_both_versions_of_clients_on_one_port(koguma: Koguma, tmp_path: Path, protocol: str) -> None:
    with Nginx(tmp_path / "nginx", http2=protocol == "http2") as nginx:
        serve(koguma, nginx, protocol=protocol)
        with koguma:
            for _ in range(3):
                for version, option in (("1.1", "--http1.1"), ("2", PRIOR_KNOWLEDGE)):
                    got = curl(url_of(koguma), tmp_path, option)
                    assert (got.status, got.version, got.body) == (200, version, b"hello from nginx")
            assert h2load(url_of(koguma), "-n1000", "-c4", "-m8").is_clean


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", ["http", "http2"])
def test_memory_stays_flat_over_many_streams(koguma: Koguma, tmp_path: Path, protocol: str) -> None:
    with Nginx(tmp_path / "nginx", http2=protocol == "http2") as nginx:
        serve(koguma, nginx, protocol=protocol)
        with koguma:
            assert h2load(url_of(koguma), "-n20000", "-c8", "-m16").is_clean
            before = koguma.resident_bytes()
            loaded = h2load(url_of(koguma), f"-n{STREAMS}", "-c8", "-m16", within_s=300)
            assert (loaded.succeeded, loaded.failed, loaded.errored) == (STREAMS, 0, 0)
            grown = koguma.resident_bytes() - before
            print(f"{grown} bytes more after {STREAMS} streams")  # shown by pytest -rP
            assert grown < MAX_GROWTH
