"""The harness catches what it exists to catch, tried on small impostors: a program that never gets ready, one
that dies, one that writes a traceback, one that ignores SIGTERM; and it drives an honest one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.kit import koguma as harness
from tests.kit import poll
from tests.kit.koguma import Koguma

HONEST = """
import http.server, json, signal, sys, threading
port = int(sys.argv[sys.argv.index("--admin-port") + 1])
STATS = [
    "koguma.generation: 3",
    "cluster.kri_extsvc_default_default__echo_80.upstream_cx_total: 7",
    "latency: P50(1,2)",
]
def say(**event):
    print(json.dumps(event), file=sys.stderr, flush=True)
class Admin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "\\n".join(STATS).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Admin)
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.signal(signal.SIGHUP, lambda *_: say(event="reloaded", changed=1))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
say(event="ready")
FAULT
while True:
    signal.pause()
"""


def but(fault: str) -> str:
    """The honest program with one line more, once it is ready."""
    return HONEST.replace("FAULT", fault)


def impostor(directory: Path, text: str) -> Koguma:
    script = directory / "impostor.py"
    script.write_text(text)
    return Koguma(directory, program=(sys.executable, str(script)))


def test_an_honest_program_is_driven(tmp_path: Path) -> None:
    koguma = impostor(tmp_path, but(""))
    port = koguma.service("echo", [{"address": "127.0.0.1", "port": 1}])
    with koguma:
        assert koguma.stats()["koguma.generation"] == 3
        assert koguma.stat("echo", "upstream_cx_total") == 7
        assert koguma.stat("echo", "no_such") == 0
        assert koguma.changing(koguma.hang_up)["changed"] == 1
        assert koguma.resident_bytes() > 1_000_000
    dataplane = yaml.safe_load(koguma.dataplane_file.read_text())
    assert dataplane["networking"]["outbound"][0]["port"] == port
    service = yaml.safe_load((koguma.resources / "echo.yaml").read_text())
    assert (service["type"], service["spec"]["match"]["port"]) == ("MeshExternalService", 80)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("raise ValueError('boom')", "ended badly"),
        ("print('Traceback (most recent call last)', file=sys.stderr, flush=True)", "traceback"),
    ],
)
def test_a_crash_fails_the_test(tmp_path: Path, fault: str, complaint: str) -> None:
    koguma = impostor(tmp_path, but(fault))
    with pytest.raises(AssertionError, match=complaint), koguma:
        poll.until(lambda: not koguma.program.is_running or len(koguma.log) > 1, "the impostor to misbehave")


def test_an_early_end_is_noticed_at_once_and_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such port"):
        impostor(tmp_path, "import sys; sys.exit('no such port')").__enter__()


def test_a_program_that_ignores_sigterm_is_killed_and_the_test_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "STOP_S", 0.2)
    koguma = impostor(tmp_path, but("signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    with pytest.raises(AssertionError, match="did not end on two SIGTERMs"), koguma:
        pass
    assert koguma.program.exit_code == -9


def test_the_log_survives_lines_that_are_not_json(tmp_path: Path) -> None:
    koguma = impostor(tmp_path, but("print('odd', file=sys.stderr, flush=True)"))
    with koguma:
        poll.until(lambda: {"text": "odd"} in koguma.log, "the odd line")
        assert json.dumps({"event": "ready"}) in koguma.log_text
