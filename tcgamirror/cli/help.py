"""`help`, `licenses` and `completion`: about the program."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tcgamirror.cli.argtypes import FILES, FOLDERS
from tcgamirror.cli.parser import make_parser
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.model.text import did_you_mean

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


def do_introduction(_args: argparse.Namespace) -> ExitCode:
    """Say what the program is and how to begin, as no command is given."""
    sys.stderr.write(_INTRODUCTION)
    return ExitCode.USAGE_ERROR


def do_help(args: argparse.Namespace) -> ExitCode:
    """Show the list of pages, one page, or a command's --help."""
    _show(_text(args.topic, make_parser()[1]))
    return ExitCode.DONE


def page(topic: str) -> str:
    """Return the Markdown text of a page."""
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
        # Words after the language are for the tests of the examples.
        return re.sub(r"(?m)^(```\w+) .*", r"\1", page(topic))
    if topic in commands:
        return commands[topic].format_help()
    about = [name for name in TOPICS if topic.strip() and topic.lower() in page(name).lower()]
    remedy = did_you_mean(topic, [*TOPICS, *commands]) or (
        f"It stands in: {', '.join(about)}" if about else "See tcgamirror help for the pages."
    )
    raise UsageError(f"help: no page or command {topic!r}. {remedy}")


def _show(text: str) -> None:
    """Show text by the pager on a terminal; write it to stdout elsewhere."""
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


def do_licenses(_args: argparse.Namespace) -> ExitCode:
    """Print the licence of each package: those in the executable, or those installed."""
    if unpacked := getattr(sys, "_MEIPASS", None):
        for path in sorted(Path(unpacked, "licences").iterdir()):
            _print_licence(path.stem, path.read_text(encoding="utf-8"))
        return ExitCode.DONE
    from importlib.metadata import PackageNotFoundError, distribution

    for wanted in distribution("tcgamirror").requires or ():
        if "extra ==" in wanted:
            continue
        try:
            found = distribution(re.split(r"[^\w.-]", wanted)[0])
        except PackageNotFoundError:
            continue
        texts = [
            Path(str(found.locate_file(file))).read_text(encoding="utf-8", errors="replace")
            for file in found.files or ()
            if re.search(r"\.dist-info/.*(licen[cs]e|copying|notice)", str(file), re.IGNORECASE)
        ]
        _print_licence(f"{found.metadata['Name']} {found.version}", "\n\n".join(texts))
    return ExitCode.DONE


def _print_licence(name: str, licence: str) -> None:
    print(f"{name}\n{'=' * len(name)}\n\n{licence.strip()}\n")


def do_completion(args: argparse.Namespace) -> ExitCode:
    print(completion_script(args.shell), end="")
    return ExitCode.DONE


def completion_script(shell: str) -> str:
    """Return the script that the shell reads."""
    import shtab

    program, commands = make_parser()
    folders = dict.fromkeys(FOLDERS, shtab.DIRECTORY)
    paths = folders | dict.fromkeys(FILES, shtab.FILE)
    for parser in (program, *commands.values()):
        for action in parser._actions:
            if action.metavar in paths:
                action.complete = paths[action.metavar]  # type: ignore[attr-defined]
    return shtab.complete(program, shell=shell, root_prefix="tcgamirror")
