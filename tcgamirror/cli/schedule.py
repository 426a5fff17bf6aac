"""`schedule`: print files that run the nightly update by cron, systemd or Slurm.

Sources: crontab(5), systemd.syntax(7), systemd.service(5), sbatch(1).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tcgamirror.cli.common import open_mirror
from tcgamirror.model.errors import ExitCode, UsageError

LONGEST_CRON_COMMAND = 990
"""Most bytes of a command, because Debian's and Vixie's cron cut longer ones."""

HOURS_OF_A_JOB = 8
"""Default time limit of a job on Slurm. The next night fetches the rest."""

PART_TO_FETCH = 7 / 8
"""Part of a job's time limit in which slides may begin; the rest is for those in flight."""

_OF_SLURM = ("array", "partition", "account", "time_limit")

_UNSAFE_IN_A_UNIT = re.compile(r"[^A-Za-z0-9_-]+")

_SYSTEMD = """\
# Two files for ~/.config/systemd/user/ (or, with User= in [Service], /etc/systemd/system/).
# Then: systemctl --user daemon-reload; systemctl --user enable --now {name}.timer
# and, so that it runs while you are not logged in: loginctl enable-linger
# What it prints: journalctl --user --unit {name}

# ---- {name}.service
[Unit]
Description=Nightly update of {mirror}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
# 5: another run holds the mirror, and does the work.
SuccessExitStatus=5
Nice=10

# ---- {name}.timer
[Unit]
Description=Every night: update of {mirror}

[Timer]
OnCalendar=*-*-* {time}:00
RandomizedDelaySec=15min
Persistent=true

[Install]
WantedBy=timers.target
"""

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


class Night(NamedTuple):
    """The nightly update of one mirror.

    program: words that start this program. mirror: absolute path. hour, minute: local time.
    """

    program: tuple[str, ...]
    mirror: str
    hour: int
    minute: int

    @property
    def time(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"

    @property
    def name(self) -> str:
        """Name of the job, made of that of the mirror's directory and a checksum of its path.

        Of two mirrors whose jobs had one name, one would take the other's next night for its own.
        """
        words = _UNSAFE_IN_A_UNIT.sub("-", Path(self.mirror).name).strip("-") or "mirror"
        return f"tcgamirror-{words}-{crc32(self.mirror.encode()):08x}"

    @property
    def command(self) -> tuple[str, ...]:
        log = f"{self.mirror}/nightly.jsonl"
        return (*self.program, "--mirror", self.mirror, "update", "--log", log)


def do_schedule(args: argparse.Namespace) -> ExitCode:
    night = Night(_program(), os.path.normpath(open_mirror(args).root.absolute()), *args.time)
    for word in night.command:
        if not word.isprintable():
            raise UsageError(
                f"{word!r}: has a line end or another character that no schedule can "
                "hold. Rename the directory"
            )
    given = [name for name in _OF_SLURM if getattr(args, name) is not None]
    if given and args.system != "slurm":
        option = "--" + given[0].replace("_", "-")
        raise UsageError(f"{option}: is for slurm. Leave it out, or use schedule slurm")
    if args.system == "slurm":
        print(_slurm(night, args), end="")
    else:
        print({"cron": cron, "systemd": systemd}[args.system](night), end="")
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


def cron(night: Night) -> str:
    """Return lines for `crontab -e`. Raises UsageError if the command is too long for cron."""
    output = shlex.quote(f"{night.mirror}/nightly.log")
    line = escape_for_cron(f"{shlex.join(night.command)} >> {output} 2>&1")
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
    quoted = [
        word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"') for word in night.command
    ]
    # The first word is a path, in which $ is plain.
    first, *others = (f'"{word}"' for word in quoted)
    return _SYSTEMD.format(
        name=night.name,
        mirror=night.mirror.replace("%", "%%"),
        command=" ".join([first, *(word.replace("$", "$$") for word in others)]),
        time=night.time,
    )


def _slurm(night: Night, args: argparse.Namespace) -> str:
    """Return a batch script that submits itself for the next night before it starts."""
    seconds = args.time_limit or HOURS_OF_A_JOB * 3600
    minutes = math.ceil(seconds / 60)
    directives = [f"--time={minutes // 60:02}:{minutes % 60:02}:00"]
    directives += [f"--partition={args.partition}"] if args.partition else []
    directives += [f"--account={args.account}"] if args.account else []
    facts = {
        "name": night.name,
        "mirror": shlex.quote(night.mirror),
        "program": f'({shlex.join(night.program)} --mirror "$mirror")',
        "begin": night.time,
        "limit": f"{int(seconds * PART_TO_FETCH)}s",
    }
    steps, end = _ONE_JOB, f"scancel --name={night.name}"
    if args.array is not None:
        shards, at_once = args.array
        # If it ran again, the first job would submit the jobs that wait for it once more.
        directives.append("--no-requeue")
        facts |= {
            "shards": str(shards),
            "array": f"1-{shards}" + (f"%{at_once}" if at_once else ""),
        }
        # scancel takes one name at a time.
        steps, end = _SHARDS, f"{end}; {end}-fetch"
    head = _HEAD.format(
        name=night.name,
        end=end,
        directives="\n".join(f"#SBATCH {each}" for each in directives),
        facts="\n".join(f"{name}={value}" for name, value in facts.items()),
    )
    return head + _NEXT_NIGHT + steps
