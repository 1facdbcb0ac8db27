"""Test listener, as l7mp's: it binds nothing, and makes a session when a test asks for one. Calls by the strict schema do not know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrier.core.listener import Listener
from carrier.core.session import Session

if TYPE_CHECKING:
    from carrier.core.stream import Socket


class TestListener(Listener):
    """`spec: {protocol: Test}`."""

    protocol = "Test"
    __test__ = False

    @property
    def listening(self) -> bool:
        return True

    async def bind(self) -> None:
        """There is nothing to bind."""

    def emit(self, source: Socket, metadata: dict[str, Any]) -> Session:
        """Begin a session whose source is `source`."""
        session = Session(self, source)
        session._metadata = {"name": metadata.get("name", self.session_name(session)), **metadata}
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))
        return session

    def session_name(self, session: Session) -> str:
        return f"Test:{self.name}-{session.number}"

    def metadata(self, session: Session) -> dict[str, Any]:
        return {}
