"""Guarantee: an extension supplies endpoints and TLS as they change, and whatever it does wrong is its own services'
affair only.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.extension import Supplied, Supply
from config.load import Key, Loader, load_dataplane
from config.plan import ClusterPlan
from config.planner import Health, Planner, Settings
from config.resources.meshexternalservice import Extension as Reference
from proxy.extensions import host as extension_host
from proxy.extensions import http as extension_http
from proxy.extensions import registry as extension_registry
from proxy.extensions import srv as extension_srv
from proxy.extensions.api import Context
from proxy.extensions.host import MAX_ENDPOINTS, MAX_SUPPLY_BYTES, ExtensionHost
from proxy.extensions.http import HttpDiscovery, parse_answer
from proxy.extensions.registry import MAX_FAULTS_SHOWN, Registry
from proxy.extensions.srv import SrvDiscovery
from proxy.reading import wall_clock
from tests.kit import poll, yamlkit
from tests.kit.ca import Authority
from tests.kit.dns import DnsServer
from tests.kit.koguma import SOURCE_ROOT
from tests.kit.origins import Conversation, Origin, Script, always, by_connection, ok
from tests.kit.peers import server_tls
from tests.kit.ports import free_port
from tests.kit.rawhttp import Message
from tests.proxy.rig import LoopThread

A: Key = ("MeshExternalService", "default", "a", "")
B: Key = ("MeshExternalService", "default", "b", "")
ONE = {"address": "127.0.0.1", "port": 80}
TWO = {"address": "two.example.test", "port": 81, "priority": 1}


class Scripted:
    """An extension that does what its config says."""

    def __init__(self) -> None:
        self.contexts: dict[str, Context] = {}
        self.started: list[str] = []
        self.cancelled: list[str] = []

    def validate(self, config: Any) -> Iterable[str]:
        if config == "hang":
            threading.Event().wait(60)
        if config == "raise":
            raise RuntimeError("no idea")
        if config == "exit":
            sys.exit(3)
        return [] if isinstance(config, dict) else ["must be an object", "or something else"]

    async def watch(self, context: Context) -> None:
        self.contexts[context.service] = context
        self.started.append(context.service)
        match context.config.get("do"):
            case "raise":
                raise OSError("the source is gone")
            case "return":
                return
            case "block":
                threading.Event().wait(60)
        if "endpoints" in context.config:
            context.publish(context.config["endpoints"], context.config.get("tls"))
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.append(context.service)


class Hosted:
    """A host in a loop's thread, with scripted types."""

    def __init__(self, loop: LoopThread, *types: str) -> None:
        self.loop = loop
        self.scripts = {name: Scripted() for name in types or ("test",)}
        self.registry = Registry({name: (lambda one=one: one) for name, one in self.scripts.items()})  # type: ignore[misc]
        self.changes = 0
        self.host = loop.look(lambda: ExtensionHost(self.registry, self._changed, lambda: [("127.0.0.1", 53)]))

    def _changed(self) -> None:
        self.changes += 1

    @property
    def script(self) -> Scripted:
        return next(iter(self.scripts.values()))

    def apply(self, wanted: Mapping[Key, Reference]) -> None:
        for reference in wanted.values():
            self.registry.check(reference.type, reference.config)
        self.loop.look(lambda: self.host.apply(wanted))

    def wait_for(self, key: Key) -> Supplied:
        poll.until(lambda: self.host.supplied(key).supply or self.host.supplied(key).fault, "something supplied")
        return self.host.supplied(key)


def reference(type: str = "test", **config: Any) -> Reference:
    return Reference(type=type, config=config)


@contextmanager
def hosting(loop: LoopThread, *types: str) -> Iterator[Hosted]:
    hosted = Hosted(loop, *types)
    try:
        yield hosted
    finally:
        loop.look(hosted.host.close)


