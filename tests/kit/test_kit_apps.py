"""The real servers start, answer directly, and stop."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.kit.apps import Nginx, Postgres, Redis
from tests.kit.ca import Authority

ROOT = Authority.root()


def test_nginx(tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", body_bytes=b"x" * 1000) as nginx:
        for path, body in (("/", b"hello from nginx"), ("/big", b"x" * 1000)):
            with urllib.request.urlopen(f"http://127.0.0.1:{nginx.port}{path}") as answer:
                assert answer.read() == body


def test_redis(tmp_path: Path) -> None:
    redis = Redis(tmp_path / "redis")
    with redis:
        assert redis.cli(redis.port, "PING") == "PONG"


def test_redis_with_mutual_tls_listens(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis", identity=ROOT.leaf("redis.example.test"), client_ca_pem=ROOT.pem) as redis:
        assert redis.is_up()


def test_postgres(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", identity=ROOT.leaf("localhost"))
    with postgres:
        assert postgres.psql(postgres.port, "select 6 * 7") == "42"
        seen = postgres.psql(
            postgres.port,
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
            options="sslmode=require",
        )
        assert seen == "t"
