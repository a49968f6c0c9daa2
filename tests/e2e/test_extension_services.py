"""Guarantee: the endpoints of a service may come from a discovery, follow it while traffic flows, and a discovery that
fails takes nothing with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.kit import client, poll, yamlkit
from tests.kit.dns import DnsServer
from tests.kit.koguma import Koguma
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer, greeting


def extended(name: str, type: str, config: Any) -> yamlkit.Document:
    document = yamlkit.mes(name, 80, [])
    document["spec"] = {"match": {"port": 80}, "extension": {"type": type, "config": config}}
    return document


def test_srv_records(tmp_path: Path) -> None:
    with DnsServer({"one.test": ["127.0.0.1"]}, ttl_s=1) as dns, Peer(greeting(b"one")) as one:
        dns.services["_app._tcp.test"] = [f"0 0 {one.endpoint['port']} one.test."]
        koguma = Koguma(tmp_path, args=["--dns-upstream", dns.address])
        koguma.service("other", [one.endpoint])
        koguma.service("app", [])
        koguma.write("app.yaml", extended("app", "srv", {"name": "_app._tcp.test"}))
        with koguma:
            poll.until(lambda: client.fate(koguma.port("app")) == b"one", "the endpoint")
            dns.failing = True
            koguma.wait_for_event("extension_failed")
            assert client.fate(koguma.port("app")) == b"one", "what was known last stays"
            assert client.ask(koguma.port("other")) == b"one"
            assert koguma.admin("/ready").status == 200


def test_json_over_http(tmp_path: Path) -> None:
    with Peer(greeting(b"one")) as one, Peer(greeting(b"two")) as two:
        listed = [one.endpoint]
        with Origin(always(lambda _request: ok(json.dumps({"endpoints": listed}).encode()))) as discovery:
            koguma = Koguma(tmp_path)
            koguma.service("app", [])
            url = f"http://127.0.0.1:{discovery.endpoint['port']}/app"
            koguma.write("app.yaml", extended("app", "http", {"url": url, "interval": "1s"}))
            koguma.service("wrong", [])
            koguma.write("wrong.yaml", extended("wrong", "http", {"uri": url}))
            with koguma:
                poll.until(lambda: client.fate(koguma.port("app")) == b"one", "the endpoint")
                listed[:] = [two.endpoint]
                poll.until(lambda: client.fate(koguma.port("app")) == b"two", "the endpoint of a later answer")
                (problem, *_) = koguma.resource("wrong")["problems"]
                assert problem["field"] == "spec.extension.config"
                koguma.rewrite("app.yaml", yamlkit.mes("app", 80, []))
                assert client.gets_nowhere(koguma.port("app")), "it no longer asks"
