"""Guarantee: gRPC works through the proxy for peers that share no code with grpcio: @grpc/grpc-js as the client and as
the server, with each other and with grpcio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.upstreams import ROOT, SERVER, trusting
from tests.kit.grpc_js_peers import GrpcJsServer, install, run_client
from tests.kit.grpc_peers import Caller, GrpcServer
from tests.kit.koguma import WORKERS, Koguma
from tests.kit.payload import MIB
from tests.kit.ports import free_port

APP = ROOT.leaf("spiffe://example.test/app", common_name="app")


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> Path:
    """Where the packages are installed."""
    assert pytestconfig.cache is not None
    return install(pytestconfig.cache.mkdir("grpc_js"))


@dataclass(frozen=True, slots=True)
class World:
    """A proxy before one server, both running."""

    koguma: Koguma
    server: GrpcServer
    packages: Path

    @property
    def port(self) -> int:
        return self.koguma.port("app")

    def run(self, scenario: str) -> Any:
        return run_client(self.packages, self.port, scenario)


@pytest.fixture(scope="module", params=["grpcio plain", "grpcio tls", "grpc-js mtls"])
def world(request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    kind, _, security = request.param.partition(" ")
    directory = tmp_path_factory.mktemp("grpc-js")
    koguma = Koguma(directory / "koguma")
    more: dict[str, Any] = {} if security == "plain" else {"identity": SERVER}
    policy = None if security == "plain" else trusting()
    if security == "mtls":
        more["client_ca_pem"] = ROOT.pem
        certificate, key = koguma.secret("app-cert", APP.chain_pem), koguma.secret("app-key", APP.key_pem)
        policy = trusting(client_cert=certificate, client_key=key)
    place = directory / "server"
    server = GrpcServer(place, **more) if kind == "grpcio" else GrpcJsServer(packages, place, **more)
    with server:
        koguma.service("app", [server.endpoint], tls=policy, protocol="grpc")
        with koguma:
            yield World(koguma, server, packages)


# Its client, with either server


def test_unary(world: World) -> None:
    assert world.run("unary") == [True] * 4


def test_streams(world: World) -> None:
    assert world.run("client_stream") == [1000, 1_000_000]
    assert world.run("server_stream") == [1000, True, "OK"]
    assert world.run("ping_pong") == [200, "OK"]


@pytest.mark.skipif(WORKERS > 1, reason="the limit of 1,024 requests is divided among the workers")
def test_a_thousand_streams_at_once(world: World) -> None:
    assert world.run("thousand_streams") == [2000, ["OK"]]


def test_metadata(world: World) -> None:
    assert world.run("metadata") == ["OK", True, True]


def test_deadlines(world: World) -> None:
    assert world.run("deadline") == [True, "none", "DEADLINE_EXCEEDED"]
    world.server.wait_for("cancelled", "late")


def test_statuses(world: World) -> None:
    wanted = {code.name: [code.name, "because", "asked-for"] for code in grpc.StatusCode if code.value[0]}
    assert world.run("statuses") == wanted
    assert world.run("messages") == [True] * 6
    assert world.run("unimplemented") == ["UNIMPLEMENTED", "UNIMPLEMENTED", "OK"]


def test_cancellation(world: World) -> None:
    assert world.run("cancel") == ["CANCELLED", ["first"], "CANCELLED", "OK"]
    world.server.wait_for("cancelled", "begun")
    world.server.wait_for("cancelled", "answered")


def test_what_the_proxy_says_itself(koguma: Koguma, packages: Path) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": free_port()}], protocol="grpc")
    with koguma:
        text = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        assert run_client(packages, koguma.port("app"), "refused") == ["UNAVAILABLE", text]


# Its server, with the client of grpcio


def test_with_the_client_of_grpcio(world: World) -> None:
    message = b"x" * (4 * MIB)
    with Caller(world.port) as caller:
        assert caller.unary("Empty") == b""
        assert caller.unary("Echo", message) == message
        assert caller.upload("Collect", [b"a"] * 1000).startswith(b"1000 1000 ")
        assert len(list(caller.download("Repeat", b"1000 5000"))) == 1000
        assert list(caller.chat(str(number).encode() for number in range(500)))[-1] == b"499"
        code = grpc.StatusCode.ABORTED
        assert caller.refusal("Fail", "ABORTED über 100 %".encode()) == (code, "über 100 %")
        assert caller.refusal("/missing.Service/Echo")[0] is grpc.StatusCode.UNIMPLEMENTED
        call = caller.start("Wait", metadata=[("x-call", "grpcio")])
        world.server.wait_for("waiting", "grpcio")
        call.cancel()
        world.server.wait_for("cancelled", "grpcio")
        assert caller.refusal("Wait", timeout=0.2)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
