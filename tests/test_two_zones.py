"""Guarantee: the multizone story of the document happens as it is told, in one command, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kit.koguma import SOURCE_ROOT, environment, run_to_end

STORY = SOURCE_ROOT / "examples" / "two-zones"


def test_the_story(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(STORY / "run.py")],
        cwd=tmp_path,
        env=environment({"TMPDIR": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [line.split("->")[1].split()[0] for line in done.stdout.splitlines() if "->" in line]
    assert answers == ["503", "200", "503"]
    assert "unknown_trust_domain" in done.stdout
    assert not list(tmp_path.iterdir())


def export(tmp_path: Path, *more: str) -> tuple[int, str, str]:
    zone = STORY / "shop"
    arguments = [str(zone / "resources" / "identity.yaml"), "--dataplane-file", str(zone / "dataplane.yaml"), *more]
    done = run_to_end("trust", "export", *arguments, cwd=tmp_path)
    return done.exit_code, done.stdout, done.stderr


def test_the_ca_stays_the_same(tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path / "state")]
    code, first, said = export(tmp_path, *state)
    assert code == 0, said
    assert 'name: "default.zone-2.mesh.local"' in first
    _, again, _ = export(tmp_path, *state, "--form", "kubernetes", "--identity", "zone-2")
    assert again.startswith("apiVersion: kuma.io/v1alpha1\nkind: MeshTrust\n")
    assert again.partition("value: |")[2] == first.partition("value: |")[2]
    assert "PRIVATE" not in first + again


def test_nothing_to_export(tmp_path: Path) -> None:
    code, out, said = export(tmp_path)
    assert (code, out) == (1, "")
    assert "would be lost with this command: give --state-dir" in said
    code, out, said = export(tmp_path, "--state-dir", str(tmp_path / "state"), "--identity", "other")
    assert (code, out) == (1, "")
    assert 'MeshIdentity "other" creates no MeshTrust' in said
