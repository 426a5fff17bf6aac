"""`schedule`: print files that run the nightly update by cron, systemd or Slurm.

Sources: crontab(5), systemd.syntax(7), systemd.service(5), sbatch(1).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tcgamirror.cli.argtypes import whole_number
from tcgamirror.cli.common import Commands, add_command, open_mirror
from tcgamirror.model.errors import ExitCode, UsageError

LONGEST_CRON_COMMAND = 990
"""Most bytes of a command, because Debian's and Vixie's cron cut longer ones."""

HOURS_OF_A_JOB = 8
"""Default time limit of a job on Slurm. The next night fetches the rest."""

PART_TO_FETCH = 7 / 8
"""Part of a job's time limit in which slides may begin; the rest is for those in flight."""

_OF_SLURM = ("array", "partition", "account", "time_limit")

_NAMES_IN_SLURM = re.compile(r"[A-Za-z0-9_.,:@+/-]+")

_UNSAFE_IN_A_UNIT = re.compile(r"[^A-Za-z0-9_-]+")

_SCHEDULE = """\
print a file that runs the nightly update

Changes nothing: the printed file says where it belongs.

--time HH:MM  local time of day (default: 02:15)

for slurm:
--array N[%M]      fetch by N jobs, at most M at a time (default: one job in all)
--partition NAME   Slurm's partition (default: the cluster's)
--account NAME     Slurm's account (default: the user's)
--time-limit TIME  Slurm's limit of each job (default: 8h)

  tcgamirror --mirror tcga schedule cron --time 03:30
  tcgamirror --mirror tcga schedule systemd
  tcgamirror --mirror tcga schedule slurm > tcga.sbatch
  tcgamirror --mirror tcga schedule slurm --array 16 --partition transfer | sbatch"""


class Night:
    """The nightly update of one mirror.

    program: words that start this program. mirror: absolute path. hour, minute: local time.
    """

    def __init__(self, program: Sequence[str], mirror: str, hour: int, minute: int) -> None:
        for word in (*program, mirror):
            if not word.isprintable():
                raise UsageError(
                    f"{word!r}: has a line end or another character that no schedule can "
                    "hold. Rename the directory"
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
        """Name of the job, made of that of the mirror's directory and a checksum of its path.

        Of two mirrors whose jobs had one name, one would take the other's next night for its own.
        """
        last = self.mirror.rstrip("/").rpartition("/")[2]
        words = _UNSAFE_IN_A_UNIT.sub("-", last).strip("-") or "mirror"
        return f"tcgamirror-{words}-{crc32(self.mirror.encode()):08x}"

    @property
    def output(self) -> str:
        """Path of the file that gets the output."""
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
            f"invalid time of day {text!r:.60}. Expected one such as 02:15; "
            "a job's limit is --time-limit"
        )
    return int(match[1]), int(match[2])


def array(text: str) -> tuple[int, int | None]:
    """Return the number of jobs, and how many may run at a time; None for no limit.

    >>> array("16"), array("16%4")
    ((16, None), (16, 4))
    """
    from tcgamirror.model.shard import MOST_SHARDS

    shards, limited, at_once = text.partition("%")
    return whole_number(shards, MOST_SHARDS), whole_number(at_once) if limited else None


def name_in_slurm(text: str) -> str:
    """Return the name of a partition or account, or several with commas between them."""
    if _NAMES_IN_SLURM.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"invalid name {text!r:.60}. Expected letters, digits and any of _.,:@+/-"
        )
    return text


def cron(night: Night) -> str:
    """Return lines for `crontab -e`. Raises UsageError if the command is too long for cron."""
    command = f"{shlex.join(night.words())} >> {shlex.quote(night.output)} 2>&1"
    line = escape_for_cron(command)
    if len(line.encode()) > LONGEST_CRON_COMMAND:
        raise UsageError(
            f"cron: the command has {len(line.encode())} bytes, more than {LONGEST_CRON_COMMAND}. "
            "Use schedule systemd, or shorter paths"
        )
    return f"""\
# Add this to the table that `crontab -e` edits. A run that meets another ends at once.
{night.minute} {night.hour} * * * {line}
"""


