"""Stat names are a contract with dashboards: each one here is Envoy's, letter by letter, or ours by design."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from datetime import timedelta

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from config.plan import DnsTarget, EndpointPlan, ListenerPlan, Protocol
from proxy.admin import certs, prometheus, routes
from proxy.admin.http import MAX_QUERY_FIELDS, MAX_REGEX_CHARS, SLICE, Request
from proxy.stats import ClusterStats, DnsStats, Histogram, HttpStats, ListenerStats
from tests.kit.ca import Authority, Window
from tests.proxy.admin_world import (
    Reply,
    broken_row,
    client_of,
    cluster,
    echo,
    facts_of,
    listener,
    run,
    sound_row,
    world,
)
from tls.policy import Mode, Origination, TrustAnchors

API = "kri_extsvc_default_east_ns_api_80"

ENVOYS_CLUSTER_STATS = [
    "lb_healthy_panic",
    "membership_healthy",
    "membership_total",
    "ssl.connection_error",
    "ssl.fail_verify_error",
    "ssl.fail_verify_no_cert",
    "ssl.fail_verify_san",
    "ssl.handshake",
    "ssl.session_reused",
    "update_attempt",
    "update_failure",
    "update_success",
    "upstream_cx_active",
    "upstream_cx_connect_attempts_exceeded",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_ms",
    "upstream_cx_connect_timeout",
    "upstream_cx_destroy",
    "upstream_cx_destroy_local",
    "upstream_cx_destroy_remote",
    "upstream_cx_idle_timeout",
    "upstream_cx_length_ms",
    "upstream_cx_none_healthy",
    "upstream_cx_overflow",
    "upstream_cx_rx_bytes_total",
    "upstream_cx_total",
    "upstream_cx_tx_bytes_total",
    "circuit_breakers.default.cx_open",
    "circuit_breakers.default.remaining_cx",
]
ENVOYS_LISTENER_STATS = [
    "downstream_cx_active",
    "downstream_cx_destroy",
    "downstream_cx_length_ms",
    "downstream_cx_overflow",
    "downstream_cx_total",
]
ENVOYS_TCP_STATS = [
    "downstream_cx_rx_bytes_total",
    "downstream_cx_total",
    "downstream_cx_tx_bytes_total",
    "idle_timeout",
]
ENVOYS_PROCESS_STATS = [
    "cluster_manager.active_clusters",
    "listener_manager.total_listeners_active",
    "listener_manager.listener_create_failure",
    "server.concurrency",
    "server.days_until_first_cert_expiring",
    "server.live",
    "server.memory_allocated",
    "server.memory_heap_size",
    "server.memory_physical_size",
    "server.state",
    "server.total_connections",
    "server.uptime",
]
OURS = [
    *(f"koguma.dns.{name}" for name in DnsStats.counters + DnsStats.gauges),
    "koguma.generation",
    "koguma.reload.failed",
    "koguma.reload.rejected",
    "koguma.reload.success",
    "koguma.unverified_services",
    "koguma.workers.crashed",
    "koguma.workers.running",
]


def names_under(reply: Reply, scope: str) -> set[str]:
    return {name.removeprefix(scope) for name in reply.stats if name.startswith(scope)}


def anchors(authority: Authority, source: str = "inline") -> TrustAnchors:
    return TrustAnchors(authority.pem.encode(), source)


def test_every_name_in_the_text() -> None:
    async def scenario() -> None:
        async with world(cluster(API, 1), listener("outbound:api", API)) as here:
            reply = await here.ask("/stats")
            port = here.runtime.listeners["outbound:api"].port
            assert set(ENVOYS_CLUSTER_STATS) <= names_under(reply, f"cluster.{API}.")
            assert set(ENVOYS_LISTENER_STATS) <= names_under(reply, f"listener.127.0.0.1_{port}.")
            assert names_under(reply, "tcp.outbound_api.") == set(ENVOYS_TCP_STATS)
            assert {*ENVOYS_PROCESS_STATS, *OURS} <= reply.stats.keys()

    run(scenario())


def test_a_stat_that_is_declared_appears() -> None:
    """Whatever ``proxy.stats`` lists is shown, without a line in the admin interface."""

    async def scenario() -> None:
        async with world(cluster(API, 1), listener("o", API)) as here:
            reply = await here.ask("/stats")
            port = here.runtime.listeners["o"].port
            declared = (*ClusterStats.counters, *ClusterStats.gauges, *ClusterStats.histograms)
            assert set(declared) <= names_under(reply, f"cluster.{API}.")
            below = names_under(reply, f"listener.127.0.0.1_{port}.") | names_under(reply, "tcp.o.")
            assert {*ListenerStats.counters, *ListenerStats.gauges, *ListenerStats.histograms} == below

    run(scenario())


def test_the_text_is_sorted_and_histograms_come_last() -> None:
    async def scenario() -> None:
        parts = [cluster(name, 1) for name in ("b", "a.b", "a-b", "a")]
        async with world(*parts, listener("x", "a")) as here:
            lines = (await here.ask("/stats")).text.splitlines()
            is_histogram = [line.partition(": ")[0].endswith(("_ms", "_rq_time")) for line in lines]
            assert is_histogram == sorted(is_histogram)
            names = [line.split(": ")[0] for line in lines]
            first = is_histogram.index(True)
            assert names[:first] == sorted(names[:first])
            assert names[first:] == sorted(names[first:])
            assert "cluster.a_b.upstream_cx_total" in names

    run(scenario())


def test_numbers_of_real_connections() -> None:
    async def scenario() -> None:
        async with echo() as port, world(cluster(API, port), listener("o", API)) as here:
            assert await here.through("o", b"x" * 1000) == b"x" * 1000
            shown = (await here.ask("/stats")).stats
            address = f"127.0.0.1_{here.runtime.listeners['o'].port}"
            assert shown[f"cluster.{API}.upstream_cx_total"] == "1"
            assert shown[f"cluster.{API}.upstream_cx_rx_bytes_total"] == "1000"
            assert shown[f"listener.{address}.downstream_cx_total"] == "1"
            assert shown["tcp.o.downstream_cx_rx_bytes_total"] == "1000"
            assert shown["tcp.o.downstream_cx_tx_bytes_total"] == "1000"
            assert shown[f"cluster.{API}.upstream_cx_connect_ms"].startswith("P0(")

    run(scenario())


def test_bytes_of_living_connections_count() -> None:
    async def scenario() -> None:
        async with echo() as port, world(cluster(API, port), listener("o", API)) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.runtime.listeners["o"].port)
            writer.write(b"y" * 500)
            await reader.readexactly(500)
            shown = (await here.ask("/stats")).stats
            assert shown[f"cluster.{API}.upstream_cx_active"] == "1"
            assert shown[f"cluster.{API}.circuit_breakers.default.remaining_cx"] == "1023"
            assert shown["server.total_connections"] == "1"
            assert shown[f"cluster.{API}.upstream_cx_tx_bytes_total"] == "500"
            assert shown["tcp.o.downstream_cx_tx_bytes_total"] == "500"
            writer.close()

    run(scenario())


def test_names_that_resolve_and_names_that_do_not() -> None:
    async def scenario() -> None:
        def named(name: str) -> tuple[EndpointPlan, ...]:
            return (EndpointPlan(DnsTarget(name, 443)),)

        good, bad = cluster("good", endpoints=named("two.example.test")), cluster("bad", endpoints=named("gone.test"))
        async with world(good, bad) as here:
            for one in here.runtime.clusters.values():
                for watch in one.watches:
                    await watch.ready.wait()
            shown = (await here.ask("/stats?filter=update_|membership")).stats
            assert shown["cluster.good.membership_total"] == "2"
            assert shown["cluster.good.update_success"] == "1"
            assert shown["cluster.bad.membership_total"] == "0"
            assert (shown["cluster.bad.update_attempt"], shown["cluster.bad.update_failure"]) == ("1", "1")

    run(scenario())


def test_filters() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1), cluster("b", 1)) as here:
            here.runtime.clusters["a"].stats.upstream_cx_total = 7
            here.runtime.clusters["a"].stats.upstream_cx_connect_ms.record(3)
            only = await here.ask("/stats?filter=%5Ecluster%5C.%5Bab%5D%5C.upstream_cx_total$")
            assert only.text == "cluster.a.upstream_cx_total: 7\ncluster.b.upstream_cx_total: 0\n"
            used = (await here.ask("/stats?usedonly&filter=cluster")).stats
            assert "cluster.a.upstream_cx_total" in used
            assert "cluster.b.upstream_cx_total" not in used
            assert "cluster.a.upstream_cx_connect_ms" in used
            assert "cluster.b.upstream_cx_connect_ms" not in used
            gauges = (await here.ask("/stats?type=Gauges")).stats
            assert "server.live" in gauges
            assert not gauges.keys() & {"cluster.a.upstream_cx_total", "cluster.a.upstream_cx_connect_ms"}
            histograms = (await here.ask("/stats?type=Histograms")).stats
            assert histograms["cluster.b.upstream_cx_connect_ms"] == "No recorded values"
            assert all(name.endswith(("_ms", "_rq_time")) for name in histograms)

    run(scenario())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("filter=(", "Invalid regex"),
        ("filter=" + "a" * (MAX_REGEX_CHARS + 1), f"more than {MAX_REGEX_CHARS} characters"),
        ("&".join(f"f{n}=1" for n in range(MAX_QUERY_FIELDS + 1)), "the query has too many fields"),
        ("type=Nope", "invalid &type= param"),
        ("format=html", "usage: /stats?format="),
    ],
)
def test_a_wrong_question_gets_400(query: str, text: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            reply = await here.ask(f"/stats?{query}")
            assert reply.status == 400
            assert text in reply.text
            assert (await here.ask(f"/stats/prometheus?{query}")).status == (400 if "format" not in query else 200)

    run(scenario())


def test_histograms_as_text_and_json() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1)) as here:
            for value in (3, 7, 7, 40):
                here.runtime.clusters["a"].stats.upstream_cx_connect_ms.record(value)
            line = (await here.ask("/stats?filter=cx_connect_ms")).text
            assert line.startswith("cluster.a.upstream_cx_connect_ms: P0(1,1) P25(5,5) P50(7.5,7.5) ")
            assert line.endswith("P100(50,50)\n")
            shown = (await here.ask("/stats?filter=cx_(connect|length)_ms&format=json")).json
            (whole,) = shown["stats"]
            assert whole["histograms"]["supported_quantiles"] == [0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100]
            connect, length = whole["histograms"]["computed_quantiles"]
            assert connect["name"] == "cluster.a.upstream_cx_connect_ms"
            assert connect["values"][1] == {"cumulative": 5.0, "interval": 5.0}
            assert length["values"][0] == {"cumulative": None, "interval": None}

    run(scenario())


def test_json_says_the_same_as_text() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1), listener("o", "a")) as here:
            plain = (await here.ask("/stats?filter=cluster|listener&type=Counters")).stats
            reply = await here.ask("/stats?filter=cluster|listener&type=Counters&format=json")
            assert reply.headers["content-type"] == "application/json"
            assert {one["name"]: str(one["value"]) for one in reply.json["stats"]} == plain

    run(scenario())


def test_server_state() -> None:
    async def scenario() -> None:
        async with world() as here:
            shown = (await here.ask("/stats")).stats
            assert (shown["server.live"], shown["server.state"]) == ("1", "0")
            assert 90 <= int(shown["server.uptime"]) < 100
            assert shown["server.days_until_first_cert_expiring"] == "4294967295"
            assert int(shown["server.memory_physical_size"]) > 1_000_000
            for state, number in (("DRAINING", "1"), ("PRE_INITIALIZING", "2"), ("INITIALIZING", "3")):
                here.state = state
                shown = (await here.ask("/stats?filter=server")).stats
                assert (shown["server.live"], shown["server.state"]) == ("0", number)

    run(scenario())


def in_days(days: float) -> Window:
    return Window(timedelta(days=-1), timedelta(days=days))


def test_the_first_certificate_to_expire() -> None:
    async def scenario() -> None:
        long, short = Authority.root("long", window=in_days(100.5)), Authority.root("short", window=in_days(10.5))
        system = anchors(Authority.root("system", window=in_days(1.5)), "system (ca.crt)")
        parts = [
            cluster("a", 1, tls=Origination(anchors=anchors(long))),
            cluster("b", 1, tls=Origination(anchors=anchors(short))),
            cluster("c", 1, tls=Origination(anchors=system)),
        ]
        async with world(*parts) as here:
            shown = (await here.ask("/stats")).stats
            assert shown["server.days_until_first_cert_expiring"] == "10"

    run(scenario())


# Prometheus


def test_prometheus_client_writes_the_same() -> None:
    """Its own writer, fed with what its parser read, gives back our samples, headers and order of families."""

    class Parsed(Collector):
        def __init__(self, text: str) -> None:
            self._families = list(text_string_to_metric_families(text))

        def collect(self) -> list[Metric]:
            return self._families

    async def scenario() -> None:
        tls = Origination(anchors=anchors(Authority.root('with "quotes" \\\\')))
        async with world(cluster(API, 1, tls=tls), listener("o", API)) as here:
            here.runtime.clusters[API].stats.upstream_cx_connect_ms.record(3.25)
            here.resources = [broken_row('a"b\\nc\\\\d')]
            text = (await here.ask("/stats/prometheus")).text
            theirs = generate_latest(Parsed(text)).decode()
            assert normal(theirs) == normal(text)

    run(scenario())


def normal(text: str) -> list[tuple[str, ...]]:
    """Lines whose order of labels, and whose way of writing a number, does not matter."""
    found: list[tuple[str, ...]] = []
    for line in text.splitlines():
        if line.startswith("#"):
            found.append((line,))
        else:
            head, _, number = line.rpartition(" ")
            name, _, labels = head.partition("{")
            found.append((name, *sorted(re.findall(r'(\w+="(?:[^"\\\\]|\\\\.)*")', labels)), str(float(number))))
    return sorted(found)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(text: str, metric: str, /, **labels: str) -> float:
    return samples(text)[metric, frozenset(labels.items())]


def test_prometheus_names_and_labels() -> None:
    async def scenario() -> None:
        async with world(cluster(API, 1), listener("outbound:api", API)) as here:
            here.runtime.clusters[API].stats.ssl_fail_verify_san = 3
            here.runtime.clusters[API].stats.upstream_cx_connect_ms.record(3)
            reply = await here.ask("/stats/prometheus")
            assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            at = f"127.0.0.1_{here.runtime.listeners['outbound:api'].port}"
            of = {"envoy_cluster_name": API}
            shown = reply.text
            assert value(shown, "envoy_cluster_ssl_fail_verify_san_total", **of) == 3
            assert value(shown, "envoy_cluster_upstream_cx_total", **of) == 0
            assert value(shown, "envoy_cluster_upstream_cx_rx_bytes_total", **of) == 0
            assert value(shown, "envoy_cluster_upstream_cx_active", **of) == 0
            assert value(shown, "envoy_cluster_membership_total", **of) == 1
            assert value(shown, "envoy_cluster_circuit_breakers_default_remaining_cx", **of) == 1024
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_bucket", le="1", **of) == 0
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_bucket", le="5", **of) == 1
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_bucket", le="3600000", **of) == 1
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_bucket", le="+Inf", **of) == 1
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_sum", **of) == 3
            assert value(shown, "envoy_cluster_upstream_cx_connect_ms_count", **of) == 1
            assert value(shown, "envoy_listener_downstream_cx_total", envoy_listener_address=at) == 0
            assert value(shown, "envoy_tcp_downstream_cx_rx_bytes_total", envoy_tcp_prefix="outbound_api") == 0
            assert value(shown, "envoy_server_live") == 1
            assert value(shown, "envoy_server_uptime") >= 90
            assert value(shown, "envoy_server_days_until_first_cert_expiring") == 4294967295
            assert value(shown, "envoy_server_memory_physical_size") > 1_000_000
            assert value(shown, "envoy_cluster_manager_active_clusters") == 1
            assert value(shown, "envoy_listener_manager_total_listeners_active") == 1
            assert value(shown, "koguma_generation") == 0
            assert value(shown, "koguma_reload_rejected_total") == 0

    run(scenario())


def test_prometheus_types_and_contiguous_families() -> None:
    async def scenario() -> None:
        parts = [cluster(f"c{number}", 1) for number in range(250)]
        async with world(*parts, listener("o", "c1")) as here:
            text = (await here.ask("/stats?format=prometheus")).text
            declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
            assert len(declared) == len(set(declared))
            assert "# TYPE envoy_cluster_upstream_cx_connect_fail_total counter\n" in text
            assert "# TYPE envoy_cluster_upstream_cx_active gauge\n" in text
            assert "# TYPE envoy_cluster_upstream_cx_length_ms histogram\n" in text
            totals = [key for key in samples(text) if key[0] == "envoy_cluster_upstream_cx_total"]
            assert len(totals) == 250

    run(scenario())


def test_prometheus_filters() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1), cluster("b", 1)) as here:
            here.runtime.clusters["a"].stats.upstream_cx_total = 7
            text = (await here.ask("/stats/prometheus?usedonly&filter=upstream_cx_total")).text
            assert samples(text) == {("envoy_cluster_upstream_cx_total", frozenset({("envoy_cluster_name", "a")})): 7}

    run(scenario())


def test_unverified_services_and_broken_resources() -> None:
    async def scenario() -> None:
        skipping = [cluster(str(mode), 1, tls=Origination(mode=mode)) for mode in (Mode.SKIP_ALL, Mode.SKIP_CA)]
        sound = cluster("c", 1, tls=Origination(anchors=anchors(Authority.root())))
        async with world(*skipping, sound, cluster("plain", 1)) as here:
            here.resources = [broken_row('a"b\nc'), sound_row("fine")]
            text = (await here.ask("/stats/prometheus")).text
            assert value(text, "koguma_unverified_services") == 2
            labels = {"type": "MeshExternalService", "mesh": "default", "name": 'a"b\nc', "reason": "Invalid"}
            assert value(text, "koguma_resource_broken", **labels) == 1
            assert sum(name == "koguma_resource_broken" for name, _ in samples(text)) == 1

    run(scenario())


def test_expiry_of_anchors_clients_and_peers() -> None:
    async def scenario() -> None:
        root = Authority.root("the root")
        tls = Origination(anchors=anchors(root), client=client_of(root.leaf("me", common_name="me")))
        async with world(cluster("a", 1, tls=tls, mesh="m", service="s")) as here:
            (endpoint,) = here.runtime.clusters["a"].balancer
            peer = facts_of(root.leaf("api", common_name="api"))
            endpoint.peer = peer
            text = (await here.ask("/stats/prometheus")).text
            name = "koguma_certificate_not_after_seconds"
            assert peer.not_after is not None
            at = peer.not_after.timestamp()
            assert value(text, name, mesh="m", service="s", role="peer_leaf", subject="CN=api") == at
            assert value(text, name, mesh="m", service="s", role="client", subject="CN=me") > 0
            assert value(text, name, mesh="m", service="s", role="ca", subject="CN=the root") > 0

    run(scenario())


def test_bounds_are_written_as_envoy_writes_them() -> None:
    assert prometheus._BOUNDS == (
        "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
        "300000", "600000", "1800000", "3600000", "+Inf",
    )  # fmt: skip
    assert len(Histogram().counts) == len(prometheus._BOUNDS)


@pytest.mark.parametrize(
    "target",
    ["/stats", "/stats?format=json", "/stats/prometheus", "/clusters", "/clusters?format=json", "/config_dump", "/"],
)
def test_a_long_answer_gives_way_to_the_loop(target: str) -> None:
    """At least one turn for each slice of clusters, and no piece that would fill memory."""
    count = 5 * SLICE
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        async with world(*(cluster(f"service-{number}", 1) for number in range(count))) as here:
            request = Request.parse("GET", target)
            watching = asyncio.create_task(turn())
            response = await routes.answer(routes.find(request), here.context, request)
            if not isinstance(response.body, bytes):
                async for piece in response.body:
                    assert len(piece) < 2_000_000
            watching.cancel()
            assert turns >= count / SLICE

    run(scenario())


def test_json_of_many_is_one_document() -> None:
    async def scenario() -> None:
        async with world(*(cluster(f"c{number}", 1) for number in range(401))) as here:
            for target in (
                "/stats?format=json",
                "/stats?format=json&filter=c400",
                "/clusters?format=json",
                "/config_dump",
            ):
                json.loads((await here.ask(target)).body)
            assert len((await here.ask("/clusters?format=json")).json["cluster_statuses"]) == 401
            dump = (await here.ask("/config_dump?resource=dynamic_active_clusters")).json
            assert len(dump["configs"]) == 401

    run(scenario())


def test_no_certificate_is_a_number_that_alerts_ignore() -> None:
    assert certs.NO_CERTIFICATE == 2**32 - 1


def http_listener(name: str, to: str) -> ListenerPlan:
    return dataclasses.replace(listener(name, to), protocol=Protocol.HTTP)


def test_requests_by_status() -> None:
    """Statuses are labels, and services may have seen different ones."""

    async def scenario() -> None:
        parts = [cluster("a", 1), cluster("b", 1), http_listener("outbound:a", "a"), listener("outbound:b", "b")]
        async with world(*parts) as here:
            here.runtime.clusters["a"].stats.codes.update({200: 3, 201: 1, 503: 2})
            here.runtime.clusters["b"].stats.codes[404] = 7
            here.runtime.listeners["outbound:a"].http.downstream_rq_2xx = 4
            stats = (await here.ask("/stats")).stats
            assert (stats["cluster.a.upstream_rq_2xx"], stats["cluster.a.upstream_rq_503"]) == ("4", "2")
            assert "cluster.b.upstream_rq_2xx" not in stats
            assert stats["http.outbound_a.downstream_rq_2xx"] == "4"
            assert not any(name.startswith(("http.outbound_b", "tcp.outbound_a")) for name in stats)
            text = (await here.ask("/stats/prometheus")).text
            assert list(text_string_to_metric_families(text))
            name, prefix = "envoy_cluster_name", "envoy_http_conn_manager_prefix"
            assert {
                f'envoy_cluster_upstream_rq{{envoy_response_code="503",{name}="a"}} 2',
                f'envoy_cluster_upstream_rq{{envoy_response_code="404",{name}="b"}} 7',
                f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{name}="a"}} 4',
                f'envoy_cluster_upstream_rq_total{{{name}="a"}} 0',
                f'envoy_http_downstream_rq_xx{{envoy_response_code_class="2",{prefix}="outbound_a"}} 4',
                f'envoy_http_downstream_rq_xx{{envoy_response_code_class="5",{prefix}="outbound_a"}} 0',
            } <= set(text.splitlines())
            only = (await here.ask("/stats/prometheus?filter=upstream_rq_404")).text
            assert [line for line in only.splitlines() if line[0] != "#"] == [
                'envoy_cluster_upstream_rq{envoy_response_code="404",envoy_cluster_name="b"} 7'
            ]

    run(scenario())


def test_an_http_listener_has_envoys_names() -> None:
    async def scenario() -> None:
        async with world(cluster("a", 1), http_listener("o", "a")) as here:
            names = names_under(await here.ask("/stats"), "http.o.")
            declared = {*HttpStats.counters, *HttpStats.gauges, *HttpStats.histograms}
            assert declared <= names
            assert names - declared == {f"downstream_cx_{one}" for one in (
                "active", "destroy", "rx_bytes_total", "total", "tx_bytes_total",
            )}  # fmt: skip

    run(scenario())
