"""Our own identity: what an authority issues is accepted by our own verification, and its key stays ours."""

from __future__ import annotations

import os
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.kit.ca import EXPIRED, key_pem
from tests.kit.ca import Authority as CA
from tests.tls.duet import now
from tests.tls.inbound import accepting, client_context, visit
from tls.acceptance import Acceptance
from tls.bundles import TrustBundles, parse_bundle
from tls.identity import (
    LEAF_LIFE,
    Authority,
    KeyFamily,
    generate_authority,
    issue,
    load_or_create_authority,
    parse_authority,
)
from tls.key_pair import load_key_pair
from tls.material import MaterialError
from tls.policy import ClientCertificate
from tls.server_context import server_context
from tls.spiffe import SpiffeId, parse_spiffe_id
from tls.svid import SvidJudge, read_svid
from tls.verdict import Refused

DOMAIN = "default.zone-1.mesh.local"
ID = SpiffeId(DOMAIN, "/workload/app")


def bundles(*authorities: Authority, domain: str = DOMAIN) -> TrustBundles:
    return TrustBundles.of(parse_bundle(domain, one.bundle_pem.encode(), "MeshTrust")[0] for one in authorities)


def given(ca: CA) -> Authority:
    chain = ca.pem + "".join(one.public_bytes(Encoding.PEM).decode() for one in ca.intermediates[1:])
    return parse_authority(chain.encode(), _key_pem(ca), "ca", now())


def _key_pem(ca: CA) -> bytes:
    return key_pem(ca.key).encode()


def _load(context: ssl.SSLContext, pair: ClientCertificate) -> None:
    load_key_pair(context, pair, "identity", "the certificate")


AUTHORITIES = {
    "generated EC": lambda: generate_authority(DOMAIN, now()),
    "generated RSA": lambda: generate_authority(DOMAIN, now(), KeyFamily.RSA),
    "given EC": lambda: given(CA.root("Given")),
    "given P-384": lambda: given(CA.root("Given", key_type="ec384")),
    "given RSA": lambda: given(CA.root("Given", key_type="rsa")),
    "given Ed25519": lambda: given(CA.root("Given", key_type="ed25519")),
    "given intermediate": lambda: given(CA.root("Root").intermediate("Given")),
}


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_what_we_issue_is_accepted_by_what_we_verify_with(kind: str) -> None:
    authority = AUTHORITIES[kind]()
    svid = issue(authority, ID, LEAF_LIFE, now())
    leaf = x509.load_pem_x509_certificate(svid.pair.chain_pem)
    assert read_svid(leaf.public_bytes(Encoding.DER))[1] == ID
    assert type(leaf.public_key()) is type(authority.key.public_key())
    assert leaf.subject == x509.Name([])
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    trust = bundles(authority)
    inbound = server_context(Acceptance(identity=svid.pair, bundles=trust))
    client = client_context(None)
    _load(client, svid.pair)
    assert visit(inbound, client).accepted.peer.id == ID
    with pytest.raises(Refused):
        SvidJudge(bundles(generate_authority(DOMAIN, now()))).judge_resumed(leaf.public_bytes(Encoding.DER), now())


def test_the_intermediates_of_a_given_authority_are_served() -> None:
    root = CA.root("Root")
    svid = issue(given(root.intermediate("Given")), ID, LEAF_LIFE, now())
    inbound = accepting(parse_bundle(DOMAIN, root.pem.encode(), "MeshTrust")[0])
    client = client_context(None)
    _load(client, svid.pair)
    assert visit(inbound, client).accepted.peer.id == ID


def test_times() -> None:
    at = now().replace(microsecond=0)
    authority = generate_authority(DOMAIN, at)
    svid = issue(authority, ID, timedelta(hours=24), at)
    assert svid.not_after == at + timedelta(hours=24)
    assert abs(svid.renew_at - (at + timedelta(hours=24) * 0.8)) < timedelta(seconds=10)
    late = authority.certificate.not_valid_after_utc - timedelta(hours=1)
    assert issue(authority, ID, timedelta(hours=24), late).not_after == authority.certificate.not_valid_after_utc


