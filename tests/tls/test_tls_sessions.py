"""A session is offered only under the terms it was made under, once if it is a TLS 1.3 ticket, and never for long."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.kit.ca import Authority, Window
from tests.tls.duet import HOST, V12, V13, Duet, client_certificate, now, originate, read_all, server_context, shake
from tls.context import quiet_context
from tls.policy import MatchType, Mode, Origination, SanMatcher, TrustAnchors
from tls.sessions import MAX_FETCHES, MAX_KEYS, MIN_FETCH_INTERVAL_S, SessionCache, session_key
from tls.verdict import Cause

ROOT = Authority.root("Koguma Root")
SERVER = ROOT.leaf(HOST, "192.0.2.1")
BASE = originate(ROOT.pem)
FAR = timedelta(days=365)


def once(
    origination: Origination,
    context: ssl.SSLContext,
    sessions: SessionCache,
    *,
    host: str = HOST,
    explain: bool = False,
    at: datetime | None = None,
) -> Duet:
    """A handshake, then what the stream does: read what comes, remember."""
    duet = shake(origination, context, sessions=sessions, host=host, explain=explain, at=at)
    if duet.established is not None:
        read_all(duet.established)
        duet.established.remember(at or now())
    return duet


VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


@VERSIONS
def test_resumption(version: ssl.TLSVersion) -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(version, version))
    assert not once(BASE, context, sessions).accepted.resumed
    for _ in range(3):
        established = once(BASE, context, sessions).accepted
        assert established.resumed
        assert established.peer.sha256 == SERVER.sha256
        assert established.matched is not None


@VERSIONS
def test_the_explained_first_handshake_already_gives_a_session(version: ssl.TLSVersion) -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(version, version))
    assert once(BASE, context, sessions, explain=True).accepted.chain
    assert once(BASE, context, sessions).accepted.resumed
    assert not once(BASE, context, sessions, explain=True).accepted.resumed


@VERSIONS
def test_resumption_where_renegotiation_is_allowed(version: ssl.TLSVersion) -> None:
    origination = replace(BASE, allow_renegotiation=True)
    sessions, context = SessionCache(), server_context(SERVER, versions=(version, version))
    once(origination, context, sessions, explain=True)
    assert once(origination, context, sessions).accepted.resumed


def test_resumption_without_tickets() -> None:
    context = server_context(SERVER, versions=(V12, V12))
    context.options |= ssl.OP_NO_TICKET
    sessions = SessionCache()
    kept = once(BASE, context, sessions)  # a server forgets the session of a connection that was not closed in form
    assert once(BASE, context, sessions).accepted.resumed
    assert not kept.accepted.resumed


def test_a_server_without_sessions() -> None:
    context = server_context(SERVER, versions=(V13, V13))
    context.num_tickets = 0
    sessions = SessionCache()
    once(BASE, context, sessions)
    assert len(sessions) == 0
    assert not once(BASE, context, sessions).accepted.resumed


CHANGES = {
    "mode": replace(BASE, mode=Mode.SKIP_SAN),
    "server name": replace(BASE, server_name=HOST),
    "names": replace(BASE, sans=(SanMatcher(MatchType.EXACT, HOST),)),
    "match type": replace(BASE, sans=(SanMatcher(MatchType.PREFIX, HOST),)),
    "anchors": replace(BASE, anchors=TrustAnchors((ROOT.pem + Authority.root().pem).encode(), "caCert")),
    "client": replace(BASE, client=client_certificate(ROOT.leaf("caller.test"))),
    "versions": replace(BASE, min_version=ssl.TLSVersion.TLSv1_1),
    "alpn": replace(BASE, alpn=("h2",)),
    "renegotiation": replace(BASE, allow_renegotiation=True),
}


@VERSIONS
@pytest.mark.parametrize("change", CHANGES)
def test_other_terms_never_resume(change: str, version: ssl.TLSVersion) -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(version, version))
    once(BASE, context, sessions)
    assert not once(CHANGES[change], context, sessions).accepted.resumed


def test_every_term_counts_in_the_key() -> None:
    keys = {session_key(one, "192.0.2.1:443", HOST) for one in (BASE, *CHANGES.values())}
    keys.add(session_key(BASE, "192.0.2.2:443", HOST))
    keys.add(session_key(BASE, "192.0.2.1:443", None))
    keys.add(session_key(BASE, "192.0.2.1:4", "43" + HOST))
    assert len(keys) == len(CHANGES) + 4
    assert session_key(BASE, "192.0.2.1:443", HOST) == session_key(replace(BASE), "192.0.2.1:443", HOST)


def test_a_weaker_mode_cannot_lend_its_session_to_a_stricter_one() -> None:
    """Even with one key for both: the names of a resumed peer are verified like any other's."""
    context = server_context(ROOT.leaf("other.test"), versions=(V12, V12))
    sessions, lax = SessionCache(), replace(BASE, mode=Mode.SKIP_SAN)
    shake(lax, context, sessions=sessions, key="shared", explain=False).accepted  # noqa: B018
    assert shake(lax, context, sessions=sessions, key="shared", explain=False).accepted.resumed
    verdict = shake(BASE, context, sessions=sessions, key="shared", explain=False).refused
    assert verdict.cause is Cause.SAN_MISMATCH
    assert len(sessions) == 0


