"""Attributes that most objects never set."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Keeper(Protocol):
    """Whose attributes they are."""

    rare: dict[str, Any] | None
    on_lane: bool


class Rare(Generic[T]):
    """An attribute that most sessions never set, nor ask for while they are `on_lane`: it takes no slot, and none has to fill it.

    What is set is kept in the session's `rare`, a dictionary that is made for the first of them.
    """

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type[Keeper], name: str) -> None:
        self.name = name

    def __get__(self, session: Keeper, owner: type[Keeper]) -> T:
        rare = session.rare
        return self.default if rare is None else rare.get(self.name, self.default)

    def __set__(self, session: Keeper, value: T) -> None:
        session.on_lane = False
        if session.rare is None:
            session.rare = {}
        session.rare[self.name] = value