def test_no_key_in_a_repr() -> None:
    authority = generate_authority(DOMAIN, now())
    svid = issue(authority, ID, LEAF_LIFE, now())
    for text in (repr(authority), repr(svid), str(svid), repr(svid.pair)):
        assert "PRIVATE" not in text
        assert "key=" not in text


def test_a_long_trust_domain() -> None:
    domain = "a" * 253
    authority = generate_authority(domain, now())
    svid = issue(authority, parse_spiffe_id(f"spiffe://{domain}/x"), LEAF_LIFE, now())
    leaf = x509.load_pem_x509_certificate(svid.pair.chain_pem).public_bytes(Encoding.DER)
    assert SvidJudge(bundles(authority, domain=domain)).judge_resumed(leaf, now()).id.trust_domain == domain


NO_CA = CA.root("no CA", is_ca=False)
OTHER = CA.root("Other")


@pytest.mark.parametrize(
    ("chain", "key", "which", "message"),
    [
        (NO_CA.pem, _key_pem(NO_CA), "certificate", "basic constraint 'CA' must be set to 'true'"),
        (OTHER.pem, _key_pem(NO_CA), "privateKey", "not a valid TLS key pair: the private key does not belong"),
        ("", _key_pem(NO_CA), "certificate", "not a valid TLS key pair: no certificate"),
        (OTHER.pem, b"", "privateKey", "not a valid TLS key pair: no private key"),
        (OTHER.leaf("x.test", is_ca=True).pem, None, "certificate", "key usage extension 'keyCertSign' must be set"),
    ],
)
def test_an_unusable_authority_is_refused(chain: str, key: bytes | None, which: str, message: str) -> None:
    if key is None:
        leaf = OTHER.leaf("x.test", is_ca=True)
        chain, key = leaf.pem, leaf.key_pem.encode()
    with pytest.raises(MaterialError, match=message) as error:
        parse_authority(chain.encode(), key, "ca", now())
    assert error.value.which == which


def test_an_expired_authority_is_refused() -> None:
    expired = CA.root("Expired", window=EXPIRED)
    with pytest.raises(MaterialError, match="expired on"):
        parse_authority(expired.pem.encode(), _key_pem(expired), "ca", now())


# The state directory


def test_an_authority_is_made_once_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "state" / "identity"
    first = load_or_create_authority(state, "default.app", DOMAIN, now())
    again = load_or_create_authority(state, "default.app", DOMAIN, now())
    assert first.certificate == again.certificate
    assert first.is_self_signed
    (path,) = state.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    other = load_or_create_authority(state, "default.app", "other.mesh.local", now())
    assert other.certificate != first.certificate


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: load_or_create_authority(tmp_path, "a", DOMAIN, now()), range(16)))
    assert len({one.certificate.serial_number for one in made}) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_create_authority(tmp_path, "a", DOMAIN, now())
    (path,) = tmp_path.iterdir()
    path.chmod(mode)
    with pytest.raises(MaterialError, match="others may read it"):
        load_or_create_authority(tmp_path, "a", DOMAIN, now())


def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    load_or_create_authority(tmp_path, "a", DOMAIN, now())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(MaterialError, match="remove the file"):
        load_or_create_authority(tmp_path, "a", DOMAIN, now())
    assert path.read_bytes() == whole[:100]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaterialError, match="cannot be kept"):
        load_or_create_authority(tmp_path / "file" / "state", "a", DOMAIN, now())


def test_names_stay_in_the_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    load_or_create_authority(state, "..", "..", now())
    load_or_create_authority(state, "n" * 300, DOMAIN, now())
    assert len(os.listdir(state)) == 2
    assert os.listdir(tmp_path) == ["state"]
