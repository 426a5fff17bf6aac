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
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.cli.common import Commands, add_command, open_mirror
from tcgamirror.model.errors import ExitCode, UsageError

LONGEST_CRON_COMMAND = 990
"""Characters; Debian's and Vixie's cron cut what is longer."""

HOURS_AT_MOST = 8
"""Of one night's run, for systems that want a bound; what is left waits for the next night."""

_UNSAFE_IN_A_UNIT = re.compile(r"[^A-Za-z0-9_-]+")

_EXAMPLES = """
  tcgamirror --mirror tcga schedule cron --time 03:30
  tcgamirror --mirror tcga schedule systemd
  tcgamirror --mirror tcga schedule slurm > tcga.sbatch"""


@dataclass(frozen=True, slots=True)
class Night:
    """program: the words that start this program. mirror: its path, absolute. When, local time."""

    program: tuple[str, ...]
    mirror: str
    hour: int
    minute: int

    def __post_init__(self) -> None:
        for word in (*self.program, self.mirror):
            if not word.isprintable():
                raise UsageError(
                    f"{word!r} has a line end or another sign that no schedule can hold; "
                    "rename the directory"
                )

    @property
    def time(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"

    @property
    def name(self) -> str:
        """What the job is called: by the mirror's directory."""
        last = self.mirror.rstrip("/").rpartition("/")[2]
        return "tcgamirror-" + (_UNSAFE_IN_A_UNIT.sub("-", last).strip("-") or "mirror")

    @property
    def output(self) -> str:
        """The file for what the program prints."""
        return f"{self.mirror}/nightly.log"

    def words(self, *more: str) -> tuple[str, ...]:
        """The command to run, word by word."""
        log = f"{self.mirror}/nightly.jsonl"
        return (*self.program, "--mirror", self.mirror, "update", "--log", log, *more)


def time_of_day(text: str) -> tuple[int, int]:
    """Hour and minute.

    >>> time_of_day("02:15")
    (2, 15)
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no time of day such as 02:15")
    return int(match[1]), int(match[2])


def cron(night: Night) -> str:
    """Lines for `crontab -e`. Raises UsageError for paths that are too long for cron."""
    command = f"{shlex.join(night.words())} >> {shlex.quote(night.output)} 2>&1"
    line = in_cron(command)
    if len(line.encode()) > LONGEST_CRON_COMMAND:
        raise UsageError(
            f"cron takes commands of {LONGEST_CRON_COMMAND} bytes, and this one has "
            f"{len(line.encode())}: use schedule systemd, or shorter paths"
        )
    return f"""\
# Add this to the table that `crontab -e` edits. A run that meets another ends at once.
{night.minute} {night.hour} * * * {line}
"""


def in_cron(command: str) -> str:
    r"""A shell's command as cron takes it: a bare % would end it.

    A backslash before the % would count as the one that escapes it: a pair of
    quotes, which the shell drops, keeps them apart. That can stand only where
    a word is quoted, as `shlex.quote` does to words with such signs.

    >>> print(in_cron("ls '100%'"))
    ls '100\%'
    >>> print(in_cron(shlex.quote("a" + chr(92) + "%")))
    'a\''\%'
    """
    return command.replace("\\%", "\\''%").replace("%", "\\%")


def systemd(night: Night) -> str:
    """A service and its timer, one after the other."""
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
    """A word of ExecStart=. The first one is a path, in which $ means nothing."""
    quoted = _percent(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted if first else quoted.replace("$", "$$")}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def slurm(night: Night) -> str:
    """A batch script that submits itself for the next night before it begins."""
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
    """A shell's command, each option on a line of its own."""
    lines = [shlex.quote(words[0])]
    for word in words[1:]:
        if word.startswith("--") or word == "update":
            lines.append(f"    {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def schedule(args: argparse.Namespace) -> ExitCode:
    try:
        hour, minute = time_of_day(args.time)
    except ValueError as error:
        raise UsageError(f"--time: {error}") from None
    mirror = os.path.normpath(open_mirror(args).root.absolute())
    night = Night(_program(), mirror, hour, minute)
    write = {"cron": cron, "systemd": systemd, "slurm": slurm}[args.system]
    print(write(night), end="")
    return ExitCode.DONE


def _program() -> tuple[str, ...]:
    """The words that started this program, so that they work from anywhere.

    Links stay as they are: they outlast the versions they point to, and a
    virtual environment is known by its own link to Python.
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
    command = add_command(
        commands,
        "keep it whole",
        "schedule",
        schedule,
        summary="print a file that runs the nightly update",
        details="Changes nothing: the printed file says where it belongs.",
        examples=_EXAMPLES,
    )
    command.add_argument("system", choices=["cron", "systemd", "slurm"])
    command.add_argument(
        "--time", default="02:15", metavar="HH:MM", help="local time of day (default: 02:15)"
    )