@pytest.fixture
def hosted(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    monkeypatch.setattr(extension_host, "TELL_INTERVAL_S", 0.01)
    monkeypatch.setattr(extension_host, "FIRST_RESTART_S", 0.01)
    with hosting(one_loop) as one:
        yield one


# Judging configs


def test_what_is_not_installed() -> None:
    assert Registry().check("nobody-has-this", {}) is None


def test_the_shipped_ones_are_there() -> None:
    registry = Registry()
    assert registry.check("srv", {"name": "_ldap._tcp.example.test"}) == ()
    assert registry.check("http", {"url": "http://127.0.0.1/"}) == ()


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({}, ()),
        (7, ("must be an object", "or something else")),
        ("raise", ("the extension is broken: RuntimeError: no idea",)),
        ("exit", ("the extension is broken: SystemExit: 3",)),
    ],
)
def test_a_judgement(config: Any, faults: tuple[str, ...]) -> None:
    assert Registry({"test": Scripted}).check("test", config) == faults


def test_a_factory_that_fails_is_tried_again() -> None:
    attempts = iter([RuntimeError("not yet"), None])

    def factory() -> Scripted:
        error = next(attempts)
        if error is not None:
            raise error
        return Scripted()

    registry = Registry({"test": factory})
    assert registry.check("test", {"a": 1}) == ("the extension is broken: RuntimeError: not yet",)
    assert registry.check("test", {"a": 2}) == ()


def test_a_judgement_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_registry, "ANSWER_S", 0.05)
    registry = Registry({"test": Scripted, "other": Scripted})
    assert registry.check("test", "hang") == ("extension test did not answer within 0.05 s",)
    before = threading.active_count()
    for _ in range(20):
        assert registry.check("test", {}) == ("extension test still has not answered an earlier question",)
    assert threading.active_count() == before, "nobody else is left waiting"
    assert registry.check("other", {}) == ()


def test_of_faults_without_end_the_first_are_taken() -> None:
    """Not one more: it is somebody else's code that makes them, and nothing stops the thread that would gather them."""
    taken: list[int] = []

    class Picky(Scripted):
        def validate(self, config: Any) -> Iterable[str]:
            for number in range(MAX_FAULTS_SHOWN * 10):
                taken.append(number)
                yield f"fault {number}"

    faults = Registry({"test": Picky}).check("test", {})
    assert faults == tuple(f"fault {number}" for number in range(MAX_FAULTS_SHOWN))
    assert len(taken) == MAX_FAULTS_SHOWN


def test_judgements_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_registry, "MAX_JUDGED", 3)
    judged: list[Any] = []

    class Counting(Scripted):
        def validate(self, config: Any) -> Iterable[str]:
            judged.append(config)
            return ()

    registry = Registry({"test": Counting})
    for number in (0, 1, 2, 0, 1, 2):
        assert registry.check("test", {"n": number}) == ()
    assert len(judged) == 3, "each once"
    for number in (3, 0):
        assert registry.check("test", {"n": number}) == ()
    assert [config["n"] for config in judged] == [0, 1, 2, 3, 0], "the fourth made room"


# Watching


def test_what_is_published_is_supplied(hosted: Hosted) -> None:
    hosted.apply({A: reference(endpoints=[ONE], tls={"enabled": True})})
    assert hosted.wait_for(A) == Supplied(Supply((ONE,), {"enabled": True}))
    poll.until(lambda: hosted.changes == 1, "the news")
    hosted.script.contexts["a"].publish([ONE, TWO])
    poll.until(lambda: hosted.host.supplied(A) == Supplied(Supply((ONE, TWO))), "the second supply")
    assert hosted.host.version == 2
    hosted.script.contexts["a"].publish([ONE, TWO])
    hosted.loop.look(lambda: None)
    assert hosted.host.version == 2, "the same again is no news"
    context = hosted.script.contexts["a"]
    assert (context.mesh, context.service, context.nameservers()) == ("default", "a", [("127.0.0.1", 53)])


def test_many_changes_are_few_news(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_host, "TELL_INTERVAL_S", 3600.0)
    with hosting(one_loop) as hosted:
        hosted.apply({A: reference(endpoints=[ONE])})
        hosted.wait_for(A)
        for port in range(1, 500):
            hosted.script.contexts["a"].publish([{"address": "127.0.0.1", "port": port}])
        poll.until(lambda: hosted.host.version == 500, "all of them")
        assert hosted.changes == 1


