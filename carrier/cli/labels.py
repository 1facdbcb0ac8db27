"""Implicit name -> what to show instead, of rules and clusters."""

from __future__ import annotations

from collections.abc import Mapping

from carrier.cli.client import Dict


def labels(status: Dict) -> Mapping[str, str]:
    """Made of what GET /status shows."""
    rules = [(rule["rule"], rule["label"]) for listener in status["listeners"] for rule in listener["rules"]]
    return dict(rules + [(cluster["name"], cluster["label"]) for cluster in status["clusters"]])
