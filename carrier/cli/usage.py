"""A command line that helps: examples in every --help, what was probably meant, and where an option belongs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

EXAMPLES: Mapping[str, Sequence[str]] = {
    "": (
        "carrier demo                                  see it work, in one process",
        "carrier check carrier.yaml                    everything that is wrong with a file",
        "carrier run -c carrier.yaml                   run it",
        "carrier status                                what runs, and who gets what",
        "carrier explain GET /cart -H 'x-user: john'   where would this request go, and why?",
    ),
    "run": (
        "carrier run -c carrier.yaml --watch           and read the file again when it changes",
        "carrier run --state /var/lib/carrier          ./carrier.yaml; changes over REST outlive a restart",
        "carrier run -c - < carrier.yaml               from standard input",
    ),
    "check": (
        "carrier check carrier.yaml",
        "carrier check *.yaml                          several, each with its own answer",
        "carrier dump | carrier check -",
        "carrier check --print gefyra.yaml             Gefyra's format as ours",
    ),
    "connect": (
        "carrier connect udp-l:5353 ws://127.0.0.1:8080/dns   datagrams into a WebSocket",
        "carrier connect tcp-l:8080 unix:/run/app.sock        a port for a socket file",
        "carrier connect - tcp:127.0.0.1:6379                 as nc(1)",
    ),
    "demo": ("carrier demo", "carrier demo --once                           check every claim and end"),
    "explain": (
        "carrier explain /cart -H 'x-user: john'",
        "carrier explain http://shop.example:8080/ -c carrier.yaml   by a file",
        "carrier explain / --user john                 only john's rules",
        "carrier explain --listener 5432 --source 10.0.0.7:4000",
    ),
    "status": ("carrier status", "carrier status --watch 1", "carrier status --json --admin 127.0.0.1:1234"),
    "sessions": (
        "carrier sessions --listener web --sort bytes",
        "carrier sessions show TCP:127.0.0.1:50000-127.0.0.1:8080",
        "carrier sessions kill TCP:127.0.0.1:50000-127.0.0.1:8080",
    ),
    "bridges": (
        "carrier bridges",
        "carrier bridges add john --port 8080 -H 'x-user: john' --to 10.0.0.9:8000",
        "carrier bridges add jane --port 8080 --cookie user=jane --to 10.0.0.7:8000",
        "carrier bridges add db --port 5432 --stream --to 10.0.0.9:5432     a TCP port as a whole",
        "carrier bridges renew john --expires 8h",
        "carrier bridges check john                    does his container answer now?",
        "carrier bridges rm john",
    ),
    "tail": (
        "carrier tail --user john                      is it mine?",
        "carrier tail --status 5xx --json",
        "carrier tail --errors",
    ),
    "record": (
        "carrier record --bridge john --out john.har   until ctrl-c",
        "carrier record --rule everybody --count 100 --bodies 1Mi > shop.har",
    ),
    "replay": (
        "carrier replay john.har --to 127.0.0.1:8000   what does my container answer differently?",
        "carrier replay john.har --to http://127.0.0.1:8000 --ignore etag --ignore '$.items[*].id'",
    ),
    "log": (
        "carrier log",
        "carrier log debug                             until the process ends",
        "carrier log -n 50                             its last lines",
    ),
    "top": (
        "carrier top",
        "carrier top --sort errors",
        "carrier top --once --json --interval 10       the averages of ten seconds, for a program",
    ),
    "doctor": ("carrier doctor", "carrier doctor --json", "carrier doctor --file carrier.yaml            does that run?"),
    "gather": (
        "carrier gather",
        "carrier gather -o - | tar tz                  what is in it?",
        "carrier gather --seconds 30                   with the requests of half a minute",
    ),
    "apply": ("carrier apply --dry-run carrier.yaml", "carrier apply carrier.yaml"),
    "dump": ("carrier dump > now.yaml",),
    "diff": ("carrier diff carrier.yaml", "carrier diff --lines carrier.yaml"),
    "completion": ("source <(carrier completion bash)", "carrier completion fish > ~/.config/fish/completions/carrier.fish"),
    "schema": ("carrier schema > carrier.schema.json",),
    "manual": ("carrier manual | man -l -",),
}
"""Command -> command lines, each with what it does."""


INVALID = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """argparse's, which has examples and knows what looks like what."""

    def __init__(self, *args: Any, **more: Any) -> None:
        more.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **more)

    def format_help(self) -> str:
        lines = EXAMPLES.get(self.prog.partition(" ")[2], ())
        examples = "\nexamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n" if lines else ""
        return super().format_help() + examples

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with what was probably meant, and exit with 2."""
        hint = self._hint(message)
        if message.startswith("argument COMMAND:") and (found := INVALID.search(message)):  # --help has all of them
            message = f"there is no command {found[1]!r}"
        self.exit(2, f"{self.prog}: {message}{f'; {hint}' if hint else ''}\n{self.prog} --help has examples\n")

    def _hint(self, message: str) -> str:
        if found := INVALID.search(message):
            return near(found[1], re.findall(r"[\w.-]+", found[2]))
        if found := re.search(r"unrecognized arguments: (--?[\w-]+)", message):
            return near(found[1], [name for action in self._actions for name in action.option_strings])
        return ""


def near(seen: str, names: Iterable[str]) -> str:
    """ "did you mean 'run'?", or nothing."""
    from carrier.errors import did_you_mean

    return did_you_mean(seen, names)


def placed(parser: argparse.ArgumentParser, options: argparse.Namespace, left: Sequence[str]) -> list[str]:
    """Put words that stand behind options where they belong: argparse took those positions for empty before it came to them, as in
    `bridges add --port web john`. Returns what belongs nowhere."""
    words = list(left)
    for action in parser._actions:
        open_ = (
            not action.option_strings and action.nargs == "?" and action.type is None and getattr(options, action.dest) == action.default
        )
        if open_ and words and not words[0].startswith("-") and (action.choices is None or words[0] in action.choices):
            setattr(options, action.dest, words.pop(0))
    return words


def misplaced(arguments: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Options before a command: how it is to be written instead; "" where that is all right (`carrier -c FILE`)."""
    at = next((i for i, argument in enumerate(arguments) if argument in commands and argument != "run"), None)
    if at is None or any(argument in ("-c", "--config") for argument in arguments[:at]):
        return ""
    option, command = arguments[0].partition("=")[0], arguments[at]
    if not any(option in action.option_strings for action in commands[command]._actions):
        return f"carrier {command} has no option {option}"
    return f"put {' '.join(arguments[:at])} after the command: carrier {' '.join([*arguments[at:], *arguments[:at]])}"