def test_who_is_no_longer_wanted_is_cancelled_and_not_heard(hosted: Hosted) -> None:
    hosted.apply({A: reference(endpoints=[ONE]), B: reference(endpoints=[TWO])})
    hosted.wait_for(A)
    hosted.wait_for(B)
    hosted.apply({B: reference(endpoints=[TWO])})
    poll.until(lambda: hosted.script.cancelled == ["a"], "the end of a")
    assert hosted.host.supplied(A) == Supplied()
    hosted.script.contexts["a"].publish([TWO])
    hosted.loop.look(lambda: None)
    assert hosted.host.supplied(A) == Supplied()
    assert hosted.script.started.count("b") == 1, "what stays the same goes on"


def test_a_new_config_is_a_new_watch(hosted: Hosted) -> None:
    hosted.apply({A: reference(endpoints=[ONE])})
    hosted.wait_for(A)
    hosted.apply({A: reference(endpoints=[TWO])})
    poll.until(lambda: hosted.host.supplied(A) == Supplied(Supply((TWO,))), "the new supply")
    assert hosted.script.cancelled == ["a"]


@pytest.mark.parametrize("do", ["raise", "return"])
def test_one_that_fails_is_started_again_and_blamed(hosted: Hosted, do: str) -> None:
    hosted.apply({A: reference(do=do), B: reference(endpoints=[ONE])})
    fault = {"raise": "failed: OSError: the source is gone", "return": "stopped watching"}[do]
    assert hosted.wait_for(A) == Supplied(None, fault)
    poll.until(lambda: hosted.script.started.count("a") >= 3, "three starts")
    assert hosted.wait_for(B) == Supplied(Supply((ONE,))), "and nobody else notices"
    poll.until(lambda: hosted.host.version == 2, "the news")
    assert hosted.host.version == 2, "the same fault again is no news"


def test_the_wait_between_starts_is_doubled_up_to_a_limit(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_host, "MAX_RESTART_S", 0.02)
    hosted.apply({A: reference(do="raise")})
    poll.until(lambda: hosted.script.started.count("a") >= 15, "fifteen starts: if doubled each time, after minutes")


def test_what_was_supplied_last_stays_after_a_failure(hosted: Hosted) -> None:
    class Failing(Scripted):
        async def watch(self, context: Context) -> None:
            context.publish([ONE])
            raise OSError("gone")

    hosted.registry._factories["failing"] = Failing
    hosted.apply({A: reference("failing")})
    poll.until(lambda: hosted.host.supplied(A).fault, "the fault")
    assert hosted.host.supplied(A).supply == Supply((ONE,))


def test_one_that_blocks_keeps_only_its_own_type_waiting(one_loop: LoopThread) -> None:
    with hosting(one_loop, "blocking", "fine") as hosted:
        hosted.apply({A: reference("blocking", do="block")})
        poll.until(lambda: hosted.scripts["blocking"].started, "it to block")
        hosted.apply({A: reference("blocking", do="block"), B: reference("fine", endpoints=[ONE])})
        assert hosted.wait_for(B).supply == Supply((ONE,))
        began = time.monotonic()
        hosted.loop.look(hosted.host.close)
        assert time.monotonic() - began < 10, "nor the end"


@pytest.mark.parametrize(
    ("endpoints", "tls", "message"),
    [
        ([{"address": object()}], None, "not JSON"),
        ([7], None, "not JSON"),
        ([ONE] * (MAX_ENDPOINTS + 1), None, f"{MAX_ENDPOINTS + 1} endpoints: there may be {MAX_ENDPOINTS}"),
        ([{"address": "x" * MAX_SUPPLY_BYTES}], None, f"more than {MAX_SUPPLY_BYTES} bytes"),
    ],
)
def test_what_cannot_be_supplied(hosted: Hosted, endpoints: Any, tls: Any, message: str) -> None:
    hosted.apply({A: reference()})
    poll.until(lambda: hosted.script.contexts, "it to start")
    with pytest.raises(ValueError, match=message):
        hosted.script.contexts["a"].publish(endpoints, tls)


