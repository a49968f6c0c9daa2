"""Two zones that do not trust each other, until one's MeshTrust is copied to the other: see README.md beside this file.

It works on a copy of the YAML files, in a temporary folder, with ports that are free.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # a checkout need not be installed

from config.load import Loader  # noqa: E402
from config.resources.meshtrust import MeshTrust  # noqa: E402
from proxy.demo.child import Proxy, command, environment  # noqa: E402

SHOP = "spiffe://default.zone-2.mesh.local/workload/shop"
PORTS_IN_FILES = ("21080", "21081", "21082")
"""The backend's inbound, its application, the shop's outbound."""


class StoryBroken(Exception):
    """Something did not happen as it is told."""


class Application(BaseHTTPRequestHandler):
    """The backend itself: it answers with what it knows of its caller."""

    def do_GET(self) -> None:
        caller = self.headers.get("x-forwarded-client-cert", "nobody")
        body = f"hello, {caller.rpartition('URI=')[2]}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""


class Zones:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inbound, application, self.outbound = free_ports()
        self.application = ThreadingHTTPServer(("127.0.0.1", application), Application)
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
        numbers = dict(zip(PORTS_IN_FILES, (inbound, application, self.outbound), strict=True))
        for path in folder.rglob("*.yaml"):
            text = path.read_text()
            for written, real in numbers.items():
                text = text.replace(written, str(real))
            path.write_text(text)

    def arguments(self, name: str) -> list[str]:
        zone = self.folder / name
        return ["--dataplane-file", str(zone / "dataplane.yaml"), "--state-dir", str(zone / "state")]

    def run(self, name: str, *more: str) -> Proxy:
        return Proxy([*self.arguments(name), "--resources", str(self.folder / name / "resources"), *more])

    def export(self, name: str) -> str:
        """``koguma trust export``."""
        arguments = ["trust", "export", str(self.folder / name / "resources" / "identity.yaml"), *self.arguments(name)]
        done = subprocess.run(
            command(*arguments), env=environment(), capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise StoryBroken(done.stderr)
        return done.stdout

    def write(self, name: str, file: str, text: str) -> None:
        """Aside, then renamed, so that nobody reads half a file."""
        aside = self.folder / f"{name}.new"
        aside.write_text(text)
        aside.rename(self.folder / name / "resources" / file)

    def call(self) -> tuple[int, str]:
        """The shop calls the backend, in plaintext, by its own proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.outbound, timeout=10)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def free_ports() -> tuple[int, int, int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket()) for _ in PORTS_IN_FILES]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        first, second, third = (int(sock.getsockname()[1]) for sock in socks)
        return first, second, third


def secret(name: str, text: str) -> str:
    return f"type: Secret\nmesh: default\nname: {name}\ndata: {base64.b64encode(text.encode()).decode()}\n"


def pem_of(mesh_trust: Path) -> str:
    (document,) = Loader().load([mesh_trust]).documents
    assert isinstance(document.resource, MeshTrust)
    return "".join(bundle.pem.value for bundle in document.resource.ca_bundles if bundle.pem is not None)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def expect(zones: Zones, status: int, body: str, say: Callable[[str], None]) -> None:
    answer = zones.call()
    if answer[0] != status or body not in answer[1]:
        raise StoryBroken(f"expected {status} with {body!r}, got {answer}")
    say(f"   GET http://127.0.0.1:{zones.outbound}/  ->  {answer[0]} {answer[1]}")


def tell(say: Callable[[str], None] = print) -> None:
    with tempfile.TemporaryDirectory(prefix="two-zones-") as folder:
        zones = Zones(Path(folder))
        trust_of_1 = Path(folder) / "zone-1-trust.yaml"
        trust_of_1.write_text(zones.export("backend"))
        zones.write("shop", "zone-1-ca.yaml", secret("zone-1-ca", pem_of(trust_of_1)))
        with serving(zones.application), zones.run("backend", "--drain-untrusted") as backend, zones.run("shop"):
            say("1. The shop in zone-2 calls the backend in zone-1, which has no MeshTrust for zone-2:")
            expect(zones, 503, "connection termination", say)
            refused = backend.wait_for("peer_refused")["verdict"]
            say(f"   the backend's log: {refused['cause']}: {refused['message']}")
            say("2. koguma trust export in zone-2, copied to zone-1 while both run:")
            mesh_trust = zones.export("shop")
            say("".join(f"   {line}\n" for line in mesh_trust.splitlines()[:5]) + "   ...")
            zones.write("backend", "zone-2-trust.yaml", mesh_trust)
            backend.wait_for("reloaded")
            expect(zones, 200, f"hello, {SHOP}", say)
            say("3. The MeshTrust is taken away again, and with --drain-untrusted so are the connections that exist:")
            (Path(folder) / "backend" / "resources" / "zone-2-trust.yaml").unlink()
            backend.wait_for("reloaded")
            expect(zones, 503, "connection termination", say)
    say("Both proxies ended in order.")


if __name__ == "__main__":
    try:
        tell()
    except StoryBroken as exc:
        sys.exit(f"the story broke: {exc}")
