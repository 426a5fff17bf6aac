"""`schedule`: print files that run the nightly update by cron, systemd or Slurm.

Sources: crontab(5), systemd.syntax(7), systemd.service(5), sbatch(1).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tcgamirror.cli.common import Commands, add_command, open_mirror
from tcgamirror.model.errors import ExitCode, UsageError

LONGEST_CRON_COMMAND = 990
"""Bytes; Debian's and Vixie's cron cut longer commands."""

HOURS_AT_MOST = 8
"""Limit of one night's run on Slurm; the rest is fetched in the next night."""

_UNSAFE_IN_A_UNIT = re.compile(r"[^A-Za-z0-9_-]+")

_SCHEDULE = """\
print a file that runs the nightly update

Changes nothing: the printed file says where it belongs.

--time HH:MM  local time of day (default: 02:15)

  tcgamirror --mirror tcga schedule cron --time 03:30
  tcgamirror --mirror tcga schedule systemd
  tcgamirror --mirror tcga schedule slurm > tcga.sbatch"""


class Night:
    """The nightly update of one mirror.

    program: words that start this program. mirror: absolute path. hour, minute: local time.
    """

    def __init__(self, program: Sequence[str], mirror: str, hour: int, minute: int) -> None:
        for word in (*program, mirror):
            if not word.isprintable():
                raise UsageError(
                    f"{word!r}: has a line end or another sign that no schedule can hold. "
                    "Rename the directory"
                )
        self.program = program
        self.mirror = mirror
        self.hour = hour
        self.minute = minute

    @property
    def time(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"

    @property
    def name(self) -> str:
        """Name of the job, made of that of the mirror's directory."""
        last = self.mirror.rstrip("/").rpartition("/")[2]
        return "tcgamirror-" + (_UNSAFE_IN_A_UNIT.sub("-", last).strip("-") or "mirror")

    @property
    def output(self) -> str:
        """Path of the file for the output."""
        return f"{self.mirror}/nightly.log"

    def words(self, *more: str) -> tuple[str, ...]:
        """Return the words of the command to run."""
        log = f"{self.mirror}/nightly.jsonl"
        return (*self.program, "--mirror", self.mirror, "update", "--log", log, *more)


def time_of_day(text: str) -> tuple[int, int]:
    """Return hour and minute.

    >>> time_of_day("02:15")
    (2, 15)
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"invalid time of day {text!r:.60}. Expected one such as 02:15"
        )
    return int(match[1]), int(match[2])


def cron(night: Night) -> str:
    """Return lines for `crontab -e`; raise UsageError for a command too long for cron."""
    command = f"{shlex.join(night.words())} >> {shlex.quote(night.output)} 2>&1"
    line = in_cron(command)
    if len(line.encode()) > LONGEST_CRON_COMMAND:
        raise UsageError(
            f"cron: the command has {len(line.encode())} bytes, more than {LONGEST_CRON_COMMAND}. "
            "Use schedule systemd, or shorter paths"
        )
    return f"""\
# Add this to the table that `crontab -e` edits. A run that meets another ends at once.
{night.minute} {night.hour} * * * {line}
"""


def in_cron(command: str) -> str:
    r"""Return a shell command for crontab, in which every % is escaped because it ends a command.

    cron would take a backslash of the command before a % for the escape. A pair of quotes
    between them, which the shell drops, prevents that. `shlex.quote` has quoted such a word.

    >>> print(in_cron("ls '100%'"))
    ls '100\%'
    >>> print(in_cron(shlex.quote("a" + chr(92) + "%")))
    'a\''\%'
    """
    return command.replace("\\%", "\\''%").replace("%", "\\%")


def systemd(night: Night) -> str:
    """Return a service and its timer, one after the other."""
    command = " ".join(_in_unit(word, first=not at) for at, word in enumerate(night.words()))
    return f"""\
# Two files for ~/.config/systemd/user/ (or, with User= in [Service], /etc/systemd/system/).
# Then: systemctl --user daemon-reload; systemctl --user enable --now {night.name}.timer
# and, so that it runs while you are not logged in: loginctl enable-linger
# What it prints: journalctl --user --unit {night.name}

# ---- {night.name}.service
[Unit]
Description=Nightly update of {_percent(night.mirror)}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
# 5: another run holds the mirror, and does the work.
SuccessExitStatus=5
Nice=10

# ---- {night.name}.timer
[Unit]
Description=Every night: update of {_percent(night.mirror)}

[Timer]
OnCalendar=*-*-* {night.time}:00
RandomizedDelaySec=15min
Persistent=true

[Install]
WantedBy=timers.target
"""


def _in_unit(word: str, *, first: bool) -> str:
    """Return a quoted word of ExecStart=; in the first word, a path, $ means nothing."""
    quoted = _percent(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted if first else quoted.replace("$", "$$")}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def slurm(night: Night) -> str:
    """Return a batch script that submits itself for the next night before it starts."""
    command = _wrapped(night.words("--time-limit", f"{HOURS_AT_MOST - 1}h"))
    return f"""\
#!/bin/bash
# Save this as a file and submit it once: sbatch FILE. It submits itself for every next night.
# To end that: scancel --name={night.name}
# Its node needs a way to the internet: many clusters have a partition for transfers. Add here
# what yours asks for, such as #SBATCH --partition=transfer or --account=...
#SBATCH --job-name={night.name}
#SBATCH --dependency=singleton
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time={HOURS_AT_MOST:02}:00:00
#SBATCH --output=/dev/null

exec >> {shlex.quote(night.output)} 2>&1

next=$(date --date='tomorrow {night.time}' +%Y-%m-%dT%H:%M:%S)
submitted=0
sbatch --begin="$next" "$0" || submitted=$?

code=0
{command} || code=$?
# 5: another run holds the mirror, and does the work.
if [ "$code" -eq 0 ] || [ "$code" -eq 5 ]; then
    exit "$submitted"
fi
exit "$code"
"""


def _wrapped(words: Sequence[str]) -> str:
    """Return a shell command with each option on a line of its own."""
    lines = [shlex.quote(words[0])]
    for word in words[1:]:
        if word.startswith("--") or word == "update":
            lines.append(f"    {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def schedule(args: argparse.Namespace) -> ExitCode:
    mirror = os.path.normpath(open_mirror(args).root.absolute())
    night = Night(_program(), mirror, *args.time)
    write = {"cron": cron, "systemd": systemd, "slurm": slurm}[args.system]
    print(write(night), end="")
    return ExitCode.DONE


def _program() -> tuple[str, ...]:
    """Return words that start this program from anywhere.

    Links are kept: they outlast the versions they point to, and a virtual environment
    is known by its own link to Python.
    """
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    started = sys.argv[0]
    found = Path(started if os.sep in started else shutil.which(started) or started).absolute()
    if found.suffix == ".py" or not os.access(found, os.X_OK):
        return sys.executable, str(found)
    return (str(found),)


def add_commands(commands: Commands) -> None:
    """Add `schedule`."""
    time = {"type": time_of_day, "default": "02:15"}
    command = add_command(commands, "schedule", schedule, _SCHEDULE, time=time)
    command.add_argument("system", choices=["cron", "systemd", "slurm"])