def test_a_supply_is_not_shown() -> None:
    secret = {"verification": {"clientKey": {"inlineString": "very secret"}}}
    assert "secret" not in repr(Supplied(Supply((ONE,), secret)))


# Planning with it

ROOT = Authority.root("Extension Root")


class Supplies:
    """What a host would have, written down by the test."""

    def __init__(self) -> None:
        self.now: dict[Key, Supplied] = {}
        self.none = Supplied()

    def check(self, type: str, config: Any) -> tuple[str, ...] | None:
        return {"test": (), "picky": ("name: is missing", "url: is missing")}.get(type)

    def supplied(self, key: Key) -> Supplied:
        return self.now.get(key, self.none)


class Planning:
    def __init__(self, tmp_path: Path, type: str = "test") -> None:
        self.supplies = Supplies()
        self.planner = Planner(Settings({}, extensions=self.supplies))
        self.folder = tmp_path / "resources"
        self.folder.mkdir()
        document = yamlkit.mes("a", 80, [])
        document["spec"] = {"match": {"port": 80, "protocol": "http"}, "extension": {"type": type, "config": {}}}
        (self.folder / "a.yaml").write_text(yamlkit.render(document))
        (self.folder / "b.yaml").write_text(yamlkit.render(yamlkit.mes("b", 80, [ONE])))
        self.dataplane = tmp_path / "dp.yaml"
        outbounds = [yamlkit.outbound(10001, "a"), yamlkit.outbound(10002, "b")]
        self.dataplane.write_text(yamlkit.render(yamlkit.dataplane(outbounds)))
        self.loader = Loader()

    def plan(self) -> tuple[ClusterPlan | None, Health, list[str]]:
        """The service's cluster, its health, and what is said of it."""
        planned = self.planner.plan(self.loader.load([self.folder]), load_dataplane(self.dataplane, {}), wall_clock())
        assert planned.plan is not None
        assert yamlkit.kri("b", 80) in planned.plan.clusters, "nobody else notices"
        (state,) = [state for state in planned.resources if state.name == "a"]
        cluster = planned.plan.clusters.get(yamlkit.kri("a", 80))
        return cluster, state.health, [problem.message for problem in state.problems]


def test_a_service_lives_from_its_supply(tmp_path: Path) -> None:
    planning = Planning(tmp_path)
    cluster, health, said = planning.plan()
    assert cluster is not None
    assert (cluster.endpoints, health) == ((), Health.GOOD)
    assert said == ["extension test has supplied no endpoints yet"]
    tls = yamlkit.tls(server_name="api.example.test", ca=yamlkit.inline_string(ROOT.pem))
    planning.supplies.now[A] = Supplied(Supply((ONE, TWO), tls))
    cluster, health, said = planning.plan()
    assert cluster is not None
    assert [str(one.target) for one in cluster.endpoints] == ["127.0.0.1:80", "two.example.test:81"]
    assert [one.priority for one in cluster.endpoints] == [0, 1]
    assert cluster.tls is not None
    assert cluster.tls.server_name == "api.example.test"
    assert cluster.tls.alpn == ("http/1.1",)
    assert said == []
    again, *_ = planning.plan()
    assert again is cluster, "nothing new, nothing compiled"
    planning.supplies.now[A] = Supplied(Supply((ONE,)), "failed: OSError: gone")
    cluster, health, said = planning.plan()
    assert cluster is not None
    assert len(cluster.endpoints) == 1
    assert (health, said) == (
        Health.GOOD,
        ["extension test failed: OSError: gone: what it supplied last stays in force"],
    )


