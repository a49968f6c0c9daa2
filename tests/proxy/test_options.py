"""Flags beat environment, environment beats defaults; nonsense is refused with a sentence and exit code 2."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy import options
from proxy.exits import EXIT_USAGE
from proxy.options import RunOptions, dns_server, duration

DP = ["--dataplane-file", "dp.yaml"]
DNS_FLAGS = ["--dns-enabled", "--dns-port", "53"]


def parse(*flags: str, environ: Mapping[str, str] | None = None) -> RunOptions:
    environ = environ or {}
    parser = argparse.ArgumentParser("koguma")
    options.add_run(parser, environ)
    return options.run_options(parser.parse_args(flags), environ)


def refusal(capsys: pytest.CaptureFixture[str], *flags: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SystemExit) as left:
        parse(*flags, environ=environ)
    assert left.value.code == EXIT_USAGE
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("0", 0), ("0s", 0), ("500ms", 0.5), ("1h30m", 5400), ("1.5s", 1.5), ("10us", 1e-5), ("10µs", 1e-5),
     ("7ns", 7e-9), ("1m0.5s", 60.5)],
)  # fmt: skip
def test_durations_as_go_writes_them(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1d", "1s!", "1.s", "1e3s", "١s.", " 1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 30s"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "server"),
    [("127.0.0.1", ("127.0.0.1", 53)), ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("::1", ("::1", 53)),
     ("[::1]", ("::1", 53)), ("[::1]:5353", ("::1", 5353)), ("0:0::1", ("::1", 53))],
)  # fmt: skip
def test_dns_servers(text: str, server: tuple[str, int]) -> None:
    assert dns_server(text) == server


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "[::1", "[::1]53", "[::1]:", "1.2.3", ":53"],
)
def test_what_is_no_dns_server(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own sentence
        dns_server(text)


def test_defaults() -> None:
    run = parse(*DP)
    assert run.sources.dataplane_file == "dp.yaml"
    assert (run.strict, run.admin_address, run.admin_port) == (False, "127.0.0.1", None)
    assert (run.drain_time_s, run.log_level, run.log_format) == (30.0, "info", "text")
    assert (run.names.upstreams, run.names.hosts_file) == ((), Path("/etc/hosts"))
    assert run.sources.resources == ()


def test_flags() -> None:
    run = parse(
        "-d", "dp.yaml", "-v", "a=1,b.c=2", "-v", "a=3", "-r", "one", "two", "--resources", "three", "--strict",
        "--admin-address", "127.0.0.2", "--admin-port", "0", "--drain-time", "1m", "--log-level", "debug",
        "--log-format", "json", "--dns-upstream", "127.0.0.1:53", "--dns-upstream", "::1", "--hosts-file", "hosts",
    )  # fmt: skip
    assert run.sources.dataplane_vars == {"a": "3", "b": {"c": "2"}}
    assert run.sources.resources == ("one", "two", "three")
    assert (run.strict, run.admin_address, run.admin_port, run.drain_time_s) == (True, "127.0.0.2", 0, 60.0)
    assert (run.log_level, run.log_format) == ("debug", "json")
    assert run.names == options.Names((("127.0.0.1", 53), ("::1", 53)), Path("hosts"))


def test_one_parser_may_read_twice() -> None:
    parser = argparse.ArgumentParser("koguma")
    options.add_run(parser, {})
    for _ in range(2):
        arguments = parser.parse_args([*DP, "-r", "one", "-v", "a=1", "--dns-upstream", "::1"])
        run = options.run_options(arguments, {})
        assert (run.sources.resources, run.sources.dataplane_vars) == (("one",), {"a": "1"})
        assert len(run.names.upstreams) == 1


def test_the_environment_and_flags_that_beat_it() -> None:
    environ = {"KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH": "env.yaml", "KUMA_DATAPLANE_DRAIN_TIME": "5s"}
    assert parse(environ=environ).sources.dataplane_file == "env.yaml"
    assert parse(environ=environ).drain_time_s == 5.0
    assert parse(*DP, "--drain-time", "6s", environ=environ).sources.dataplane_file == "dp.yaml"
    assert parse(*DP, "--drain-time", "6s", environ=environ).drain_time_s == 6.0
    text = parse(environ={"KUMA_DATAPLANE_RUNTIME_RESOURCE": "type: Dataplane"}).sources
    assert (text.dataplane_file, text.dataplane_text) == (None, "type: Dataplane")


@pytest.mark.parametrize(
    ("flags", "environ", "dns"),
    [
        ([], {}, options.Dns(None, "127.0.0.1", 15053)),
        (["--dns-enabled"], {"KUMA_DNS_ENABLED": "false"}, options.Dns(True)),
        (["--no-dns-enabled"], {"KUMA_DNS_ENABLED": "true"}, options.Dns(False)),
        ([], {"KUMA_DNS_ENABLED": "T"}, options.Dns(True)),
        ([], {"KUMA_DNS_ENABLED": "0"}, options.Dns(False)),
        (["--dns-address", "::1", "--dns-port", "53"], {"KUMA_DNS_PROXY_PORT": "5"}, options.Dns(None, "::1", 53)),
        (["--dns-proxy-port", "53"], {}, options.Dns(port=53)),
        ([], {"KUMA_DNS_PROXY_PORT": "5", "KUMA_DNS_CORE_DNS_PORT": "6"}, options.Dns(port=5)),
        ([], {"KUMA_DNS_PROXY_PORT": "0"}, options.Dns(port=15053)),
        ([], {"KUMA_DNS_PROXY_PORT": "0", "KUMA_DNS_CORE_DNS_PORT": "6"}, options.Dns(port=6)),
    ],
)
def test_the_dns_server(flags: list[str], environ: Mapping[str, str], dns: options.Dns) -> None:
    assert parse(*DP, *flags, environ=environ).dns == dns


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--admin-port", "65536"], '"65536" is not a port (0 to 65535)'),
        (["--admin-port", "-1"], "--admin-port"),
        (["--admin-address", "localhost"], "'localhost' does not appear to be an IPv4 or IPv6 address"),
        (["--drain-time", "soon"], '"soon" is not a duration'),
        (["--dns-upstream", "dns"], "--dns-upstream"),
        (["--dns-address", "localhost"], "--dns-address"),
        (["--dns-port", "70000"], '"70000" is not a port (0 to 65535)'),
        (["--proxy-type", "ingress"], "--proxy-type"),
        (["--log-level", "loud"], "--log-level"),
        (["-v", "novalue"], "--dataplane-var"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert says in refusal(capsys, *DP, *flags)


def test_a_dataplane_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dataplane-file" in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KUMA_DATAPLANE_DRAIN_TIME", "soon"),
        ("KUMA_DATAPLANE_PROXY_TYPE", "ingress"),
        ("KUMA_DNS_ENABLED", "maybe"),
        ("KUMA_DNS_PROXY_PORT", "dns"),
    ],
)
def test_a_wrong_value_in_the_environment_is_refused_too(
    capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    assert value in refusal(capsys, *DP, environ={name: value})
    assert parse(*DP, "--drain-time", "1s", "--proxy-type", "dataplane", *DNS_FLAGS, environ={name: value}), (
        "a flag beats it"
    )


def test_workers() -> None:
    assert parse(*DP).concurrency == 1
    assert parse(*DP, "--concurrency", str(options.MAX_WORKERS)).concurrency == options.MAX_WORKERS
    assert parse(*DP, environ={"KUMA_DATAPLANE_RUNTIME_CONCURRENCY": "4"}).concurrency == 4
    assert parse(*DP, "--concurrency", "0").concurrency == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["-1", "two", "", "1.5", str(options.MAX_WORKERS + 1)])
def test_what_is_no_number_of_workers(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert "--concurrency" in refusal(capsys, *DP, f"--concurrency={text}")
