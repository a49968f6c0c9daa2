"""An agent of the SPIFFE Workload API: a real gRPC server on a unix socket, which issues what the test says.

    with SpiffeAgent(tmp_path / "agent.sock") as agent:
        agent.issue(svid(CA, "spiffe://zone-1/workload/app"))
        agent.issue(svid(CA, ...), federated={"zone-2": [CA_2]})      # the next message of every stream
        agent.stop(); agent.start()

As the standard demands, a call without the metadata ``workload.spiffe.io: true`` is refused, and so is a process that
is to have no identity.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe._proto import workload_pb2 as messages

from tests.kit.ca import VALID, Authority, Identity, Window

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
MAX_STREAMS = 16
LOOK_S = 0.02

_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=None, decipher_only=None,
)  # fmt: skip


def leaf(authority: Authority, spiffe_id: str, window: Window = VALID) -> Identity:
    return authority.leaf(spiffe_id, window=window, key_usage=_USAGE)


def svid(authority: Authority, spiffe_id: str, window: Window = VALID, **other: bytes) -> messages.X509SVID:
    """One of a message; ``other`` replaces its fields."""
    identity = leaf(authority, spiffe_id, window)
    fields: dict[str, Any] = {
        "spiffe_id": spiffe_id,
        "x509_svid": b"".join(_der(one) for one in (identity.certificate, *identity.intermediates)),
        "x509_svid_key": identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "bundle": bundle(authority),
    }
    return messages.X509SVID(**fields | other)


def bundle(*authorities: Authority) -> bytes:
    return b"".join(_der(one.certificate) for one in authorities)


class SpiffeAgent(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.address = f"unix:{socket}"
        self._changed = threading.Condition()
        self._version = 0
        self._response: messages.X509SVIDResponse | None = None
        self._sent_before = -1
        """The version that a new stream has been told of."""
        self._server: grpc.Server | None = None

    def issue(
        self, *svids: messages.X509SVID, federated: Mapping[str, Sequence[Authority] | bytes] | None = None
    ) -> None:
        """What every process is issued from now on; none: nothing, PermissionDenied."""
        bundles = {
            domain: given if isinstance(given, bytes) else bundle(*given) for domain, given in (federated or {}).items()
        }
        self.send(messages.X509SVIDResponse(svids=svids, federated_bundles=bundles) if svids else None)

    def send(self, response: messages.X509SVIDResponse | None) -> None:
        with self._changed:
            self._response = response
            self._version += 1
            self._changed.notify_all()

    def be_silent(self) -> None:
        """Until something is sent."""
        self._sent_before = self._version

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        is_marked = ("workload.spiffe.io", "true") in [tuple(one) for one in details.invocation_metadata]

        def fetch(_: object, context: grpc.ServicerContext) -> Iterator[messages.X509SVIDResponse]:
            if not is_marked:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
            yield from self._stream(context)

        return grpc.unary_stream_rpc_method_handler(
            fetch,
            request_deserializer=messages.X509SVIDRequest.FromString,
            response_serializer=messages.X509SVIDResponse.SerializeToString,
        )

    def _stream(self, context: grpc.ServicerContext) -> Iterator[messages.X509SVIDResponse]:
        sent = self._sent_before
        server = self._server
        while context.is_active() and self._server is server:
            with self._changed:
                if self._version == sent:
                    self._changed.wait(LOOK_S)
                response, version = self._response, self._version
            if version == sent:
                continue
            sent = version
            if response is None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            yield response

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(MAX_STREAMS), handlers=[self])
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Its socket goes with it."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(None).wait()
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> SpiffeAgent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
