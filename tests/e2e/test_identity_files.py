"""Guarantee: an identity in files is presented as it stands there, followed when the files change, and never half."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.zones import Zone
from tests.kit import peers
from tests.kit.ca import Authority, Identity
from tests.kit.koguma import KOGUMA, SOURCE_ROOT
from tests.kit.mtls import MtlsClient, is_refused, serial
from tests.kit.peers import Peer

CA = Authority.root("Zone 1")
APP = "spiffe://zone-1/workload/app"
SHOP = CA.leaf("spiffe://zone-1/workload/shop")


def replace(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_followed(tmp_path: Path, workers: int) -> None:
    certificate, key, bundle = tmp_path / "app.crt", tmp_path / "app.key", tmp_path / "ca.pem"
    first, second = CA.leaf(APP), CA.leaf(APP)
    certificate.write_text(first.chain_pem)
    key.write_text(first.key_pem)
    bundle.write_text(CA.pem)
    flags = ["--identity-cert", certificate, "--identity-key", key, "--identity-bundle", bundle]
    zone = Zone(tmp_path / "zone-1", "zone-1", args=[*map(str, flags), "--concurrency", str(workers)])
    with Peer(peers.echo) as application:
        port = zone.inbound(application)
        with zone.proxy, MtlsClient(port, SHOP, CA) as before:
            assert before.serial == serial(first)
            assert before.ask() == b"ping"
            zone.proxy.changing(lambda: replace(certificate, second.chain_pem), "rejected")
            assert presented(port) == serial(first)
            assert "the private key does not belong to the certificate" in zone.proxy.log_text
            zone.proxy.changing(lambda: replace(key, second.key_pem))
            assert presented(port) == serial(second)
            assert before.ask() == b"ping"
            assert is_refused(port, Authority.root().leaf("spiffe://zone-1/workload/shop"), CA)
            certs = zone.proxy.admin("/certs").json()
            assert certs["identity"]["cert_chain"][0]["path"] == str(certificate)
        assert key_of(second) not in zone.proxy.log_text


def presented(port: int) -> str:
    with MtlsClient(port, SHOP, CA) as client:
        return client.serial


def key_of(identity: Identity) -> str:
    return identity.key_pem.splitlines()[1]


def test_a_key_alone_is_wrong_usage(tmp_path: Path) -> None:
    words = [*KOGUMA, "run", "--dataplane-file", "dp.yaml", "--identity-key", "app.key"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, cwd=SOURCE_ROOT)
    assert ended.returncode == 2
    assert ended.stderr.endswith("error: --identity-key and --identity-bundle need --identity-cert\n")
