"""The helpers that start commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command import ROOT

IN_BACKGROUND = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.argv[1] == "tests":
    from tests.support.command import pass_on_interrupts
    pass_on_interrupts()
child = "import signal; print(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)"
signal.raise_signal(signal.SIGINT)
print(subprocess.check_output([sys.executable, "-c", child], text=True), end="")
"""
"""A program that a shell started by `command &`, and that starts another."""


@pytest.mark.parametrize(("who", "heeded"), [("tests", "True\n"), ("others", "False\n")])
def test_commands_obey_ctrl_c_though_the_tests_run_in_the_background(who: str, heeded: str) -> None:
    command = [sys.executable, "-c", IN_BACKGROUND, who]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == heeded