@pytest.mark.parametrize(
    ("supply", "message"),
    [
        (Supply(({"address": "127.0.0.1"},)), "endpoints[0].port: in body is required"),
        (
            Supply(({"address": "no name!", "port": 1},)),
            "endpoints[0].address: address has to be a valid IP or hostname",
        ),
        (Supply((ONE,), {"enabled": True, "verify": {}}), "tls.verify: unknown field"),
        (
            Supply((ONE,), yamlkit.tls(ca=yamlkit.inline_string("no PEM"))),
            "could not load caCert",
        ),
    ],
)
def test_a_wrong_supply_keeps_the_last_good_one(tmp_path: Path, supply: Supply, message: str) -> None:
    planning = Planning(tmp_path)
    planning.supplies.now[A] = Supplied(Supply((ONE,)))
    good, *_ = planning.plan()
    planning.supplies.now[A] = Supplied(supply)
    cluster, health, said = planning.plan()
    assert (cluster, health) == (good, Health.STALE)
    assert message in said[-1]
    planning.supplies.now[A] = Supplied(Supply((TWO,)))
    cluster, health, _ = planning.plan()
    assert health is Health.GOOD
    assert cluster != good


def test_a_supply_may_name_secrets(tmp_path: Path) -> None:
    planning = Planning(tmp_path)
    planning.supplies.now[A] = Supplied(Supply((ONE,), yamlkit.tls(ca=yamlkit.from_secret("ca"))))
    cluster, health, _ = planning.plan()
    assert (cluster, health) == (None, Health.BROKEN)
    (planning.folder / "ca.yaml").write_text(yamlkit.render(yamlkit.secret("ca", ROOT.pem)))
    cluster, health, _ = planning.plan()
    assert health is Health.GOOD


@pytest.mark.parametrize(
    ("type", "message"),
    [
        ("nobody", 'no extension "nobody" is installed'),
        ("picky", "name: is missing; url: is missing"),
    ],
)
def test_what_cannot_run(tmp_path: Path, type: str, message: str) -> None:
    cluster, health, said = Planning(tmp_path, type).plan()
    assert (cluster, health, said[-1]) == (None, Health.BROKEN, message)


# Those that are shipped


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (None, "must be an object with a name"),
        ({}, "name: must be the name of an SRV record"),
        ({"name": "a..b"}, "name: is not a DNS name: A DNS label is empty."),
        ({"name": "a", "nme": 1}, 'unknown field "nme"'),
        ({"name": "a", "tls": 1}, "tls: must be an object"),
    ],
)
def test_bad_srv_configs(config: Any, fault: str) -> None:
    assert list(SrvDiscovery().validate(config)) == [fault]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ([], "must be an object with a url"),
        ({"url": "file:///etc/passwd"}, "url: must be an http or https URL"),
        ({"url": "http://"}, "url: must be an http or https URL"),
        ({"url": "http://a:99999/"}, "url: must be an http or https URL"),
        ({"url": "http://a/", "interval": "often"}, 'interval: "often" is not a duration such as 30s, 1m30s or 500ms'),
        ({"url": "http://a/", "interval": "10ms"}, "interval: must be at least 1s"),
        ({"url": "http://a/", "headers": {"a b": "c"}}, "headers: must be an object of header names and their text"),
        ({"url": "http://a/", "headers": {"a": "c\r\nd"}}, "headers: must be an object of header names and their text"),
        ({"url": "http://a/", "tls": []}, "tls: must be an object"),
        ({"url": "http://a/", "uri": 1}, 'unknown field "uri"'),
    ],
)
def test_bad_http_configs(config: Any, fault: str) -> None:
    assert list(HttpDiscovery().validate(config)) == [fault]


