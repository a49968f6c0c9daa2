"""Guarantee: every YAML file under ``examples/`` is what it says: it is valid, ``inspect`` shows what would run, and
``run`` serves it. So are the YAML blocks of the README.

Nothing of an example is changed for ``run`` but what belongs to the place: ports, the path of the unix socket, the
contents of Secrets, and the address that is an IP. Names stay, mapped to loopback by a hosts file; the system's CAs
are those of a file that the test names.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import client, peers, yamlkit
from tests.kit.ca import Authority, Identity
from tests.kit.koguma import SOURCE_ROOT, Koguma, run_to_end
from tests.kit.peers import Peer, greeting
from tests.kit.ports import free_port

EXAMPLES = SOURCE_ROOT / "examples"
SERVICES = EXAMPLES / "meshexternalservice"
DATAPLANES = ("dataplane.yaml", "dataplane-all.yaml")
SYSTEM_CA_VARIABLE = "KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH"

PUBLIC_ROOT = Authority.root("Public Root")
CORPORATE_ROOT = Authority.root("Corporate Root")
CLIENT_ROOT = Authority.root("Database Client Root")
DATABASE_CLIENT = CLIENT_ROOT.leaf("spiffe://example.com/backend")


@dataclass(frozen=True)
class StandIn:
    """What stands in for the endpoints of an example: the names in the certificate, and its issuer; no issuer: plain."""

    *_, = ()
    sans: tuple[str, ...] = ()
    issuer: Authority | None = None
    client_ca: Authority | None = None
    hosts: tuple[str, ...] = ()
    """A loopback address for each endpoint."""


STAND_INS = {
    "httpbin": StandIn(hosts=("127.0.0.1",)),
    "httpbin-tls": StandIn(("httpbin.org",), PUBLIC_ROOT, hosts=("127.0.0.1",)),
    "database": StandIn(("postgres.external.example.com",), PUBLIC_ROOT, CLIENT_ROOT, hosts=("127.0.0.1",)),
    "grpc-api": StandIn(("grpcbin.test.k6.io",), PUBLIC_ROOT, hosts=("127.0.0.1",)),
    "api-gateway": StandIn(("api.example.com",), PUBLIC_ROOT, hosts=("127.0.0.1", "::1", "127.0.0.3")),
    "local-service": StandIn(hosts=("unix",)),
    "private-api": StandIn(("internal.corp.example.com",), CORPORATE_ROOT, hosts=("127.0.0.1",)),
    "spiffe-service": StandIn(("spiffe://example.com/ns/production/sa/api",), PUBLIC_ROOT, hosts=("127.0.0.1",)),
}
