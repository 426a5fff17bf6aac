"""Make the man page and the shells' completions from the parser that makes `--help`.

`man_page.py DIR` writes them to DIR.
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
from tcgamirror.cli.commands import SHELLS
from tcgamirror.cli.help import completion_script
from tcgamirror.cli.parser import make_parser

NAMES = {"bash": "tcgamirror.bash", "zsh": "_tcgamirror", "fish": "tcgamirror.fish"}
SYNOPSIS = "\\fBtcgamirror\\fR [\\fB\\-\\-mirror\\fR \\fIDIR\\fR] \\fICOMMAND\\fR ..."
VARIABLES = (
    ("TCGAMIRROR", "the mirror, where --mirror is not given"),
    ("TCGAMIRROR_CACHE", "where the executable keeps its unpacked copy, instead of ~/.cache"),
    ("TCGAMIRROR_DEBUG", "set to 1, a bug prints its traceback"),
    ("http_proxy, https_proxy, no_proxy", "proxies, and hosts without one"),
    ("SSL_CERT_FILE", "the certificates to trust, instead of the program's own"),
)
FILES = (
    ("DIR/tcgamirror.toml", "the mirror's settings; edit them"),
    ("DIR/catalogue.db", "the catalogue, as SQLite; query it"),
    ("DIR/images/", "the images"),
    ("DIR/work/", "partial downloads (safe to delete while nothing runs), shards' records"),
)


def escape(text: str) -> str:
    r"""Return roff source that shows the text.

    >>> escape(".--mirror's \\")
    '\\&.\\-\\-mirror\\(aqs \\e'
    """
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def verbatim(text: str) -> Iterator[str]:
    """Yield roff lines that keep the text's line breaks."""
    yield from (".PP", ".nf", escape(text), ".fi")


def invocation(action: argparse.Action) -> str:
    """Return an option or argument as it is typed, with fixed parts in bold."""
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
    value = action.metavar or choices
    if not action.option_strings:
        return f"\\fI{escape(str(value or action.dest))}\\fR"
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{escape(str(value))}\\fR"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield roff lines for every option that --help shows, but --help itself."""
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction)
        if not hidden and not isinstance(action, argparse._SubParsersAction):
            yield from (".TP", invocation(action), escape(str(action.help or "")))


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from (f".SS {escape(name)}", escape(command.description or ""))
                yield from options(command)
                if command.epilog:
                    yield from verbatim(command.epilog)


def page(date: str) -> str:
    """Return the man page as roff source."""
    parser, _ = make_parser()
    about = " ".join((parser.description or "").split())
    lines = [f'.TH TCGAMIRROR 1 "{date}" "tcgamirror {__version__}" "User Commands"']
    lines += [".SH NAME", f"tcgamirror \\- {escape(about[0].lower() + about[1:].rstrip('.'))}"]
    lines += [".SH SYNOPSIS", SYNOPSIS]
    lines += [".SH DESCRIPTION", escape(about), *verbatim(parser.epilog or "")]
    lines += [".SH OPTIONS", *options(parser), ".SH COMMANDS", *commands(parser)]
    lines += [".SH MANUAL", "\\fBtcgamirror help\\fR shows the manual."]
    for title, rows in (("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for name, words in rows:
            lines += [".TP", f"\\fB{escape(name)}\\fR", escape(words)]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    (folder / "tcgamirror.1").write_text(page(date), encoding="utf-8")
    completions = folder / "completions"
    completions.mkdir(exist_ok=True)
    for shell in SHELLS:
        (completions / NAMES[shell]).write_text(completion_script(shell), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
