"""``koguma dns snippet``: how to make a machine, or a container, ask our DNS server for the mesh's names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from config import vipstate
from config.plan import NamePlan
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK, EXIT_USAGE
from proxy.options import Dns, Sources, VirtualIps
from proxy.reading import read_all
from proxy.resolution import show

Snippet = Callable[[Dns, Sequence[str]], str]


def systemd_resolved(dns: Dns, domains: Sequence[str]) -> str:
    routed = " ".join(f"~{domain}" for domain in domains)
    return f"""\
# /etc/systemd/resolved.conf.d/koguma.conf, then: systemctl restart systemd-resolved
# Only these domains are asked of Koguma. It needs systemd 246 or later, for the port.
[Resolve]
DNS={show((dns.address, dns.port))}
Domains={routed}
"""


def resolv_conf(dns: Dns, domains: Sequence[str]) -> str:
    return f"""\
# /etc/resolv.conf
# The file cannot name a port, so Koguma has to listen on 53, and since the file names Koguma, Koguma has to be told
# where to ask for everything else:
#   koguma run --dns-address {dns.address} --dns-port 53 --dns-upstream ADDRESS ...
# where ADDRESS is what the file names now. Port 53 needs CAP_NET_BIND_SERVICE, or
# sysctl net.ipv4.ip_unprivileged_port_start=53.
nameserver {dns.address}
"""


def dnsmasq(dns: Dns, domains: Sequence[str]) -> str:
    lines = ["# /etc/dnsmasq.d/koguma.conf, then: systemctl restart dnsmasq"]
    for domain in domains:
        lines += [f"server=/{domain}/{dns.address}#{dns.port}", f"rebind-domain-ok=/{domain}/"]
    return "\n".join(lines) + "\n"


def docker(dns: Dns, domains: Sequence[str]) -> str:
    return """\
# compose.yaml
# The application shares Koguma's network namespace, so that 127.0.0.1 is the same for both; Docker's own DNS asks
# Koguma for what it does not know, on port 53. ADDRESS is a resolver for everything else; it must not be 127.0.0.11.
services:
  koguma:
    command: koguma run --dns-port 53 --dns-upstream ADDRESS --dataplane-file ... --resources ...
    dns: [127.0.0.1]
    sysctls:
      net.ipv4.ip_unprivileged_port_start: 53
  app:
    network_mode: service:koguma
"""


SNIPPETS: dict[str, Snippet] = {
    "systemd-resolved": systemd_resolved,
    "resolv.conf": resolv_conf,
    "dnsmasq": dnsmasq,
    "docker": docker,
}


def hosts(names: Mapping[str, NamePlan]) -> str:
    """A block for ``/etc/hosts``, for machines whose resolver cannot be changed. It does not follow changes."""
    lines = ["# koguma: begin"]
    lines += [f"{address} {name}" for name in sorted(names) for address in names[name].addresses]
    return "\n".join([*lines, "# koguma: end"]) + "\n"


def snippet(style: str, dns: Dns, domains: Sequence[str]) -> int:
    """``style``: a key of ``SNIPPETS``."""
    sys.stdout.write(SNIPPETS[style](dns, domains))
    return EXIT_OK


def hosts_snippet(sources: Sources, vips: VirtualIps) -> int:
    """The names of the plan that ``run --vips`` would make."""
    if sources.dataplane_file is None and sources.dataplane_text is None:
        print("koguma: --format hosts needs --dataplane-file and --resources: it lists their names", file=sys.stderr)
        return EXIT_USAGE
    try:
        planned = read_all(sources, partial=False, vips=replace(vips, listen=True))
    except vipstate.StateError as exc:
        print(f"koguma: {exc}", file=sys.stderr)
        return EXIT_CANNOT_START
    for problem in sorted(planned.problems):
        print(problem.as_text(), file=sys.stderr)
    if planned.plan is None:
        return EXIT_INVALID
    sys.stdout.write(hosts(planned.plan.names))
    return EXIT_OK