def escape_for_cron(command: str) -> str:
    r"""Return a shell command for crontab. Every % is escaped, because a bare one ends a command.

    cron would take a backslash before a % for an escape. The pair of quotes put between them
    prevents that, and the shell drops it: `shlex.quote` has already quoted any such word.

    >>> print(escape_for_cron("ls '100%'"))
    ls '100\%'
    >>> print(escape_for_cron(shlex.quote("a" + chr(92) + "%")))
    'a\''\%'
    """
    return command.replace("\\%", "\\''%").replace("%", "\\%")


def systemd(night: Night) -> str:
    """Return the text of a service, and that of its timer below it."""
    command = " ".join(_quote_for_unit(word, first=not at) for at, word in enumerate(night.words()))
    return f"""\
# Two files for ~/.config/systemd/user/ (or, with User= in [Service], /etc/systemd/system/).
# Then: systemctl --user daemon-reload; systemctl --user enable --now {night.name}.timer
# and, so that it runs while you are not logged in: loginctl enable-linger
# What it prints: journalctl --user --unit {night.name}

# ---- {night.name}.service
[Unit]
Description=Nightly update of {_escape_percent(night.mirror)}
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
Description=Every night: update of {_escape_percent(night.mirror)}

[Timer]
OnCalendar=*-*-* {night.time}:00
RandomizedDelaySec=15min
Persistent=true

[Install]
WantedBy=timers.target
"""


def _quote_for_unit(word: str, *, first: bool) -> str:
    """Return a quoted word of ExecStart=. The first word is a path, in which $ is plain."""
    quoted = _escape_percent(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted if first else quoted.replace("$", "$$")}"'


def _escape_percent(text: str) -> str:
    return text.replace("%", "%%")


class Batch(NamedTuple):
    """Options of the jobs on Slurm.

    shards: number of jobs that fetch; None for one job that does all. at_once: how many of
    these may run at a time; None for no limit. seconds: time limit of each job.
    """

    shards: int | None = None
    at_once: int | None = None
    partition: str | None = None
    account: str | None = None
    seconds: float = HOURS_OF_A_JOB * 3600


def slurm(night: Night, batch: Batch) -> str:
    """Return a batch script that submits itself for the next night before it starts."""
    minutes = math.ceil(batch.seconds / 60)
    directives = [f"--time={minutes // 60:02}:{minutes % 60:02}:00"]
    directives += [f"--partition={batch.partition}"] if batch.partition else []
    directives += [f"--account={batch.account}"] if batch.account else []
    facts = {
        "name": night.name,
        "mirror": shlex.quote(night.mirror),
        "program": f'({shlex.join(night.program)} --mirror "$mirror")',
        "begin": night.time,
        "limit": f"{int(batch.seconds * PART_TO_FETCH)}s",
    }
    steps, end = _ONE_JOB, f"scancel --name={night.name}"
    if batch.shards is not None:
        # If it ran again, the first job would submit the jobs that wait for it once more.
        directives.append("--no-requeue")
        at_once = f"%{batch.at_once}" if batch.at_once else ""
        facts |= {"shards": str(batch.shards), "array": f"1-{batch.shards}{at_once}"}
        # scancel takes one name at a time.
        steps, end = _SHARDS, f"{end}; {end}-fetch"
    head = _HEAD.format(
        name=night.name,
        end=end,
        directives="\n".join(f"#SBATCH {each}" for each in directives),
        facts="\n".join(f"{name}={value}" for name, value in facts.items()),
    )
    return head + _NEXT_NIGHT + steps


_HEAD = """\
#!/bin/bash
# Save this as a file and submit it once: sbatch FILE. It submits itself for every next night.
# To end that, and before you submit another version: {end}
# Its node needs sbatch and a way to the internet: many clusters have a partition for transfers.
#SBATCH --job-name={name}
#SBATCH --dependency=singleton
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --output=/dev/null
{directives}

{facts}
"""

