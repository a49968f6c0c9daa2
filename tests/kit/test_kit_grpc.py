"""The gRPC server and its client do directly what the tests ask of them through the proxy."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from tests.kit.ca import Authority
from tests.kit.grpc_peers import Caller, GrpcServer

ROOT = Authority.root()


def test_every_kind_of_call(tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc", name="a") as server, Caller(server.port) as caller:
        assert caller.unary("Empty") == b""
        assert caller.unary("Who") == b"a"
        assert caller.upload("Collect", [b"a", b"b"]).startswith(b"2 2 ")
        assert list(caller.download("Repeat", b"3 2")) == [b"0.", b"1.", b"2."]
        assert list(caller.chat([b"1", b"2"])) == [b"1", b"2"]
        assert caller.refusal("Fail", b"NOT_FOUND gone") == (grpc.StatusCode.NOT_FOUND, "gone")
        assert float(caller.unary("Deadline", timeout=10)) == pytest.approx(10, abs=1)


def test_a_cancelled_call_is_seen(tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc") as server, Caller(server.port) as caller:
        call = caller.start("Wait", metadata=[("x-call", "7")])
        server.wait_for("waiting", "7")
        call.cancel()
        server.wait_for("cancelled", "7")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_on_the_same_port(tmp_path: Path, how: signal.Signals) -> None:
    with GrpcServer(tmp_path / "grpc", name="a") as server:
        for _ in range(2):
            with Caller(server.port) as caller:
                assert caller.unary("Who", wait_for_ready=True) == b"a"
            server.restart(how)


def test_tls(tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc", identity=ROOT.leaf("localhost"), client_ca_pem=ROOT.pem) as server:
        mine = ROOT.leaf("client.test")
        credentials = grpc.ssl_channel_credentials(ROOT.pem.encode(), mine.key_pem.encode(), mine.chain_pem.encode())
        with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
            assert channel.unary_unary("/kit.Test/Echo")(b"x", timeout=10) == b"x"
