"""Guarantee: ten thousand services, and ten thousand outbounds, are read and planned at a cost that is known.

Calls are counted, which are the same on every machine and under any load. A budget is a little above what is measured;
whoever makes something cheaper lowers it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import pytest
import yaml

from config.load import Loaded, Loader, load_dataplane, load_resources
from config.planner import Planner, Settings
from config.resources import Dataplane
from config.vips import parse_pools
from tests.kit import yamlkit

MANY = 10_000
FEW = 200
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def service(number: int) -> yamlkit.Document:
    endpoints = [{"address": f"10.0.{number % 256}.1", "port": 443}, {"address": f"s{number}.example.com", "port": 443}]
    return yamlkit.mes(f"s{number}", 443, endpoints, labels={"team": f"t{number % 50}"})


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Calls of Python's functions and of C's, by name."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, what: object) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            calls[getattr(what, "__qualname__", "?")] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def cost(calls: Counter[str]) -> float:
    return calls.total() / FEW


def breakdown(calls: Counter[str]) -> str:
    return "\n".join(f"{count / FEW:6.2f} {name}" for name, count in calls.most_common(40))


@pytest.mark.parametrize(
    ("write", "budget"),
    [(yaml.safe_dump, 310), (json.dumps, 310), (lambda one: f"# ä\n{yaml.safe_dump(one)}", 700)],
    ids=["yaml", "json", "not plain"],
)
@pytest.mark.parametrize("in_one_file", [True, False])
def test_a_document(
    tmp_path: Path, write: Callable[[yamlkit.Document], str], budget: float, *, in_one_file: bool
) -> None:
    texts = [write(service(number)) for number in range(FEW)]
    for number, text in enumerate(["\n---\n".join(texts)] if in_one_file else texts):
        (tmp_path / f"{number}.yaml").write_text(text)
    load_resources([tmp_path])  # what is done once
    with counting() as calls:
        loaded = load_resources([tmp_path])
    assert len(loaded.documents) == FEW
    assert cost(calls) <= budget, breakdown(calls)


def test_a_service_with_a_virtual_ip(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(yamlkit.render(*map(service, range(FEW))))
    (tmp_path / "dp.yaml").write_text(yamlkit.render(yamlkit.dataplane()))
    loaded, dataplane = load_resources([tmp_path / "all.yaml"]), load_dataplane(tmp_path / "dp.yaml", {})
    planner = Planner(Settings(os.environ, vips=True, pools=parse_pools("127.128.0.0/9")))
    planner.plan(Loaded(), dataplane, NOW)
    with counting() as calls:
        planned = planner.plan(loaded, dataplane, NOW)
    assert planned.plan is not None
    assert len(planned.plan.listeners) == FEW
    assert cost(calls) <= 400, breakdown(calls)
    with counting() as calls:
        planner.plan(loaded, dataplane, NOW)
    assert cost(calls) <= 100, breakdown(calls)


def test_ten_thousand_outbounds_are_one_file(tmp_path: Path) -> None:
    """In as many words as they may have."""
    row = (
        "  - address: 127.{high}.{middle}.{low}\n    port: 8443\n    backendRef:\n      kind: MeshExternalService\n"
        "      labels:\n        kuma.io/display-name: service-{number}\n        kuma.io/zone: zone-1\n"
    )
    rows = [
        row.format(high=64 + number // 65536, middle=number // 256 % 256, low=number % 256, number=number)
        for number in range(MANY)
    ]
    head = "type: Dataplane\nmesh: default\nname: dp\nnetworking:\n  address: 127.0.0.1\n  outbound:\n"
    file = tmp_path / "dp.yaml"
    file.write_text(head + "".join(rows))
    assert file.stat().st_size > 3 << 19, "as long as may be"
    loaded = load_dataplane(file, {})
    assert loaded.all_problems == []
    (dataplane,) = loaded.resources
    assert isinstance(dataplane, Dataplane)
    assert len(dataplane.networking.outbound) == MANY


def test_ten_thousand_services_are_one_file(tmp_path: Path) -> None:
    text = yaml.safe_dump(service(0) | {"name": "NAME"})
    (tmp_path / "all.yaml").write_text("---\n".join(text.replace("NAME", f"s{number}") for number in range(MANY)))
    loaded = load_resources([tmp_path])
    assert loaded.all_problems == []
    assert len(loaded.documents) == MANY
    last, before = loaded.documents[-1], (MANY - 1) * (text.count("\n") + 1)
    assert (last.line, last.line_of("spec.match")) == (before + 1, before + text.partition("match")[0].count("\n") + 1)


def test_one_change_among_many(tmp_path: Path) -> None:
    """What did not change is not looked at again: not compiled, not named, not searched for, not bound anew."""
    for number in range(FEW):
        (tmp_path / f"{number}.yaml").write_text(json.dumps(service(number)))
    (tmp_path / "dp.yml").write_text(
        yamlkit.render(yamlkit.dataplane([yamlkit.outbound(10000 + number, f"s{number}") for number in range(FEW)]))
    )
    dataplane = load_dataplane(tmp_path / "dp.yml", {})
    (tmp_path / "dp.yml").unlink()
    loader, planner = Loader(lambda: float("inf")), Planner(Settings(os.environ))
    before = planner.plan(loader.load([tmp_path]), dataplane, NOW).plan
    planner.plan(loader.load([tmp_path]), dataplane, NOW)
    (tmp_path / "7.yaml").write_text(json.dumps(service(7)).replace("10.0.7.1", "10.9.9.9"))
    with counting() as reading:
        loaded = loader.load([tmp_path])
    with counting() as planning:
        after = planner.plan(loaded, dataplane, NOW).plan
    assert before is not None
    assert after is not None
    assert len(after.listeners) == len(after.clusters) == FEW
    assert [name for name in after.clusters if after.clusters[name] is not before.clusters[name]] == [
        yamlkit.kri("s7", 443)
    ]
    assert all(after.listeners[name] is before.listeners[name] for name in before.listeners)
    assert (planning["ServiceCompiler.compile"], planning["_outbound"], planning["_Services.meant"]) == (1, 1, 0)
    assert planning["Naming._claim"] == 0
    assert cost(reading) <= 30, breakdown(reading)
    assert cost(planning) <= 30, breakdown(planning)
