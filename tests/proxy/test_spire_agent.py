"""Guarantee: what the agent sends is taken whole or not at all, and told with its reason; nothing of it is a secret in
any text; and whoever listens no longer hears nothing.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.spire import SOCKET_VARIABLES, SpireAgent, agent_address
from tests.kit.ca import EXPIRED, Authority
from tests.kit.spiffe_agent import SpiffeAgent, leaf, messages, svid

CA, PARTNER_CA = Authority.root("Zone 1"), Authority.root("Partner")
APP = "spiffe://zone-1/workload/app"
ENOUGH_S = 10.0


class Listening:
    def __init__(self, address: str | None) -> None:
        self._news = asyncio.Event()
        self.agent = SpireAgent(address, self._news.set)

    async def until(self, ask: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(ENOUGH_S):
                while not ask():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it stays with {self.agent.delivered()}") from None

    @property
    def fault(self) -> str:
        return self.agent.delivered().fault or ""

    @property
    def ids(self) -> list[str]:
        return [str(one.id) for one in self.agent.delivered().svids]


@asynccontextmanager
async def listening(address: str | None) -> AsyncIterator[Listening]:
    here = Listening(address)
    here.agent.apply(True)
    try:
        await here.agent.answer(ENOUGH_S)
        yield here
    finally:
        here.agent.close()


@pytest.fixture
def agent(tmp_path: Path) -> SpiffeAgent:
    return SpiffeAgent(tmp_path / "agent.sock")


BROKEN: dict[str, tuple[messages.X509SVIDResponse, str]] = {
    "no svid": (messages.X509SVIDResponse(), "cannot be empty"),
    "other key": (
        messages.X509SVIDResponse(svids=[svid(CA, APP, x509_svid_key=svid(CA, APP).x509_svid_key)]),
        "the private key does not belong to the certificate",
    ),
    "no key": (messages.X509SVIDResponse(svids=[svid(CA, APP, x509_svid_key=b"?")]), "private key"),
    "no certificate": (messages.X509SVIDResponse(svids=[svid(CA, APP, x509_svid=b"?")]), "certificate"),
    "no bundle": (messages.X509SVIDResponse(svids=[svid(CA, APP, bundle=b"")]), "bundle"),
    "a bundle without a CA": (
        messages.X509SVIDResponse(svids=[svid(CA, APP, bundle=leaf(CA, APP).der)]),
        "the bundle of zone-1: ",
    ),
    "expired": (messages.X509SVIDResponse(svids=[svid(CA, APP, EXPIRED)]), f"{APP} has expired on "),
    "no path": (messages.X509SVIDResponse(svids=[svid(CA, "spiffe://zone-1")]), "path"),
    "no id": (messages.X509SVIDResponse(svids=[svid(CA, "https://zone-1/app")]), "SPIFFE ID"),
    "one good, one not": (
        messages.X509SVIDResponse(svids=[svid(CA, APP), svid(CA, "spiffe://zone-1/b", x509_svid_key=b"?")]),
        "private key",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_leaves_what_was(agent: SpiffeAgent, case: str) -> None:
    response, reason = BROKEN[case]

    async def listen() -> None:
        async with listening(agent.address) as here:
            good = here.agent.delivered()
            assert (here.ids, good.fault) == ([APP], None)
            agent.send(response)
            await here.until(lambda: reason in here.fault)
            assert here.agent.delivered().svids == good.svids
            assert here.agent.delivered().bundles == good.bundles

    agent.issue(svid(CA, APP))
    with agent:
        asyncio.run(listen())


def test_every_message_replaces_the_last(agent: SpiffeAgent) -> None:
    async def listen() -> None:
        async with listening(agent.address) as here:
            assert [one.domain for one in here.agent.delivered().bundles] == ["partner", "zone-1"]
            agent.issue(svid(CA, "spiffe://zone-1/b"))
            await here.until(lambda: here.ids == ["spiffe://zone-1/b"])
            assert [one.domain for one in here.agent.delivered().bundles] == ["zone-1"]
            agent.issue()
            await here.until(lambda: "issues nothing to this process" in here.fault)
            assert not here.agent.delivered().svids
            assert not here.agent.delivered().bundles

    agent.issue(svid(CA, APP), federated={"spiffe://partner": [PARTNER_CA]})
    with agent:
        asyncio.run(listen())


def test_it_comes_back(agent: SpiffeAgent) -> None:
    async def listen() -> None:
        async with listening(agent.address) as here:
            good = here.agent.delivered().svids
            for _ in range(2):
                agent.stop()
                await here.until(lambda: here.fault)
                assert here.agent.delivered().svids == good
                agent.start()
                await here.until(lambda: not here.fault)

    agent.issue(svid(CA, APP))
    with agent:
        asyncio.run(listen())


def test_who_does_not_listen_hears_nothing(agent: SpiffeAgent) -> None:
    async def listen() -> None:
        async with listening(agent.address) as here:
            here.agent.apply(False)
            assert here.agent.delivered().svids == ()
            version = here.agent.version
            agent.issue(svid(CA, "spiffe://zone-1/b"))
            here.agent.apply(True)  # anew, from the start
            await here.until(lambda: here.ids == ["spiffe://zone-1/b"])
            assert here.agent.version == version + 1

    agent.issue(svid(CA, APP))
    with agent:
        asyncio.run(listen())


def test_an_agent_that_is_silent_is_not_waited_for(agent: SpiffeAgent) -> None:
    async def listen() -> None:
        here = Listening(agent.address)
        here.agent.apply(True)
        await here.agent.answer(0.1)
        assert here.fault == f"the agent at {agent.address} has not answered within 0.1 s"
        agent.send(messages.X509SVIDResponse(svids=[svid(CA, APP)]))
        await here.until(lambda: here.ids == [APP])
        assert not here.fault
        here.agent.close()

    agent.be_silent()
    with agent:
        asyncio.run(listen())


def test_no_text_has_a_key(agent: SpiffeAgent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ours, other = svid(CA, APP), svid(CA, APP)

    async def listen() -> str:
        async with listening(agent.address) as here:
            good = repr(here.agent.delivered())
            agent.send(messages.X509SVIDResponse(svids=[svid(CA, APP, x509_svid_key=other.x509_svid_key)]))
            await here.until(lambda: here.fault)
            return good + repr(here.agent.delivered()) + here.fault

    agent.issue(ours)
    with agent:
        said = asyncio.run(listen()) + caplog.text
    assert APP in said
    for one in (ours, other):
        body = base64.b64encode(one.x509_svid_key).decode()
        assert body[40:80] not in said
        assert repr(one.x509_svid_key)[10:40] not in said


def test_without_the_package(agent: SpiffeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without_spiffe(name: str, *more: Any) -> Any:
        if name == "spiffe":
            raise ImportError(name)
        return load(name, *more)

    async def listen() -> str:
        async with listening(agent.address) as here:
            return here.fault

    monkeypatch.setattr(builtins, "__import__", without_spiffe)
    assert "pip install 'koguma[spire]'" in asyncio.run(listen())


def test_where_it_listens() -> None:
    kumas, standard = SOCKET_VARIABLES
    assert agent_address({}) is None
    assert agent_address({standard: "unix:///run/a.sock"}) == "unix:///run/a.sock"
    assert agent_address({kumas: "/run/kuma.sock", standard: "unix:///run/a.sock"}) == "unix:/run/kuma.sock"
    assert agent_address({kumas: "", standard: "unix:/run/a.sock"}) == "unix:/run/a.sock"


def test_an_address_of_another_kind_is_refused() -> None:
    async def listen() -> str:
        async with listening("tcp://127.0.0.1:1") as here:
            return here.fault

    assert asyncio.run(listen()).startswith("the agent at tcp://127.0.0.1:1: ")
