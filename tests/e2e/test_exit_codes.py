"""Guarantee: the exit code says which kind of thing went wrong, and one clear line says what and where.

0 fine; 1 invalid resources, with every violation; 2 wrong usage; 3 could not start. Without ``--strict`` a
broken resource is isolated and the others run; with it, nothing starts.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.kit import client, peers, yamlkit
from tests.kit import koguma as harness
from tests.kit.koguma import Finished, Koguma
from tests.kit.peers import Peer
from tests.kit.yamlkit import Document

ENDPOINT: Document = {"address": "127.0.0.1", "port": 80}


def start(koguma: Koguma) -> Finished:
    """Runs ``koguma run`` for a configuration that cannot start."""
    koguma.write_dataplane()
    return harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)


def problems_of(finished: Finished) -> str:
    assert "Traceback" not in finished.output
    return finished.output


# 1: invalid resources


def test_a_wrong_dataplane_ends_with_1_and_every_violation(koguma: Koguma) -> None:
    koguma.dataplane_file.write_text(
        "type: Dataplane\nmesh: default\nname: backend\nnetworking:\n  address: 0.0.0.0\n  outbound:\n"
        "  - port: 70000\n    backendRef:\n      kind: MeshExternalService\n      name: app\n"
    )
    finished = harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)
    assert finished.exit_code == 1, finished.output
    problems = problems_of(finished)
    assert "networking.address" in problems
    assert "must not be 0.0.0.0 or ::" in problems
    assert "networking.outbound[0].port" in problems
    assert "port must be in the range [1, 65535]" in problems
    assert "dataplane.yaml" in problems


def test_a_dataplane_that_is_not_yaml_ends_with_1(koguma: Koguma) -> None:
    koguma.dataplane_file.write_text("type: Dataplane\nnetworking: [unclosed\n")
    finished = harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)
    assert finished.exit_code == 1, finished.output
    assert "dataplane.yaml" in problems_of(finished)


def broken_services(koguma: Koguma) -> None:
    koguma.service("port-zero", [ENDPOINT], port=0)
    koguma.service("no-address", [{"address": "not a name", "port": 80}])


def test_strict_refuses_the_whole_set_and_tells_every_violation(koguma: Koguma) -> None:
    broken_services(koguma)
    koguma.args.append("--strict")
    finished = start(koguma)
    assert finished.exit_code == 1, finished.output
    problems = problems_of(finished)
    assert "port must be a valid (1-65535)" in problems
    assert "address has to be a valid IP or hostname" in problems
    assert "port-zero.yaml" in problems
    assert "no-address.yaml" in problems


def test_without_strict_the_broken_are_isolated(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        broken_services(koguma)
        koguma.service("sound", [peer.endpoint])
        with koguma:
            assert client.ask(koguma.port("sound")) == b"ping"
            assert client.gets_nowhere(koguma.port("port-zero"))
            assert "port must be a valid (1-65535)" in koguma.log_text
            conditions = koguma.resource("port-zero")["status"]["conditions"]
            assert any("port must be a valid (1-65535)" in condition["message"] for condition in conditions)


# 2: wrong usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["no-such-command"],
        ["run"],
        ["run", "--no-such-flag"],
        ["run", "--dataplane-file", "dataplane.yaml", "--admin-port", "many"],
        ["validate"],
    ],
    ids=lambda args: " ".join(args) or "nothing",
)
def test_wrong_usage_ends_with_2(tmp_path: Path, args: list[str]) -> None:
    finished = harness.run_to_end(*args, cwd=tmp_path)
    assert finished.exit_code == 2, finished.output
    assert "Traceback" not in finished.output
    assert "usage" in finished.stderr.lower()


# 3: could not start


def test_a_taken_outbound_port_ends_with_3_and_is_named(koguma: Koguma) -> None:
    port = koguma.service("app", [ENDPOINT])
    with socket.create_server(("127.0.0.1", port)):
        finished = start(koguma)
    assert finished.exit_code == 3, finished.output
    assert f"127.0.0.1:{port}" in problems_of(finished)


def test_a_taken_admin_port_ends_with_3_and_is_named(koguma: Koguma) -> None:
    koguma.service("app", [ENDPOINT])
    with socket.create_server(("127.0.0.1", koguma.admin_port)):
        finished = start(koguma)
    assert finished.exit_code == 3, finished.output
    assert f"127.0.0.1:{koguma.admin_port}" in problems_of(finished)


def test_an_address_that_is_not_ours_ends_with_3_and_is_named(koguma: Koguma) -> None:
    koguma.write("app.yaml", yamlkit.mes("app", 80, [ENDPOINT]))
    elsewhere = yamlkit.outbound(18080, "app", address="192.0.2.1")
    koguma.dataplane_file.write_text(yamlkit.render(yamlkit.dataplane([elsewhere])))
    finished = harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)
    assert finished.exit_code == 3, finished.output
    assert "192.0.2.1:18080" in problems_of(finished)


# validate


def test_validate_is_content_with_what_is_right(koguma: Koguma) -> None:
    koguma.service("app", [ENDPOINT], tls=yamlkit.tls(server_name="api.example.test"))
    finished = harness.run_to_end("validate", str(koguma.resources), cwd=koguma.directory)
    assert finished.exit_code == 0, finished.output


def test_validate_prints_file_line_resource_field_and_message(koguma: Koguma) -> None:
    path = koguma.write("app.yaml", yamlkit.mes("app", 0, [ENDPOINT]))
    line = 1 + path.read_text().splitlines().index("    port: 0")
    finished = harness.run_to_end("validate", str(path), cwd=koguma.directory)
    assert finished.exit_code == 1
    expected = f"{path}:{line}: MeshExternalService/app: spec.match.port: port must be a valid (1-65535)"
    assert expected in finished.output.splitlines()


def test_validate_speaks_json(koguma: Koguma) -> None:
    path = koguma.write("app.yaml", yamlkit.mes("app", 0, [ENDPOINT], tls=yamlkit.tls(mode="SkipAll")))
    finished = harness.run_to_end("validate", str(path), "--format", "json", cwd=koguma.directory)
    assert finished.exit_code == 1
    problems = json.loads(finished.stdout)
    assert {
        "file": str(path),
        "line": 1 + path.read_text().splitlines().index("    port: 0"),
        "type": "MeshExternalService",
        "mesh": "default",
        "name": "app",
        "field": "spec.match.port",
        "message": "port must be a valid (1-65535)",
        "severity": "error",
    } in problems
    assert {problem["severity"] for problem in problems} == {"error", "warning"}


def test_warnings_do_not_change_the_exit_code(koguma: Koguma) -> None:
    path = koguma.write("app.yaml", yamlkit.mes("app", 80, [ENDPOINT], tls=yamlkit.tls(mode="SkipAll")))
    finished = harness.run_to_end("validate", str(path), "--format", "json", cwd=koguma.directory)
    assert finished.exit_code == 0, finished.output
    assert [problem["severity"] for problem in json.loads(finished.stdout)] == ["warning"]
