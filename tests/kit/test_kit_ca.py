"""The certificates of the kit are what they say: OpenSSL accepts the sound ones and names the fault of the
others.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.kit.ca import CLIENT, EXPIRED, NOT_YET, Authority, Identity, only_dns, self_signed
from tests.kit.peers import server_tls


def handshake_error(identity: Identity, anchors_pem: str, name: str = "api.example.test") -> str | None:
    """What an ordinary client says about a server with this certificate; ``None`` if it is content."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=anchors_pem)
    client.hostname_checks_common_name = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server_tls(identity).wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return None


ROOT = Authority.root()
ISSUING = ROOT.intermediate()


@pytest.mark.parametrize(
    "identity",
    [
        ROOT.leaf("api.example.test"),
        ISSUING.leaf("api.example.test"),
        ISSUING.intermediate("deeper").leaf("api.example.test"),
        ROOT.leaf("*.example.test"),
        ROOT.leaf("api.example.test", key_type="rsa"),
        ROOT.leaf("api.example.test", key_type="ed25519"),
        ROOT.leaf("api.example.test", usages=None),
    ],
)
def test_a_sound_chain_is_accepted(identity: Identity) -> None:
    assert handshake_error(identity, ROOT.pem) is None


@pytest.mark.parametrize(
    ("identity", "complaint"),
    [
        (ROOT.leaf("api.example.test", window=EXPIRED), "certificate has expired"),
        (ROOT.leaf("api.example.test", window=NOT_YET), "certificate is not yet valid"),
        (ROOT.leaf("other.example.test"), "Hostname mismatch"),
        (ROOT.leaf(common_name="api.example.test"), "Hostname mismatch"),
        (ROOT.intermediate("old", window=EXPIRED).leaf("api.example.test"), "certificate has expired"),
        (ROOT.intermediate("no CA", is_ca=False).leaf("api.example.test"), "invalid CA certificate"),
        (ROOT.leaf("api.example.test", usages=[CLIENT]), "unsuitable certificate purpose"),
        (
            ROOT.intermediate("narrow", constraints=only_dns("other.test")).leaf("api.example.test"),
            "permitted subtree violation",
        ),
        (Authority.root("stranger").leaf("api.example.test"), "unable to get local issuer certificate"),
        (self_signed("api.example.test"), "self-signed certificate"),
    ],
)
def test_a_faulty_certificate_has_the_fault_that_was_asked_for(identity: Identity, complaint: str) -> None:
    assert complaint in (handshake_error(identity, ROOT.pem) or "accepted")


def test_sans_take_their_type_from_their_text() -> None:
    leaf = ROOT.leaf("api.example.test", "192.0.2.7", "2001:db8::1", "spiffe://example.test/api")
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["api.example.test"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "2001:db8::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.test/api"]


def test_openssl_verifies_the_chain_as_written(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: 'openssl' is not on PATH")
    identity = ISSUING.leaf("api.example.test")
    (tmp_path / "root.pem").write_text(ROOT.pem)
    (tmp_path / "chain.pem").write_text(identity.chain_pem)
    command = [openssl, "verify", "-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "chain.pem: OK\n"
