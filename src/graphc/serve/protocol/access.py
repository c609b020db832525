"""Who may ask for what: bearer tokens, and which port controls the server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphc.errors import ForbiddenError, OptionError, UnauthenticatedError

_LEAST = 16
"""Characters of a token: fewer could be tried out."""


class Tokens:
    """The bearer tokens that open a port.

    Compared by their SHA-256 in constant time, each with all, so that the time taken tells nothing of any.

    Args:
        names: Who each token stands for, by token.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._digests = [(_digest(token), name) for token, name in names.items()]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Tokens of a file: one a line, with a name before it if need be (`alice 3f9c...`); `#` begins a comment.

        Raises:
            OptionError: The file cannot be read, has no token, or one that is too short.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"token file {str(path)!r} cannot be read: {error}") from None
        names = {}
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) > 2 or len(words[-1]) < _LEAST:
                raise OptionError(
                    f"token file {str(path)!r}, line {number}: expected TOKEN or NAME TOKEN, "
                    f"with a token of {_LEAST} characters at least",
                    hint="make one with: openssl rand -hex 32",
                )
            names[words[-1]] = words[0] if len(words) == 2 else f"token {number}"
        if not names:
            raise OptionError(f"token file {str(path)!r} has no token")
        return cls(names)

    def identity(self, authorization: str | None) -> str:
        """Whom an `Authorization` header's token stands for.

        Raises:
            UnauthenticatedError: There is no header, or no such token.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("this server wants a token", hint="send it as `Authorization: Bearer TOKEN`")
        digest, found = _digest(token.strip()), ""
        for known, name in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        if not found:
            raise UnauthenticatedError("the token is not one of this server's")
        return found


@dataclass(frozen=True)
class Access:
    """What a port lets its clients do.

    Attributes:
        tokens: That open it; None where everybody may ask.
        control: Whether models may be loaded and unloaded, and settings changed.
    """

    tokens: Tokens | None = field(default=None, repr=False)
    control: bool = False

    def identity(self, authorization: str | None) -> str:
        """Whom a request's `Authorization` stands for; empty where everybody may ask.

        Raises:
            UnauthenticatedError: It opens nothing here.
        """
        return "" if self.tokens is None else self.tokens.identity(authorization)

    def check_control(self, what: str) -> None:
        """Lets what changes the server pass, where this port controls it.

        Raises:
            ForbiddenError: It does not.
        """
        if not self.control:
            raise ForbiddenError(f"{what} is not possible at this port", hint="ask the port of --admin-port")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
