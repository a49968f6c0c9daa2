"""What the command line and the environment ask for. Flags beat environment, environment beats defaults.

A flag that ``kuma-dp run`` also has keeps its name, meaning and ``KUMA_*`` variable.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from config.created_trust import Form
from config.issuers import IdentityPaths
from config.plan import MESH_DOMAIN
from config.template import Variables, parse_variables
from config.vips import CIDR_VARIABLE, DEFAULT_CIDR, Network, parse_pools
from proxy import logs

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
MAX_WORKERS = 128
PROXY_TYPES = ("dataplane", "egress")
Parser = argparse._ActionsContainer
"""A parser, or a group of its options."""
UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where resources come from; shared by all commands that need them."""

    dataplane_file: str | None = None
    """A path, or ``-`` for standard input."""
    dataplane_text: str | None = None
    """The Dataplane itself (``KUMA_DATAPLANE_RUNTIME_RESOURCE``); a file beats it."""
    dataplane_vars: Variables = field(default_factory=dict)
    resources: tuple[str, ...] = ()
    identity: IdentityPaths | None = None
    """The proxy's identity, where it is in files and not what a MeshIdentity says."""


@dataclass(frozen=True, slots=True)
class Names:
    """How endpoint names are resolved, and questions at our DNS port that are not for us."""

    upstreams: tuple[tuple[str, int], ...] = ()
    """DNS servers; empty: those of ``/etc/resolv.conf``."""
    hosts_file: Path = Path("/etc/hosts")


@dataclass(frozen=True, slots=True)
class Dns:
    """The DNS server for the mesh's names."""

    enabled: bool | None = None
    """``None``: once there are names to serve."""
    address: str = "127.0.0.1"
    port: int = 15053


@dataclass(frozen=True, slots=True)
class VirtualIps:
    """Whether services have virtual IPs to listen on, which, and where it is remembered who has which."""

    listen: bool | None = None
    """``None``: where the Dataplane is in transparent proxying mode."""
    pools: tuple[Network, ...] = parse_pools(DEFAULT_CIDR)
    state_dir: Path | None = None

    @property
    def identity_dir(self) -> Path | None:
        """Where the CAs that we make are kept."""
        return self.state_dir / "identity" if self.state_dir is not None else None


@dataclass(frozen=True, slots=True)
class RunOptions:
    sources: Sources
    names: Names = Names()
    dns: Dns = Dns()
    vips: VirtualIps = VirtualIps()
    proxy_type: str = "dataplane"
    strict: bool = False
    admin_address: str = "127.0.0.1"
    admin_port: int | None = None
    """``None``: ``networking.admin.port`` of the Dataplane, else 9901."""
    drain_time_s: float = 30.0
    drain_untrusted: bool = False
    access_log: str | None = None
    """A path, or ``-`` for standard output."""
    concurrency: int = 1
    """Processes that carry traffic."""
    log_level: str = "info"
    log_format: logs.Format = "text"


def duration(text: str) -> float:
    """Seconds from Go's duration text: ``30s``, ``1h30m``, ``250ms``. Raises ``ValueError``."""
    parts = DURATION.findall(text)
    if text == "0":
        return 0.0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f'"{text}" is not a duration such as 30s, 1m30s or 500ms')
    return float(sum(float(number) * UNIT_S[unit] for number, unit in parts))


def dns_server(text: str) -> tuple[str, int]:
    """``ADDR[:PORT]`` with IPv6 in brackets where a port follows. Raises ``ValueError``."""
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{text}" is not [ADDR]:PORT')
        if rest:
            port = rest[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f'"{port}" is not a port')
    return str(ip_address(host)), int(port)


def _type(convert: Callable[[str], object], what: str) -> Callable[[str], object]:
    """An argparse type whose error is the converter's own sentence."""

    def converted(text: str) -> object:
        try:
            return convert(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc) or f"not {what}: {text}") from exc

    return converted


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f'"{text}" is not a port (0 to 65535)')
    return int(text)


def _concurrency(text: str) -> int:
    """``0`` is one for each CPU that this process may use (taskset, cpusets of containers)."""
    if not text.isdecimal():
        raise ValueError(f'"{text}" is not a number')
    count = int(text) or len(os.sched_getaffinity(0))
    if count > MAX_WORKERS:
        raise ValueError(f"{count} workers: there may be {MAX_WORKERS}")
    return count


def _address(text: str) -> str:
    return str(ip_address(text))


def boolean(text: str) -> bool:
    """As Go's ``strconv.ParseBool`` reads the variables of ``kuma-dp``. Raises ``ValueError``."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'"{text}" is not true or false')


def _proxy_type(text: str) -> str:
    if text not in PROXY_TYPES:
        raise ValueError(f'"{text}" is not a proxy type of this version: {", ".join(PROXY_TYPES)}')
    return text


class _VariablesAction(argparse.Action):
    """Collects ``k=v`` items of several flags before they are read: a later one replaces an earlier."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        items = [*getattr(namespace, "variable_items", []), str(values)]
        namespace.variable_items = items
        try:
            namespace.dataplane_var = parse_variables(items)
        except ValueError as exc:
            raise argparse.ArgumentError(self, str(exc)) from exc


