"""The command line: what may be said, with examples, and nothing of what it does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcgamirror import __version__
from tcgamirror.cli.common import Parser, add_command, say_log
from tcgamirror.cli.help import HELP
from tcgamirror.cli.init import INIT, say_init
from tcgamirror.cli.lock import LOCK
from tcgamirror.cli.schedule import SCHEDULE
from tcgamirror.cli.status import CHANGES, QUERY, SHOW, STATUS
from tcgamirror.cli.support import say_helping
from tcgamirror.cli.transfer import EXPORT, IMPORT, SYNC, say_export, say_import, say_sync
from tcgamirror.cli.update import FETCH, REFRESH, SAMPLE, UPDATE, say_fetching
from tcgamirror.cli.verify import REBUILD, VERIFY, say_verify
from tcgamirror.cli.web import GALLERY, SERVE, say_serve
from tcgamirror.model.errors import UsageError

ABOUT = """\
An offline mirror of TCGA whole-slide images at a low, known resolution."""

EXAMPLES = """\
examples:
  tcgamirror --mirror tcga init --slides 100 --mpp 15
  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga query "select project_id, count(*) from mirror group by 1"

exit codes:
  0 all done   1 a bug   2 wrong use   3 finished, some slides failed
  4 the GDC cannot be reached   5 another run holds the lock   6 no room
  7 catalogue or mirror damaged   130 interrupted"""


def grammar() -> argparse.ArgumentParser:
    """All that may be said, also for the man page and the shells' completions."""
    parser = Parser(
        prog="tcgamirror",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tcgamirror {__version__}")
    parser.add_argument("--mirror", type=Path, metavar="DIR", help=_MIRROR)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    say_init(add_command(commands, "init", "make a mirror", INIT))
    update = add_command(commands, "update", "refresh, sample and fetch: the main job", UPDATE)
    say_fetching(update)
    update.add_argument(
        "--dry-run", action="store_true", help="tell what would be fetched; change nothing"
    )
    refresh = add_command(commands, "refresh", "take over the GDC's listing", REFRESH)
    for command in (update, refresh):
        command.add_argument(
            "--accept-shrink",
            action="store_true",
            help="take a listing though it lacks more than a tenth of the slides listed before",
        )
    refresh.add_argument(
        "--force", action="store_true", help="read the listing though its release is the same"
    )
    sample = add_command(commands, "sample", "fill the sample up from the listing", SAMPLE)
    for command in (refresh, sample):
        say_log(command)
    say_fetching(add_command(commands, "fetch", "fetch what is sampled and pending", FETCH))
    status = add_command(commands, "status", "counts, bytes, release, last runs", STATUS)
    status.add_argument("--json", action="store_true", help="as one JSON object")
    changes = add_command(commands, "changes", "what each data release did", CHANGES)
    changes.add_argument("--since", metavar="RELEASE", help="only what came after it, such as 45")
    changes.add_argument("--json", action="store_true", help="as one JSON list, on one line")
    show = add_command(commands, "show", "all that is known of one slide", SHOW)
    show.add_argument("slide", metavar="SLIDE", help="file_id, file name or barcode")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    query = add_command(commands, "query", "read-only SQL on the catalogue", QUERY)
    query.add_argument("sql", metavar="SQL", help="one statement, in general on the view mirror")
    query.add_argument(
        "--format", choices=["table", "csv", "json"], default="table", help="default: table"
    )
    say_verify(add_command(commands, "verify", "check every image against the catalogue", VERIFY))
    rebuild = add_command(commands, "rebuild", "make the catalogue anew from the images", REBUILD)
    rebuild.add_argument(
        "--offline", action="store_true", help="from the images alone, without the GDC's listing"
    )
    rebuild.add_argument("--json", action="store_true", help="the result as one JSON line")
    add_command(commands, "gallery", "make pages that show the slides", GALLERY)
    lock = add_command(commands, "lock", "a text file that names the sample, to be cited", LOCK)
    lock.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: stdout")
    lock.add_argument("--check", action="store_true", help="tell what differs from FILE")
    say_export(add_command(commands, "export", "copy the mirror to carry it elsewhere", EXPORT))
    say_import(add_command(commands, "import", "take an export into a mirror", IMPORT))
    say_sync(add_command(commands, "sync", "bring a mirror to what another one is", SYNC))
    say_serve(add_command(commands, "serve", "publish the mirror by HTTP, read-only", SERVE))
    schedule = add_command(commands, "schedule", "ready files for a nightly update", SCHEDULE)
    schedule.add_argument("system", choices=["cron", "systemd", "slurm"])
    schedule.add_argument(
        "--time", default="02:15", metavar="HH:MM", help="local time of day (default: 02:15)"
    )
    say_helping(commands)
    show_help = add_command(commands, "help", "the manual, or a command's --help", HELP)
    show_help.add_argument("topic", nargs="?", metavar="TOPIC", help="default: list the pages")
    return parser


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as said. Raises UsageError; --help and --version raise SystemExit."""
    parser = grammar()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UsageError(
            f"{given.command} does not take {' '.join(map(repr, unknown))} "
            f"(see tcgamirror {given.command} --help)"
        )
    given.parser = parser
    return given


_MIRROR = (
    "the mirror (default: $TCGAMIRROR, or the current directory or the nearest above it that is "
    "one; for init: $TCGAMIRROR or the current directory)"
)