@VERSIONS
def test_a_session_is_offered_again_and_fetched_once(version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(version, version))
    once(BASE, context, sessions)
    fetched = _count_fetches(monkeypatch)
    for _ in range(6):
        assert once(BASE, context, sessions).accepted.resumed
    assert len(sessions) == 1
    assert fetched == []


def test_a_peer_that_will_not_resume_is_asked_for_a_session_no_more_than_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = SessionCache()
    once(BASE, server_context(SERVER), sessions)
    assert not once(BASE, server_context(SERVER), sessions).accepted.resumed  # other ticket keys
    assert len(sessions) == 0
    fetched = _count_fetches(monkeypatch)
    once(BASE, server_context(SERVER), sessions)
    assert fetched == []
    once(BASE, server_context(SERVER), sessions, at=now() + timedelta(seconds=MIN_FETCH_INTERVAL_S + 1))
    assert len(fetched) == 1


def _count_fetches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    fetched: list[int] = []
    real = ssl.SSLObject.session

    def fetch(self: ssl.SSLObject) -> object:
        fetched.append(1)
        return real.fget(self)  # type: ignore[attr-defined]

    monkeypatch.setattr(ssl.SSLObject, "session", property(fetch, real.fset))  # type: ignore[attr-defined]
    return fetched


def test_no_more_keys_are_known_than_the_limit() -> None:
    context, at = quiet_context(BASE), now()
    sessions = SessionCache(max_fetches=MAX_KEYS + 2)
    for number in range(MAX_KEYS):
        sessions.fetched(str(number), None, context, at, at)
    assert not sessions.wants("0", at), "asked a moment ago"
    sessions.fetched("one more", None, context, at, at)
    assert sessions.wants("0", at), "the oldest made room"
    assert not sessions.wants("1", at)


def test_sessions_are_fetched_no_more_often_than_the_limit() -> None:
    context, at = quiet_context(BASE), now()
    sessions = SessionCache()
    for number in range(MAX_FETCHES):
        assert sessions.wants("new", at)
        sessions.fetched(str(number), None, context, at, at)
    assert not sessions.wants("new", at)
    assert not sessions.wants("0", at + FAR)


def test_remembering_twice_keeps_one() -> None:
    sessions = SessionCache()
    established = once(BASE, server_context(SERVER), sessions).accepted
    established.remember(now())
    assert len(sessions) == 1


