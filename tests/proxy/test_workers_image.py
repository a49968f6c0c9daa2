"""What the workers report adds up: to what a single process would show, and never to less than was shown before."""

from __future__ import annotations

from proxy.stats import ClusterStats, HttpStats, ListenerStats, WorkerStats
from proxy.workers.image import ClusterImage, Known, ListenerImage
from proxy.workers.report import ClusterState, EndpointState, ListenerState, Slice, WatchState
from tests.proxy.rig import cluster_plan, listener_plan
from tls.verdict import Cause, Verdict

PLAN = cluster_plan((), name="app")


def endpoint(port: int, total: int = 0, active: int = 0, **more: object) -> EndpointState:
    fields: dict[str, object] = {"ejected_until": 0.0, "cx_connect_fail": 0, "rq_total": 0, "rq_active": active}
    fields |= {"last_verdict": None, "peer": None, "cx_total": total, "cx_active": active} | more
    return EndpointState(("127.0.0.1", port), "127.0.0.1", False, 0, **fields)  # type: ignore[arg-type]


def state(total: int, active: int, *endpoints: EndpointState, codes: dict[int, int] | None = None) -> ClusterState:
    stats = ClusterStats()
    stats.upstream_cx_total, stats.upstream_cx_active = total, active
    stats.codes.update(codes or {})
    for _ in range(total):
        stats.upstream_cx_connect_ms.record(2.0)
    watch = WatchState("db.test", (), "no answer" if not active else None, total, 0, 0)
    return ClusterState("app", stats, 10 * total, 20 * total, endpoints, (watch,))


def test_counters_gauges_histograms_and_statuses_are_summed() -> None:
    one = state(2, 1, endpoint(1, total=2, active=1), codes={200: 1, 503: 1})
    two = state(3, 2, endpoint(1, total=1, active=1), endpoint(2, total=2, active=1), codes={200: 3})
    image = ClusterImage(PLAN, [one, two], None)
    assert (image.stats.upstream_cx_total, image.stats.upstream_cx_active) == (5, 3)
    assert image.stats.codes == {200: 4, 503: 1}
    assert (image.stats.upstream_cx_connect_ms.count, image.stats.upstream_cx_connect_ms.sum_ms) == (5, 10.0)
    assert image.byte_totals() == (50, 100)
    assert [(one.where, one.cx_total, one.cx_active) for one in image.balancer] == [
        ("127.0.0.1:1", 3, 2),
        ("127.0.0.1:2", 2, 1),
    ]
    assert [one.rq_active for one in image.balancer] == [2, 1]
    assert [(watch.update_attempt, watch.last_error) for watch in image.watches] == [(5, None)]
    assert one.stats.upstream_cx_total == 2  # nobody's report was changed


def test_what_is_wrong_in_one_worker_is_shown() -> None:
    verdict = Verdict(Cause.TIMED_OUT, "too late")
    one = state(1, 0, endpoint(1))
    two = state(1, 0, endpoint(1, ejected_until=50.0, last_verdict=verdict))
    for order in ([one, two], [two, one]):
        image = ClusterImage(PLAN, order, None)
        (shown,) = image.balancer
        assert (shown.ejected_until, shown.last_verdict) == (50.0, verdict)
        assert image.balancer.healthy_count(10.0) == 0


def test_the_counts_of_a_worker_that_ended_stay_and_what_it_had_open_does_not() -> None:
    ended, lives = Known(), state(3, 1, endpoint(1, total=3, active=1))
    ended.take(Slice((state(5, 4, endpoint(1, total=4, active=4), endpoint(2, total=1, active=0)),)))
    past = Known()
    past.bury(ended)
    past.bury(ended)
    image = ClusterImage(PLAN, [lives], past.clusters["app"])
    assert (image.stats.upstream_cx_total, image.stats.upstream_cx_active) == (13, 1)
    assert image.stats.upstream_cx_connect_ms.count == 13
    assert image.byte_totals() == (130, 260)
    assert [(one.where, one.cx_total, one.cx_active) for one in image.balancer] == [("127.0.0.1:1", 11, 1)]
    assert [watch.update_attempt for watch in image.watches] == [13]


def test_no_total_goes_back_when_all_have_ended() -> None:
    ended = Known()
    ended.take(Slice((state(5, 4, endpoint(1, total=5, active=4)),)))
    past = Known()
    past.bury(ended)
    image = ClusterImage(PLAN, [], past.clusters["app"])
    assert (image.stats.upstream_cx_total, image.stats.upstream_cx_active) == (5, 0)
    assert [watch.update_attempt for watch in image.watches] == [5]
    assert len(image.balancer) == 0


def listener(total: int, *, listening: bool = True) -> ListenerState:
    stats, http = ListenerStats(), HttpStats()
    stats.downstream_cx_total = stats.downstream_cx_active = total
    http.downstream_rq_total = 2 * total
    return ListenerState("out", stats, http, total, total, listening, 8080)


def test_listeners_likewise() -> None:
    known, past = Known(), Known()
    known.take(Slice(listeners=(listener(4),)))
    past.bury(known)
    image = ListenerImage(listener_plan(8080), [listener(1), listener(2, listening=False)], past.listeners["out"])
    assert (image.stats.downstream_cx_total, image.stats.downstream_cx_active) == (7, 3)
    assert image.http.downstream_rq_total == 14
    assert (image.listening, image.port, image.byte_totals()) == (True, 8080, (7, 7))
    assert not ListenerImage(listener_plan(8080), [], past.listeners["out"]).listening


def test_what_the_plan_has_no_more_is_forgotten() -> None:
    known = Known()
    known.take(Slice((state(1, 0),), (listener(1),)))
    known.keep_only({"app"}, ())
    assert (list(known.clusters), list(known.listeners)) == (["app"], [])


def test_stats_of_every_class_add_up() -> None:
    for kind in (ClusterStats, ListenerStats, HttpStats, WorkerStats):
        one, two = kind(), kind()
        for number, name in enumerate(kind.counters + kind.gauges, start=1):
            setattr(one, name.replace(".", "_"), number)
            setattr(two, name.replace(".", "_"), 1)
        one.add(two)
        assert one.numbers() == tuple(range(2, 2 + len(kind.counters + kind.gauges)))
        one.clear_gauges()
        assert all(value == 0 for _, value in one.gauged())
        assert all(value > 1 for _, value in one.counted() if value)
