"""Guarantee: connections spread evenly over the usable endpoints of the best priority; broken ones are left
alone for a while but never for good; nothing that can be tried is left untried.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from config.plan import EjectionPlan
from proxy.balance import TRIAL_S, Balancer, Endpoint

FAILURES_TO_EJECT = EjectionPlan().failures


def endpoint(number: int, priority: int = 0, host: str | None = None) -> Endpoint:
    text = f"192.0.2.{number}"
    return Endpoint((text, 443), host or text, host is not None, priority)


def eject(balancer: Balancer, victim: Endpoint, now: float) -> None:
    for _ in range(FAILURES_TO_EJECT):
        balancer.failed(victim, now)


def test_no_endpoints() -> None:
    balancer = Balancer()
    assert balancer.pick(0.0) is None
    assert (len(balancer), list(balancer), balancer.healthy_count(0.0)) == (0, [], 0)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 5))
def test_every_endpoint_is_picked_equally_often(count: int, rounds: int) -> None:
    balancer = Balancer(endpoint(n) for n in range(count))
    picks = Counter(balancer.pick(0.0) for _ in range(count * rounds))
    assert set(picks.values()) == {rounds}
    assert len(picks) == count


def test_how_many_failures_eject_is_a_setting() -> None:
    balancer = Balancer([endpoint(1), endpoint(2)], EjectionPlan(failures=2))
    victim, other = balancer
    assert [balancer.failed(victim, 0.0) for _ in range(2)] == [False, True]
    balancer.follow(EjectionPlan(failures=0))
    assert not any(balancer.failed(other, 0.0) for _ in range(100))
    assert victim.ejected_until > 0.0, "what is ejected sits it out"


def test_an_endpoint_that_was_skipped_is_next() -> None:
    a, b, c = endpoint(1), endpoint(2), endpoint(3)
    balancer = Balancer([a, b, c])
    assert [balancer.pick(0.0, (a,)), balancer.pick(0.0), balancer.pick(0.0)] == [b, a, c]


@settings(deadline=None)
@given(st.integers(2, 6), st.data())
def test_the_rest_stays_even_while_some_are_ejected(count: int, data: st.DataObject) -> None:
    endpoints = [endpoint(n) for n in range(count)]
    balancer = Balancer(endpoints)
    ejected = data.draw(st.sets(st.sampled_from(endpoints), max_size=count - 1))
    for victim in ejected:
        eject(balancer, victim, 0.0)
    usable = [it for it in endpoints if it not in ejected]
    picks = Counter(balancer.pick(0.5) for _ in range(3 * len(usable)))
    assert picks == {it: 3 for it in usable}
    assert balancer.healthy_count(0.5) == len(usable)


def test_retries_walk_through_the_priorities_and_end() -> None:
    worse, best, best_too = endpoint(1, 8), endpoint(2, 1), endpoint(3, 1)
    balancer = Balancer([worse, best, best_too])
    tried: list[Endpoint] = []
    while (it := balancer.pick(0.0, tried)) is not None:
        tried.append(it)
    assert tried == [best, best_too, worse]


def test_a_lower_priority_serves_while_the_better_one_is_ejected() -> None:
    best, spare = endpoint(1, 0), endpoint(2, 1)
    balancer = Balancer([spare, best])
    assert balancer.pick(0.0) is best
    eject(balancer, best, 10.0)
    assert [balancer.pick(10.0 + n / 10) for n in range(10)] == [spare] * 10
    assert balancer.pick(11.0) is best, "its trial"
    assert balancer.pick(11.0) is spare, "one trial at a time"
    balancer.succeeded(best, 11.1)
    assert [balancer.pick(11.1) for _ in range(3)] == [best] * 3


def test_only_failures_in_a_row_eject() -> None:
    a, b = endpoint(1), endpoint(2)
    balancer = Balancer([a, b])
    for _ in range(10):
        assert not balancer.failed(a, 0.0)
        assert not balancer.failed(a, 0.0)
        balancer.succeeded(a, 0.0)
    assert balancer.healthy_count(0.0) == 2
    assert [balancer.failed(a, 0.0) for _ in range(3)] == [False, False, True]
    assert balancer.healthy_count(0.0) == 1


def test_ejections_grow_to_30_seconds_and_success_starts_over() -> None:
    a, b = endpoint(1), endpoint(2)
    balancer = Balancer([a, b])
    now, durations = 0.0, []
    eject(balancer, a, now)
    for _ in range(8):
        durations.append(a.ejected_until - now)
        now = a.ejected_until
        assert balancer.pick(now, (b,)) is a
        now += 0.01
        assert balancer.failed(a, now), "one failed trial is enough"
    assert durations == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])
    balancer.succeeded(a, now)
    assert (a.consecutive_failures, a.ejections, a.on_trial, balancer.healthy_count(now)) == (0, 0, False, 2)
    eject(balancer, a, now)
    assert a.ejected_until == now + 1.0


def test_a_burst_of_failures_is_one_ejection() -> None:
    a, b = endpoint(1), endpoint(2)
    balancer = Balancer([a, b])
    assert [balancer.failed(a, 0.0) for _ in range(100)].count(True) == 1
    assert a.ejected_until == 1.0


def test_a_trial_whose_end_nobody_reports_is_repeated() -> None:
    a, b = endpoint(1), endpoint(2)
    balancer = Balancer([a, b])
    eject(balancer, a, 0.0)
    assert balancer.pick(1.0) is a
    assert balancer.pick(1.0 + TRIAL_S - 0.1) is b
    assert balancer.pick(1.0 + TRIAL_S) is a


def test_a_single_endpoint_is_always_tried() -> None:
    only = endpoint(1)
    balancer = Balancer([only])
    for n in range(50):
        assert balancer.pick(n / 10) is only
        balancer.failed(only, n / 10)
    assert balancer.pick(5.0, (only,)) is None


def test_panic_takes_the_one_whose_ejection_ends_first_of_any_priority() -> None:
    a, b, c = endpoint(1, 0), endpoint(2, 0), endpoint(3, 1)
    balancer = Balancer([a, b, c])
    eject(balancer, c, 0.0)
    eject(balancer, b, 0.2)
    eject(balancer, a, 0.4)
    assert balancer.healthy_count(0.5) == 0
    assert [balancer.pick(0.5), balancer.pick(0.5, (c,)), balancer.pick(0.5, (b, c))] == [c, b, a]
    assert balancer.pick(0.5, (a, b, c)) is None


def test_panic_takes_turns_among_equals() -> None:
    endpoints = [endpoint(n) for n in range(3)]
    balancer = Balancer(endpoints)
    for it in endpoints:
        eject(balancer, it, 0.0)
    assert {balancer.pick(0.5) for _ in range(3)} == set(endpoints)


def test_an_update_keeps_object_state_and_turn() -> None:
    a, b, c = endpoint(1), endpoint(2), endpoint(3)
    balancer = Balancer([a, b, c])
    assert balancer.pick(0.0) is a
    eject(balancer, b, 0.0)
    a.cx_total = 5
    fresh = endpoint(4)
    balancer.update([fresh, endpoint(3), endpoint(2), endpoint(1)])
    assert list(balancer) == [fresh, c, b, a]
    assert a.cx_total == 5
    assert [balancer.pick(0.5) for _ in range(4)] == [c, a, fresh, c]
    balancer.update([endpoint(4)])
    assert list(balancer) == [fresh]
    balancer.update([])
    assert balancer.pick(0.5) is None


def test_the_same_address_from_two_names_is_two_endpoints_and_the_same_twice_is_one() -> None:
    one, two, again = endpoint(1, host="a.test"), endpoint(1, host="b.test"), endpoint(1, host="b.test")
    balancer = Balancer([one, two, again, endpoint(1, 1, host="b.test")])
    assert len(balancer) == 3
    assert {balancer.pick(0.0), balancer.pick(0.0)} == {one, two}


def test_a_unix_socket_has_no_host() -> None:
    it = Endpoint("@app", None, False)
    assert it.key == ("@app", None, 0)
    assert Balancer([it]).pick(0.0) is it


class Life(RuleBasedStateMachine):
    """Any sequence of picks, outcomes, updates and waits obeys the law of choice, stated by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.balancer = Balancer()
        self.last_use: dict[Endpoint, int] = {}
        self.uses = 0

    @rule(keys=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=6))
    def update(self, keys: list[tuple[int, int]]) -> None:
        before = {it.key: it for it in self.balancer}
        self.balancer.update(endpoint(number, priority) for number, priority in keys)
        assert [it.key for it in self.balancer] == [endpoint(*key).key for key in dict.fromkeys(keys)]
        for it in self.balancer:
            assert before.get(it.key, it) is it
            if it.key not in before:
                self.last_use[it] = self._use()
        self.last_use = {it: self.last_use[it] for it in self.balancer}

    def _use(self) -> int:
        self.uses += 1
        return self.uses

    @rule(data=st.data())
    def pick(self, data: st.DataObject) -> None:
        everyone = list(self.balancer)
        tried = [it for it in everyone if data.draw(st.booleans())]
        untried = [it for it in everyone if it not in tried]
        usable = [it for it in untried if it.ejected_until <= self.now]
        ends = {it: it.ejected_until for it in untried}
        picked = self.balancer.pick(self.now, tried)
        if usable:
            assert picked is min(usable, key=lambda it: (it.priority, self.last_use[it]))
        elif untried:
            assert picked is min(untried, key=lambda it: (ends[it], it.priority, self.last_use[it]))
        else:
            assert picked is None
        if picked is not None:
            self.last_use[picked] = self._use()

    @precondition(lambda self: len(self.balancer) > 0)
    @rule(data=st.data(), times=st.integers(1, 4))
    def fail(self, data: st.DataObject, times: int) -> None:
        victim = data.draw(st.sampled_from(list(self.balancer)))
        for _ in range(times):
            if self.balancer.failed(victim, self.now):
                assert self.now + 1 <= victim.ejected_until <= self.now + 30

    @precondition(lambda self: len(self.balancer) > 0)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        it = data.draw(st.sampled_from(list(self.balancer)))
        self.balancer.succeeded(it, self.now)
        assert it.ejected_until <= self.now

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def healthy_are_counted(self) -> None:
        healthy = [it for it in self.balancer if it.ejected_until <= self.now]
        assert self.balancer.healthy_count(self.now) == len(healthy)

    @invariant()
    def an_ejection_needs_three_failures(self) -> None:
        for it in self.balancer:
            assert it.consecutive_failures >= FAILURES_TO_EJECT or it.ejected_until <= self.now


Life.TestCase.settings = settings(deadline=None, max_examples=50, stateful_step_count=40)
TestLife = Life.TestCase


def test_picks_never_repeat_within_a_round() -> None:
    balancer = Balancer(endpoint(n) for n in range(5))
    picks = [balancer.pick(0.0) for _ in range(25)]
    assert all(a is not b for a, b in pairwise(picks))
