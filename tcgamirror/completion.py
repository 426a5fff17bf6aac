"""What the shells complete, from the parser that makes `--help`."""

from __future__ import annotations

import argparse

import shtab

from tcgamirror.cli.parser import grammar

SHELLS = ("bash", "zsh", "fish")
_PATHS = {
    **dict.fromkeys(("DIR", "DST"), shtab.DIRECTORY),
    **dict.fromkeys(("FILE", "SRC", "DEST"), shtab.FILE),
}
"""What a place-holder in the help stands for."""


def script(shell: str) -> str:
    """The text for the shell to read."""
    parser = grammar()
    _mark_paths(parser)
    return shtab.complete(parser, shell=shell, root_prefix="tcgamirror")


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command)
        elif action.metavar in _PATHS:
            action.complete = _PATHS[action.metavar]  # type: ignore[attr-defined]
