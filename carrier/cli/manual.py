"""The man page and the completion of shells, made from the command's parser, so that they cannot say anything else than it does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

FILES = ("FILE", "DIR", "PATH")
"""Metavars whose values are names of files."""
KINDS = ("bridges", "listeners", "rules", "sessions", "users")
"""What a completion asks the running carrier for: `carrier completion --names KIND`."""
OPTION_NAMES = {"--listener": "listeners", "--rule": "rules", "--user": "users"}
PLACE_NAMES = {"bridges": "bridges", "sessions": "sessions"}
"""Commands whose NAME is one of these."""
Parsers = Mapping[str, argparse.ArgumentParser]


def commands(top: argparse.ArgumentParser) -> Parsers:
    """The subcommands of a parser, by name."""
    found = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    choices: Parsers = found.choices
    return choices


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in _actions(parser) for name in action.option_strings]


def _short(top: argparse.ArgumentParser, name: str) -> str:
    """The one-line help of a subcommand."""
    group = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return str(next((choice.help for choice in group._choices_actions if choice.dest == name), "") or "")


# --- the man page (man(7)) ---------------------------------------------------------------------------------------------------------------


def page(top: argparse.ArgumentParser) -> str:
    """The man page, as roff."""
    return "\n".join(_page(top)) + "\n"


def _page(top: argparse.ArgumentParser) -> Iterator[str]:
    yield f'.TH {top.prog.upper()} 1 "" "Carrier2" "User Commands"'
    yield ".SH NAME"
    yield rf"{top.prog} \- {_text(str(top.description))}"
    yield ".SH SYNOPSIS"
    for name, parser in commands(top).items():
        words = [f"[{_name(action)}]" if _is_optional(action) else _name(action) for action in _actions(parser) if action.dest != "help"]
        yield rf".B {top.prog} {name}"
        yield _text(" ".join(words))
        yield ".br"
    for name, parser in commands(top).items():
        yield f".SH {name.upper()}"
        yield _text(str(parser.description or _short(top, name)))
        for action in _actions(parser):
            yield ".TP"
            yield rf"\fB{_text(_name(action))}\fR"
            yield _text(str(action.help or "") % {"default": action.default, "prog": parser.prog})
    yield ".SH EXIT STATUS"
    yield _text(str(top.epilog).removeprefix("Exit status: "))
    yield ".SH ENVIRONMENT"
    yield ".TP\n\\fBCARRIER_ADMIN\\fR\nWhere the REST API is: a unix socket or HOST:PORT."
    yield ".TP\n\\fBCARRIER_TOKEN\\fR\nThe bearer token for it."


def _is_optional(action: argparse.Action) -> bool:
    return not action.required if action.option_strings else action.nargs in ("?", "*")


def _name(action: argparse.Action) -> str:
    """`-H, --header 'NAME: VALUE'`, or the name of a positional argument."""
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    return f"{', '.join(action.option_strings)} {value}".strip() if action.option_strings else value


def _text(text: str) -> str:
    """Text as roff takes it: backslashes and minus signs escaped, no line that begins with a control character."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + escaped if escaped[:1] in (".", "'") else escaped


# --- completion --------------------------------------------------------------------------------------------------------------------------


def completion(top: argparse.ArgumentParser, shell: str) -> str:
    """The completion script. shell: bash, zsh or fish."""
    return "\n".join({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](top)) + "\n"


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """What may stand after a subcommand: options, and the choices of positional arguments."""
    choices = [str(choice) for action in _actions(parser) if not action.option_strings for choice in action.choices or ()]
    return [*_options(parser), *choices]


def _takes_files(parser: argparse.ArgumentParser) -> bool:
    return any(not action.option_strings and action.metavar in FILES for action in _actions(parser))


def _bash(top: argparse.ArgumentParser) -> Iterator[str]:
    """bash(1), Programmable Completion."""
    yield f"_{top.prog}() {{"
    yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '  if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'    COMPREPLY=($(compgen -W "{" ".join(commands(top))} {" ".join(_options(top))}" -- "$word"))'
    yield "    return"
    yield "  fi"
    yield '  case "${COMP_WORDS[1]} $before" in'
    for name, parser in commands(top).items():
        for action in _actions(parser):
            if action.option_strings and action.nargs != 0:
                patterns = "|".join(f'"{name} {option}"' for option in action.option_strings)
                yield f"    {patterns}) COMPREPLY=({_bash_values(action)}); return ;;"
    yield "  esac"
    yield '  case "${COMP_WORDS[1]}" in'
    for name, parser in commands(top).items():
        files = ' $(compgen -f -- "$word")' if _takes_files(parser) else ""
        if name in PLACE_NAMES:
            files += f' $([ "$COMP_CWORD" -ge 3 ] && {_asked(top.prog, PLACE_NAMES[name])})'
        yield f'    {name}) COMPREPLY=($(compgen -W "{" ".join(_words(parser))}" -- "$word"){files}) ;;'
    yield "  esac"
    yield "}"
    yield f"complete -o filenames -F _{top.prog} {top.prog}"


def _asked(prog: str, kind: str) -> str:
    """Names of objects that run, as words that begin as the one that is typed; nothing when no carrier answers."""
    return f'compgen -W "$({prog} completion --names {kind} 2>/dev/null)" -- "$word"'


def _bash_values(action: argparse.Action, prog: str = "carrier") -> str:
    kind = next((OPTION_NAMES[name] for name in action.option_strings if name in OPTION_NAMES), None)
    if kind is not None:
        return f"$({_asked(prog, kind)})"
    if action.choices:
        return f'$(compgen -W "{" ".join(map(str, action.choices))}" -- "$word")'
    return '$(compgen -f -- "$word")' if action.metavar in FILES else ""


def _zsh(top: argparse.ArgumentParser) -> Iterator[str]:
    """zsh has bash's completion, when it is asked to (zshcompsys(1), bashcompinit)."""
    yield f"#compdef {top.prog}"
    yield "autoload -U +X bashcompinit && bashcompinit"
    yield from _bash(top)


def _fish(top: argparse.ArgumentParser) -> Iterator[str]:
    """fish: complete(1)."""
    names = " ".join(commands(top))
    yield f"complete -c {top.prog} -f"
    for name, parser in commands(top).items():
        yield f"complete -c {top.prog} -n 'not __fish_seen_subcommand_from {names}' -a {name} -d {_quoted(_short(top, name))}"
        for action in _actions(parser):
            yield from _fish_action(top.prog, name, action)


def _fish_action(prog: str, command: str, action: argparse.Action) -> Iterator[str]:
    start = f"complete -c {prog} -n '__fish_seen_subcommand_from {command}'"
    choices = f" -a {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
    kind = next((OPTION_NAMES[name] for name in action.option_strings if name in OPTION_NAMES), None)
    if kind is None and action.metavar == "NAME" and not action.option_strings:
        kind = PLACE_NAMES.get(command)
    if kind is not None:
        choices = f" -a '({prog} completion --names {kind} 2>/dev/null)'"
    files = " -F" if action.metavar in FILES else ""
    if not action.option_strings:
        if choices or files:
            yield f"{start}{choices}{files}"
        return
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in action.option_strings)
    value = "" if action.nargs == 0 else f" -r{choices}{files}"
    yield f"{start}{names}{value} -d {_quoted(str(action.help or ''))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
