"""What all proxies lead to: one nginx with a port for each kind of upstream, and a grpcio server.

The bodies: ``/small`` 60 bytes from memory, ``/4k``, ``/16k`` and ``/1m`` from files, ``/bulk`` a sparse file,
``/grpc`` what a gRPC server would answer (one message, and ``grpc-status`` in trailers) without the cost of one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from bench.process import MeasurementError, accepts, free_port, running

BULK_BYTES = 1 << 30
MESSAGE = b"hello world " * 5
SYSTEM = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; open_file_cache max=16;
  keepalive_requests 1000000000; keepalive_timeout 1h; http2_max_concurrent_streams 256; http2_chunk_size 16k;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key; ssl_protocols TLSv1.3;
  ssl_session_timeout 1h;
  default_type text/plain;
  server {{
    listen 127.0.0.1:{plain} backlog=4096;
    listen 127.0.0.1:{tls} ssl backlog=4096;
    listen 127.0.0.1:{h2} http2 backlog=4096;
    listen 127.0.0.1:{h2_tls} ssl http2 backlog=4096;
    root {folder}/www;
    location = /small {{ return 200 "{body}"; }}
    location = /grpc {{ default_type application/grpc; add_trailer grpc-status 0; error_page 405 =200 /message; }}
    location = /message {{ default_type application/grpc; add_trailer grpc-status 0; }}
  }}
  server {{  # no session is ever resumed here
    listen 127.0.0.1:{tls_full} ssl backlog=4096; ssl_session_tickets off; ssl_session_cache off;
    location = /small {{ return 200 "{body}"; }}
  }}
  server {{ listen 127.0.0.1:{before} backlog=4096 ssl; return 200 "before"; }}
  server {{ listen 127.0.0.1:{after} backlog=4096 ssl; return 200 "after"; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """Ports, by what is spoken there; ``before`` and ``after`` answer with their names, over TLS."""

    plain: int
    tls: int
    tls_full: int
    h2: int
    h2_tls: int
    grpc: int
    grpc_tls: int
    before: int
    after: int
    ca_file: Path
    grpc_request: Path
    """A file that holds one message, to POST."""


PORTS = ("plain", "tls", "tls_full", "h2", "h2_tls", "grpc", "grpc_tls", "before", "after")


def find(program: str) -> str:
    """Where a program is; many are in ``sbin``, which not everybody's PATH has. Raises :class:`MeasurementError`."""
    found = shutil.which(program) or shutil.which(program, path=SYSTEM)
    if found is None:
        raise MeasurementError(f"{program} is not installed")
    return found


@contextmanager
def start(folder: Path, cores: Set[int]) -> Iterator[Origin]:
    """Runs both servers on ``cores``; everything they read is written below ``folder``."""
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    certificate, key = folder / "leaf.pem", folder / "leaf.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca.cert_pem.bytes())
    request = _files(folder / "www")
    ports = {name: free_port() for name in PORTS}
    origin = Origin(**ports, ca_file=ca_file, grpc_request=request)
    config = folder / "origin.conf"
    config.write_text(NGINX.format(folder=folder, body=MESSAGE.decode(), **ports))
    with ExitStack() as stack:
        nginx = [find("nginx"), "-c", str(config), "-p", str(folder)]
        stack.enter_context(running(nginx, cores, lambda: accepts(origin.after), folder / "origin.log"))
        server = [sys.executable, "-m", "bench.grpc_server", str(origin.grpc), str(origin.grpc_tls), certificate, key]
        stack.enter_context(
            running([str(word) for word in server], cores, lambda: accepts(origin.grpc_tls), folder / "grpc.log")
        )
        yield origin


def _files(www: Path) -> Path:
    www.mkdir()
    for name, size in (("4k", 4 << 10), ("16k", 16 << 10), ("1m", 1 << 20)):
        (www / name).write_bytes(b"x" * size)
    with (www / "bulk").open("wb") as file:
        file.truncate(BULK_BYTES)
    framed = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
    for name in ("message", "grpc"):  # a POST of the second is answered by the first
        (www / name).write_bytes(framed)
    request = www / "request"
    request.write_bytes(framed)
    return request
