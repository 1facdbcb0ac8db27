"""`carrier explain`: asks why a request would go where it would."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from carrier.cli.client import FAILED, OK, USAGE, Client, Dict
from carrier.cli.page import Page, show


def _asked(options: argparse.Namespace) -> Dict:
    """The session that the command line describes."""
    body: Dict = {name: value for name in ("listener", "source", "sni") if (value := getattr(options, name)) is not None}
    if options.method is not None and options.path is None and (options.method.startswith("/") or "://" in options.method):
        options.method, options.path = "GET", options.method
    if options.method is not None:
        body["method"] = options.method
    if options.path is not None:
        body["path"] = options.path
    if options.header:
        body["headers"] = [list(pair) for pair in options.header]
    return body


def explain(options: argparse.Namespace, client: Client, page: Page) -> int:
    said = client.send("POST", "explain", _asked(options))
    users = {}
    if options.user is not None:
        status = client.call("GET", "status")
        users = {rule["rule"]: rule["user"] for listener in status["listeners"] for rule in listener["rules"]}
    return _show_explanation(options, page, said, users)


def explain_file(options: argparse.Namespace, page: Page) -> int:
    """By the tables of a file: nothing runs."""
    import asyncio

    import msgspec

    from carrier.admin.imagine import ask, offline
    from carrier.config.source import load
    from carrier.core.env import Env
    from carrier.errors import ConfigError, Error

    loop = asyncio.new_event_loop()
    try:
        config = load(options.config, allow_dangling=True).config
        said = ask(_asked(options), config, offline(config, Env(loop)))
    except ConfigError as error:
        for problem in error.problems:
            print(f"carrier explain: {problem}", file=sys.stderr)
        return USAGE
    except Error as error:
        print(f"carrier explain: {error.detail}", file=sys.stderr)
        return USAGE
    finally:
        loop.close()
    users = {name: config.bridges[rule.bridge].user for name, rule in config.rules.items() if rule.bridge in config.bridges}
    return _show_explanation(options, page, msgspec.to_builtins(said), users)


def _show_explanation(options: argparse.Namespace, page: Page, said: Dict, users: Mapping[str, str]) -> int:
    """users: rule -> the user whose bridge it is."""
    if not show(options, said):
        import msgspec

        from carrier.cli.explained import render
        from carrier.rules.explain import Explanation

        def wanted(rule: str) -> bool:
            return options.rule == rule or (options.user is not None and users.get(rule) == options.user)

        chosen = None if options.rule is None and options.user is None else wanted
        found = msgspec.convert(said, Explanation)
        print(render(found, page.utf8, chosen), end="")
        if chosen is not None and not any(chosen(report.rule) for step in found.steps for report in step.rules):
            whose = f"there is no rule {options.rule!r}" if options.rule is not None else f"user {options.user!r} has no rule"
            print(f"carrier explain: {whose} among those that were asked", file=sys.stderr)
            return FAILED
    return OK
