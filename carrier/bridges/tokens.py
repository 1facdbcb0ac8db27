"""Tokens of user bridges: who has one may ask why from anywhere, and join the bridge by a link.

A token is made when its bridge is, told once, and not kept: a bridge has its SHA-256 (`token: "sha256:..."`), which is what is shown, kept
on disk and compared. 144 random bits need no salt. It dies with the bridge.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from carrier.model import Bridge, Config

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LONGEST = 256
"""Bytes of a token that is looked at."""


class Fresh(NamedTuple):
    """A token that was just made, and what is kept of it."""

    token: str
    digest: str


def make() -> Fresh:
    """A new token, of characters that need no quoting in a header, an address or a shell."""
    token = secrets.token_urlsafe(18)
    return Fresh(token, digest(token.encode()))


def digest(token: bytes) -> str:
    """What is kept of a token."""
    return "sha256:" + sha256(token).hexdigest()


class Tokens:
    """Finds the bridge that a token belongs to. config: gives the configuration in force."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self.config = config
        self.known: Mapping[str, Bridge] = {}
        self.found: dict[tuple[str, str], Bridge] = {}
        """By listener and digest; of two with one token the first has it."""

    def bridge(self, listener: str, token: bytes) -> Bridge | None:
        """The bridge of this listener that the token belongs to. What is compared, in constant time, are digests."""
        if len(token) > LONGEST:
            return None
        self._learn()
        seen = digest(token)
        found = self.found.get((listener, seen))
        return found if found is not None and hmac.compare_digest(str(found.spec["token"]), seen) else None

    def bridges(self, listener: str) -> list[Bridge]:
        """The bridges of this listener that have a token."""
        self._learn()
        return [bridge for (at, _), bridge in self.found.items() if at == listener]

    def user(self, bridge: str) -> str:
        """Whose a bridge is; "" when it is gone."""
        found = self.config().bridges.get(bridge)
        return found.user if found is not None else ""

    def _learn(self) -> None:
        bridges = self.config().bridges
        if bridges is not self.known:
            self.known = bridges
            self.found = {}
            for bridge in bridges.values():
                if "token" in bridge.spec:
                    self.found.setdefault((bridge.listener, bridge.spec["token"]), bridge)