def test_answers_over_http() -> None:
    kuma = {"endpoints": [ONE, TWO], "tls": {"enabled": True}}
    assert parse_answer(json.dumps(kuma).encode()) == ([ONE, TWO], {"enabled": True})
    prometheus = [{"targets": ["a.test:1", "[::1]:2"], "labels": {"x": "y"}}, {"targets": ["10.0.0.1:3"]}]
    assert parse_answer(json.dumps(prometheus).encode()) == (
        [{"address": "a.test", "port": 1}, {"address": "::1", "port": 2}, {"address": "10.0.0.1", "port": 3}],
        None,
    )
    for bad in (
        b"",
        b"7",
        b"{}",
        b'{"endpoints": 1}',
        b'[{"targets": ["a"]}]',
        b"[1]",
        b"[" * 100_000,
        b'{"endpoints":[',
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_answer(bad)


def test_endpoints_over_http(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.extensions.http.MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(extension_host, "FIRST_RESTART_S", 0.5)
    answers = [
        ok(json.dumps({"endpoints": [ONE]}).encode()),
        ok(b"", status="503 Service Unavailable"),
        ok(json.dumps([{"targets": ["two.example.test:81"]}]).encode()),
    ]
    with Origin(by_connection(*map(always, answers))) as origin, hosting(one_loop) as hosted:
        url = f"http://127.0.0.1:{origin.endpoint['port']}/endpoints"
        hosted.apply({A: reference("http", url=url, interval="20ms", headers={"X-Token": "t0ken"})})
        assert hosted.wait_for(A).supply == Supply((ONE,))
        poll.until(lambda: "503" in (hosted.host.supplied(A).fault or ""), "the failure")
        wanted = Supplied(Supply(({"address": "two.example.test", "port": 81},)))
        poll.until(lambda: hosted.host.supplied(A) == wanted, "the third answer")


def get_from(origin: Origin, clock: Callable[[], float] = lambda: 0.0, *, scheme: str = "http") -> bytes:
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{origin.endpoint['port']}/")
    return extension_http._get(request, extension_http._Deadline(clock))


def test_an_answer_over_http_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_http, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(extension_http, "TRY_TIMEOUT_S", 1.0)

    def endless(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n" + bytes(1001))
        one.read_to_end()

    with Origin(by_connection(always(ok(bytes(1000))), always(ok(bytes(1001))), endless)) as origin:
        assert get_from(origin) == bytes(1000)
        for _ in ("one byte more", "without end: what comes behind that byte is not waited for"):
            with pytest.raises(ValueError, match="the answer is larger than 1000 bytes"):
                get_from(origin)


def test_an_answer_that_redirects_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_http, "MAX_ANSWER_BYTES", 1000)

    def leads_away(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 1000000000000\r\n\r\n" + bytes(1001))
        one.read_to_end()

    with Origin(by_connection(leads_away, always(ok(b"[]")))) as origin:
        assert get_from(origin) == b"[]"
        assert origin.last.head.startswith(b"GET /there ")


class Ticking:
    """A clock that each look moves on by a second."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return float(self.looks)


DRIBBLES = {
    "status": b"",
    "fields": b"HTTP/1.1 200 OK\r\nx: ",
    "body": b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 100000\r\n\r\n",
}


def dribbling(start: bytes) -> Script:
    """A byte now and then, never so late that it would not have been waited for, and never the last."""

    def converse(one: Conversation) -> None:
        one.request()
        one.send(start)
        while True:
            one.send(b"1")
            threading.Event().wait(0.005)

    return converse


@pytest.mark.parametrize("start", DRIBBLES.values(), ids=DRIBBLES.keys())
def test_an_answer_that_dribbles_has_a_deadline(start: bytes) -> None:
    with Origin(dribbling(start)) as origin:
        clock = Ticking()
        with pytest.raises(TimeoutError, match="no whole answer within 10 s"):
            get_from(origin, clock)
        assert clock.looks == extension_http.TOTAL_TIMEOUT_S + 1
        assert origin.connections == 1


def test_https_is_verified_and_has_the_deadline_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = server_tls(ROOT.leaf("127.0.0.1"))
    with Origin(by_connection(always(ok(b"[]")), dribbling(DRIBBLES["body"])), tls=tls) as origin:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            get_from(origin, scheme="https")
        trusted = tmp_path / "ca.pem"
        trusted.write_text(ROOT.pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert get_from(origin, scheme="https") == b"[]"
        with pytest.raises(TimeoutError, match="no whole answer within 10 s"):
            get_from(origin, Ticking(), scheme="https")


def test_redirects_do_not_move_the_deadline() -> None:
    def further(request: Message) -> bytes:
        return ok(b"", f"Location: {request.head.split()[1].decode()}x", status="302 Found")

    with Origin(always(further)) as origin:
        with pytest.raises(OSError, match="no whole answer within 10 s"):
            get_from(origin, Ticking())
        assert origin.connections < extension_http.TOTAL_TIMEOUT_S


def test_the_addresses_of_a_host_share_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    with Origin(always(ok(b"[]"))) as origin:
        nobody, somebody = (*tcp, ("127.0.0.1", free_port())), (*tcp, ("127.0.0.1", origin.endpoint["port"]))
        for addresses, is_answered in (([nobody, somebody], True), ([nobody] * 20 + [somebody], False), ([], False)):
            monkeypatch.setattr(extension_http.socket, "getaddrinfo", lambda *_, found=addresses, **__: found)
            request = urllib.request.Request("http://example.test/")
            if is_answered:
                assert extension_http._get(request, extension_http._Deadline(Ticking())) == b"[]"
            else:
                with pytest.raises(OSError, match=r"no whole answer within 10 s|has no address"):
                    extension_http._get(request, extension_http._Deadline(Ticking()))
        assert origin.connections == 1


def test_a_server_that_dribbles_keeps_no_thread(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_http, "TOTAL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(extension_host, "FIRST_RESTART_S", 60.0)

    asking: list[threading.Thread] = []

    def converse(one: Conversation) -> None:
        asking.extend(thread for thread in threading.enumerate() if thread.name == "extension http: request")
        dribbling(DRIBBLES["body"])(one)

    with Origin(converse) as origin, hosting(one_loop) as hosted:
        hosted.apply({A: reference("http", url=f"http://127.0.0.1:{origin.endpoint['port']}/")})
        assert "TimeoutError" in (hosted.wait_for(A).fault or "")
        (thread,) = asking
        poll.until(lambda: not thread.is_alive(), "the end of the thread")
        assert thread.daemon, "nobody waits for it at the end of the process"


def test_so_many_requests_over_http_are_under_way(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_http, "MAX_REQUESTS", 1)
    has_come: list[bool] = []
    other = threading.Event()

    def first(one: Conversation) -> None:
        has_come.append(other.wait(0.1))
        always(ok(json.dumps([{"targets": ["127.0.0.1:80"]}]).encode()))(one)

    def second(one: Conversation) -> None:
        other.set()
        always(ok(b"[]"))(one)

    with Origin(by_connection(first, second)) as origin, hosting(one_loop) as hosted:
        wanted = reference("http", url=f"http://127.0.0.1:{origin.endpoint['port']}/")
        hosted.apply({A: wanted, B: wanted})
        assert {supply and len(supply.endpoints) for supply in (hosted.wait_for(key).supply for key in (A, B))} == {
            0,
            1,
        }
        assert has_come == [False]


def test_a_redirect_does_not_lead_to_a_file(one_loop: LoopThread) -> None:
    leads_away = ok(b"", "Location: file:///etc/hostname", status="302 Found")
    with Origin(always(leads_away)) as origin, hosting(one_loop) as hosted:
        hosted.apply({A: reference("http", url=f"http://127.0.0.1:{origin.endpoint['port']}/")})
        assert hosted.wait_for(A).supply is None


def test_endpoints_from_dns(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.extensions.srv.MIN_TTL_S", 0.02)
    monkeypatch.setattr(extension_host, "FIRST_RESTART_S", 0.5)
    with DnsServer({}, ttl_s=0) as dns, hosting(one_loop) as hosted:
        host, _, port = dns.address.rpartition(":")
        hosted.host._nameservers = lambda: [(host, int(port))]
        dns.services["_db._tcp.example.test"] = ["20 5 5432 b.example.test.", "10 0 5432 a.example.test."]
        hosted.apply({A: reference("srv", name="_db._tcp.example.test", tls={"enabled": True})})
        assert hosted.wait_for(A).supply == Supply(
            (
                {"address": "a.example.test", "port": 5432, "priority": 0},
                {"address": "b.example.test", "port": 5432, "priority": 1},
            ),
            {"enabled": True},
        )
        dns.services["_db._tcp.example.test"] = ["0 0 0 ."]
        poll.until(lambda: "not offered" in (hosted.host.supplied(A).fault or ""), "the end of the offer")
        assert hosted.host.supplied(A).supply is not None, "what was known last stays"
        dns.services["_db._tcp.example.test"] = ["0 0 5433 c.example.test."]
        supply = Supply(({"address": "c.example.test", "port": 5433, "priority": 0},), {"enabled": True})
        poll.until(lambda: hosted.host.supplied(A) == Supplied(supply), "the new offer")


def test_priorities_from_dns_become_levels_up_to_a_limit(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_srv, "MAX_LEVELS", 2)
    with DnsServer({}) as dns, hosting(one_loop) as hosted:
        host, _, port = dns.address.rpartition(":")
        hosted.host._nameservers = lambda: [(host, int(port))]
        dns.services["_db._tcp.example.test"] = [f"{level * 10} 0 5432 h{level}.example.test." for level in range(5)]
        hosted.apply({A: reference("srv", name="_db._tcp.example.test")})
        supply = hosted.wait_for(A).supply
        assert supply is not None
        assert [one["priority"] for one in supply.endpoints] == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(("ttl_s", "limit_s"), [(0.0, extension_srv.MIN_TTL_S), (1e9, extension_srv.MAX_TTL_S)])
def test_dns_is_asked_again_within_limits(monkeypatch: pytest.MonkeyPatch, ttl_s: float, limit_s: float) -> None:
    waited: list[float] = []

    async def answered(*_: Any, **__: Any) -> tuple[list[dict[str, Any]], float]:
        return [ONE], ttl_s

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(extension_srv, "ask_in_turn", answered)
    monkeypatch.setattr(extension_srv.asyncio, "sleep", sleep)
    context = Context("default", "a", {"name": "_db._tcp.example.test"}, lambda *_: None, list)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(SrvDiscovery().watch(context))
    assert waited == [pytest.approx(limit_s, rel=extension_srv.JITTER)]


@pytest.mark.parametrize("failing", [True, False])
def test_dns_that_does_not_answer(one_loop: LoopThread, failing: bool) -> None:
    with DnsServer({}) as dns, hosting(one_loop) as hosted:
        host, _, port = dns.address.rpartition(":")
        hosted.host._nameservers = lambda: [(host, int(port))]
        dns.failing = failing
        hosted.apply({A: reference("srv", name="_none._tcp.example.test")})
        assert ("SERVFAIL" if failing else "no such name") in (hosted.wait_for(A).fault or "")


# The template


def test_the_template_in_the_examples(one_loop: LoopThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE_ROOT / "examples" / "extension"))
    from koguma_example.extension import FileDiscovery  # type: ignore[import-not-found]

    monkeypatch.setattr("koguma_example.extension.LOOK_S", 0.02)
    listed = tmp_path / "listed.txt"
    listed.write_text("127.0.0.1:80\n")
    with hosting(one_loop) as hosted:
        hosted.registry._factories["file"] = FileDiscovery
        assert hosted.registry.check("file", {}) == ("path: must be the path of a file",)
        hosted.apply({A: reference("file", path=str(listed))})
        assert hosted.wait_for(A).supply == Supply((ONE,))
        listed.write_text("127.0.0.1:80\n[::1]:81\n")
        wanted = Supplied(Supply((ONE, {"address": "::1", "port": 81})))
        poll.until(lambda: hosted.host.supplied(A) == wanted, "the change")


def test_the_template_is_found_by_its_entry_point() -> None:
    import tomllib

    project = tomllib.loads((SOURCE_ROOT / "examples" / "extension" / "pyproject.toml").read_text())
    assert project["project"]["entry-points"] == {
        extension_registry.GROUP: {"file": "koguma_example.extension:FileDiscovery"}
    }
