"""Law: a planner that remembers plans what one that has seen nothing would. However documents change, one by one or
many at once, the plan is that of the documents that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from config.load import DataplaneLoader, Loader
from config.plan import Plan
from config.planner import Planned, Planner, Settings
from config.vips import parse_pools
from tests.kit import yamlkit
from tests.kit.ca import Authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [f"s{number}" for number in range(6)]
ROOTS = [Authority.root(f"Root {number}").pem for number in range(2)]
STEPS = 30


def settings() -> Settings:
    return Settings({}, vips=True, pools=parse_pools("127.128.0.0/9"))


class Walk:
    """Documents, every one of which is valid, and random changes of them. ``names_collide``: some have the display name
    of another, and so its identifier.
    """

    def __init__(self, folder: Path, seed: int, *, names_collide: bool = False) -> None:
        self.rng = Random(seed)
        self.names_collide = names_collide
        self.folder = folder / "resources"
        self.folder.mkdir()
        self.dataplane_file = folder / "dp.yaml"
        self.loader = Loader()
        self.dataplane_loader = DataplaneLoader()
        self.planner = Planner(settings())
        self.steps: list[Callable[[], object]] = [
            self.service, self.service, self.service, self.remove, self.secret, self.policy, self.no_policy,
            self.generator, self.mesh, self.outbounds, lambda: None,
        ]  # fmt: skip
        self.secret()
        self.outbounds()

    def write(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / f"{name}.yaml").write_text(yamlkit.render(document))

    def service(self) -> None:
        rng, name = self.rng, self.rng.choice(NAMES)
        tls = yamlkit.tls(ca=yamlkit.from_secret("ca")) if rng.random() < 0.4 else None
        labels = {"team": rng.choice("ab")} if rng.random() < 0.7 else {}
        if rng.random() < 0.2:
            labels["kuma.io/display-name"] = "s0" if self.names_collide else f"{name}-shown"
        endpoints = [{"address": f"192.0.2.{rng.randrange(1, 4)}", "port": 443}]
        more = {"creationTime": f"2025-01-0{rng.randrange(1, 4)}T00:00:00Z"} if rng.random() < 0.5 else {}
        document = yamlkit.mes(name, 443, endpoints, labels=labels, **({"tls": tls} if tls else {}))
        self.write(name, document | more)

    def remove(self) -> None:
        (self.folder / f"{self.rng.choice(NAMES)}.yaml").unlink(missing_ok=True)

    def secret(self) -> None:
        self.write("ca", yamlkit.secret("ca", self.rng.choice(ROOTS)))

    def policy(self) -> None:
        target = self.rng.choice(
            [
                {"kind": "Mesh"},
                {"kind": "MeshExternalService", "name": self.rng.choice(NAMES)},
                {"kind": "MeshExternalService", "labels": {"team": "a"}},
            ]
        )
        default = {"connectionTimeout": f"{self.rng.randrange(1, 4)}s"}
        spec = {"to": [{"targetRef": target, "default": default}]}
        name = f"policy-{self.rng.randrange(2)}"
        self.write(name, yamlkit.plugin_resource("MeshTimeout", name, spec))

    def no_policy(self) -> None:
        (self.folder / f"policy-{self.rng.randrange(2)}.yaml").unlink(missing_ok=True)

    def generator(self) -> None:
        template = self.rng.choice(["{{ .DisplayName }}.x.test", '{{ label "team" }}.y.test'])
        spec = {"selector": {"meshExternalService": {"matchLabels": {"team": "a"}}}, "template": template}
        self.write("generator", yamlkit.plugin_resource("HostnameGenerator", "names", spec))

    def mesh(self) -> None:
        forbids = self.rng.random() < 0.5
        self.write("mesh", yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": forbids}))

    def outbounds(self) -> None:
        outbounds = [yamlkit.outbound(10000 + number, name) for number, name in enumerate(NAMES)]
        outbounds += [yamlkit.outbound(12000 + number, f"{name}-shown") for number, name in enumerate(NAMES)]
        for number, team in enumerate("ab"):
            by_labels = yamlkit.outbound(11000 + number, "x")
            by_labels["backendRef"] = {"kind": "MeshExternalService", "labels": {"team": team}}
            outbounds.append(by_labels)
        chosen = self.rng.sample(outbounds, self.rng.randrange(3, len(outbounds)))
        self.dataplane_file.write_text(yamlkit.render(yamlkit.dataplane(chosen)))

    def plan(self, planner: Planner, *, anew: bool) -> Planned:
        """``anew``: by loaders that have read nothing either."""
        loader, dataplane = (Loader(), DataplaneLoader()) if anew else (self.loader, self.dataplane_loader)
        return planner.plan(loader.load([self.folder]), dataplane.load(self.dataplane_file, {}), NOW)


def shown(planned: Planned) -> tuple[Plan | None, list[Any], list[Any]]:
    rows = sorted((row.kind, row.name, row.health, row.problems, row.status, row.cluster) for row in planned.resources)
    return planned.plan, sorted(planned.problems), rows


@pytest.mark.parametrize("seed", range(6))
def test_what_is_remembered_makes_no_difference(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed)
    for _ in range(STEPS):
        for step in walk.rng.sample(walk.steps, walk.rng.randrange(1, 3)):
            step()
        fresh = Planner(settings())
        planned = walk.plan(walk.planner, anew=False)
        assert not planned.has_errors, planned.problems
        assert shown(planned) == shown(walk.plan(fresh, anew=True))


@pytest.mark.parametrize("seed", range(6))
def test_of_two_with_one_identifier_the_same_runs_whatever_came_first(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed, names_collide=True)
    collided = 0
    for _ in range(STEPS):
        for step in walk.rng.sample(walk.steps, walk.rng.randrange(1, 3)):
            step()
        planned, fresh = walk.plan(walk.planner, anew=False), walk.plan(Planner(settings()), anew=True)
        collided += any("give one another display name" in problem.message for problem in planned.problems)
        assert shown(planned) == shown(fresh)
    assert collided
