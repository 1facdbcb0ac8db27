"""The `carrier` command: run, check, demo.

    carrier run -c FILE [-l LEVEL] [-s] [--allow-dangling] [--state DIR] [--watch] [--drain SECONDS] [--limit NAME=NUMBER] [--admin ...]
    carrier check FILE [--print] [--allow-dangling]
    carrier demo [--once]
    carrier explain | status | top | tail | sessions | bridges | log | apply | dump | diff | doctor | gather    (carrier/cli/commands.py)
    carrier completion SHELL, carrier manual

Exit status: 0 fine; 1 it failed; 2 bad usage or configuration; 3 an address is in use; 5 it ended with work cut. `carrier -c FILE` is
`carrier run -c FILE`, and l7mp's options -o and -i are taken with a warning, so that its command lines go on working. Only argparse is
imported here; what a command needs is imported when it runs, because `carrier --help` should not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from carrier.cli.commands import run as ask
from carrier.cli.manual import commands as commands_of
from carrier.cli.parser import API_LIMITS, DEFAULT_ADMIN, DEFAULT_FILES, FILE_LIMIT, parser
from carrier.cli.usage import misplaced, placed

if TYPE_CHECKING:
    from carrier.config.accesslog import Settings as AccessLog
    from carrier.config.source import Loaded
    from carrier.errors import ConfigError, Error
    from carrier.log import Log
    from carrier.model import Config
    from carrier.process.serve import Settings

OK, FAILED, USAGE, IN_USE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (sys.argv without it) and return its exit status. Usage errors raise SystemExit(2)."""
    began = time.monotonic()
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    top = parser()
    if not arguments or arguments == ["help"]:
        top.print_help()
        return OK if arguments else USAGE
    if arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if arguments == ["version"]:
        arguments = ["--version"]
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "-V", "--version"):
        if wrong := misplaced(arguments, commands_of(top)):
            print(f"carrier: {wrong}", file=sys.stderr)
            return USAGE
        arguments.insert(0, "run")  # as l7mp-proxy.js is called
    options, left = top.parse_known_args(arguments)
    if left:
        left = placed(commands_of(top)[options.command], options, left)
    if left:  # the command's own parser knows what they look like
        commands_of(top)[options.command].error(f"unrecognized arguments: {' '.join(left)}")
    try:
        if options.command == "run":
            return _run(options, began)
        if options.command == "check":
            return _check(options)
        if options.command == "demo":
            return _demo(options)
        if options.command == "connect":
            return _connect(options, began)
        if options.command == "replay":
            from carrier.cli.replay import replay

            return replay(options)
        if options.command == "schema":
            return _schema()
        if options.command in ("completion", "manual"):
            return _write(options)
        return ask(options)
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:  # the reader of our output is gone: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _open_standard_streams() -> None:
    """Whoever started us may have closed standard input, output or error; the next socket would take their numbers, and lines of the log
    would be written into it."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


# ---------------------------------------------------------------------------------------------------------------- carrier manual


def _schema() -> int:
    import json

    from carrier.config.jsonschema import schema

    print(json.dumps(schema(), indent=1))
    return OK


def _write(options: argparse.Namespace) -> int:
    from carrier.cli import manual

    if options.command == "completion" and options.names:
        from carrier.cli.names import names

        print("".join(f"{name}\n" for name in names(options.names)), end="")
        return OK
    if options.command == "completion" and not options.shell:
        print("carrier completion: which shell? bash, zsh or fish", file=sys.stderr)
        return USAGE
    print(manual.page(parser()) if options.command == "manual" else manual.completion(parser(), options.shell), end="")
    return OK


# ---------------------------------------------------------------------------------------------------------------- carrier check


def _check(options: argparse.Namespace) -> int:
    """Every error and every warning of each file."""
    return max([_check_one(options, file) for file in options.files])


def _check_one(options: argparse.Namespace, file: str) -> int:
    from carrier.config.source import render
    from carrier.errors import ConfigError

    try:
        loaded = _load(file, options.allow_dangling, files=True)
    except ConfigError as error:
        return _refuse(error, file)
    if loaded.warnings:
        print(render(loaded.warnings, loaded.text, file, "warning"), file=sys.stderr if options.print else sys.stdout)
    config = loaded.config
    if options.print:
        import json

        import yaml

        from carrier.config.document import to_document

        document = json.loads(json.dumps(to_document(config)))  # what is shared is written out each time: YAML would make aliases of it
        print(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120), end="")
        return OK
    counts = ", ".join(_number(len(getattr(config, f"{kind}s")), kind) for kind in ("listener", "cluster", "rule"))
    print(f"{file}: fine ({counts}; {_number(len(loaded.warnings), 'warning')})")
    return OK


def _load(file: str, allow_dangling: bool, files: bool = False, objects: int | None = None) -> Loaded:
    from carrier.config.bounds import FILE_OBJECTS
    from carrier.config.source import load

    path = "/dev/stdin" if file == "-" else file
    return load(path, allow_dangling=allow_dangling, files=files, objects=FILE_OBJECTS if objects is None else objects)


def _refuse(error: ConfigError, file: str) -> int:
    """Show what is wrong with a file, with the lines in question."""
    from carrier import files
    from carrier.config.source import MAX_FILE, render

    text = ""
    if any(problem.line for problem in error.problems):
        with contextlib.suppress(files.Unreadable):
            text = files.read(file, MAX_FILE).decode("utf-8-sig", "replace")
    print(render(error.problems, text, file), file=sys.stderr)
    print(f"{file}: refused ({_number(len(error.problems), 'error')})", file=sys.stderr)
    return USAGE


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# ---------------------------------------------------------------------------------------------------------------- carrier connect


def _connect(options: argparse.Namespace, began: float) -> int:
    """Carry FROM to TO until a signal comes, or standard input has ended. There is no API."""
    from carrier.cli.connect import document, text_of
    from carrier.config.document import from_document
    from carrier.errors import ConfigError, Error
    from carrier.log import open_log
    from carrier.process.reload import with_admin
    from carrier.process.serve import Settings, run

    try:
        made = document(options.source, options.destination)
        if options.print:
            print(text_of(made), end="")
            return OK
        config = with_admin(from_document(made)[0], options.log_level, False)
        return run(config, open_log(options.log_level), Settings(admin=None, metrics=False), began)
    except ValueError as exc:
        print(f"carrier connect: {exc}", file=sys.stderr)
    except ConfigError as error:
        for problem in error.problems:
            print(f"carrier connect: {problem.message}{f' (allowed: {problem.allowed})' if problem.allowed else ''}", file=sys.stderr)
    except Error as error:
        print(f"carrier connect: {error.detail}{_bind_hint(error)}", file=sys.stderr)
        return IN_USE if _in_use(error) else FAILED
    return USAGE


# ---------------------------------------------------------------------------------------------------------------- carrier run


def _run(options: argparse.Namespace, began: float) -> int:
    """Load, open the log, serve."""
    from carrier.errors import ConfigError, Error
    from carrier.log import open_log
    from carrier.process.reload import with_admin

    problem = _open_door(options)
    if options.config is None:
        options.config = next(filter(os.path.exists, DEFAULT_FILES), None)
        problem = problem or (
            "" if options.config else f"there is no {', '.join(DEFAULT_FILES[:-1])} here and no {DEFAULT_FILES[-1]}: say -c FILE"
        )
    if problem:
        print(f"carrier run: {problem}", file=sys.stderr)
        return USAGE
    gc.disable()  # until it serves: nothing of a configuration is garbage, and to look for some took a fifth of the start
    try:
        loaded = _load(options.config, options.allow_dangling, objects=_objects(options))
        config = with_admin(loaded.config, options.log_level, options.strict)
        log = open_log(config.admin.log_level, config.admin.log_file, options.log_format)
    except ConfigError as error:
        return _refuse(error, options.config)
    _warn(log, options, loaded)

    from carrier.process.serve import run

    try:
        return run(config, log, _settings(options, loaded), began)
    except ConfigError as error:
        return _refuse(error, options.config)
    except Error as error:
        print(f"carrier run: {error.detail}{_bind_hint(error)}", file=sys.stderr)
        return IN_USE if _in_use(error) else USAGE if error.kind == "config" else FAILED


def _open_door(options: argparse.Namespace) -> str:
    """What is wrong with where the API shall listen, or nothing."""
    if bool(options.admin_ca or options.admin_key) and not options.admin_cert:
        return "--admin-ca and --admin-key need --admin-cert: certificates of clients are asked for over TLS"
    locked = options.admin_tokens or options.admin_ca or options.insecure_admin
    if not locked and options.admin is not None and not _is_loopback(options.admin[0]):
        return (
            f"--admin {options.admin[0]} is open to other machines and the REST API has no lock; give a loopback address, "
            "--admin-tokens FILE, --admin-ca FILE, or say --insecure-admin"
        )
    return ""


def _objects(options: argparse.Namespace) -> int | None:
    """How many objects the configuration file may hold, if that was said."""
    given = dict(options.limit).get(FILE_LIMIT)
    return None if given is None else int(given)


def _settings(options: argparse.Namespace, loaded: Loaded) -> Settings:
    """What the command line says about the process."""
    import msgspec

    from carrier.admin.gate import Limits
    from carrier.process.reload import with_admin
    from carrier.process.serve import Settings
    from carrier.proxy.overload import own_bounds

    given = dict(options.limit)
    api = {name: given[f"api.{name}"] for name in API_LIMITS if f"api.{name}" in given}
    own = {name: number for name, number in given.items() if "." not in name}
    fractions = ("request_timeout", "writes", "lag")
    api, own = ({name: n if name in fractions else int(n) for name, n in found.items()} for found in (api, own))
    return Settings(
        admin=options.admin,
        admin_asked=options.admin is not DEFAULT_ADMIN,  # also when it was asked for by its number
        insecure_admin=options.insecure_admin,
        drain=options.drain,
        delay=options.drain_delay,
        socket=None if options.admin_socket == "off" else options.admin_socket,
        health=options.health,
        tokens=options.admin_tokens,
        ca=options.admin_ca,
        certificate=options.admin_cert,
        key=options.admin_key,
        names=tuple(options.admin_name),
        trust_loopback=options.trust_loopback,
        limits=msgspec.structs.replace(Limits(), **api),
        bounds=msgspec.structs.replace(own_bounds(), **own),
        state=options.state,
        watch=options.watch,
        objects=_objects(options),
        file=None if options.config == "-" else options.config,
        text=loaded.text,
        conditions=loaded.conditions,
        allow_dangling=options.allow_dangling,
        adjust=lambda config: with_admin(config, options.log_level, options.strict),
        access_log_of=partial(_access_log, options),
        metrics=not options.no_metrics,
        page=not options.no_page,
    )


def _access_log(options: argparse.Namespace, config: Config) -> AccessLog | None:
    """What a file says of the access log, with what the command line says laid over it."""
    import msgspec

    from carrier.config import accesslog as access

    found = access.settings_of(config)
    if options.access_log:
        found = msgspec.structs.replace(found or access.Settings(options.access_log), path=options.access_log)
    if found is not None and options.access_log_format:
        found = msgspec.structs.replace(found, format=options.access_log_format)
    return found


def _warn(log: Log, options: argparse.Namespace, loaded: Loaded) -> None:
    """Say what was taken and has no effect, or an odd one."""
    admin = loaded.config.admin
    for problem in loaded.warnings:
        log.warn(problem.message, line=problem.line or None, hint=problem.hint or None)
    if options.offload is not None or options.offload_ifs is not None or admin.offload not in (None, False, "disable"):
        log.warn("kernel offload is not there yet: sessions are carried in user space", options="-o -i admin.offload")

    if options.insecure_admin:
        log.warn("--insecure-admin: whoever reaches the REST API's address commands this proxy")


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _in_use(error: Error) -> bool:
    """Is it an address that somebody has already? A bind error says in words which errno it was."""
    said = (os.strerror(errno.EADDRINUSE), "EADDRINUSE", "has it already")
    return error.kind == "bind" and any(words in error.detail for words in said)


def _bind_hint(error: Error) -> str:
    """Who has the address, or what a low port needs; "" when there is nothing to say."""
    found = re.search(r"Could not bind to \S*:(\d+): ", error.detail) if error.kind == "bind" else None
    if found is None:
        return ""
    if _in_use(error):
        from carrier.cli.occupant import occupant

        who = occupant(int(found[1]), udp=error.detail.startswith("UDPListener"))
        return f": {who} has it" if who and not error.detail.endswith("has it already") else ""
    low = int(found[1]) < 1024 and os.strerror(errno.EACCES) in error.detail
    return "; a port below 1024 takes root, CAP_NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start" if low else ""


# ---------------------------------------------------------------------------------------------------------------- carrier demo


def _demo(options: argparse.Namespace) -> int:
    from carrier.cli.demo import main as demo

    return demo(once=options.once)