def add_sources(parser: Parser, environ: Mapping[str, str], *, dataplane: bool) -> None:
    parser.add_argument(
        "--dataplane-file",
        "-d",
        metavar="DP.yaml",
        default=environ.get("KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH"),
        required=dataplane
        and not (environ.get("KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH") or environ.get("KUMA_DATAPLANE_RUNTIME_RESOURCE")),
        help="Universal Dataplane, a Mustache template; - reads standard input [KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH]",
    )
    parser.add_argument(
        "--dataplane-var",
        "-v",
        metavar="K=V",
        action=_VariablesAction,
        default={},
        help="a variable of the template; repeatable, or comma separated; dots nest",
    )


def add_resources(parser: Parser) -> None:
    parser.add_argument(
        "--resources",
        "-r",
        metavar="PATH",
        action="append",
        nargs="+",
        default=[],
        help="files or folders (*.yaml, *.yml, *.json) with MeshExternalService, Secret, Mesh, ...",
    )


def add_identity(parser: Parser) -> None:
    parser.add_argument(
        "--identity-cert", metavar="FILE", type=Path,
        help="the proxy's identity, instead of what MeshIdentities say: an X.509-SVID (PEM, leaf first)",
    )  # fmt: skip
    parser.add_argument("--identity-key", metavar="FILE", type=Path, help="its key (default: in the same file)")
    parser.add_argument(
        "--identity-bundle", metavar="FILE", type=Path,
        help="CA certificates of its trust domain, beside those of MeshTrusts",
    )  # fmt: skip


def add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dns-upstream",
        metavar="ADDR[:PORT]",
        action="append",
        type=_type(dns_server, "a DNS server"),
        default=[],
        help="DNS server for endpoint names and forwarded questions; repeatable (default: those of /etc/resolv.conf)",
    )
    parser.add_argument(
        "--hosts-file",
        metavar="PATH",
        type=Path,
        default=Path("/etc/hosts"),
        help="names that beat DNS (default: %(default)s)",
    )


