"""Guarantee: where the way through the zone egress ends early, the application hears of it as of any service, by each
of the four protocols, and the logs of the proxy that ended it say why; and while an egress restarts it hears nothing.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.upstreams import SERVER, STRANGER, trusting
from tests.kit import client, peers, poll
from tests.kit.grpc_peers import Caller, GrpcServer
from tests.kit.http2_peers import H2Client, H2Origin, echo
from tests.kit.koguma import READY_S, Koguma
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire
from tests.kit.zone import EVERYBODY, Egress, Sidecar, Zone

PROTOCOLS = ("tcp", "http", "http2", "grpc")
UNREACHABLE = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
NOWHERE = {"address": "127.0.0.1", "port": 9}


def over_http(port: int) -> tuple[int, str]:
    with Wire(port) as wire:
        response = wire.get("/")
    return response.status, response.body.decode()


def over_http2(port: int) -> tuple[int, str]:
    with H2Client(port) as h2:
        response = h2.ask()
    return int(response.status), response.body.decode()


def over_grpc(port: int) -> grpc.StatusCode:
    with Caller(port) as caller:
        try:
            caller.unary("Echo", b"message")
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


def expect(sidecar: Sidecar, status: int, code: grpc.StatusCode, body: str) -> None:
    """What an application sees by all four protocols."""
    assert client.gets_nowhere(sidecar.port("tcp"))
    assert over_http(sidecar.port("http")) == (status, body)
    assert over_http2(sidecar.port("http2")) == (status, body)
    assert over_grpc(sidecar.port("grpc")) is code


class World:
    """A zone with a service of each protocol."""

    def __init__(self, directory: Path, endpoint: dict[str, Any] | None = None, **more: Any) -> None:
        self.zone = Zone(directory, **more)
        self.directory = directory
        tls = trusting() if endpoint is not None else None
        for protocol in PROTOCOLS:
            self.zone.service(protocol, [endpoint or NOWHERE], tls=tls, protocol=protocol)

    @contextmanager
    def running(
        self, *, with_egress: bool = True, resources: Path | None = None
    ) -> Iterator[tuple[Sidecar, Egress | None]]:
        """``resources``: the egress's, where they are not the sidecar's."""
        with ExitStack() as stack:
            egress = None
            if with_egress:
                egress = self.zone.egress(args=["--access-log", str(self.directory / "exit.log")])
                egress.resources = resources or egress.resources
                stack.enter_context(egress)
            log = ["--access-log", str(self.directory / "web.log")]
            yield stack.enter_context(self.zone.sidecar("web", *PROTOCOLS, args=log)), egress

    def flags(self, proxy: str) -> set[str]:
        """The response flags in a proxy's access log, in which there are three requests."""

        def lines() -> list[dict[str, Any]]:
            text = (self.directory / f"{proxy}.log").read_text()
            found = [one for one in map(json.loads, text.splitlines()) if one.get("method")]
            return found if len(found) >= 3 else []

        return {one["response_flags"] for one in poll.until(lines, "the access log")}


def test_the_service_shows_a_certificate_of_another_authority(tmp_path: Path) -> None:
    with Peer(peers.echo, tls=peers.server_tls(STRANGER.leaf("127.0.0.1"))) as stranger:
        world = World(tmp_path, stranger.endpoint)
        with world.running() as (sidecar, egress):
            assert egress is not None
            expect(sidecar, 503, grpc.StatusCode.UNAVAILABLE, UNREACHABLE)
            for protocol in PROTOCOLS:
                assert egress.verdicts(protocol)[0]["cause"] == "untrusted_issuer"
        assert world.flags("exit") == {"UF"}
    assert not any(visit.received_bytes for visit in stranger.seen)


def test_the_egress_does_not_know_the_name(tmp_path: Path) -> None:
    """The services are in the sidecar's resources alone, so at the egress no filter chain matches."""
    world = World(tmp_path)
    others = tmp_path / "others"
    shutil.copytree(world.zone.resources, others)
    for protocol in PROTOCOLS:
        (others / f"{protocol}.yaml").unlink()
    with world.running(resources=others) as (sidecar, egress):
        assert egress is not None
        expect(sidecar, 503, grpc.StatusCode.UNAVAILABLE, UNREACHABLE)
        assert egress.wait_for_event("connection_refused")["cause"] == "unknown_server_name"
        assert egress.door_stat("no_filter_chain_match") >= 4
    assert world.flags("web") == {"UF"}


