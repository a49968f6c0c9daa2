"""What each view shows, in Envoy's shape; that no view shows a secret; and that no name becomes markup."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from ipaddress import ip_address

import pytest

from config.plan import Direction, EjectionPlan, EndpointPlan, IdentityPlan, UnixTarget
from proxy.admin import dump, page
from proxy.cluster import Cluster
from tests.kit.ca import EXPIRED, Authority
from tests.proxy.admin_world import (
    broken_row,
    client_of,
    cluster,
    facts_of,
    listener,
    run,
    sound_row,
    world,
)
from tests.tls.inbound import bundle
from tls.bundles import TrustBundles
from tls.material import CertificateFacts
from tls.policy import MatchType, Mode, Origination, SanMatcher, TrustAnchors
from tls.verdict import Cause, Verdict


def eject(one: Cluster) -> None:
    now_s = asyncio.get_running_loop().time()
    (endpoint,) = one.balancer
    for _ in range(EjectionPlan().failures):
        one.balancer.failed(endpoint, now_s)


# /ready, /server_info, /memory, /resources


@pytest.mark.parametrize("state", ["PRE_INITIALIZING", "INITIALIZING", "DRAINING"])
def test_ready(state: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            assert ((await here.ask("/ready")).status, (await here.ask("/ready")).text) == (200, "LIVE\n")
            here.state = state
            reply = await here.ask("/ready")
            assert (reply.status, reply.text) == (503, f"{state}\n")

    run(scenario())


def test_server_info() -> None:
    async def scenario() -> None:
        async with world() as here:
            shown = (await here.ask("/server_info")).json
            assert shown["state"] == "LIVE"
            assert re.fullmatch(r"9\ds", shown["uptime_current_epoch"])
            assert shown["command_line_options"] == {"concurrency": 1, "drain_time": "30s"}
            assert shown["node"]["id"] == "default.dp-1"
            assert shown["node"]["metadata"] == {"mesh": "default", "zone": "east", "labels": {"team": "payments"}}
            assert len(shown["version"].split("/")) == 5

    run(scenario())


def test_memory() -> None:
    async def scenario() -> None:
        async with world() as here:
            shown = (await here.ask("/memory")).json
            assert int(shown["total_physical_bytes"]) > int(shown["allocated"]) > 1_000_000
            assert int(shown["python_allocated_blocks"]) > 10_000
            assert {"heap_size", "pageheap_unmapped", "pageheap_free", "total_thread_cache"} <= shown.keys()

    run(scenario())


def test_resources() -> None:
    async def scenario() -> None:
        async with world() as here:
            here.resources = [sound_row("a"), broken_row("b")]
            assert (await here.ask("/resources")).json == {"resources": here.resources}

    run(scenario())


# /clusters and /listeners


def test_clusters_as_text() -> None:
    async def scenario() -> None:
        socket = cluster("local", endpoints=(EndpointPlan(UnixTarget("@app"), priority=2),))
        async with world(cluster("api", 8443, max_connections=77), socket) as here:
            (endpoint,) = here.runtime.clusters["api"].balancer
            endpoint.cx_total, endpoint.cx_connect_fail = 5, 2
            lines = (await here.ask("/clusters")).text.splitlines()
            assert lines[:14] == [
                "api::observability_name::api",
                "api::outlier::success_rate_average::-1",
                "api::outlier::success_rate_ejection_threshold::-1",
                "api::outlier::local_origin_success_rate_average::-1",
                "api::outlier::local_origin_success_rate_ejection_threshold::-1",
                "api::default_priority::max_connections::77",
                "api::default_priority::max_pending_requests::1024",
                "api::default_priority::max_requests::1024",
                "api::default_priority::max_retries::3",
                "api::high_priority::max_connections::1024",
                "api::high_priority::max_pending_requests::1024",
                "api::high_priority::max_requests::1024",
                "api::high_priority::max_retries::3",
                "api::added_via_api::false",
            ]
            assert [line.removeprefix("api::127.0.0.1:8443::") for line in lines[14:33]] == [
                "cx_active::0", "cx_connect_fail::2", "cx_total::5", "rq_active::0", "rq_error::0",
                "rq_pending_active::0", "rq_success::0", "rq_timeout::0", "rq_total::0", "hostname::127.0.0.1",
                "health_flags::healthy", "weight::1", "region::", "zone::", "sub_zone::", "canary::false",
                "priority::0", "success_rate::-1", "local_origin_success_rate::-1",
            ]  # fmt: skip
            assert "local::@app::hostname::" in lines
            assert "local::@app::priority::2" in lines

    run(scenario())


def test_an_ejected_endpoint() -> None:
    async def scenario() -> None:
        async with world(cluster("api", 1)) as here:
            eject(here.runtime.clusters["api"])
            assert "api::127.0.0.1:1::health_flags::/failed_outlier_check\n" in (await here.ask("/clusters")).text
            (status,) = (await here.ask("/clusters?format=json")).json["cluster_statuses"]
            assert status["host_statuses"][0]["health_status"] == {
                "failed_outlier_check": True,
                "eds_health_status": "HEALTHY",
            }
            shown = (await here.ask("/stats?filter=membership")).stats
            assert shown == {"cluster.api.membership_healthy": "0", "cluster.api.membership_total": "1"}

    run(scenario())


def test_clusters_as_json() -> None:
    async def scenario() -> None:
        socket = cluster("local", endpoints=(EndpointPlan(UnixTarget("/run/app.sock"), priority=1),))
        async with world(cluster("api", 8443), socket, cluster("empty")) as here:
            (endpoint,) = here.runtime.clusters["api"].balancer
            endpoint.cx_active = endpoint.cx_total = 5
            api, local, empty = (await here.ask("/clusters?format=json")).json["cluster_statuses"]
            assert api["name"] == api["observability_name"] == "api"
            breaker = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3}
            assert api["circuit_breakers"] == {"thresholds": [breaker, {"priority": "HIGH"} | breaker]}
            (host,) = api["host_statuses"]
            assert host == {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8443}},
                "stats": [
                    {"name": "cx_connect_fail"},
                    {"value": "5", "name": "cx_total"},
                    {"name": "rq_error"},
                    {"name": "rq_success"},
                    {"name": "rq_timeout"},
                    {"name": "rq_total"},
                    {"type": "GAUGE", "value": "5", "name": "cx_active"},
                    {"type": "GAUGE", "name": "rq_active"},
                    {"type": "GAUGE", "name": "rq_pending_active"},
                ],
                "health_status": {"eds_health_status": "HEALTHY"},
                "weight": 1,
                "hostname": "127.0.0.1",
                "locality": {},
            }
            assert local["host_statuses"][0]["address"] == {"pipe": {"path": "/run/app.sock"}}
            assert local["host_statuses"][0]["priority"] == 1
            assert "hostname" not in local["host_statuses"][0]
            assert "host_statuses" not in empty

    run(scenario())


def test_clusters_can_be_filtered_by_name() -> None:
    async def scenario() -> None:
        async with world(cluster("api", 1), cluster("db", 1)) as here:
            text = (await here.ask("/clusters?filter=^a")).text
            assert "api::" in text
            assert "db::" not in text
            assert (await here.ask("/clusters?format=json&filter=zzz")).json == {}
            assert (await here.ask("/clusters?format=xml")).status == 400

    run(scenario())


def test_listeners() -> None:
    async def scenario() -> None:
        parts = [cluster("api", 1), listener("out", "api"), listener("in", "api", Direction.INBOUND)]
        async with world(*parts) as here:
            out, into = here.runtime.listeners["out"], here.runtime.listeners["in"]
            assert (await here.ask("/listeners")).text == (f"out::127.0.0.1:{out.port}\nin::127.0.0.1:{into.port}\n")
            first, _ = (await here.ask("/listeners?format=json")).json["listener_statuses"]
            assert first == {
                "name": "out",
                "local_address": {"socket_address": {"address": "127.0.0.1", "port_value": out.port}},
            }
            await out.stop()
            await into.stop()
            assert (await here.ask("/listeners")).text == ""
            assert (await here.ask("/listeners?format=json")).json == {}

    run(scenario())


def test_listeners_without_a_socket_are_shown_and_marked() -> None:
    """As in Envoy, which does not say so: nobody can connect to what stands there."""
    vip = replace(listener("vip", "api"), address=ip_address("127.9.9.9"), port=443, bind_to_port=False)
    route = replace(listener("route", "api", Direction.INBOUND), port=10002, bind_to_port=False, door="egress")
    many = [replace(route, name=f"route-{number}") for number in range(300)]

    async def scenario() -> None:
        async with world(cluster("api", 1), vip, route) as here:
            text = (await here.ask("/listeners")).text
            assert text == "vip::127.9.9.9:443::redirect\nroute::127.0.0.1:10002::door egress\n"
            first, second = (await here.ask("/listeners?format=json")).json["listener_statuses"]
            assert first == {
                "name": "vip",
                "local_address": {"socket_address": {"address": "127.9.9.9", "port_value": 443}},
                "bind_to_port": False,
                "comes_by": "redirect",
            }
            assert second["comes_by"] == "door egress"
            assert "inbound, door egress" in (await here.ask("/")).text
        async with world(cluster("api", 1), *many) as here:
            assert len((await here.ask("/listeners")).text.splitlines()) == 300
            assert len((await here.ask("/listeners?format=json")).json["listener_statuses"]) == 300

    run(scenario())


# /certs


def test_certs() -> None:
    async def scenario() -> None:
        root = Authority.root("the root")
        second = Authority.root("old root", window=EXPIRED)
        bundle = TrustAnchors((root.pem + second.pem).encode(), "partner.yaml inline")
        me = root.intermediate("issuing").leaf("me.test", "127.0.0.1", "spiffe://a/b", common_name="me")
        tls = Origination(anchors=bundle, client=client_of(me))
        async with world(cluster("a", 1, tls=tls), cluster("b", 2, tls=tls), cluster("plain", 3)) as here:
            (endpoint,) = here.runtime.clusters["a"].balancer
            endpoint.peer = facts_of(root.leaf("api.test"))
            shown = (await here.ask("/certs")).json
            (entry,) = shown["certificates"]  # two services, one pair of material
            assert [one["subject"] for one in entry["ca_cert"]] == ["CN=the root", "CN=old root"]
            assert [one["days_until_expiration"] for one in entry["ca_cert"]] == ["29", "0"]
            leaf, issuing = entry["cert_chain"]
            assert leaf["subject_alt_names"] == [
                {"dns": "me.test"},
                {"uri": "spiffe://a/b"},
                {"ip_address": "127.0.0.1"},
            ]
            assert leaf["path"] == "secret partner-client"
            assert leaf["serial_number"] == f"{me.certificate.serial_number:x}"
            until = datetime.strptime(leaf["expiration_time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            assert until == me.certificate.not_valid_after_utc
            assert issuing["subject"] == "CN=issuing"
            (peer,) = shown["peers"]
            assert (peer["cluster"], peer["endpoint"]) == ("a", "127.0.0.1:1")
            assert peer["subject_alt_names"] == [{"dns": "api.test"}]

    run(scenario())


def test_trust_and_identity() -> None:
    async def scenario() -> None:
        async with world() as here:
            shown = (await here.ask("/certs")).json
            assert (shown["trust"], shown["identity"]) == ([], None)
            root, until = Authority.root("the root"), datetime(2030, 1, 2, tzinfo=UTC)
            trusted = TrustBundles.of([bundle("zone-2", root, Authority.root("old root", window=EXPIRED))])
            identity = IdentityPlan("spiffe://zone-1/workload/app", "kri_mid_a", until, until - timedelta(hours=4))
            here.runtime.plan = replace(
                here.runtime.plan, trust=trusted, trust_generations={"zone-2": 7}, identity=identity
            )
            shown = (await here.ask("/certs")).json
            (domain,) = shown["trust"]
            assert (domain["trust_domain"], domain["generation"]) == ("zone-2", 7)
            assert [one["subject"] for one in domain["ca_cert"]] == ["CN=the root", "CN=old root"]
            assert domain["expiration_time"] == f"{root.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            assert shown["identity"]["spiffe_id"] == "spiffe://zone-1/workload/app"
            assert shown["identity"]["renewal_time"] == "2030-01-01T20:00:00Z"
            stats = (await here.ask("/stats")).stats
            assert (stats["koguma.trust.domains"], stats["koguma.trust.generation"]) == ("1", "7")
            assert stats["server.days_until_first_cert_expiring"] == "0"
            lines = (await here.ask("/stats/prometheus")).text.splitlines()
            assert 'koguma_trust_bundle_generation{trust_domain="zone-2"} 7' in lines
            ends = root.certificate.not_valid_after_utc.timestamp()
            assert f'koguma_trust_bundle_not_after_seconds{{trust_domain="zone-2"}} {ends:.10g}' in lines
            ends = until.timestamp()
            assert f'koguma_identity_not_after_seconds{{spiffe_id="{identity.id}"}} {ends:.10g}' in lines

    run(scenario())


# /config_dump


def test_config_dump_shows_the_plan() -> None:
    async def scenario() -> None:
        root = Authority.root()
        tls = Origination(
            anchors=TrustAnchors(root.pem.encode(), "inline"),
            server_name="api.example.test",
            sans=(SanMatcher(MatchType.PREFIX, "spiffe://a/"),),
        )
        async with world(cluster("api", 8443, tls=tls), listener("out", "api")) as here:
            bootstrap, clusters, listeners = (await here.ask("/config_dump")).json["configs"]
            assert bootstrap["@type"].endswith(".BootstrapConfigDump")
            assert bootstrap["bootstrap"]["node"]["name"] == "dp-1"
            assert clusters["@type"].endswith(".ClustersConfigDump")
            (shown,) = clusters["dynamic_active_clusters"]
            assert shown["cluster"]["name"] == "api"
            assert shown["cluster"]["endpoints"] == [{"target": {"address": "127.0.0.1", "port": 8443}, "priority": 0}]
            assert shown["cluster"]["tls"]["sans"] == [{"type": "Prefix", "value": "spiffe://a/"}]
            assert shown["cluster"]["tls"]["min_version"] == "TLSv1_2"
            assert shown["cluster"]["tls"]["mode"] == "Secured"
            assert shown["cluster"]["tls"]["anchors"]["sha256"] == tls.anchors.digest  # type: ignore[union-attr]
            (out,) = listeners["dynamic_listeners"]
            assert out["active_state"]["listener"]["cluster"] == "api"

    run(scenario())


def test_config_dump_by_section() -> None:
    async def scenario() -> None:
        async with world(cluster("api", 1)) as here:
            (entry,) = (await here.ask("/config_dump?resource=dynamic_active_clusters")).json["configs"]
            assert entry["cluster"]["service"] == "api"
            assert (await here.ask("/config_dump?resource=bootstrap")).json["configs"][0]["bootstrap"]["admin"]
            assert (await here.ask("/config_dump?resource=dynamic_listeners")).json == {}
            assert (await here.ask("/config_dump?resource=static_clusters")).json == {}
            reply = await here.ask("/config_dump?resource=nope")
            assert (reply.status, reply.text) == (404, "nope not found in config dump")

    run(scenario())


def test_what_a_class_keeps_from_its_repr_is_redacted() -> None:
    assert dump.redacted(b"bytes") == dump.REDACTED
    assert dump.redacted({"a": (b"bytes",)}) == {"a": [dump.REDACTED]}
    facts = CertificateFacts("00", issuer_of_issuer="hidden")
    shown = dump.redacted(facts)
    assert isinstance(shown, dict)
    assert shown["issuer_of_issuer"] == dump.REDACTED
    assert shown["sha256"] == "00"


@pytest.mark.parametrize("path", ["/config_dump", "/certs", "/resources", "/clusters", "/stats", "/server_info", "/"])
def test_no_view_shows_a_secret(path: str) -> None:
    async def scenario() -> None:
        root = Authority.root()
        me = root.leaf("me")
        tls = Origination(anchors=TrustAnchors(root.pem.encode(), "inline"), client=client_of(me))
        async with world(cluster("api", 1, tls=tls), listener("out", "api")) as here:
            shown = (await here.ask(path)).text
            assert "PRIVATE KEY" not in shown
            assert "BEGIN CERTIFICATE" not in shown
            for line in me.key_pem.splitlines()[1:-1]:
                assert line not in shown

    run(scenario())


# What changes something


def test_actions() -> None:
    async def scenario() -> None:
        async with world() as here:
            for target in (
                "/healthcheck/fail", "/healthcheck/ok", "/drain_listeners", "/drain_listeners?graceful&inboundonly",
                "/drain_listeners?skip_exit", "/quitquitquit",
            ):  # fmt: skip
                reply = await here.ask(target, "POST")
                assert (reply.status, reply.text) == (200, "OK\n")
            assert here.actions.asked == [
                ("fail", None),
                ("ok", None),
                ("drain", (False, False, False)),
                ("drain", (True, True, False)),
                ("drain", (False, False, True)),
                ("quit", None),
            ]

    run(scenario())


def test_reset_counters() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1), listener("o", "a")) as here:
            cluster_stats, listener_stats = here.runtime.clusters["a"].stats, here.runtime.listeners["o"].stats
            cluster_stats.upstream_cx_total = cluster_stats.ssl_handshake = cluster_stats.upstream_cx_active = 5
            cluster_stats.upstream_cx_connect_ms.record(1)
            cluster_stats.codes[503] = 5
            listener_stats.downstream_cx_total = here.runtime.listeners["o"].http.downstream_rq_total = 5
            here.context.reload.success, here.context.reload.generation = 5, 5
            assert (await here.ask("/reset_counters", "POST")).text == "OK\n"
            assert (cluster_stats.upstream_cx_total, cluster_stats.ssl_handshake) == (0, 0)
            assert cluster_stats.upstream_cx_active == 5  # a gauge is no counter
            assert cluster_stats.upstream_cx_connect_ms.count == 1
            assert (listener_stats.downstream_cx_total, here.runtime.listeners["o"].http.downstream_rq_total) == (0, 0)
            assert "upstream_rq_503" not in dict(cluster_stats.counted())
            assert (here.context.reload.success, here.context.reload.generation) == (0, 5)

    run(scenario())


@pytest.fixture
def _levels_restored() -> Iterator[None]:
    ours = [
        logging.getLogger(name) for name in ("koguma", *logging.root.manager.loggerDict) if name.startswith("koguma")
    ]
    before = [(logger, logger.level) for logger in ours]
    yield
    for logger, level in before:
        logger.setLevel(level)


@pytest.mark.usefixtures("_levels_restored")
def test_logging() -> None:
    async def scenario() -> None:
        async with world() as here:
            logging.getLogger("koguma.dns").setLevel(logging.NOTSET)
            reply = await here.ask("/logging?level=error", "POST")
            assert reply.text.startswith("active loggers:\n  koguma: error\n")
            assert "  koguma.upstream: error\n" in reply.text
            await here.ask("/logging?upstream=debug", "POST")
            assert logging.getLogger("koguma.upstream").level == logging.DEBUG
            await here.ask("/logging?paths=koguma.upstream:off,dns:trace", "POST")
            assert logging.getLogger("koguma.upstream").level > logging.CRITICAL
            assert "  koguma.dns: trace\n" in (await here.ask("/logging", "POST")).text

    run(scenario())


@pytest.mark.usefixtures("_levels_restored")
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("level=loud", "unknown logger level"),
        ("nobody=info", "unknown logger name"),
        ("asyncio=info", "unknown logger name"),
        ("level=info&upstream=info", "invalid number of parameters"),
        ("paths=upstream:debug,dns", "empty logger name or empty logger level"),
        ("paths=upstream:debug,dns:loud", "unknown logger level"),
    ],
)
def test_a_wrong_logging_request_changes_nothing(query: str, error: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            logging.getLogger("koguma.upstream").setLevel(logging.ERROR)
            reply = await here.ask(f"/logging?{query}", "POST")
            assert reply.status == 400
            assert reply.text.startswith(f"error: {error}\n\nusage: /logging?<name>=<level>")
            assert logging.getLogger("koguma.upstream").level == logging.ERROR

    run(scenario())


# The status page


class Outline(HTMLParser):
    """Tags, and the text outside of ``<style>``; complains about tags that do not nest."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_tells_what_is_wrong_in_words() -> None:
    async def scenario() -> None:
        root = Authority.root()
        tls = Origination(anchors=TrustAnchors(root.pem.encode(), "inline"))
        skipping = cluster("lax", 2, tls=Origination(mode=Mode.SKIP_ALL))
        async with world(cluster("api", 1, tls=tls), skipping, listener("out", "api")) as here:
            here.resources = [broken_row("payments"), sound_row("api")]
            here.runtime.failed["inbound:80"] = "cannot listen on 127.0.0.1:80: no permission"
            (endpoint,) = here.runtime.clusters["api"].balancer
            endpoint.last_verdict = Verdict(
                Cause.SAN_MISMATCH, "the certificate is for other.test, not api.test", advice="set serverName"
            )
            eject(here.runtime.clusters["api"])
            reply = await here.ask("/")
            assert reply.headers["content-type"] == "text/html; charset=UTF-8"
            text = Outline(reply.text).text
            for words in (
                "LIVE", "dp-1 · mesh default · zone east · up 1 min", "services, 1 down",
                "the certificate is for other.test, not api.test", "set serverName", "passed over for 1 s",
                "MeshExternalService/payments", "is wrong", "mes.yaml:3", "cannot listen on 127.0.0.1:80",
                "SkipAll", f"127.0.0.1:{here.runtime.listeners['out'].port}",
            ):  # fmt: skip
                assert words in text

    run(scenario())


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    async def scenario() -> None:
        async with world(cluster("api", 1), listener("out", "api")) as here:
            reply = await here.ask("/")
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            outline = Outline(reply.text)
            assert not {tag for tag, _ in outline.tags} & {"script", "img", "link", "iframe", "form"}
            for tag, attributes in outline.tags:
                assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
                assert (attributes.get("href") or "/").startswith("/")
            assert ("meta", {"http-equiv": "refresh", "content": "5"}) in outline.tags
            for path in page.LINKS:
                assert (await here.ask(path)).status == 200

    run(scenario())


