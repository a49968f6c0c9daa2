"""Guarantee: the trust of this zone lies in the state directory as a document that another zone can load, always whole,
always current, and without the CA's key.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from config import trustfiles
from config.created_trust import CreatedTrust
from config.load import Loader
from config.resources.meshtrust import MeshTrust
from tests.kit.ca import Authority

OLD, NEW = Authority.root("Zone 1"), Authority.root("Zone 1, new")


def created(name: str = "identity", authority: Authority = OLD, *, is_kept: bool = True) -> CreatedTrust:
    origin = f"kri_mid_default_zone-1__{name}_"
    return CreatedTrust("default", name, "zone-1", "", "zone-1", authority.pem, origin, is_kept, "identity.yaml", 1)


def test_another_zone_can_load_it(tmp_path: Path) -> None:
    (path,) = trustfiles.write(tmp_path, [created()])
    assert path == tmp_path / "meshtrust-default.identity.yaml"
    loaded = Loader().load([path])
    assert not loaded.problems
    (document,) = loaded.documents
    assert isinstance(document.resource, MeshTrust)
    assert document.resource.bundle.domain == "zone-1"
    assert len(document.resource.bundle.anchors) == 1
    assert "PRIVATE" not in path.read_text()


def test_it_is_written_when_it_changes_and_only_then(tmp_path: Path) -> None:
    (path,) = trustfiles.write(tmp_path, [created()])
    before = path.read_text(), path.stat().st_ino
    assert list(trustfiles.write(tmp_path, [created()])) == []
    assert (path.read_text(), path.stat().st_ino) == before
    assert list(trustfiles.write(tmp_path, [created(authority=NEW)])) == [path]
    assert NEW.pem.splitlines()[1] in path.read_text()
    assert OLD.pem.splitlines()[1] not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_it_stays_when_its_identity_goes(tmp_path: Path) -> None:
    (path,) = trustfiles.write(tmp_path, [created()])
    assert list(trustfiles.write(tmp_path, [])) == []
    assert path.exists()


def test_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    (path,) = trustfiles.write(tmp_path, [created()])
    whole = path.read_text()
    path.write_bytes(b"\xff" + whole.encode()[:40])
    assert list(trustfiles.write(tmp_path, [created()])) == [path]
    assert path.read_text() == whole


def test_one_for_each_mesh_and_identity(tmp_path: Path) -> None:
    trusts = [created("a"), created("b"), replace(created("a"), mesh="other")]
    names = [path.name for path in trustfiles.write(tmp_path, trusts)]
    assert names == ["meshtrust-default.a.yaml", "meshtrust-default.b.yaml", "meshtrust-other.a.yaml"]


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    (path,) = trustfiles.write(tmp_path, [created("../../etc/passwd")])
    assert path.parent == tmp_path
    assert path.exists()


def test_of_a_ca_that_will_be_lost_nothing_is_written(tmp_path: Path) -> None:
    assert list(trustfiles.write(tmp_path, [created(is_kept=False)])) == []


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        list(trustfiles.write(tmp_path / "missing", [created()]))