def test_the_permissions_are_withdrawn(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone.permit(deny=[EVERYBODY])
    with world.running() as (sidecar, egress):
        assert egress is not None
        expect(sidecar, 403, grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
        assert egress.wait_for_event("peer_deny")["rule"].endswith("deny[0]")
        assert egress.door_stat("rbac.denied") == 4
    assert world.flags("exit") == {"UAEX"}


def test_the_mesh_forbids(tmp_path: Path) -> None:
    """The sidecar says so itself: nothing is sent to the egress."""
    world = World(tmp_path, legacy=True)
    world.zone.write("mesh.yaml", world.zone.mesh_document(defaultForbidMeshExternalServiceAccess=True))
    with world.running() as (sidecar, egress):
        assert egress is not None
        expect(sidecar, 403, grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
        assert egress.door_stat("downstream_cx_total") == 0
        assert sidecar.wait_for_event("access_denied")


def test_there_is_no_egress(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.running(with_egress=False) as (sidecar, _):
        expect(sidecar, 503, grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
    assert world.flags("web") == {"UH"}


def test_the_only_egress_is_down(tmp_path: Path) -> None:
    """Known, and nobody listens there."""
    world = World(tmp_path)
    world.zone.egress()
    with world.running(with_egress=False) as (sidecar, _):
        expect(sidecar, 503, grpc.StatusCode.UNAVAILABLE, UNREACHABLE)
    assert world.flags("web") == {"UF"}


# Restarts


def restart(egress: Koguma) -> None:
    egress.terminate()
    assert egress.wait_for_exit() == 0
    egress.program.close()
    egress.launch()
    egress.wait_for_event("ready", within_s=READY_S)


def test_egresses_restart_under_load_of_all_protocols(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    identity = peers.server_tls(SERVER)
    with ExitStack() as stack:
        tcp = stack.enter_context(Peer(peers.echo, tls=identity))
        http = stack.enter_context(Origin(always(ok(b"hello")), tls=identity))
        http2 = stack.enter_context(H2Origin(echo, tls=identity))
        rpc = stack.enter_context(GrpcServer(tmp_path / "grpc", identity=SERVER))
        for protocol, origin in zip(PROTOCOLS, (tcp, http, http2, rpc), strict=True):
            zone.service(protocol, [origin.endpoint], tls=trusting(), protocol=protocol)
        egresses = [zone.egress(), zone.egress()]
        for egress in egresses:
            egress.start()
            stack.callback(lambda egress=egress: egress.program.close())
        sidecar = stack.enter_context(zone.sidecar("web", *PROTOCOLS))
        enough = threading.Event()
        answers: dict[str, list[object]] = {protocol: [] for protocol in PROTOCOLS}

        def load(protocol: str, ask: Callable[[], object]) -> None:
            while not enough.is_set():
                try:
                    answers[protocol].append(ask())
                except (OSError, AssertionError, grpc.RpcError) as error:
                    answers[protocol].append(error)

        wire = stack.enter_context(Wire(sidecar.port("http")))
        h2 = stack.enter_context(H2Client(sidecar.port("http2")))
        caller = stack.enter_context(Caller(sidecar.port("grpc")))
        asks: dict[str, Callable[[], object]] = {
            "tcp": lambda: client.ask(sidecar.port("tcp")) == b"ping",
            "http": lambda: wire.get("/").status == 200,
            "http2": lambda: int(h2.ask("POST", "/", body=b"x").status) == 200,
            "grpc": lambda: caller.unary("Echo", b"message") == b"message",
        }
        threads = [threading.Thread(target=load, args=item, daemon=True) for item in asks.items()]
        stack.callback(enough.set)
        for thread in threads:
            thread.start()

        def more() -> None:
            seen = {protocol: len(given) for protocol, given in answers.items()}
            poll.until(
                lambda: all(len(answers[one]) > seen[one] + 20 for one in PROTOCOLS), "traffic", within_s=READY_S
            )

        more()
        for egress in egresses:
            restart(egress)
            more()
        enough.set()
        for thread in threads:
            thread.join(20)
        assert {str(answer) for given in answers.values() for answer in given} == {"True"}, answers
