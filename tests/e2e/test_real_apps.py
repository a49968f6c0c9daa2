"""Guarantee: the programs that people put behind a MeshExternalService work through it, unaware of it: redis
and PostgreSQL in plain text on the application's side and TLS or mutual TLS on the server's, and HTTP servers
as bytes.
"""

from __future__ import annotations

import hashlib
import http.client
from pathlib import Path

import pytest

from tests.e2e.upstreams import ROOT, SERVER, trusting
from tests.kit import payload
from tests.kit.apps import Nginx, Postgres, Redis, TlsFront
from tests.kit.koguma import Koguma
from tests.kit.payload import MIB
from tests.kit.yamlkit import Document

APP = ROOT.leaf("spiffe://example.test/app", common_name="app")
BODY = b"".join(payload.blocks(4 * MIB))

SECURITY = pytest.mark.parametrize("security", ["plain", "tls", "mtls"])


def settings(koguma: Koguma, security: str) -> Document | None:
    match security:
        case "plain":
            return None
        case "tls":
            return trusting()
        case _:
            return trusting(
                client_cert=koguma.secret("app-cert", APP.chain_pem),
                client_key=koguma.secret("app-key", APP.key_pem),
            )


@SECURITY
def test_redis(koguma: Koguma, tmp_path: Path, security: str) -> None:
    redis = Redis(
        tmp_path / "redis",
        identity=None if security == "plain" else SERVER,
        client_ca_pem=ROOT.pem if security == "mtls" else None,
    )
    with redis:
        port = koguma.service("redis", [redis.endpoint], tls=settings(koguma, security), port=6379)
        with koguma:
            assert redis.cli(port, "PING") == "PONG"
            big = "x" * MIB
            assert redis.cli(port, "-x", "SET", "big", stdin=big) == "OK"
            assert redis.cli(port, "GET", "big") == big
            pipelined = "".join(f"INCR counter\nSET key{number} {number}\n" for number in range(500))
            answers = redis.cli(port, stdin=pipelined).splitlines()
            assert [answer for answer in answers if answer != "OK"] == [str(number) for number in range(1, 501)]


def check_database(postgres: Postgres, port: int, options: str) -> None:
    postgres.psql(port, "create table words (id int primary key, word text)", options=options)
    postgres.psql(
        port, "insert into words select n, repeat(md5(n::text), 100) from generate_series(1, 2000) n", options=options
    )
    directly = postgres.psql(postgres.port, "select word from words order by id")
    through = postgres.psql(port, "select word from words order by id", options=options)
    assert len(through) > 6_000_000
    assert hashlib.sha256(through.encode()).digest() == hashlib.sha256(directly.encode()).digest()


def test_postgresql_in_plain_text(koguma: Koguma, tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres")
    with postgres:
        port = koguma.service("postgres", [postgres.endpoint], port=5432)
        with koguma:
            check_database(postgres, port, "sslmode=disable")


def test_postgresql_with_its_own_tls_passes_through_untouched(koguma: Koguma, tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", identity=SERVER)
    root = tmp_path / "root.crt"
    root.write_text(ROOT.pem)
    with postgres:
        port = koguma.service("postgres", [postgres.endpoint], port=5432)
        with koguma:
            check_database(postgres, port, f"sslmode=verify-full sslrootcert={root}")


def test_postgresql_behind_a_tls_front(koguma: Koguma, tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres")
    with postgres, TlsFront(tmp_path / "front", postgres.port, SERVER) as front:
        port = koguma.service("postgres", [front.endpoint], tls=trusting(), port=5432)
        with koguma:
            check_database(postgres, port, "sslmode=disable")


@SECURITY
def test_nginx(koguma: Koguma, tmp_path: Path, security: str) -> None:
    nginx = Nginx(
        tmp_path / "nginx",
        identity=None if security == "plain" else SERVER,
        client_ca_pem=ROOT.pem if security == "mtls" else None,
        body_bytes=BODY,
    )
    with nginx:
        port = koguma.service("nginx", [nginx.endpoint], tls=settings(koguma, security))
        with koguma:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
            try:
                for _ in range(3):  # one connection, kept alive
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    assert (answer.status, answer.read()) == (200, b"hello from nginx")
                    if security == "mtls":
                        assert answer.headers["X-Client"] == "CN=app"
                connection.request("GET", "/big")
                assert hashlib.sha256(connection.getresponse().read()).digest() == hashlib.sha256(BODY).digest()
            finally:
                connection.close()
            assert koguma.stat("nginx", "upstream_cx_total") == 1
