"""Guarantee: ``inspect`` shows what a service runs with, and which line of which policy says so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from proxy.commands.inspect import inspect
from proxy.options import Sources
from tests.kit import yamlkit
from tests.kit.koguma import SOURCE_ROOT

POLICIES = """\
type: MeshTimeout
name: all
spec:
  to:
    - targetRef: {kind: Mesh}
      default:
        connectionTimeout: 3s
        http: {requestTimeout: 1m30s}
---
type: MeshTimeout
name: own
spec:
  to:
    - targetRef: {kind: MeshExternalService, name: app}
      default:
        connectionTimeout: 250ms
---
type: MeshRetry
name: own
spec:
  to:
    - targetRef: {kind: Mesh}
      default:
        http:
          numRetries: 2
          retryOn: [5xx, "503", HttpMethodGet]
"""


def line(text: str) -> str:
    """The number of the line that has ``text``."""
    (number,) = (number for number, row in enumerate(POLICIES.split("\n"), 1) if text in row)
    return str(number)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    (tmp_path / "dp.yaml").write_text(yamlkit.render(yamlkit.dataplane([yamlkit.outbound(10001, "app")])))
    endpoints = [{"address": "127.0.0.1", "port": 80}]
    (tmp_path / "app.yaml").write_text(yamlkit.render(yamlkit.mes("app", 80, endpoints, protocol="http")))
    (tmp_path / "policies.yaml").write_text(POLICIES)
    paths = (str(tmp_path / "app.yaml"), str(tmp_path / "policies.yaml"))
    return Sources(dataplane_file=str(tmp_path / "dp.yaml"), resources=paths)


def test_for_people(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(sources, "text") == os.EX_OK
    shown = capsys.readouterr().out
    assert "  timeouts  connect 250ms, idle 1h, request 1m30s, stream idle 30m, stream none, connection none" in shown
    assert "  retries   2 on 5xx, retriable-status-codes (503), for GET; per try none, back-off 25ms to 250ms" in shown
    found = re.findall(r"  policy    (.+), from (\w+/\w+) \(.*/policies.yaml:(\d+)\)", shown)
    assert found == [
        ("http.numRetries: 2", "MeshRetry/own", line("numRetries: 2")),
        ("http.retryOn: 5xx, 503, HttpMethodGet", "MeshRetry/own", line("retryOn")),
        ("connectionTimeout: 250ms", "MeshTimeout/own", line("connectionTimeout: 250ms")),
        ("http.requestTimeout: 1m30s", "MeshTimeout/all", line("requestTimeout")),
    ]


def test_for_programs(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(sources, "json") == os.EX_OK
    document = json.loads(capsys.readouterr().out)
    (cluster,) = document["plan"]["clusters"]
    assert (cluster["connectTimeoutSeconds"], cluster["requestTimeoutSeconds"]) == (0.25, 90)
    assert cluster["retry"]["statuses"] == [503]
    (app,) = [resource for resource in document["resources"] if resource["name"] == "app"]
    (connect,) = [setting for setting in app["policies"] if setting["field"] == "connectionTimeout"]
    assert (connect["type"], connect["name"], connect["value"]) == ("MeshTimeout", "own", "250ms")


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    examples = SOURCE_ROOT / "examples"
    paths = (str(examples / "meshexternalservice" / "httpbin.yaml"), str(examples / "policies"))
    assert inspect(Sources(dataplane_file=str(examples / "dataplane.yaml"), resources=paths), "text") == os.EX_OK
    shown = capsys.readouterr().out
    assert "connect 2s, idle 1h" in shown
    assert "100 connections" in shown
