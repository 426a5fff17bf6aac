"""The man page and the shells' completions, from the parser that makes `--help`.

`manual.py DIR` writes them to DIR.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tcgamirror import __version__
from tcgamirror.cli.parser import make_parser
from tcgamirror.cli.support import SHELLS, completion_script

NAMES = {"bash": "tcgamirror.bash", "zsh": "_tcgamirror", "fish": "tcgamirror.fish"}
SYNOPSIS = "\\fBtcgamirror\\fR [\\fB\\-\\-mirror\\fR \\fIDIR\\fR] \\fICOMMAND\\fR ..."
VARIABLES = (
    ("TCGAMIRROR", "the mirror, where --mirror is not given"),
    ("TCGAMIRROR_CACHE", "where the executable keeps its unpacked copy, instead of ~/.cache"),
    ("TCGAMIRROR_DEBUG", "set to 1, a bug tells where it is"),
    ("http_proxy, https_proxy, no_proxy", "as elsewhere"),
    ("SSL_CERT_FILE", "the certificates to trust, instead of the program's own"),
)
FILES = (
    ("DIR/tcgamirror.toml", "the mirror's settings; edit them"),
    ("DIR/catalogue.db", "what is known, as SQLite; query it"),
    ("DIR/images/", "the images"),
    ("DIR/work/", "partial downloads; safe to delete while nothing runs"),
)


def escaped(text: str) -> str:
    r"""Text as roff shows it, whatever it holds.

    >>> escaped(".--mirror's \\")
    '\\&.\\-\\-mirror\\(aqs \\e'
    """
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def verbatim(text: str) -> Iterator[str]:
    yield from (".PP", ".nf", escaped(text), ".fi")


def invocation(action: argparse.Action) -> str:
    """An option or argument as it is typed, the fixed parts in bold."""
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
    value = action.metavar or choices
    if not action.option_strings:
        return f"\\fI{escaped(str(value or action.dest))}\\fR"
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{escaped(str(value))}\\fR"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option that --help shows, but --help itself."""
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction)
        if not hidden and not isinstance(action, argparse._SubParsersAction):
            yield from (".TP", invocation(action), escaped(str(action.help or "")))


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from (f".SS {escaped(name)}", escaped(command.description or ""))
                yield from options(command)
                if command.epilog:
                    yield from verbatim(command.epilog)


def page(date: str) -> str:
    """The man page's roff text."""
    parser = make_parser()
    about = " ".join((parser.description or "").split())
    lines = [f'.TH TCGAMIRROR 1 "{date}" "tcgamirror {__version__}" "User Commands"']
    lines += [".SH NAME", f"tcgamirror \\- {escaped(about[0].lower() + about[1:].rstrip('.'))}"]
    lines += [".SH SYNOPSIS", SYNOPSIS]
    lines += [".SH DESCRIPTION", escaped(about), *verbatim(parser.epilog or "")]
    lines += [".SH OPTIONS", *options(parser), ".SH COMMANDS", *commands(parser)]
    for title, rows in (("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for name, words in rows:
            lines += [".TP", f"\\fB{escaped(name)}\\fR", escaped(words)]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    (folder / "tcgamirror.1").write_text(page(date), encoding="utf-8")
    completions = folder / "completions"
    completions.mkdir(exist_ok=True)
    for shell in SHELLS:
        (completions / NAMES[shell]).write_text(
            completion_script(make_parser(), shell), encoding="utf-8"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
