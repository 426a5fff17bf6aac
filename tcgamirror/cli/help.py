"""`help`: the pages of the manual, and the --help of each command."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping

from tcgamirror.cli.common import Commands, add_command
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.model.text import did_you_mean

_HELP = """\
show the manual, or the help of a command

Without TOPIC, lists the manual's pages. TOPIC is a page or a command.

  tcgamirror help
  tcgamirror help settings
  tcgamirror help update"""

_INTRODUCTION = """\
tcgamirror keeps an offline mirror of TCGA whole-slide images at a low, known resolution.

Make a mirror of 100 slides at 15 µm per pixel, then fetch its images:
  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror --mirror tcga update

All commands: tcgamirror --help. The manual: tcgamirror help.
"""

TOPICS = (
    *("usage", "recipes", "settings", "catalogue", "operations", "transfer", "cluster"),
    *("table", "python", "development"),
)
"""Pages of the manual, in the order of the list."""

_PAGER = "less"
_LESS = "FRX"
"""Options of `less`: end on a text of one screen, and leave it there (as git does)."""


def introduce(_args: argparse.Namespace) -> ExitCode:
    """Say what the program is and how to begin, as no command is given."""
    sys.stderr.write(_INTRODUCTION)
    return ExitCode.USAGE_ERROR


def help_topic(args: argparse.Namespace) -> ExitCode:
    """Show the list of pages, one page, or a command's --help."""
    _show(_text(args.topic, _commands(args.program)))
    return ExitCode.DONE


def page(topic: str) -> str:
    """Return the Markdown text of a page."""
    from importlib.resources import files

    return (files("tcgamirror") / "manual" / f"{topic}.md").read_text(encoding="utf-8")


def summary(topic: str) -> str:
    """Return the sentence below the title of a page."""
    return page(topic).splitlines()[2]


def columns(view: str) -> dict[str, str]:
    """Return the meanings of a view's columns; empty for a table."""
    _, _, section = page("catalogue").partition(f"\n## The view `{view}`\n")
    _, _, below = section.partition("| column | meaning |\n")
    lines = below.partition("\n\n")[0].splitlines()[1:]
    cells = (line.strip("| ").split(" | ", 1) for line in lines)
    return {name.strip("`"): meaning.replace("`", "") for name, meaning in cells}


def _text(topic: str | None, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    if topic is None:
        width = max(map(len, TOPICS))
        lines = [f"  {name:{width}}  {summary(name)}\n" for name in TOPICS]
        return f"Pages of the manual:\n{''.join(lines)}\ntcgamirror help TOPIC shows one.\n"
    if topic in TOPICS:
        return page(topic)
    if topic in commands:
        return commands[topic].format_help()
    about = [name for name in TOPICS if topic.strip() and topic.lower() in page(name).lower()]
    remedy = did_you_mean(topic, [*TOPICS, *commands]) or (
        f"It stands in: {', '.join(about)}" if about else "See tcgamirror help for the pages."
    )
    raise UsageError(f"help: no page or command {topic!r}. {remedy}")


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    (action,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return action.choices


def _show(text: str) -> None:
    """Show text by the pager on a terminal; write it to stdout elsewhere."""
    import signal
    import subprocess

    pager = shlex.split(os.environ.get("PAGER") or _PAGER)
    if sys.stdout.isatty() and pager:
        # Ctrl-C belongs to the pager.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            environment = {"LESS": _LESS, **os.environ}
            subprocess.run(pager, input=text.encode(), env=environment, check=False)
            return
        except OSError:
            pass  # No such program.
        finally:
            signal.signal(signal.SIGINT, before)
    print(text, end="")


def add_commands(commands: Commands) -> None:
    """Add `help`."""
    command = add_command(commands, "help", help_topic, _HELP)
    command.add_argument("topic", nargs="?", metavar="TOPIC", help="default: list the pages")
