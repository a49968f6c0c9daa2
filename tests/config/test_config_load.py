"""Files and directories to documents, with keys, places and what could not be read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.load import READ_BYTES, DataplaneLoader, Loaded, load_dataplane, load_resources
from config.resources import Dataplane, Mesh, MeshExternalService, Secret

MESH = "type: Mesh\nname: {}\n"
SERVICE = "type: MeshExternalService\nmesh: m\nname: {}\n" + (
    "spec: {{match: {{port: {}}}, endpoints: [{{address: a, port: 1}}]}}\n"
)


def names(loaded: Loaded) -> list[str]:
    return [document.name for document in loaded.documents]


def messages(loaded: Loaded) -> list[tuple[str, int, str]]:
    return [(Path(problem.file).name, problem.line, problem.message) for problem in loaded.all_problems]


def test_a_directory_is_read_in_order_and_hidden_entries_are_not(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "d.txt", ".e.yaml", "sub/f.yaml", "..2024_01/g.yaml"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'{{"type": "Mesh", "name": "{file.stem[-1]}"}}')
    assert names(load_resources([tmp_path])) == ["a", "b", "c", "f"]


def test_a_mounted_configmap_is_read_through_its_links(tmp_path: Path) -> None:
    (tmp_path / "..2024_01").mkdir()
    (tmp_path / "..2024_01" / "a.yaml").write_text(MESH.format("a"))
    (tmp_path / "..data").symlink_to("..2024_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    loaded = load_resources([tmp_path])
    assert names(loaded) == ["a"]
    assert loaded.documents[0].file == str(tmp_path / "a.yaml")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "a.yaml").write_text(MESH.format("a"))
    assert names(load_resources([tmp_path])) == ["a"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text(MESH.format("a"))
    assert names(load_resources([file, str(file)])) == ["a"]


def test_a_missing_path_and_a_dangling_link_are_problems(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.yaml").symlink_to("nowhere")
    loaded = load_resources([tmp_path / "none.yaml", tmp_path / "d"])
    text = "cannot be read: No such file or directory"
    assert messages(loaded) == [("a.yaml", 1, text), ("none.yaml", 1, text)]
    assert loaded.unreadable_files == {str(tmp_path / "none.yaml"), str(tmp_path / "d" / "a.yaml")}


def test_the_same_resource_twice_names_the_other_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE.format("x", 80) + "---\n" + MESH.format("x"))
    (tmp_path / "b.yaml").write_text(SERVICE.format("x", 81))
    loaded = load_resources([tmp_path])
    assert messages(loaded) == [("b.yaml", 3, f"already defined at {tmp_path / 'a.yaml'}:1")]
    assert [document.resource is None for document in loaded.documents] == [False, False, True]


def test_mesh_and_namespace_tell_resources_apart(tmp_path: Path) -> None:
    head = (
        "apiVersion: kuma.io/v1alpha1\nkind: MeshExternalService\n"
        "spec: {match: {port: 1}, endpoints: [{address: a, port: 1}]}\n"
    )
    documents = [
        SERVICE.format("x", 80),
        SERVICE.format("x", 80).replace("mesh: m", "mesh: n"),
        head + "metadata: {name: x, namespace: s, labels: {kuma.io/mesh: m}}",
        head + "metadata: {name: x, namespace: t, labels: {kuma.io/mesh: m}}",
    ]
    (tmp_path / "a.yaml").write_text("\n---\n".join(documents))
    loaded = load_resources([tmp_path])
    assert loaded.all_problems == []
    assert [document.key[1:] for document in loaded.documents] == [
        ("m", "x", ""), ("n", "x", ""), ("m", "x", "s"), ("m", "x", "t"),
    ]  # fmt: skip


def test_a_broken_document_keeps_its_key_and_leaves_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE.format("x", 0) + "---\n" + SERVICE.format("y", 80))
    loaded = load_resources([tmp_path])
    broken, fine = loaded.documents
    assert broken.key == ("MeshExternalService", "m", "x", "")
    assert (broken.is_broken, broken.resource) == (True, None)
    assert isinstance(fine.resource, MeshExternalService)
    assert loaded.unreadable_files == frozenset()


@pytest.mark.parametrize("bad", ["a: [", "- 1", "spec: {}", "type: Mesh", "name: a"])
def test_a_file_with_a_part_that_has_no_key_is_unreadable(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"{bad}\n---\n{MESH.format('m')}")
    loaded = load_resources([file])
    assert loaded.unreadable_files == {str(file)}
    assert [document.name for document in loaded.documents if document.resource is not None] == ["m"]


def test_a_kubernetes_list_is_its_items(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: a}}\n"
        "- {apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: B}}\n"
    )
    loaded = load_resources([tmp_path])
    assert names(loaded) == ["a", "B"]
    assert [(problem.line, problem.field) for problem in loaded.all_problems] == [(5, "name")]


def test_foreign_kubernetes_secrets_are_passed_over_in_silence(tmp_path: Path) -> None:
    secret = (
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {}, labels: {{kuma.io/mesh: m}}}}\n"
        "type: {}\ndata: {{value: aGk=}}\n"
    )
    kinds = ("Opaque", "system.kuma.io/secret", "system.kuma.io/global-secret")
    (tmp_path / "a.yaml").write_text("---\n".join(secret.format(f"s{n}", kind) for n, kind in enumerate(kinds)))
    loaded = load_resources([tmp_path])
    assert loaded.all_problems == []
    assert [document.key for document in loaded.documents] == [
        ("Secret", "m", "s1", ""),
        ("GlobalSecret", "", "s2", ""),
    ]
    assert [resource.data for resource in loaded.resources if isinstance(resource, Secret)] == [b"hi", b"hi"]
    assert "hi" not in repr(loaded)


def test_lines_of_fields_are_found_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: kuma.io/v1alpha1\nkind: Dataplane\nmetadata:\n  namespace: s\n  name: d\nspec:\n"
        "  networking:\n    address: 10.0.0.1\n    outbound:\n    - port: 1\n      tags: {kuma.io/service: a}\n"
    )
    (document,) = load_resources([tmp_path]).documents
    lines = {"name": 5, "networking.outbound[0].tags": 11, "spec.networking.address": 8, "nothing": 1, "": 1}
    assert {field: document.line_of(field) for field in lines} == lines
    problem = document.problem("networking.address", "is wrong")
    assert (problem.line, problem.type, problem.name, problem.is_error) == (8, "Dataplane", "d", True)


DATAPLANE = "type: Dataplane\nmesh: default\nname: {{ name }}\nnetworking:\n  address: {{ ip }}\n"


def test_a_dataplane_is_a_template(tmp_path: Path) -> None:
    file = tmp_path / "dp.yaml"
    file.write_text(DATAPLANE)
    (document,) = load_dataplane(file, {"name": "dp-1", "ip": "10.0.0.1"}).documents
    assert isinstance(document.resource, Dataplane)
    assert (document.name, document.resource.networking.address) == ("dp-1", "10.0.0.1")


def test_a_dataplane_that_does_not_change_is_not_read_again(tmp_path: Path) -> None:
    file, loader = tmp_path / "dp.yaml", DataplaneLoader()
    file.write_text("type: Dataplane\nmesh: default\nname: {{ name }}\nnetworking: {address: 127.0.0.1}\n")
    first = loader.load(file, {"name": "web"})
    assert loader.load(file, {"name": "web"}) is first
    assert loader.load(file, {"name": "api"}).documents[0].name == "api"
    file.unlink()
    assert loader.load(file, {"name": "api"}).problems
    file.write_text("type: Dataplane\nmesh: default\nname: {{ name }}\nnetworking: {address: 127.0.0.2}\n")
    (document,) = loader.load(file, {"name": "api"}).documents
    assert isinstance(document.resource, Dataplane)
    assert document.resource.networking.address == "127.0.0.2"


def test_a_dataplane_comes_from_standard_input() -> None:
    (document,) = load_dataplane("-", {"name": "dp-1", "ip": "10.0.0.1"}, DATAPLANE).documents
    assert (document.file, document.is_broken) == ("<stdin>", False)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file has no Dataplane"),
        ("a: {{ b", 1, "template syntax: {{ without }}"),
        (MESH.format("a"), 1, "only a Dataplane belongs here: Mesh is read from --resources"),
        (DATAPLANE + "---\n" + DATAPLANE.replace("{{ name }}", "b"), 7, "only one Dataplane belongs here"),
        ("type: [\n", 2, "YAML syntax: did not find expected node content, while parsing a flow node"),
        ("a: \udcff", 1, "not valid UTF-8"),
    ],
)
def test_what_is_not_one_dataplane_is_a_problem(text: str, line: int, message: str) -> None:
    loaded = load_dataplane("-", {"name": "a", "ip": "10.0.0.1"}, text)
    assert [(problem.line, problem.message) for problem in loaded.all_problems] == [(line, message)]


def test_a_missing_dataplane_file_is_a_problem(tmp_path: Path) -> None:
    loaded = load_dataplane(tmp_path / "dp.yaml", {})
    assert messages(loaded) == [("dp.yaml", 1, "cannot be read: No such file or directory")]


def test_a_mesh_of_the_second_version_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "type: Mesh\nname: m\nmtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}\n"
        "routing: {zoneEgress: true, defaultForbidMeshExternalServiceAccess: true, localityAwareLoadBalancing: null}\n"
        "meshServices: {mode: Exclusive}\nskipCreatingInitialPolicies: ['*']\nlogging: {}\ntracing: {}\nmetrics: {}\n"
        "networking: {outbound: {passthrough: false}}\nconstraints: {}\n"
    )
    (mesh,) = load_resources([tmp_path]).resources
    assert isinstance(mesh, Mesh)
    routing = mesh.routing
    assert (routing.zone_egress, routing.default_forbid_mes_access, routing.locality_aware) == (True, True, False)
    assert (mesh.mesh, mesh.kri()) == ("", "kri_m__default__m_")
    assert mesh.mtls is not None


def test_a_pipe_has_no_size_of_its_own(tmp_path: Path) -> None:
    """``<(kubectl get ...)``, more than what is read at a time."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "".join(f"---\n{MESH.format(f'm{number}')}" for number in range(5000))
    assert len(text) > READ_BYTES
    with ThreadPoolExecutor(1) as others:
        written = others.submit(pipe.write_text, text)
        loaded = load_resources([pipe])
        written.result()
    assert len(loaded.documents) == 5000
