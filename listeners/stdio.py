"""Stdio listener: the process's standard input and output as one session, begun when the listener starts.

`echo hello | carrier run -c pipe.yaml` sends a line through whatever the configuration says. There is one such listener at most. The
descriptors stay in the mode that they are in (carrier/hops/filestream.py), because a terminal is shared with the shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import Key
from carrier.core.listener import Listener
from carrier.errors import Problem
from carrier.hops.filestream import FileStream
from carrier.options import check_numbers

if TYPE_CHECKING:
    from carrier.core.session import Session

STDIN, STDOUT = 0, 1
OPTIONS: Mapping[str, float] = {"track": 0}
TEXTS = ("exit",)


class StdioListener(Listener):
    """`spec: {protocol: Stdio}`. `options`: `exit: true`: when its session is over the process ends, as a filter does."""

    protocol = "Stdio"
    privileged = {"protocol": "reads and writes the process's own streams"}
    descriptors = (STDIN, STDOUT)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, OPTIONS, path, TEXTS)
        if not isinstance(options.get("exit", False), bool):
            found.append(Problem("expected true or false", f"{path}.exit", seen=repr(options["exit"]), allowed="true, false"))
        return found

    def ended(self, session: Session) -> None:
        super().ended(session)
        if self.options.get("exit") is True:
            self.env.finish("the session of standard input is over")

    def key(self) -> Key:
        return "stdio", "standard input", -1

    def local(self) -> bool:
        return True

    @property
    def listening(self) -> bool:
        return True

    async def bind(self) -> None:
        """There is nothing to bind."""

    def take_over(self, old: Listener) -> bool:
        """The session that is there stays the old one's, and keeps what it reads; a new one begins if there is none."""
        return isinstance(old, StdioListener) and not old.live

    def start(self) -> None:
        reader, writer = self.descriptors
        source = FileStream(self.env.loop, reader, writer, "downstream", owned=False)
        self.begin(source)

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"STDIO:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        return {"STDIO": {}}
