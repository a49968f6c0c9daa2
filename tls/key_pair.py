"""A certificate and its private key into an ``ssl`` context, without the key ever lying in a file of ours."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tls.material import MaterialError
from tls.policy import ClientCertificate


def load_key_pair(context: ssl.SSLContext, pair: ClientCertificate, which: str, what: str) -> None:
    """Present ``pair`` in this context's handshakes. Raises :class:`MaterialError` (of the field ``which``) when
    OpenSSL will not have ``what``.
    """
    try:
        with _as_path(pair.chain_pem + pair.key_pem) as path:
            context.load_cert_chain(path, password="")  # without a password OpenSSL would ask the terminal
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "unusable"
        raise MaterialError(which, f"OpenSSL refuses {what} of {pair.source}: {reason}") from error


@contextmanager
def _as_path(secret: bytes) -> Iterator[str]:
    """A path under which OpenSSL, which only takes paths, can read a secret: anonymous memory where the system has
    it, else a file that only we can read and that is gone before anything else happens.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("koguma", os.MFD_CLOEXEC)
        try:
            _write_all(descriptor, secret)
            path = f"/proc/self/fd/{descriptor}"
            if os.path.exists(path):
                yield path
                return
        finally:
            os.close(descriptor)
    descriptor, path = tempfile.mkstemp()  # mode 0600
    try:
        _write_all(descriptor, secret)
        yield path
    finally:
        os.close(descriptor)
        os.unlink(path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
