"""The program under test: ``koguma run`` as a real process, seen only through its documented contracts.

    koguma = Koguma(tmp_path)
    koguma.service("echo", [peer.endpoint])         # a MeshExternalService and an outbound that leads to it
    with koguma:                                    # writes the files, starts, waits for `ready`
        client.ask(koguma.port("echo"))
        koguma.stat("echo", "upstream_cx_total")

Leaving the block ends the process and fails the test if it crashed, hung, or wrote a traceback: a proxy that
survives by luck has not passed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.kit import poll, yamlkit
from tests.kit.ports import free_port
from tests.kit.program import Program
from tests.kit.yamlkit import Document

SOURCE_ROOT = Path(__file__).resolve().parents[2]
KOGUMA = (sys.executable, "-m", "proxy")

WORKERS = int(os.environ.get("KOGUMA_TEST_CONCURRENCY", "1"))
"""``KOGUMA_TEST_CONCURRENCY=2`` runs every end-to-end test with so many workers. Each takes its own turns among the
endpoints, and has its own pool: what a test counts exactly with one, it counts less exactly with more.
"""

READY_S = 20.0
RELOAD_S = 10.0
STOP_S = 10.0

SIGNS_OF_A_CRASH = (
    "Traceback (most recent call last)",
    "Exception ignored in",
    "was never awaited",
    "never retrieved",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the admin interface answered."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Koguma:
    """One proxy with its files. Configure, then enter; the files may be rewritten while it runs."""

    def __init__(
        self,
        directory: Path,
        *,
        resources: Path | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = KOGUMA,
        mesh: str = "default",
        drain_time: str = "2s",
    ) -> None:
        self.directory = directory
        self.resources = resources or directory / "resources"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.resources.mkdir(parents=True, exist_ok=True)
        self.dataplane_file = directory / "dataplane.yaml"
        self.admin_port = free_port()
        self.dns_port = free_port()
        self.mesh = mesh
        self.args = list(args)
        self.drain_time = drain_time
        self._env = dict(env or {})
        self._command = list(program)
        self._outbounds: dict[str, Document] = {}
        self._match_ports: dict[str, int] = {}
        self._clusters: dict[str, str] = {}
        self._program: Program | None = None
        self._expected_exit = 0

    # What to run

    def service(
        self,
        name: str,
        endpoints: Iterable[Document],
        *,
        tls: Document | None = None,
        port: int = 80,
        form: yamlkit.Form = yamlkit.Form.UNIVERSAL,
        address: str | None = None,
        **more: Any,
    ) -> int:
        """A MeshExternalService in a file of its own, and an outbound to it on a free port, which is
        returned.
        """
        self.write(f"{name}.yaml", yamlkit.mes(name, port, endpoints, tls=tls, form=form, mesh=self.mesh, **more))
        namespace = "kuma-system" if form is yamlkit.Form.KUBERNETES else ""
        self._match_ports[name] = port
        self._clusters[name] = yamlkit.kri(name, port, mesh=self.mesh, namespace=namespace)
        return self.outbound(name, address=address)

    def leads_to(self, service: str, port: int) -> int:
        """As :meth:`service`, for one whose file is there already."""
        self._match_ports[service] = port
        self._clusters[service] = yamlkit.kri(service, port, mesh=self.mesh)
        return self.outbound(service)

    def outbound(self, service: str, *, address: str | None = None) -> int:
        """A local port that leads to ``service``, which may be one that does not exist."""
        local = free_port(address or "127.0.0.1")
        self._outbounds[service] = yamlkit.outbound(local, service, address=address)
        if self._program is not None:
            self.write_dataplane()
        return local

    def secret(self, name: str, data: str, *, form: yamlkit.Form = yamlkit.Form.UNIVERSAL) -> Document:
        """A Secret in a file of its own; returns the data source that names it."""
        self.write(f"secret-{name}.yaml", yamlkit.secret(name, data, mesh=self.mesh, form=form))
        return yamlkit.from_secret(name)

    def write(self, filename: str, *documents: Document) -> Path:
        """Puts documents into a file under the resources, atomically."""
        return self.write_text(filename, yamlkit.render(*documents))

    def write_text(self, filename: str, text: str) -> Path:
        path = self.resources / filename
        path.parent.mkdir(exist_ok=True)
        _replace(path, text)
        return path

    def write_dataplane(self, **more: Any) -> None:
        document = yamlkit.dataplane(self._outbounds.values(), mesh=self.mesh, **more)
        _replace(self.dataplane_file, yamlkit.render(document))

    def port(self, service: str) -> int:
        return int(self._outbounds[service]["port"])

    def cluster(self, service: str) -> str:
        """The cluster's name, which is its KRI."""
        return self._clusters.get(service) or yamlkit.kri(service, 80, mesh=self.mesh)

    # The process

    @property
    def command(self) -> list[str]:
        return [
            *self._command,
            "run",
            "--dataplane-file",
            str(self.dataplane_file),
            "--resources",
            str(self.resources),
            "--admin-address",
            "127.0.0.1",
            "--admin-port",
            str(self.admin_port),
            "--dns-port",
            str(self.dns_port),
            "--drain-time",
            self.drain_time,
            "--log-format",
            "json",
            *(("--concurrency", str(WORKERS)) if WORKERS > 1 else ()),
            *self.args,
        ]

    def launch(self) -> Program:
        """Starts the process without waiting for anything."""
        if self._outbounds or not self.dataplane_file.exists():
            self.write_dataplane()
        self._program = Program(self.command, env=environment(self._env), cwd=self.directory)
        return self._program

    def start(self) -> None:
        """Starts the process, unless :meth:`launch` has, and waits until it is ready."""
        if self._program is None:
            self.launch()
        self.wait_for_event("ready", within_s=READY_S)

    @property
    def program(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def terminate(self) -> None:
        """SIGTERM: drain, then exit."""
        self.program.send(signal.SIGTERM)

    def hang_up(self) -> None:
        """SIGHUP: reload."""
        self.program.send(signal.SIGHUP)

    def wait_for_exit(self, *, within_s: float = STOP_S) -> int:
        return self.program.wait(within_s=within_s)

    def resident_bytes(self) -> int:
        """Resident memory of the process and its children."""
        total = 0
        for pid in [self.program.pid, *_children(self.program.pid)]:
            with contextlib.suppress(FileNotFoundError):
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
                total += int(found[1]) * 1024 if found else 0
        return total

    def cpu_s(self) -> float:
        """Processor time that the process has used, in ticks of the clock (10 ms)."""
        fields = Path(f"/proc/{self.program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """File descriptors of the process and its children."""
        return sum(_count_files(pid) for pid in [self.program.pid, *_children(self.program.pid)])

    def __enter__(self) -> Koguma:
        try:
            self.start()
        except BaseException as error:
            self._put_away()
            error.add_note(self.describe())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hung = self._put_away()
        if error is not None:
            error.add_note(self.describe())
            return
        assert not hung, f"did not end on two SIGTERMs: {self.describe()}"
        assert self.program.exit_code == self._expected_exit, f"ended badly: {self.describe()}"
        crashes = [line for line in self.program.stderr if any(sign in line for sign in SIGNS_OF_A_CRASH)]
        assert not crashes, f"wrote a traceback: {self.describe()}"

    def expect_exit(self, code: int) -> None:
        """The test ends the process in a way that gives another exit code than 0."""
        self._expected_exit = code

    def _put_away(self) -> bool:
        """Ends the process, politely if it lets us. Whether it had to be killed."""
        if self._program is None:
            return False
        hung = False
        try:
            for _ in range(2):  # drain, then at once
                if self._program.is_running:
                    self.terminate()
                    with contextlib.suppress(AssertionError):
                        self._program.wait(within_s=0.5)
            if self._program.is_running:
                with contextlib.suppress(AssertionError):
                    self._program.wait(within_s=STOP_S)
                hung = self._program.is_running
        finally:
            self._program.close()
        return hung

    def describe(self) -> str:
        return self._program.describe() if self._program is not None else "not started"

    # The log

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON lines of standard error so far; a line that is not JSON appears as ``{"text": line}``."""
        return [_as_event(line) for line in list(self.program.stderr)]

    @property
    def log_text(self) -> str:
        return "\n".join([*self.program.stderr, *self.program.stdout])

    def events(self, name: str, *, since: int = 0) -> list[dict[str, Any]]:
        return [entry for entry in self.log[since:] if entry.get("event") == name]

    def wait_for_event(self, *names: str, since: int = 0, within_s: float = RELOAD_S) -> dict[str, Any]:
        """The first log line with one of these events; an early end of the process is a failure at once."""

        def look() -> dict[str, Any] | None:
            for entry in self.log[since:]:
                if entry.get("event") in names:
                    return entry
            if not self.program.is_running:
                self.program.wait()
                raise AssertionError(f"ended before the event {names}: {self.describe()}")
            return None

        entry = poll.until(look, f"log event {' or '.join(names)}", within_s=within_s)
        assert entry is not None
        return entry

    # Reloads

    def changing(self, change: Callable[[], object], *events: str) -> dict[str, Any]:
        """Performs a change and waits for the log line that says what became of it (``reloaded`` by
        default).
        """
        mark = len(self.log)
        change()
        return self.wait_for_event(*(events or ("reloaded",)), since=mark)

    def rewrite(self, filename: str, *documents: Document) -> dict[str, Any]:
        """Replaces a resource file; returns when the new plan is live."""
        return self.changing(lambda: self.write(filename, *documents))

    def break_file(self, filename: str, text: str) -> dict[str, Any]:
        """Replaces a resource file by something wrong; returns the ``rejected`` line."""
        return self.changing(lambda: self.write_text(filename, text), "rejected")

    # The admin interface

    def admin(self, path: str, *, method: str = "GET", timeout_s: float = 10.0) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout_s)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, headers, response.read().decode())
        finally:
            connection.close()

    def stats(self) -> dict[str, int]:
        """Counters and gauges by name."""
        reply = self.admin("/stats")
        assert reply.status == 200, reply
        numbers = {}
        for line in reply.text.splitlines():
            name, _, value = line.rpartition(": ")
            if re.fullmatch(r"-?\d+", value):
                numbers[name] = int(value)
        return numbers

    def stat(self, service: str, name: str) -> int:
        """One statistic of a service's cluster; absent counts as 0."""
        return self.stats().get(f"cluster.{self.cluster(service)}.{name}", 0)

    def wait_for_stat(self, service: str, name: str, at_least: int, *, within_s: float = 10.0) -> int:
        poll.until(lambda: self.stat(service, name) >= at_least, f"{service} {name} >= {at_least}", within_s=within_s)
        return self.stat(service, name)

    def clusters_json(self) -> dict[str, Any]:
        """``/clusters?format=json`` by cluster name."""
        statuses = self.admin("/clusters?format=json").json()["cluster_statuses"]
        return {status["name"]: status for status in statuses}

    def resource(self, name: str, kind: str = "MeshExternalService") -> dict[str, Any]:
        """The entry of ``/resources`` for this resource."""
        entries = self.admin("/resources").json()["resources"]
        found = [entry for entry in entries if entry["type"] == kind and entry["name"] == name]
        assert len(found) == 1, f"{kind}/{name}: {len(found)} of {len(entries)} entries"
        return dict(found[0])

    def verdicts(self, service: str) -> list[dict[str, Any]]:
        """The last verdicts of a service's endpoints, for those that have one."""
        endpoints = self.resource(service)["status"]["endpoints"]
        return [endpoint["lastVerdict"] for endpoint in endpoints if endpoint.get("lastVerdict")]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has run to its end."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run_to_end(*args: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 20.0) -> Finished:
    """``koguma ARGS``, for commands and starts that end by themselves."""
    done = subprocess.run(
        [*KOGUMA, *args],
        cwd=cwd,
        env=environment(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: ours without any ``KUMA_*`` that would change what is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KUMA_")}
    return {**kept, "PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1", **more}


def _replace(path: Path, text: str) -> None:
    """Write aside and rename, as careful deployments do. The temporary name has no YAML suffix: it is not a
    resource.
    """
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text)
    aside.rename(path)


def _as_event(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {"text": line}
    return entry if isinstance(entry, dict) else {"text": line}


def _count_files(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
