"""TLS by certificate files, which may be renewed while the server runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from speech_emotion.common.errors import UserError

log = logging.getLogger("dashboard")

HANDSHAKE_S = 10.0
"""Longest time of a handshake."""


class Certificate:
    """A certificate and its key.

    Args:
        certificate: PEM file with the certificate and those between it and the root.
        private_key: PEM file of its key, without a password.

    Attributes:
        context: for the server; a renewed certificate is used from the next connection on.

    Raises:
        UserError: a file cannot be read, or they do not belong together.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self._files = certificate, private_key
        self._version = self._stamp()
        self.context = self._load()

    def refresh(self) -> None:
        """Read the files again if they have changed; a pair that cannot be used is left out."""
        version = self._stamp()
        if version == self._version:
            return
        self._version = version
        try:
            self._load()  # into a context of its own first: a pair that does not fit harms nothing
            self.context.load_cert_chain(*self._files, password=_no_password)
            log.info("the certificate %s was renewed", self._files[0])
        except UserError as error:
            log.error("the certificate stays as it was: %s", error)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate, key = self._files
        for file in self._files:
            if not file.is_file():
                raise UserError(f"{file}: this file does not exist or cannot be read")
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"certificate {certificate} with key {key}: {reason}") from None
        return context

    def _stamp(self) -> tuple[int, ...]:
        stamps: list[int] = []
        for file in self._files:
            try:
                status = file.stat()
                stamps += [status.st_ino, status.st_mtime_ns, status.st_size]
            except OSError:
                stamps.append(0)
        return tuple(stamps)


def _no_password() -> str:
    raise ValueError("the key has a password; remove it: openssl pkey -in KEY -out NEW_KEY")


def certificate_of(certificate: Path | None, private_key: Path | None) -> Certificate | None:
    """The certificate of two files; None without them: plain HTTP.

    Raises:
        UserError: it cannot be used.
    """
    if certificate is None or private_key is None:
        if certificate is not private_key:
            raise UserError("--certificate and --private-key belong together")
        return None
    return Certificate(certificate, private_key)
