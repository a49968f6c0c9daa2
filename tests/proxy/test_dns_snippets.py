"""Guarantee: what ``koguma dns snippet`` prints is what the resolvers' formats ask for, with our address in it."""

from __future__ import annotations

import configparser
from ipaddress import ip_address

import pytest
import yaml

from config.plan import NamePlan
from proxy.__main__ import main
from proxy.commands.dns import SNIPPETS, hosts
from proxy.options import SNIPPET_STYLES


def printed(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["dns", "snippet", *flags]) == 0
    return capsys.readouterr().out


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_style_is_there() -> None:
    assert {*SNIPPETS, "hosts"} == {*SNIPPET_STYLES}


def test_systemd_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    found = configparser.ConfigParser()
    found.read_string(printed(capsys))
    assert dict(found["Resolve"]) == {"dns": "127.0.0.1:15053", "domains": "~mesh.local"}
    found.read_string(printed(capsys, "--dns-address", "::1", "--domain", "a.test", "--domain", "b.test"))
    assert dict(found["Resolve"]) == {"dns": "[::1]:15053", "domains": "~a.test ~b.test"}


def test_resolv_conf(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--format", "resolv.conf", "--dns-address", "127.0.0.2")
    assert lines(text) == ["nameserver 127.0.0.2"]
    assert "--dns-address 127.0.0.2 --dns-port 53 --dns-upstream" in text


def test_dnsmasq(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--format", "dnsmasq", "--dns-port", "5353")
    assert lines(text) == ["server=/mesh.local/127.0.0.1#5353", "rebind-domain-ok=/mesh.local/"]


def test_docker(capsys: pytest.CaptureFixture[str]) -> None:
    services = yaml.safe_load(printed(capsys, "--format", "docker"))["services"]
    assert services["app"]["network_mode"] == "service:koguma"
    assert services["koguma"]["dns"] == ["127.0.0.1"]
    assert "--dns-port 53" in services["koguma"]["command"]


def test_hosts() -> None:
    names = {
        name: NamePlan(name, tuple(map(ip_address, addresses)))
        for name, addresses in (("b.test", ["242.0.0.1", "fd00::1"]), ("a.test", ["242.0.0.2"]))
    }
    assert lines(hosts(names)) == ["242.0.0.2 a.test", "242.0.0.1 b.test", "fd00::1 b.test"]


def test_hosts_needs_to_know_the_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUMA_DATAPLANE_RUNTIME_RESOURCE", raising=False)
    assert main(["dns", "snippet", "--format", "hosts"]) == 2
    assert "--dataplane-file" in capsys.readouterr().err