def add_dns_listener(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Where the DNS server listens."""
    parser.add_argument(
        "--dns-address", metavar="A", type=_type(_address, "an address"), default=Dns().address,
        help="where the DNS server listens (default: %(default)s)",
    )  # fmt: skip
    # Kuma 2's 0 asks for its CoreDNS, which listens on the other port.
    proxy_port = environ.get("KUMA_DNS_PROXY_PORT", "0")
    port = proxy_port if proxy_port != "0" else environ.get("KUMA_DNS_CORE_DNS_PORT", str(Dns().port))
    parser.add_argument(
        "--dns-port", "--dns-proxy-port", metavar="P", dest="dns_port", type=_type(_port, "a port"), default=port,
        help="its UDP and TCP port; 0 picks one (default: %(default)s) [KUMA_DNS_PROXY_PORT, KUMA_DNS_CORE_DNS_PORT]",
    )  # fmt: skip


def add_vips(parser: Parser, environ: Mapping[str, str]) -> None:
    parser.add_argument(
        "--vips", action=argparse.BooleanOptionalAction, default=None,
        help="listen on VIP:match.port for every service of the mesh, and serve their hostnames "
        "(default: where the Dataplane has transparentProxying)",
    )  # fmt: skip
    add_vip_pools(parser, environ)
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="what is kept between runs: which service has which VIP, and CAs that a MeshIdentity has made",
    )


def add_vip_pools(parser: Parser, environ: Mapping[str, str]) -> None:
    parser.add_argument(
        "--vip-cidr", metavar="CIDR[,CIDR]", type=_type(parse_pools, "a CIDR"),
        default=environ.get(CIDR_VARIABLE) or DEFAULT_CIDR,
        help=f"where VIPs are taken from; inside 127.0.0.0/8 they work at once (default: {DEFAULT_CIDR}) "
        f"[{CIDR_VARIABLE}]",
    )  # fmt: skip


SNIPPET_STYLES = ("systemd-resolved", "resolv.conf", "dnsmasq", "docker", "hosts")


def add_snippet(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    parser.add_argument(
        "--format", choices=SNIPPET_STYLES, default=SNIPPET_STYLES[0], help="for what (default: %(default)s)"
    )
    parser.add_argument(
        "--domain", metavar="D", action="append", default=[],
        help=f"a domain of the mesh's names; repeatable (default: {MESH_DOMAIN})",
    )  # fmt: skip
    add_dns_listener(parser, environ)
    hosts = parser.add_argument_group("for --format hosts, which lists the names")
    add_sources(hosts, environ, dataplane=False)
    add_resources(hosts)
    add_vips(hosts, environ)


def add_run(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    add_sources(parser, environ, dataplane=True)
    add_resources(parser)
    add_identity(parser)
    add_names(parser)
    add_vips(parser, environ)
    parser.add_argument(
        "--proxy-type",
        type=_type(_proxy_type, "a proxy type"),  # not choices: argparse would let the variable pass unchecked
        metavar="{" + ",".join(PROXY_TYPES) + "}",
        default=environ.get("KUMA_DATAPLANE_PROXY_TYPE", "dataplane"),
        help="what to be (default: %(default)s) [KUMA_DATAPLANE_PROXY_TYPE]",
    )
    parser.add_argument("--strict", action="store_true", help="refuse the whole set where anything in it is wrong")
    parser.add_argument(
        "--admin-address", metavar="IP", type=_type(_address, "an address"), default="127.0.0.1",
        help="where the admin interface listens (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--admin-port", metavar="P", type=_type(_port, "a port"),
        help="its port; 0 picks one (default: networking.admin.port of the Dataplane, else 9901)",
    )  # fmt: skip
    parser.add_argument(
        "--drain-time", metavar="30s", type=_type(duration, "a duration"),
        default=environ.get("KUMA_DATAPLANE_DRAIN_TIME", "30s"),
        help="how long connections may finish after SIGTERM (default: %(default)s) [KUMA_DATAPLANE_DRAIN_TIME]",
    )  # fmt: skip
    parser.add_argument(
        "--access-log", metavar="PATH", help="a line for each HTTP exchange; - is standard output (default: none)"
    )
    parser.add_argument(
        "--drain-untrusted", action="store_true",
        help="when trust changes, end inbound connections whose peers would be refused now (default: they stay)",
    )  # fmt: skip
    dns_enabled = parser.add_argument(
        "--dns-enabled", action=argparse.BooleanOptionalAction, default=environ.get("KUMA_DNS_ENABLED"),
        help="serve DNS (default: once there are names of the mesh to serve) [KUMA_DNS_ENABLED]",
    )  # fmt: skip
    dns_enabled.type = _type(boolean, "true or false")  # of the default; Python 3.14 takes no argument for it
    add_dns_listener(parser, environ)
    parser.add_argument(
        "--concurrency", metavar="N", type=_type(_concurrency, "a number of workers"),
        default=environ.get("KUMA_DATAPLANE_RUNTIME_CONCURRENCY", "1"),
        help="processes that share the ports and the traffic; 0: one for each CPU that we may use "
        "(default: %(default)s) [KUMA_DATAPLANE_RUNTIME_CONCURRENCY]",
    )  # fmt: skip
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument("--log-format", choices=["text", "json"], default="text")


def add_trust_export(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or folders with resources")
    add_sources(parser, environ, dataplane=True)
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="that of the proxy: it has the CAs that it made")
    parser.add_argument("--identity", metavar="NAME", help="of this MeshIdentity (default: of all)")
    parser.add_argument("--form", choices=list(Form), type=Form, default=Form.UNIVERSAL, help="default: %(default)s")


def sources_of(args: argparse.Namespace, environ: Mapping[str, str], paths: Sequence[str] = ()) -> Sources:
    """``paths``: resources given as arguments rather than by ``--resources``."""
    return Sources(
        dataplane_file=args.dataplane_file,
        dataplane_text=environ.get("KUMA_DATAPLANE_RUNTIME_RESOURCE"),
        dataplane_vars=args.dataplane_var,
        resources=tuple(paths) or tuple(path for group in args.resources for path in group),
        identity=_identity_of(args),
    )


def _identity_of(args: argparse.Namespace) -> IdentityPaths | None:
    """Not every command has the flags. Raises ``argparse.ArgumentError``."""
    certificate, key, bundle = (getattr(args, f"identity_{what}", None) for what in ("cert", "key", "bundle"))
    if certificate is not None:
        return IdentityPaths(certificate, key or certificate, bundle)
    if key is not None or bundle is not None:
        raise argparse.ArgumentError(None, "--identity-key and --identity-bundle need --identity-cert")
    return None


def names_of(args: argparse.Namespace) -> Names:
    return Names(upstreams=tuple(args.dns_upstream), hosts_file=args.hosts_file)


def dns_of(args: argparse.Namespace) -> Dns:
    return Dns(enabled=args.dns_enabled, address=args.dns_address, port=args.dns_port)


def vips_of(args: argparse.Namespace) -> VirtualIps:
    return VirtualIps(args.vips, args.vip_cidr, args.state_dir)


def run_options(args: argparse.Namespace, environ: Mapping[str, str]) -> RunOptions:
    return RunOptions(
        sources=sources_of(args, environ),
        names=names_of(args),
        dns=dns_of(args),
        vips=vips_of(args),
        proxy_type=args.proxy_type,
        strict=args.strict,
        admin_address=args.admin_address,
        admin_port=args.admin_port,
        drain_time_s=args.drain_time,
        drain_untrusted=args.drain_untrusted,
        access_log=args.access_log,
        concurrency=args.concurrency,
        log_level=args.log_level,
        log_format=args.log_format,
    )
