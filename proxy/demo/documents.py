"""The demo's YAML, as a person would write it."""

from __future__ import annotations

from base64 import b64encode

EXPECTED_NAME = "api.partner.test"
MISTYPED_NAME = "api.partner.tset"
CLIENT_NAME = "shop-backend"


def partner(eu_port: int, us_port: int, expected_name: str = EXPECTED_NAME) -> str:
    return f"""\
# A partner's API: two endpoints, both demand a client certificate (mTLS).
type: MeshExternalService
mesh: default
name: partner-api
spec:
  match:
    type: HostnameGenerator
    port: 443
    protocol: http
  endpoints:                       # used in turn
    - address: eu.partner.test     # its own name is its SNI
      port: {eu_port}
    - address: us.partner.test
      port: {us_port}
  tls:
    enabled: true
    verification:
      mode: Secured                # chain and name, or no connection
      subjectAltNames:
        - type: Exact
          value: {expected_name}
      caCert:
        secret: partner-ca
      clientCert:
        secret: client-cert
      clientKey:
        secret: client-key
"""


def failover(dead_port: int, unix_path: str) -> str:
    return f"""\
# A cache: a unix socket on this machine, used only while the first endpoint does not answer.
type: MeshExternalService
mesh: default
name: cache
spec:
  match:
    type: HostnameGenerator
    port: 80
    protocol: http
  endpoints:
    - address: 127.0.0.1           # nothing listens here
      port: {dead_port}
    - address: unix://{unix_path}
      priority: 1                  # a fallback
"""


def local(unix_path: str) -> str:
    return f"""\
# A service on a unix socket, plaintext.
type: MeshExternalService
mesh: default
name: local-service
spec:
  match:
    type: HostnameGenerator
    port: 8080
    protocol: http
  endpoints:
    - address: unix://{unix_path}
"""


def dataplane(ports: dict[str, int]) -> str:
    outbounds = "".join(
        f"""\
    - port: {port}
      backendRef:
        kind: MeshExternalService
        name: {service}
"""
        for service, port in ports.items()
    )
    return f"""\
# Where the application finds the services: plaintext ports on loopback.
type: Dataplane
mesh: default
name: shop
networking:
  address: 127.0.0.1
  outbound:
{outbounds}"""


def secrets(contents: dict[str, str]) -> str:
    return "---\n".join(
        f"type: Secret\nmesh: default\nname: {name}\ndata: {b64encode(text.encode()).decode()}\n"
        for name, text in contents.items()
    )
