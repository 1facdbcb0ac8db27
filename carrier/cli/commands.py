"""The commands that ask a running carrier: explain, status, top, tail, sessions, bridges, log, apply, dump, diff, doctor, gather.

Each is one function of the parsed command line, which calls the REST API (`Client`: the unix socket when it is there, else TCP; a token
where one is needed), prints what a person needs and returns an exit status. `--json` prints the API's answer as it is. On a terminal
there are headings and colours; piped there are only lines of fields, so that other programs need not cut them off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from carrier.cli.bridges import bridges
from carrier.cli.changes import apply, diff, dump
from carrier.cli.client import FAILED, USAGE, Client, Refused, reason
from carrier.cli.doctor import doctor
from carrier.cli.gather import gather
from carrier.cli.page import Page, complain
from carrier.cli.record import record
from carrier.cli.status import log_level, sessions, status
from carrier.cli.tail import tail
from carrier.cli.top import top
from carrier.cli.why import explain, explain_file


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    try:
        return _run(options)
    except (BrokenPipeError, KeyboardInterrupt):  # the reader of our output is gone
        raise
    except (OSError, ValueError) as exc:  # a file of the caller's
        where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
        print(f"carrier {options.command}: {where}{reason(exc)}", file=sys.stderr)
        return USAGE
    except Exception as exc:  # an answer may be anything: who answers need be no carrier
        text = f"what answers is no carrier, or another version of it: {type(exc).__name__}: {exc}"
        print(f"carrier {options.command}: {text}", file=sys.stderr)
        return FAILED


def _run(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace, Client, Page], int] = COMMANDS[options.command]
    try:
        if options.command == "explain" and options.config:
            return explain_file(options, Page())
        return command(options, Client(options.admin, _token(options.token_file)), Page())
    except Refused as error:
        complain(options, error)
        return USAGE if options.command == "diff" else FAILED  # 1 says that there is a difference, as with diff(1)


def _token(file: str | None) -> str | None:
    """The first token of a file, as the API's own file may have it: NAME TOKEN ROLE, or TOKEN. Raises ValueError."""
    if not file:
        return None
    from carrier import files

    try:
        lines = files.read(file, 1 << 20).decode("utf-8", "replace").splitlines()
    except files.Unreadable as exc:
        raise ValueError(f"{file}: {exc}") from None
    words = next(filter(None, (line.partition("#")[0].split() for line in lines)), None)
    if words is None:
        raise ValueError(f"{file}: there is no token in it")
    return words[min(1, len(words) - 1)]


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Client, Page], int]] = {
    "explain": explain,
    "status": status,
    "sessions": sessions,
    "bridges": bridges,
    "log": log_level,
    "tail": tail,
    "record": record,
    "top": top,
    "doctor": doctor,
    "gather": gather,
    "apply": apply,
    "dump": dump,
    "diff": diff,
}