_NEXT_NIGHT = """\
# Submitted twice, this goes on once: another job that waits is the next night.
next_night() {
    local waiting
    waiting=$(squeue --noheader --user="$(id -u)" --name="$name" --states=PENDING --format=%A)
    [ -n "$waiting" ] || sbatch --begin="$begin" --dependency="$1" "$0"
}
"""

_ONE_JOB = """
exec >> "$mirror/nightly.log" 2>&1
submitted=0
next_night singleton || submitted=$?

code=0
"${program[@]}" update --time-limit "$limit" --log "$mirror/nightly.jsonl" || code=$?
# 5: another run holds the mirror, and does the work.
if [ "$code" -eq 0 ] || [ "$code" -eq 5 ]; then
    exit "$submitted"
fi
exit "$code"
"""

_SHARDS = """
# The jobs of one night: this one, which reads the listing; the shards, if it ended with 0; and
# the last one, however they ended, which records what they did and fetches what they left.
log=$mirror/nightly${SLURM_ARRAY_TASK_ID:+-shard-$SLURM_ARRAY_TASK_ID}
exec >> "$log.log" 2>&1
case ${1-} in
shard)
    shard=$SLURM_ARRAY_TASK_ID/$shards
    exec "${program[@]}" fetch --shard "$shard" --time-limit "$limit" --log "$log.jsonl" ;;
collect)
    exec "${program[@]}" fetch --time-limit "$limit" --log "$log.jsonl" ;;
esac

submit() {
    sbatch --parsable --job-name="$name-fetch" --requeue "$@" | cut -d ';' -f 1
}
after=$SLURM_JOB_ID
if_read=(--dependency="afterok:$after" --kill-on-invalid-dep=yes)
fetching=$(submit "${if_read[@]}" --array="$array" "$0" shard)
last=$(submit --dependency="afterany:$after${fetching:+:$fetching}" "$0" collect)
next_night "singleton${last:+,afterany:$last}" && [ -n "$fetching" ] && [ -n "$last" ]
submitted=$?

"${program[@]}" refresh --log "$log.jsonl" || exit
"${program[@]}" sample --log "$log.jsonl" || exit
exit "$submitted"
"""


def schedule(args: argparse.Namespace) -> ExitCode:
    mirror = os.path.normpath(open_mirror(args).root.absolute())
    night = Night(_program(), mirror, *args.time)
    given = [name for name in _OF_SLURM if getattr(args, name) is not None]
    if args.system == "slurm":
        shards, at_once = args.array or (None, None)
        seconds = args.time_limit or HOURS_OF_A_JOB * 3600
        text = slurm(night, Batch(shards, at_once, args.partition, args.account, seconds))
    elif given:
        option = "--" + given[0].replace("_", "-")
        raise UsageError(f"{option}: is for slurm. Leave it out, or use schedule slurm")
    else:
        text = {"cron": cron, "systemd": systemd}[args.system](night)
    print(text, end="")
    return ExitCode.DONE


def _program() -> tuple[str, ...]:
    """Return words that start this program from anywhere.

    Links are kept: they outlast the versions they point to, and a virtual environment
    is known by its own link to Python.
    """
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    import shutil

    started = sys.argv[0]
    found = Path(started if os.sep in started else shutil.which(started) or started).absolute()
    if found.suffix == ".py" or not os.access(found, os.X_OK):
        return sys.executable, str(found)
    return (str(found),)


def add_commands(commands: Commands) -> None:
    """Add the command `schedule`."""
    name = {"type": name_in_slurm}
    more = {"time": {"type": time_of_day, "default": "02:15"}, "array": {"type": array}}
    command = add_command(
        commands, "schedule", schedule, _SCHEDULE, partition=name, account=name, **more
    )
    command.add_argument("system", choices=["cron", "systemd", "slurm"])
