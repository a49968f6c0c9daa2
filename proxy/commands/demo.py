"""``koguma demo``: the main job, seen with one's own eyes, in a few seconds and with nothing from outside.

A certificate authority, two origins that demand client certificates and one on a unix socket live in this process; the
proxy is a real ``koguma run`` beside it. Every claim that is printed was checked just before: the demo ends with 0 only
if everything happened, and otherwise names the step that did not.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from config.resources.meshexternalservice import MAX_UNIX_PATH_BYTES
from proxy.demo import documents
from proxy.demo.child import ChildError, Proxy, command, environment
from proxy.demo.narrator import Narrator, wants_colours
from proxy.demo.origin import Origin, demanding
from proxy.demo.pki import Authority
from proxy.exits import EXIT_OK

EXIT_FAILED = 1
REQUEST_S = 10.0
TOLD_TO_THE_CLIENT = "reset reason: remote connection failure"
"""How Envoy ends the body of such a 503; the reason itself is for the operator."""
DIAGNOSE_S = 20.0


class StepFailed(Exception):
    """What should have been so, and was not."""


def demo() -> int:
    narrator = Narrator(sys.stdout, colours=wants_colours(sys.stdout))
    began_s = time.monotonic()
    try:
        with (
            _ending_on_sigterm(),
            tempfile.TemporaryDirectory(prefix="koguma-demo-") as folder,
            ExitStack() as stage,
        ):
            _Story(Path(folder), narrator, stage).tell()
    except (StepFailed, ChildError, OSError, subprocess.TimeoutExpired) as exc:
        print(f"\nkoguma: the demo failed in {narrator.step}: {exc}", file=sys.stderr)
        return EXIT_FAILED
    narrator.end(f"Everything above happened, in {time.monotonic() - began_s:.1f} s. Now with your own YAML:")
    narrator.say("koguma run --dataplane-file DP.yaml --resources FOLDER")
    return EXIT_OK


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def expect(condition: object, what: str) -> None:
    if not condition:
        raise StepFailed(f"expected that {what}")


class _Story:
    """The steps, in order; ``stage`` closes whatever was opened, last first."""

    def __init__(self, folder: Path, narrator: Narrator, stage: ExitStack) -> None:
        self._narrator = narrator
        self._stage = stage
        self._folder = folder
        self._resources = folder / "resources"
        self._resources.mkdir()
        self._dataplane = folder / "dataplane.yaml"
        self._hosts = folder / "hosts"
        self._partner = self._resources / "partner-api.yaml"

    def tell(self) -> None:
        self._set_the_stage()
        self._start()
        self._mutual_tls()
        self._unix_socket_and_failover()
        self._refusal()
        self._repair()
        self._stop()

    def _set_the_stage(self) -> None:
        narrator, folder = self._narrator, self._folder
        narrator.begin("Some services outside the mesh")
        authority = Authority("Partner Root CA")
        client = authority.issue(documents.CLIENT_NAME)

        def partner(region: str, version: ssl.TLSVersion) -> Origin:
            host = f"{region}.partner.test"
            pair = authority.issue(host, documents.EXPECTED_NAME, host)
            context = demanding(pair, authority.pem, version, folder)
            return self._stage.enter_context(Origin(host, ("127.0.0.1", 0), context))

        self._eu = partner("eu", ssl.TLSVersion.TLSv1_3)
        self._us = partner("us", ssl.TLSVersion.TLSv1_2)
        unix_path = _unix_path(folder)
        self._local = self._stage.enter_context(Origin("the unix socket", unix_path))
        narrator.say(f"eu.partner.test  127.0.0.1:{self._eu.port}  TLS 1.3, demands a client certificate")
        narrator.say(f"us.partner.test  127.0.0.1:{self._us.port}  TLS 1.2, demands a client certificate")
        narrator.say(f"a local service  {unix_path}")

        dead = self._stage.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # ours, and nobody listens
        self._ports = _free_ports("partner-api", "local-service", "cache")
        self._hosts.write_text("127.0.0.1 eu.partner.test us.partner.test\n")
        self._dataplane.write_text(documents.dataplane(self._ports))
        self._write_partner(documents.EXPECTED_NAME)
        (self._resources / "local-service.yaml").write_text(documents.local(unix_path))
        (self._resources / "cache.yaml").write_text(documents.failover(dead.getsockname()[1], unix_path))
        contents = {"partner-ca": authority.pem, "client-cert": client.certificate, "client-key": client.key}
        secrets = self._resources / "secrets.yaml"
        secrets.touch(mode=0o600)
        secrets.write_text(documents.secrets(contents))

    def _start(self) -> None:
        narrator = self._narrator
        narrator.begin("The proxy: `koguma run`, on Kuma's own YAML")
        narrator.file(self._dataplane, ["- port:", " " * 8 + "name:"])
        narrator.file(self._partner, ["address:", "mode:", "value:", "secret:"])
        self._proxy = self._stage.enter_context(Proxy(self._arguments))
        narrator.good(f"it is ready (process {self._proxy.pid}), status page http://{self._proxy.admin}/")

    def _mutual_tls(self) -> None:
        narrator, port = self._narrator, self._ports["partner-api"]
        narrator.begin("Plaintext in, verified mutual TLS out")
        narrator.say(f"The application knows no certificate: GET http://127.0.0.1:{port}/, twice.")
        answers = {self._get("partner-api") for _ in range(2)}
        expect(answers == {_hello(self._eu), _hello(self._us)}, f"both endpoints answer; got {answers}")
        for origin, version in ((self._eu, "TLSv1.3"), (self._us, "TLSv1.2")):
            expect(len(origin.seen) == 1, f"{origin.name} got one request; it got {len(origin.seen)}")
            seen = origin.seen[0]
            expect(seen.version == version, f"{origin.name} saw {version}; it saw {seen.version}")
            expect(seen.sni == origin.name, f"{origin.name} saw its own name as SNI; it saw {seen.sni}")
            expect(seen.client == documents.CLIENT_NAME, f"{origin.name} saw our certificate; it saw {seen.client}")
            narrator.good(
                f"{origin.name} answered; it saw {version}, SNI {seen.sni}, client certificate CN={seen.client}"
            )

    def _unix_socket_and_failover(self) -> None:
        narrator = self._narrator
        narrator.begin("Unix sockets, and endpoints that are down")
        answer = self._get("local-service")
        expect(answer == _hello(self._local), f"the unix socket answers; got {answer!r}")
        narrator.good(f"127.0.0.1:{self._ports['local-service']} leads to the unix socket")
        narrator.file(self._resources / "cache.yaml", ["address:", "priority:"])
        answer = self._get("cache")
        expect(answer == _hello(self._local), f"the fallback answers; got {answer!r}")
        verdict = self._verdict("cache")
        expect(verdict["cause"] == "refused", f"the first endpoint was refused; its verdict is {verdict['cause']}")
        narrator.good("the first endpoint is down, the fallback answered: the application noticed nothing")

    def _refusal(self) -> None:
        narrator = self._narrator
        narrator.begin("A mistake in the YAML, while it runs")
        requests = self._partner_requests()
        self._write_partner(documents.MISTYPED_NAME)
        self._await_reload()
        narrator.file(self._partner, ["- type: Exact", "value:"], documents.MISTYPED_NAME)
        answer = self._get("partner-api")
        expect(answer is not None and answer.endswith(TOLD_TO_THE_CLIENT), f"the request is refused; got {answer!r}")
        expect(self._partner_requests() == requests, "nothing reached the partner")
        narrator.refused(f"503, and no more than “{TOLD_TO_THE_CLIENT}”: not a byte of the request reached the partner")
        verdict = self._verdict("partner-api")
        expect(verdict["cause"] == "san_mismatch", f"the verdict is san_mismatch; it is {verdict['cause']}")
        expect(verdict["nearest"] == documents.EXPECTED_NAME, f"the nearest name is found; it is {verdict['nearest']}")
        narrator.say(f"Why? http://{self._proxy.admin}/resources knows, and so does `koguma diagnose partner-api`:")
        narrator.quote(self._diagnose(), "nearest:")

    def _repair(self) -> None:
        narrator = self._narrator
        narrator.begin("The repair, without a restart")
        self._write_partner(documents.EXPECTED_NAME)
        self._await_reload()
        narrator.file(self._partner, ["- type: Exact", "value:"], documents.EXPECTED_NAME)
        answers = {self._get("partner-api") for _ in range(2)}
        expect(answers == {_hello(self._eu), _hello(self._us)}, f"both endpoints answer again; got {answers}")
        narrator.good("the same process, the same ports: both endpoints answer again")

    def _stop(self) -> None:
        narrator = self._narrator
        narrator.begin("SIGTERM")
        code = self._proxy.terminate()
        expect(code == EXIT_OK, f"the proxy ends with exit code 0; it was {code}")
        narrator.good("drained, exit code 0")

    # Means

    @property
    def _arguments(self) -> list[str]:
        sources = ["--dataplane-file", str(self._dataplane), "--resources", str(self._resources)]
        return [*sources, "--hosts-file", str(self._hosts)]

    def _write_partner(self, expected_name: str) -> None:
        """Aside, then renamed, so that nobody reads half a file."""
        aside = self._folder / "partner-api.new"
        aside.write_text(documents.partner(self._eu.port, self._us.port, expected_name))
        aside.rename(self._partner)

    def _await_reload(self) -> None:
        began_s = time.monotonic()
        self._proxy.wait_for("reloaded")
        self._narrator.say(f"The file was edited; {(time.monotonic() - began_s) * 1000:.0f} ms later it is live:")

    def _partner_requests(self) -> int:
        return len(self._eu.seen) + len(self._us.seen)

    def _verdict(self, service: str) -> dict[str, Any]:
        """The first verdict of a service's endpoints."""
        for row in self._proxy.ask("/resources")["resources"]:
            if row["type"] == "MeshExternalService" and row["name"] == service:
                for endpoint in row["status"]["endpoints"]:
                    if endpoint["lastVerdict"] is not None:
                        return dict(endpoint["lastVerdict"])
        raise StepFailed(f"/resources holds no verdict on {service}")

    def _diagnose(self) -> list[str]:
        """What it says of the first endpoint, in the verdict's own words."""
        done = subprocess.run(
            command("diagnose", "partner-api", *self._arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DIAGNOSE_S,
            check=False,
        )
        lines = [line.strip() for line in done.stdout.splitlines()]
        first = next((number for number, line in enumerate(lines) if line.startswith("san_mismatch:")), None)
        expect(done.returncode != EXIT_OK and first is not None, f"diagnose explains it; {done.stdout}{done.stderr}")
        words = ("san_mismatch:", "expected:", "presented:", "nearest:", "field:", "advice:")
        verdict = lines[first:]
        return [next(line for line in verdict if line.startswith(word)) for word in words]

    def _get(self, service: str) -> str | None:
        """The body of a plaintext request to the service's port; ``None`` where it was closed without an answer."""
        with socket.create_connection(("127.0.0.1", self._ports[service]), timeout=REQUEST_S) as sock:
            answer = b""
            try:
                sock.sendall(f"GET / HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n\r\n".encode())
                while data := sock.recv(4096):
                    answer += data
            except (ConnectionResetError, BrokenPipeError):
                pass  # refused: what we sent was not read
        return answer.partition(b"\r\n\r\n")[2].decode() if answer else None


def _hello(origin: Origin) -> str:
    return f"hello from {origin.name}\n"


def _unix_path(folder: Path) -> str:
    """In the demo's folder, unless that is too deep for a socket's path: then in the abstract namespace."""
    path = str(folder / "local.sock")
    return path if len(os.fsencode(path)) <= MAX_UNIX_PATH_BYTES else f"@{folder.name}"


def _free_ports(*names: str) -> dict[str, int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as held:
        ports = {}
        for name in names:
            sock = held.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports[name] = sock.getsockname()[1]
        return ports