def test_nothing_that_was_said_elsewhere_becomes_markup() -> None:
    evil = "<script>alert(1)</script>\"'&"
    socket = cluster("k", service=evil, mesh=evil, endpoints=(EndpointPlan(UnixTarget(f"@{evil}")),))

    async def scenario() -> None:
        async with world(socket, listener(evil, "k")) as here:
            here.resources = [broken_row(evil)]
            here.runtime.failed[evil] = evil
            (endpoint,) = here.runtime.clusters["k"].balancer
            endpoint.last_verdict = Verdict(Cause.RESET, evil, advice=evil)
            shown = (await here.ask("/")).text
            assert "<script" not in shown
            assert "<b>is wrong" not in shown
            assert Outline(shown).text.count("alert(1)") >= 6

    run(scenario())


def test_the_page_is_bounded() -> None:
    async def scenario() -> None:
        async with world(*(cluster(f"service-{number:04}", 1) for number in range(page.MAX_ROWS + 1))) as here:
            text = Outline((await here.ask("/")).text).text
            assert "the first 500 of 501" in text
            assert "service-0499" in text
            assert "service-0500" not in text

    run(scenario())


@pytest.mark.parametrize(("more", "said"), [(0, ""), (3, "and 3 more")])
def test_a_service_of_many_endpoints_shows_the_first(more: int, said: str) -> None:
    async def scenario() -> None:
        async with world(cluster("one", *range(10_000, 10_000 + page.MAX_ENDPOINTS + more))) as here:
            text = Outline((await here.ask("/")).text).text
            assert text.count("127.0.0.1:10") == page.MAX_ENDPOINTS
            assert said in text
            assert (" more" in text) == bool(said)

    run(scenario())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (3725, "1 h 2 min"), (90061, "1 d 1 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 62, "4096.0 PiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert page.size(count) == text
