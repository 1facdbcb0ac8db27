"""Names of what runs, for the completion of shells: it is asked at each tab, and says nothing where no carrier answers."""

from __future__ import annotations

from carrier.cli.client import Client, Refused


def names(kind: str) -> list[str]:
    """Names of the running carrier's objects, sorted. kind: see KINDS of carrier/cli/manual.py. Empty when none answers."""
    try:
        client = Client()
        if kind == "sessions":
            return sorted(session["name"] for session in client.call("GET", "sessions"))
        status = client.call("GET", "status")
    except Refused:
        return []
    found: dict[str, set[str]] = {
        "bridges": {bridge["name"] for bridge in status["bridges"]},
        "users": {bridge["user"] for bridge in status["bridges"]},
        "listeners": {listener["name"] for listener in status["listeners"]},
        "rules": {rule["rule"] for listener in status["listeners"] for rule in listener["rules"]},
    }
    return sorted(found[kind])
