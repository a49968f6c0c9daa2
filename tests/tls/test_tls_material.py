"""PEM becomes checked material or a message that names the fault, and never a quotation of a key."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ed448
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.kit.ca import CLIENT, EXPIRED, NOT_YET, SERVER, Authority, KeyType, self_signed
from tests.tls.duet import now
from tls import material
from tls.material import (
    SYSTEM_CA_PATHS,
    SYSTEM_CA_VARIABLE,
    MaterialError,
    anchor_subjects,
    describe_certificate,
    find_system_anchors,
    load_system_anchors,
    parse_anchors,
    parse_client,
)

ROOT = Authority.root("Koguma Root")
CALLER = ROOT.leaf("caller.test")
GARBAGE = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


def test_anchors() -> None:
    other = Authority.root("Other")
    text = f"a comment\n{ROOT.pem}\n# another\n{other.pem}{ROOT.pem}"
    anchors, notes = parse_anchors(text.encode(), "Secret/ca", now())
    assert anchors.pem.decode() == ROOT.pem + other.pem
    assert anchors.source == "Secret/ca"
    assert anchor_subjects(anchors.pem) == {"CN=Koguma Root", "CN=Other"}
    assert notes == []


def test_anchors_with_windows_line_ends_and_the_old_label() -> None:
    text = ROOT.pem.replace("\n", "\r\n").replace("CERTIFICATE", "X509 CERTIFICATE")
    anchors, _ = parse_anchors(text.encode(), "s", now())
    assert anchors.pem.decode() == ROOT.pem


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        ("", "no certificate in it"),
        ("just words", "no certificate in it"),
        (ROOT.pem + CALLER.key_pem, "PEM block 2 is a private key"),
        (CALLER.key_pem, "PEM block 1 is a private key"),
        (GARBAGE, "PEM block 1 is not a readable certificate"),
        (ROOT.pem + GARBAGE, "PEM block 2 is not a readable certificate"),
        (ROOT.pem.replace("-----END CERTIFICATE-----", ""), "begins and never ends"),
        (ROOT.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "is a TRUSTED CERTIFICATE, not a CERTIFICATE"),
        (ROOT.pem.replace("CERTIFICATE", "X509 CRL"), "PEM block 1 is a CRL, not a CERTIFICATE"),
    ],
    ids=range(9),
)
def test_unusable_anchors(pem: str, message: str) -> None:
    with pytest.raises(MaterialError, match=message) as error:
        parse_anchors(pem.encode(), "s", now())
    assert error.value.which == "caCert"


def test_too_much_pem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "MAX_PEM_BYTES", 100)
    with pytest.raises(MaterialError, match="more than 100 bytes"):
        parse_anchors(ROOT.pem.encode(), "s", now())


def test_anchor_warnings() -> None:
    def notes(pem: str) -> list[str]:
        return parse_anchors(pem.encode(), "s", now())[1]

    (note,) = notes(self_signed("a.test", common_name="pinned").pem)
    assert note == "CN=pinned: not a CA certificate: it can vouch for itself only"
    (note,) = notes(Authority.root("Old", window=EXPIRED).pem)
    assert note.startswith("CN=Old: expired on 20")
    (note,) = notes(Authority.root("New", window=NOT_YET).pem)
    assert note.startswith("CN=New: not valid before 20")


def test_system_anchors_search() -> None:
    assert find_system_anchors({}, lambda path: True) == SYSTEM_CA_PATHS[0]
    assert find_system_anchors({}, lambda path: path == SYSTEM_CA_PATHS[3]) == SYSTEM_CA_PATHS[3]
    assert find_system_anchors({}, lambda path: False) is None
    assert find_system_anchors({SYSTEM_CA_VARIABLE: "/nowhere"}, lambda path: False) == "/nowhere"
    assert find_system_anchors({SYSTEM_CA_VARIABLE: ""}, lambda path: False) is None


def test_system_anchors_pass_over_what_they_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    old = Authority.root("Old", window=EXPIRED)
    crl = ROOT.pem.replace("CERTIFICATE", "X509 CRL")
    path.write_text(GARBAGE + ROOT.pem + crl + old.pem)
    anchors, notes = load_system_anchors(path, now())
    assert anchors.pem.decode() == ROOT.pem
    assert anchors.source == f"system ({path})"
    assert [note.endswith("passed over") for note in notes] == [True, True]


@pytest.mark.parametrize("text", ["", GARBAGE, Authority.root("Old", window=EXPIRED).pem], ids=range(3))
def test_system_anchors_never_fail_open(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_text(text)
    with pytest.raises(MaterialError, match="no usable certificate"):
        load_system_anchors(path, now())


def test_system_anchors_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="cannot be read: No such file"):
        load_system_anchors(tmp_path / "absent", now())


@pytest.mark.parametrize("key_type", ["ec", "ec384", "rsa", "ed25519"])
def test_client(key_type: KeyType) -> None:
    caller = ROOT.intermediate().leaf("caller.test", key_type=key_type)
    client, notes = parse_client(caller.chain_pem.encode(), caller.key_pem.encode(), "Secret/client", now())
    assert client.chain_pem.decode() == caller.chain_pem
    assert client.key_pem.decode() == caller.key_pem
    assert notes == []


def test_client_from_one_combined_file() -> None:
    combined = (CALLER.key_pem + CALLER.pem).encode()
    client, _ = parse_client(combined, combined, "s", now())
    assert client.chain_pem.decode() == CALLER.pem


def test_client_key_in_traditional_form() -> None:
    for key_type in ("ec", "rsa"):
        caller = ROOT.leaf("caller.test", key_type=key_type)
        pem = caller.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        client, _ = parse_client(caller.pem.encode(), pem, "s", now())
        assert client.key_pem.decode() == caller.key_pem


def _encrypted(form: PrivateFormat) -> str:
    return CALLER.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")).decode()


def _foreign(key: ed448.Ed448PrivateKey | dsa.DSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


BROKEN_KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHNlY3JldA==\n-----END PRIVATE KEY-----\n"
CUT_KEY = CALLER.key_pem[:100]


@pytest.mark.parametrize(
    ("chain", "key", "which", "message"),
    [
        ("", CALLER.key_pem, "clientCert", "no certificate in it"),
        (CALLER.key_pem, CALLER.key_pem, "clientCert", "no certificate in it"),
        (GARBAGE, CALLER.key_pem, "clientCert", "PEM block 1 is not a readable certificate"),
        (CALLER.pem[:200], CALLER.key_pem, "clientCert", "begins and never ends"),
        (CALLER.pem, "", "clientKey", "no private key in it"),
        (CALLER.pem, CALLER.pem, "clientKey", "no private key in it"),
        (CALLER.pem, CALLER.key_pem * 2, "clientKey", "2 private keys in it"),
        (CALLER.pem, CUT_KEY, "clientKey", "begins and never ends"),
        (CALLER.pem, BROKEN_KEY, "clientKey", "the private key cannot be read"),
        (CALLER.pem, _encrypted(PrivateFormat.PKCS8), "clientKey", "encrypted: give it without a passphrase"),
        (CALLER.pem, _encrypted(PrivateFormat.TraditionalOpenSSL), "clientKey", "encrypted"),
        (CALLER.pem, ROOT.leaf("x.test").key_pem, "clientKey", "does not belong to the certificate"),
        (ROOT.pem + CALLER.pem, CALLER.key_pem, "clientCert", "belongs to certificate 2: the leaf must come"),
        (CALLER.pem, _foreign(ed448.Ed448PrivateKey.generate()), "clientKey", "is not RSA, EC or Ed25519"),
    ],
    ids=range(14),
)
def test_unusable_client(chain: str, key: str, which: str, message: str) -> None:
    with pytest.raises(MaterialError, match=message) as error:
        parse_client(chain.encode(), key.encode(), "s", now())
    assert error.value.which == which
    assert error.value.__cause__ is None or which != "clientKey"
    for line in key.splitlines()[1:-1]:
        assert not line or line not in str(error.value)


def test_client_warnings() -> None:
    def notes(chain: str, key: str) -> list[str]:
        return parse_client(chain.encode(), key.encode(), "s", now())[1]

    old = ROOT.leaf("caller.test", window=EXPIRED)
    assert "CN=leaf: expired on" in notes(old.pem, old.key_pem)[0]
    server = ROOT.leaf("caller.test", usages=(SERVER,))
    assert notes(server.pem, server.key_pem) == ["CN=leaf: its extended key usage is not client authentication"]
    plain = ROOT.leaf("caller.test", usages=None)
    assert notes(plain.pem, plain.key_pem) == []
    client = ROOT.leaf("caller.test", usages=(CLIENT,))
    assert notes(client.pem, client.key_pem) == []
    (note,) = notes(CALLER.pem + Authority.root("Stray").pem, CALLER.key_pem)
    assert note.startswith("CN=Stray: follows a certificate that it did not issue")


def test_facts() -> None:
    leaf = ROOT.leaf("svc.test", "spiffe://a/b", "10.0.0.1")
    facts = describe_certificate(leaf.der)
    assert facts.sha256 == leaf.sha256
    assert (facts.subject, facts.issuer) == ("CN=leaf", "CN=Koguma Root")
    assert facts.sans == ("DNS:svc.test", "URI:spiffe://a/b", "IP:10.0.0.1")
    assert facts.key_type == "EC secp256r1"
    assert not facts.is_ca
    assert not facts.is_self_issued
    assert facts.not_before is not None
    assert facts.not_after is not None
    assert facts.not_after - facts.not_before > timedelta(days=29)
    assert facts.as_dict()["notAfter"] == facts.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("key_type", "text"), [("rsa", "RSA 2048"), ("ed25519", "Ed25519")])
def test_facts_of_keys(key_type: KeyType, text: str) -> None:
    assert describe_certificate(ROOT.leaf("a.test", key_type=key_type).der).key_type == text


def test_facts_of_an_authority() -> None:
    facts = describe_certificate(ROOT.certificate.public_bytes(Encoding.DER))
    assert facts.is_ca
    assert facts.is_self_issued


def test_facts_of_garbage() -> None:
    facts = describe_certificate(b"garbage")
    assert facts.subject == "(unreadable certificate)"
    assert facts.as_dict()["notAfter"] is None
    assert len(facts.sha256) == 64


def test_facts_of_a_certificate_with_a_spoiled_extension() -> None:
    der = ROOT.leaf("svc.example.test").der.replace(b"svc.example", b"\xe4vc.example", 1)
    facts = describe_certificate(der)
    assert (facts.subject, facts.sans) == ("CN=leaf", ())


def test_facts_of_a_curve_that_nobody_knows() -> None:
    p256 = bytes.fromhex("2a8648ce3d030107")
    der = ROOT.leaf("svc.test").der.replace(p256, p256[:-1] + b"\x6f")
    assert describe_certificate(der).key_type == ""
