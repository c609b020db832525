"""Certificates of a server, and of its clients where it wants to know them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import ListenError


@dataclass(frozen=True)
class Tls:
    """Where the server's certificates lie, in PEM.

    Attributes:
        certificate: The server's, with those between it and its authority's.
        key: Of the certificate.
        client_authority: Of the authorities whose clients are let in; None where clients need no certificate.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What Python's servers take: TLS 1.2 or newer.

        Raises:
            ListenError: A file cannot be read, or is not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_authority is not None:
                context.load_verify_locations(self.client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise ListenError(f"the certificates cannot be used: {error}", hint="they must be PEM files") from None
        return context

    def contents(self) -> tuple[bytes, bytes, bytes | None]:
        """The certificate, its key, and the clients' authorities, as gRPC takes them.

        Raises:
            ListenError: As `context`.
        """
        # gRPC says nothing of a file that it cannot use until a client comes.
        self.context()
        authority = None if self.client_authority is None else self.client_authority.read_bytes()
        return self.certificate.read_bytes(), self.key.read_bytes(), authority
