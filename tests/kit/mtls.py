"""A client of the mesh: one mTLS connection that presents an SVID, over Python's own ``ssl``."""

from __future__ import annotations

import socket
import ssl
import tempfile
from types import TracebackType

from tests.kit.ca import Authority, Identity

TIMEOUT_S = 10.0


class MtlsClient:
    """Connected, and verified by whoever listens. Raises ``OSError`` where it is refused: TLS 1.2, so that the refusal
    comes in the handshake.
    """

    def __init__(self, port: int, identity: Identity, *trusting: Authority) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the peer has a SPIFFE ID, and no name
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata="".join(one.pem for one in trusting))
        with tempfile.NamedTemporaryFile() as file:
            file.write(f"{identity.chain_pem}{identity.key_pem}".encode())
            file.flush()
            context.load_cert_chain(file.name)
        raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        try:
            self._socket = context.wrap_socket(raw)
        except OSError:
            raw.close()
            raise

    @property
    def serial(self) -> str:
        """Of the certificate that the listener presented."""
        facts = self._socket.getpeercert()
        assert facts is not None
        return str(facts["serialNumber"])

    def ask(self, question: bytes = b"ping") -> bytes:
        self._socket.sendall(question)
        return self._socket.recv(65536)

    def __enter__(self) -> MtlsClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def serial(identity: Identity) -> str:
    """As :attr:`MtlsClient.serial` writes it."""
    text = f"{identity.certificate.serial_number:X}"
    return text.zfill(len(text) + len(text) % 2)


def is_refused(port: int, identity: Identity, *trusting: Authority) -> bool:
    try:
        with MtlsClient(port, identity, *trusting) as client:
            return client.ask() == b""
    except OSError:
        return True
