"""Real servers in a temporary directory, on free loopback ports: nginx, nghttpd, redis, PostgreSQL, HAProxy.

A test that needs a program which is not installed is skipped, and says which.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.kit import poll
from tests.kit.ca import Identity
from tests.kit.ports import free_port
from tests.kit.program import Program

START_S = 30.0
POSTGRES_USER = "postgres"


def find(name: str, *, among: Sequence[str] = ()) -> str:
    """The path of a program; skips the test if there is none. ``among`` are further places, as glob
    patterns.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    for pattern in among:
        candidates = sorted(Path("/").glob(pattern.lstrip("/")))
        found = found or (str(candidates[-1]) if candidates else None)
    if found is None:
        pytest.skip(f"{name} is not installed: {name!r} is neither on PATH nor in {list(among)}")
    return found


class App(ABC):
    """A server process on ``port``; a context manager that waits until it accepts connections."""

    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._program: Program | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What to run, once it is prepared."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Writes what the server needs, before it starts."""

    def clean_up(self) -> None:  # noqa: B027 - nor to clean up
        """Removes what :meth:`prepare` put outside the directory."""

    def is_up(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    @property
    def endpoint(self) -> dict[str, str | int]:
        return {"address": "127.0.0.1", "port": self.port}

    def __enter__(self) -> App:
        self.prepare()
        self._program = program = Program(self.command(), cwd=self.directory)

        def up() -> bool:
            assert program.is_running, "ended while starting"
            return self.is_up()

        try:
            poll.until(up, f"{type(self).__name__} to accept connections", within_s=START_S)
        except BaseException as error:
            program.close()
            self.clean_up()
            error.add_note(program.describe())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._program is not None
        try:
            if self._program.is_running:
                self._program.send(self.stop_signal)
                self._program.wait(within_s=START_S)
        finally:
            self._program.close()
            self.clean_up()

    def _write_identity(self, identity: Identity) -> tuple[Path, Path]:
        certificate, key = self.directory / "server.crt", self.directory / "server.key"
        certificate.write_text(identity.chain_pem)
        key.write_text(identity.key_pem)
        key.chmod(0o600)
        return certificate, key


class Nginx(App):
    """HTTP that answers ``hello from nginx`` on ``/`` and a file of ``body_bytes`` on ``/big``, and on ``/limited`` at
    32 MiB/s, and keeps what is PUT below ``/uploads/``; TLS with an identity, mTLS with a client CA as well.
    ``X-Client`` and ``X-Sni`` of the answer tell what nginx saw.

    ``http2``: HTTP/2 (without TLS, nothing else). ``keepalive_requests``: of one connection, which then ends.
    """

    def __init__(
        self,
        directory: Path,
        *,
        identity: Identity | None = None,
        client_ca_pem: str | None = None,
        body_bytes: bytes = b"",
        http2: bool = False,
        keepalive_requests: int = 1_000_000,
    ) -> None:
        super().__init__(directory)
        self.binary = find("nginx")
        self.http2 = http2
        self.keepalive_requests = keepalive_requests
        self.identity = identity
        self.client_ca_pem = client_ca_pem
        self.body = body_bytes

    def prepare(self) -> None:
        options = " ssl" * (self.identity is not None) + " http2" * self.http2
        lines = [f"listen 127.0.0.1:{self.port}{options};"]
        if self.identity is not None:
            certificate, key = self._write_identity(self.identity)
            lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {key};"]
            lines += ["add_header X-Sni $ssl_server_name;", "add_header X-Client $ssl_client_s_dn;"]
        if self.client_ca_pem is not None:
            client_ca = self.directory / "client-ca.crt"
            client_ca.write_text(self.client_ca_pem)
            lines += [f"ssl_client_certificate {client_ca};", "ssl_verify_client on;", "ssl_verify_depth 3;"]
        (self.directory / "big").write_bytes(self.body)
        (self.directory / "uploads").mkdir()
        temporary = "\n".join(
            f"    {kind}_temp_path {self.directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""  # the directory belongs to whoever runs the test
        (self.directory / "nginx.conf").write_text(f"""
{user}
daemon off;
worker_processes 1;
pid {self.directory}/nginx.pid;
error_log {self.directory}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests {self.keepalive_requests};
{temporary}
    server {{
        {" ".join(lines)}
        location = / {{ return 200 "hello from nginx"; }}
        location = /big {{ root {self.directory}; }}
        location = /limited {{ alias {self.directory}/big; limit_rate 32m; }}
        location /uploads/ {{ root {self.directory}; client_max_body_size 0; dav_methods PUT; }}
    }}
}}
""")

    def command(self) -> list[str]:
        return [
            self.binary,
            "-p",
            str(self.directory),
            "-e",
            str(self.directory / "error.log"),
            "-c",
            str(self.directory / "nginx.conf"),
        ]


class Nghttpd(App):
    """nghttp2's own server, for HTTP/2 and nothing else: files of ``directory``, and what is uploaded comes back. TLS
    with an identity; ``options`` are nghttpd's.
    """

    def __init__(self, directory: Path, *options: str, identity: Identity | None = None) -> None:
        super().__init__(directory)
        self.binary = find("nghttpd")
        self.options = options
        self.identity = identity

    def command(self) -> list[str]:
        words = [self.binary, "--address=127.0.0.1", f"--htdocs={self.directory}", "--echo-upload", *self.options]
        if self.identity is None:
            return [*words, "--no-tls", str(self.port)]
        certificate, key = self._write_identity(self.identity)
        return [*words, str(self.port), str(key), str(certificate)]


class Redis(App):
    """redis-server: plain, TLS with an identity, mTLS with a client CA as well."""

    def __init__(self, directory: Path, *, identity: Identity | None = None, client_ca_pem: str | None = None) -> None:
        super().__init__(directory)
        self.binary = find("redis-server")
        self.cli_binary = find("redis-cli")
        self.identity = identity
        self.client_ca_pem = client_ca_pem

    def prepare(self) -> None:
        if self.identity is not None:
            self._write_identity(self.identity)
            (self.directory / "ca.crt").write_text(self.client_ca_pem or self.identity.chain_pem)

    def command(self) -> list[str]:
        options: dict[str, str] = {
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "port": str(self.port),
        }
        if self.identity is not None:
            options |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": str(self.directory / "server.crt"),
                "tls-key-file": str(self.directory / "server.key"),
                "tls-ca-cert-file": str(self.directory / "ca.crt"),
                "tls-auth-clients": "yes" if self.client_ca_pem else "no",
            }
        return [self.binary, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def cli(self, port: int, *words: str, stdin: str | None = None) -> str:
        """``redis-cli`` in plain text against ``port``."""
        return _run([self.cli_binary, "-h", "127.0.0.1", "-p", str(port), *words], stdin=stdin)


class TlsFront(App):
    """HAProxy that ends TLS for a plain TCP server: what a managed database puts in front of itself."""

    def __init__(self, directory: Path, target_port: int, identity: Identity) -> None:
        super().__init__(directory)
        self.binary = find("haproxy")
        self.target_port = target_port
        self.identity = identity

    def prepare(self) -> None:
        pem = self.directory / "server.pem"
        pem.write_text(self.identity.chain_pem + self.identity.key_pem)
        pem.chmod(0o600)
        (self.directory / "haproxy.cfg").write_text(f"""
global
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen front
    bind 127.0.0.1:{self.port} ssl crt {pem}
    server target 127.0.0.1:{self.target_port}
""")

    def command(self) -> list[str]:
        return [self.binary, "-db", "-f", str(self.directory / "haproxy.cfg")]


class Postgres(App):
    """PostgreSQL with the user ``postgres`` and no password on loopback; ``ssl=on`` with an identity.

    PostgreSQL refuses to run as root, so under root it runs as the user ``postgres`` of its package, and
    therefore in a temporary directory of its own: pytest's are for the owner alone.
    """

    stop_signal = signal.SIGINT  # fast shutdown

    def __init__(self, directory: Path, *, identity: Identity | None = None) -> None:
        super().__init__(directory)
        self.binary = find("postgres", among=["/usr/lib/postgresql/*/bin/postgres"])
        self.psql_binary = find("psql", among=["/usr/lib/postgresql/*/bin/psql"])
        self.identity = identity
        self._become: list[str] = []
        if os.geteuid() == 0:
            if subprocess.run(["id", POSTGRES_USER], capture_output=True, check=False).returncode != 0:
                pytest.skip(f"PostgreSQL refuses root, and there is no user {POSTGRES_USER!r} to run it as")
            self._become = [
                find("setpriv"),
                f"--reuid={POSTGRES_USER}",
                f"--regid={POSTGRES_USER}",
                "--init-groups",
            ]
        self.data = Path(tempfile.mkdtemp(prefix="postgres-"))

    def prepare(self) -> None:
        self._hand_over(self.data)
        initdb = str(Path(self.binary).resolve().with_name("initdb"))
        _run(
            [
                *self._become,
                initdb,
                "-D",
                str(self.data),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
            ],
            cwd=self.data,
        )
        settings = [
            f"port = {self.port}",
            "listen_addresses = '127.0.0.1'",
            f"unix_socket_directories = '{self.data}'",
            "fsync = off",
        ]
        if self.identity is not None:
            settings += ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"]
            for name, text in (
                ("server.crt", self.identity.chain_pem),
                ("server.key", self.identity.key_pem),
            ):
                path = self.data / name
                path.write_text(text)
                path.chmod(0o600)
                self._hand_over(path)
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write("\n".join(settings) + "\n")

    def command(self) -> list[str]:
        return [*self._become, self.binary, "-D", str(self.data)]

    def clean_up(self) -> None:
        shutil.rmtree(self.data)

    def is_up(self) -> bool:
        ready = str(Path(self.binary).resolve().with_name("pg_isready"))
        asked = [ready, "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def psql(self, port: int, statement: str, *, options: str = "sslmode=disable") -> str:
        """The unadorned answer to a statement through ``port``."""
        address = f"host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=10 {options}"
        return _run([self.psql_binary, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", address, "-c", statement])

    def _hand_over(self, path: Path) -> None:
        if self._become:
            shutil.chown(path, POSTGRES_USER, POSTGRES_USER)


def _run(command: list[str], *, stdin: str | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, input=stdin or "", capture_output=True, text=True, timeout=START_S, cwd=cwd, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()
