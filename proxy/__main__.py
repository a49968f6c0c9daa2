"""The command line: ``koguma run | validate | inspect | diagnose | dns | vips | demo | schema``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from config.plan import MESH_DOMAIN
from proxy import options
from proxy.exits import EXIT_USAGE

DESCRIPTION = """\
Koguma: the sidecar proxy for Kuma's MeshExternalService, without a control plane and without Envoy.
Your application speaks plaintext to 127.0.0.1:PORT; Koguma carries it over verified TLS to the endpoints."""

EPILOG = """\
a first look:
  koguma demo                                              see it work, on made-up services
  koguma validate resources/                               every mistake in your YAML, with its line
  koguma inspect  resources/ --dataplane-file dp.yaml      what would listen where, and trust whom
  koguma run --dataplane-file dp.yaml --resources resources/
  koguma diagnose NAME --dataplane-file dp.yaml --resources resources/    why does TLS fail?

exit codes: 0 fine, 1 invalid resources, 2 wrong usage, 3 could not start"""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        "koguma", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    environ = os.environ

    run = commands.add_parser("run", help="be the proxy", description="Be the proxy until SIGTERM, then drain.")
    options.add_run(run, environ)

    validate = commands.add_parser("validate", help="find every mistake in resources")
    validate.add_argument("paths", nargs="+", metavar="PATH", help="files or folders")
    validate.add_argument("--format", choices=["text", "json"], default="text")

    inspect = commands.add_parser("inspect", help="show what would run")
    inspect.add_argument("paths", nargs="+", metavar="PATH", help="files or folders with resources")
    options.add_sources(inspect, environ, dataplane=True)
    options.add_identity(inspect)
    options.add_vips(inspect, environ)
    inspect.add_argument("--format", choices=["text", "json"], default="text")

    diagnose = commands.add_parser("diagnose", help="dial each endpoint of a service, explain the TLS verdict")
    diagnose.add_argument("name", metavar="NAME", help="a MeshExternalService")
    options.add_sources(diagnose, environ, dataplane=True)
    options.add_resources(diagnose)
    options.add_identity(diagnose)
    options.add_names(diagnose)
    diagnose.add_argument("--format", choices=["text", "json"], default="text")

    trust = commands.add_parser("trust", help="hand this zone's trust to another")
    trust_commands = trust.add_subparsers(dest="trust_command", required=True, metavar="COMMAND")
    export = trust_commands.add_parser("export", help="print the MeshTrust that the other zone needs")
    options.add_trust_export(export, environ)

    dns = commands.add_parser("dns", help="point a machine or a container at the DNS server")
    dns_commands = dns.add_subparsers(dest="dns_command", required=True, metavar="COMMAND")
    snippet = dns_commands.add_parser("snippet", help="print the configuration that does")
    options.add_snippet(snippet, environ)

    vips = commands.add_parser("vips", help="make virtual IPs reachable: one local route")
    vips.add_argument("action", choices=["up", "down", "status"])
    options.add_vip_pools(vips, environ)

    commands.add_parser("demo", help="see it work: real TLS services, a refusal explained, a live repair")

    schema = commands.add_parser("schema", help="JSON Schema of a kind, for editors")
    schema.add_argument("kind", nargs="?", metavar="KIND")
    return root


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except argparse.ArgumentError as exc:
        parser().error(str(exc))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # our reader has gone, as in `koguma inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: argparse.Namespace) -> int:
    """Each command imports what it needs: ``validate`` starts without an event loop."""
    match arguments.command:
        case "run":
            from proxy.commands.run import run

            return run(options.run_options(arguments, os.environ))
        case "validate":
            from proxy.commands.validate import validate

            return validate(arguments.paths, arguments.format)
        case "inspect":
            from proxy.commands.inspect import inspect

            sources = options.sources_of(arguments, os.environ, arguments.paths)
            return inspect(sources, arguments.format, options.vips_of(arguments))
        case "diagnose":
            from proxy.commands.diagnose import diagnose

            sources = options.sources_of(arguments, os.environ)
            return diagnose(arguments.name, sources, options.names_of(arguments), arguments.format)
        case "trust":
            from proxy.commands.trust import export

            sources = options.sources_of(arguments, os.environ, arguments.paths)
            state = options.VirtualIps(state_dir=arguments.state_dir)
            return export(sources, state, arguments.identity, arguments.form)
        case "dns":
            from proxy.commands.dns import hosts_snippet, snippet

            if arguments.format == "hosts":
                return hosts_snippet(options.sources_of(arguments, os.environ), options.vips_of(arguments))
            dns = options.Dns(address=arguments.dns_address, port=arguments.dns_port)
            return snippet(arguments.format, dns, arguments.domain or [MESH_DOMAIN])
        case "vips":
            from proxy.commands.vips import vips

            return vips(arguments.action, arguments.vip_cidr)
        case "demo":
            from proxy.commands.demo import demo

            return demo()
        case "schema":
            from proxy.commands.schema import schema

            return schema(arguments.kind)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