@VERSIONS
def test_no_session_outlives_the_leaf(version: ssl.TLSVersion) -> None:
    identity = ROOT.leaf(HOST, window=Window(timedelta(hours=-1), timedelta(minutes=5)))
    sessions, context = SessionCache(), server_context(identity, versions=(version, version))
    once(BASE, context, sessions)
    assert not once(BASE, context, sessions, at=now() + timedelta(minutes=6)).accepted.resumed
    assert len(sessions) == 0


def test_a_leaf_already_expired_is_never_resumed() -> None:
    identity = ROOT.leaf(HOST, window=Window(timedelta(hours=-2), timedelta(hours=-1)))
    sessions, context = SessionCache(), server_context(identity)
    origination = replace(BASE, mode=Mode.SKIP_CA)
    once(origination, context, sessions)
    assert len(sessions) == 0


def _some_session(version: ssl.TLSVersion = V12) -> tuple[ssl.SSLSession, ssl.SSLContext]:
    established = once(BASE, server_context(SERVER, versions=(version, version)), SessionCache()).accepted
    session = established.sslobj.session
    assert session is not None
    return session, established.sslobj.context


def test_a_session_ends_with_its_own_timeout() -> None:
    cache, start = SessionCache(), now()
    session, context = _some_session()
    cache.fetched("key", session, context, start + FAR, start)
    assert cache.take("key", context, start) is session
    assert cache.take("key", context, start + timedelta(seconds=session.timeout + 1)) is None
    assert cache.take("key", context, start) is None


def test_bounds() -> None:
    cache, start = SessionCache(max_keys=3), now()
    session, context = _some_session(V13)
    for number in range(5):
        cache.fetched(str(number), session, context, start + FAR, start)
    assert len(cache) == 3
    assert cache.take("0", context, start) is None


def test_the_least_recently_used_key_goes_first() -> None:
    cache, start = SessionCache(max_keys=2), now()
    session, context = _some_session()
    for key in ("old", "used", "new"):
        if key == "new":
            cache.take("old", context, start)
        cache.fetched(key, session, context, start + FAR, start)
    assert cache.take("used", context, start) is None
    assert cache.take("old", context, start) is session


def test_a_session_of_another_context_is_dropped() -> None:
    cache, start = SessionCache(), now()
    session, context = _some_session()
    cache.fetched("key", session, context, start + FAR, start)
    other = quiet_context(replace(BASE, alpn=("other",)))
    assert cache.take("key", other, start) is None
    assert len(cache) == 0


def test_a_failure_forgets() -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(V12, V12))
    once(BASE, context, sessions)
    assert len(sessions) == 1
    assert once(BASE, server_context(Authority.root().leaf(HOST)), sessions).refused
    assert len(sessions) == 0


def test_when_a_session_is_wanted() -> None:
    cache, start = SessionCache(), now()
    minute = timedelta(minutes=1)
    session, context = _some_session()
    assert cache.wants("key", start)
    cache.fetched("key", session, context, start + minute, start)
    assert not cache.wants("key", start)
    assert not cache.wants("key", start + 2 * minute)  # expired, and fetched not long ago
    assert cache.wants("key", start + 6 * minute)
    cache.fetched("key", None, context, start + FAR, start + 6 * minute)
    assert cache.take("key", context, start + 6 * minute) is None
    assert cache.wants("key", start + 7 * minute)


def test_fetches_are_bounded_for_life() -> None:
    cache, start = SessionCache(max_fetches=2), now()
    session, context = _some_session()
    for key in ("one", "two"):
        assert cache.wants(key, start)
        cache.fetched(key, session, context, start + FAR, start)
    assert not cache.wants("three", start)
    assert cache.take("one", context, start) is session


def test_nothing_is_fetched_that_will_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, context = SessionCache(), server_context(SERVER, versions=(V12, V12))
    once(BASE, context, sessions)
    fetched = _count_fetches(monkeypatch)
    once(BASE, context, sessions, explain=True)
    assert fetched == []
