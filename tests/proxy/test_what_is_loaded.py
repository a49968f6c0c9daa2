"""Guarantee: a sidecar loads what it uses. What most of them never use is not in memory before it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.resources.registry import KINDS, model_of
from tests.kit.koguma import SOURCE_ROOT

DATAPLANE = """
type: Dataplane
mesh: default
name: web
networking:
  address: 127.0.0.1
  outbound:
  - port: 10001
    backendRef:
      kind: MeshExternalService
      name: api
"""
SERVICE = """
type: MeshExternalService
mesh: default
name: api
spec:
  match:
    port: 443
    protocol: http
  endpoints:
  - address: 192.0.2.1
    port: 443
"""
RETRY = """
type: MeshRetry
mesh: default
name: again
spec:
  to:
  - targetRef:
      kind: Mesh
    default:
      http:
        numRetries: 2
"""
OPTIONAL = {
    "anyio", "config.policies.fields", "config.resources.meshretry", "difflib", "dns", "html", "multiprocessing",
    "proxy.admin.page", "proxy.dns.server", "proxy.lookup", "proxy.workers.supervisor", "pyroute2", "pystache",
    "spiffe", "watchfiles", "yaml",
}  # fmt: skip
PROGRAM = """
import json, sys
import proxy.__main__, proxy.commands.run
from config.extension import NoExtensions
from proxy.options import Sources
from proxy.reading import read

planned = read(Sources(sys.argv[1], resources=(sys.argv[2],)), NoExtensions()).plan()
assert planned.plan.listeners and not planned.has_errors, planned.problems
print(json.dumps(list(sys.modules)))
"""


def loaded(folder: Path, dataplane: str, *resources: str) -> set[str]:
    """Of what is optional: that which a new interpreter has loaded once it is about to be such a proxy."""
    (folder / "dp.yaml").write_text(dataplane)
    (folder / "resources").mkdir()
    for number, resource in enumerate(resources):
        (folder / "resources" / f"{number}.yaml").write_text(resource)
    command = [sys.executable, "-c", PROGRAM, str(folder / "dp.yaml"), str(folder / "resources")]
    done = subprocess.run(command, cwd=SOURCE_ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return OPTIONAL & set(json.loads(done.stdout))


def test_what_plain_documents_do_without(tmp_path: Path) -> None:
    assert loaded(tmp_path, DATAPLANE, SERVICE) == set()


@pytest.mark.parametrize(
    ("dataplane", "resources", "needed"),
    [
        (DATAPLANE.replace("127.0.0.1", "{{ address }}127.0.0.1"), [SERVICE], {"html", "pystache"}),
        (DATAPLANE, [SERVICE.replace("name: api", "name: &name api")], {"yaml"}),
        (DATAPLANE, [SERVICE, RETRY], {"config.policies.fields", "config.resources.meshretry"}),
    ],
    ids=["a template", "YAML that is not plain", "a policy"],
)
def test_it_is_loaded_by_what_needs_it(tmp_path: Path, dataplane: str, resources: list[str], needed: set[str]) -> None:
    assert loaded(tmp_path, dataplane, *resources) == needed


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_where_the_registry_says(kind: str) -> None:
    assert model_of(kind).kind == kind
