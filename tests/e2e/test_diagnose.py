"""Guarantee: of a service with an extension ``koguma diagnose`` tells what is supplied, or why nothing is, and does not
wait for it for long.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy.commands import diagnose as command
from proxy.commands.diagnose import diagnose
from proxy.extensions.registry import Registry
from proxy.options import Names, Sources
from tests.kit import peers, yamlkit
from tests.kit.dns import DnsServer
from tests.kit.koguma import Finished, run_to_end
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.ports import free_port


def extended(type: str, config: Any) -> str:
    document = yamlkit.mes("app", 80, [])
    document["spec"] = {"match": {"port": 80}, "extension": {"type": type, "config": config}}
    return yamlkit.render(document)


def diagnosed(folder: Path, type: str, config: Any, *args: str) -> Finished:
    (folder / "app.yaml").write_text(extended(type, config))
    (folder / "dp.yaml").write_text(yamlkit.render(yamlkit.dataplane()))
    files = ["--dataplane-file", str(folder / "dp.yaml"), "--resources", str(folder / "app.yaml")]
    return run_to_end("diagnose", "app", *files, *args, cwd=folder)


def test_what_is_supplied_is_dialled(tmp_path: Path) -> None:
    with DnsServer({"one.test": ["127.0.0.1"]}) as dns, Peer(peers.echo) as peer:
        dns.services["_app._tcp.test"] = [f"0 0 {peer.endpoint['port']} one.test."]
        shown = diagnosed(tmp_path, "srv", {"name": "_app._tcp.test"}, "--dns-upstream", dns.address)
        assert shown.exit_code == 0, shown.output
        assert f"127.0.0.1:{peer.endpoint['port']} (one.test)" in shown.stdout
        assert "OK in" in shown.stdout


def test_why_nothing_is_supplied(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/app"
    shown = diagnosed(tmp_path, "http", {"url": url}, "--format", "json")
    assert shown.exit_code == 1, shown.output
    document = json.loads(shown.stdout)
    assert document["endpoints"] == []
    (note,) = document["notes"]
    assert note.startswith("extension http failed: URLError")
    assert note.endswith("it has supplied nothing")


def test_what_is_supplied_and_wrong(tmp_path: Path) -> None:
    answer = json.dumps({"endpoints": [{"address": "127.0.0.1", "port": 0}]}).encode()
    with Origin(always(ok(answer))) as discovery:
        shown = diagnosed(tmp_path, "http", {"url": f"http://127.0.0.1:{discovery.endpoint['port']}/"})
    assert shown.exit_code == 1, shown.output
    assert "extension http supplied what is wrong: endpoints[0].port: port must be a valid" in shown.stdout


def test_an_extension_that_is_not_there(tmp_path: Path) -> None:
    shown = diagnosed(tmp_path, "nobody-has-this", {})
    assert shown.exit_code == 1, shown.output
    assert 'no extension "nobody-has-this" is installed' in shown.stderr


class Hanging:
    may_end = threading.Event()

    def validate(self, config: Any) -> list[str]:
        return []

    async def watch(self, context: Any) -> None:
        self.may_end.wait(30)  # what an extension must not do


def test_nobody_waits_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SUPPLY_WAIT_S", 0.05)
    monkeypatch.setattr(command, "Registry", lambda: Registry({"hanging": Hanging}))
    (tmp_path / "app.yaml").write_text(extended("hanging", {}))
    (tmp_path / "dp.yaml").write_text(yamlkit.render(yamlkit.dataplane()))
    sources = Sources(str(tmp_path / "dp.yaml"), resources=(str(tmp_path / "app.yaml"),))
    try:
        assert diagnose("app", sources, Names(), "text") == 1
    finally:
        Hanging.may_end.set()
    assert "extension hanging has supplied no endpoints yet" in capsys.readouterr().out
