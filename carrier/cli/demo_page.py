"""How the demo looks: lines for a person."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TextIO

from carrier.cli.demo_peers import HOST

if TYPE_CHECKING:
    from carrier.cli.demo_stage import Stage


class Claim(NamedTuple):
    """What was done, what came of it, why, and whether it is what we promise. more: what else there is to say."""

    what: str
    outcome: str
    why: str
    held: bool
    more: str = ""


class Page:
    """Lines for a person: colours on a terminal (unless NO_COLOR is set), plain text elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.terminal = out.isatty()
        self.narrow = self.terminal and shutil.get_terminal_size().columns < 140
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        wide = (getattr(out, "encoding", "") or "").lower().replace("-", "") == "utf8"
        self.marks = ("✓", "✗", "→") if wide else ("ok", "NO", "->")

    def say(self, text: str = "") -> None:
        """One line."""
        print(text, file=self.out, flush=True)

    def paint(self, code: str, text: str) -> str:
        """The text in a colour (SGR parameters), where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def cast(self, stage: Stage) -> None:
        """Who is there, and who will get what."""
        self.say(self.paint("1", "Carrier2: two developers bridge one port of a pod; nobody else notices"))
        self.say()
        for what, where in (
            ("Carrier2, HTTP (listener web)", f"http://{HOST}:{stage.web}"),
            ("Carrier2, TCP and UDP", f"{HOST}:{stage.tcp}, {HOST}:{stage.udp}"),
            ("Carrier2, REST API", f"http://{HOST}:{stage.api}/api/v1"),
            ("shadow workload", f"{HOST}:{stage.shadow.port}"),
            ("john's and jane's laptops", f"{HOST}:{stage.john.port}, {HOST}:{stage.jane.port}"),
        ):
            self.say(f"  {what:<32}{self.paint('2', where)}")
        self.say()
        self.say(self.paint("1", f"  {'requests with':<32}{'go to':<18}{'by rule'}"))
        for who, to, rule in (
            ("x-user: john", "john's laptop", "bridge/john"),
            ("/cart... and x-user: jane", "jane's laptop", "bridge/jane"),
            ("anything else", "shadow", "everybody-web"),
        ):
            self.say(f"  {who:<32}{to:<18}{rule}")
        self.say()

    def claim(self, number: int, claim: Claim) -> None:
        """A line of the story."""
        yes, no, arrow = self.marks
        mark = self.paint("32", yes) if claim.held else self.paint("1;31", no)
        colour = "1;31" if not claim.held else "33" if "refused" in claim.outcome else "36" if "laptop" in claim.outcome else "0"
        outcome = self.paint(colour, f"{claim.outcome:<35}")
        rule = self.paint("2", claim.why)
        self.say(f"{number:3d} {mark} {claim.what:<50} {arrow} {outcome}" + ("" if self.narrow else f" {rule}"))
        if self.narrow:
            self.say(f"        {rule}")
        for line in textwrap.wrap(claim.more, 70 if self.narrow else 110):
            self.say(f"        {self.paint('2', line)}")

    def end(self, claims: list[bool]) -> None:
        """How many claims held."""
        held = sum(claims)
        mebibytes = resident() / 1024 / 1024
        text = f"{held} of {len(claims)} claims held; {mebibytes:.1f} MiB resident, workload and laptops included"
        self.say()
        self.say(self.paint("1;32" if held == len(claims) else "1;31", text))

    def invite(self, stage: Stage) -> None:
        """What to try."""
        web, api = f"http://{HOST}:{stage.web}", f"http://{HOST}:{stage.api}/api/v1"
        match = '{"matchHeader": {"name": "x-user", "value": "me"}}'
        body = f'{{"port": {stage.web}, "user": "me", "match": {match}, "endpoint": "{HOST}:{stage.jane.port}", "expires": 600}}'
        self.say()
        self.say("Light traffic goes on; Ctrl-C ends it. Try, in another terminal:")
        self.say()
        for line in (
            f"curl {web}/",
            f"curl -H 'x-user: john' {web}/",
            f"curl {api}/bridges",
            f"curl -X PUT -H 'content-type: application/json' {api}/bridges/me \\\n    -d '{body}'",
            f"curl -H 'x-user: me' {web}/",
            f"curl -X DELETE {api}/bridges/me",
            f"curl {api}/config",
            f"{command()} explain GET /cart/7 -H 'x-user: jane' --admin {HOST}:{stage.api}",
            f"{command()} status --admin {HOST}:{stage.api}",
        ):
            self.say("  " + self.paint("36", line))
        self.say()

    def tally(self, answered: Counter[str]) -> None:
        """The light traffic so far, on one line of a terminal."""
        if self.terminal:
            text = ", ".join(f"{who} {number}" for who, number in sorted(answered.items()))
            print(f"\r\x1b[K  answered by: {text}", end="", file=self.out, flush=True)


def command() -> str:
    """How this program was called, for lines that shall work when they are pasted."""
    return sys.argv[0] if os.path.basename(sys.argv[0]) == "carrier" else f"{sys.executable} -m carrier"


def resident() -> int:
    """Bytes of memory that this process has resident."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read())
            return int(found[1]) * 1024 if found else 0
    except OSError:  # no /proc: the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
