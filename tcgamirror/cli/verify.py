"""`verify` and `rebuild`: whether the mirror is still what it was, and making it so again."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli import output
from tcgamirror.cli.argtypes import duration, whole_number
from tcgamirror.cli.common import home_of, leave_if_busy
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.imaging.store import IMAGES
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.orphans import Orphan, image_files, remove_partial_files
from tcgamirror.model import text
from tcgamirror.model.errors import Damaged, ExitCode, Interrupted, TcgaMirrorError, UsageError
from tcgamirror.system.interrupt import Shutdown

if TYPE_CHECKING:
    from tcgamirror.mirror.fetch import FetchReport
    from tcgamirror.mirror.rebuild import RebuildReport
    from tcgamirror.mirror.update import UpdateOptions
    from tcgamirror.mirror.verify import BadImage, Deadline, VerifyOptions, VerifyReport

SHOWN = 50
"""Files that are named on the terminal."""

VERIFY = """\
Reads every image that is done and compares digest, size and dimensions. Always starts
from the beginning; --sample N bounds it. Takes no lock without --repair.

examples:
  tcgamirror --mirror tcga verify
  tcgamirror --mirror tcga verify --repair
  tcgamirror --mirror tcga verify --sample 500 --json"""

REBUILD = """\
For a catalogue.db that is damaged or gone. The old one is kept beside the new one.

examples:
  tcgamirror --mirror tcga rebuild
  tcgamirror --mirror tcga rebuild --offline"""


# verify ----------------------------------------------------------------------------


def verify(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.verify import Deadline, VerifyOptions, verify_images

    if given.quick and given.decode:
        raise UsageError("--quick reads no image, --decode all of them; give one of the two")
    mirror = home_of(given)
    asked = VerifyOptions(given.quick, given.decode, given.sample, given.time_limit)
    shutdown = Shutdown()
    shutdown.install_handlers()
    deadline = Deadline(shutdown.stop, asked.time_limit)
    if given.repair:
        return _Repair(mirror, asked, shutdown, deadline, as_json=given.json).run()
    reading = ProgressDisplay(quiet=given.json)
    try:
        with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
            found = verify_images(mirror, catalogue, asked, reading, deadline)
    finally:
        reading.close()
    if given.json:
        _print_json(found, found.exit_code)
    else:
        _tell(found, asked)
        if found.wrong:
            print("tcgamirror verify --repair fetches them again")
    return found.exit_code


class _Repair:
    """`verify --repair`: everything that is found wrong is put back and fetched again."""

    def __init__(
        self,
        mirror: Mirror,
        asked: VerifyOptions,
        shutdown: Shutdown,
        deadline: Deadline,
        *,
        as_json: bool,
    ) -> None:
        self._mirror = mirror
        self._asked = asked
        self._shutdown = shutdown
        self._deadline = deadline
        self._as_json = as_json
        self._found: VerifyReport | None = None
        self._removed: list[str] = []
        self._asked_for = 0

    def run(self) -> ExitCode:
        # Here and below: what only reads the mirror needs neither network nor decoders.
        from tcgamirror.mirror.update import UpdateOptions, run_update

        progress = ProgressDisplay(quiet=self._as_json)
        try:
            report = run_update(
                self._mirror,
                "verify",
                UpdateOptions(),
                progress,
                self._shutdown,
                prepare=self._prepare,
            )
        except TcgaMirrorError as error:
            progress.close()
            if self._found is not None:
                error.found = {**dataclasses.asdict(self._found), "removed": self._removed}
            leave_if_busy(self._shutdown, error, as_json=self._as_json)
            raise
        finally:
            progress.close()
        return self._end(report.fetched)

    def _prepare(self, catalogue: Catalogue) -> UpdateOptions:
        from tcgamirror.mirror.fetch import FetchOptions
        from tcgamirror.mirror.update import UpdateOptions
        from tcgamirror.mirror.verify import verify_images

        reading = ProgressDisplay(quiet=self._as_json)
        try:
            found = verify_images(self._mirror, catalogue, self._asked, reading, self._deadline)
        finally:
            reading.close()
        self._found = found
        if not self._as_json:
            _tell(found, self._asked)
        if found.interrupted:
            raise Interrupted("stopped; nothing was repaired yet")
        if found.wrong and next(image_files(self._mirror.root), None) is None:
            raise Damaged(
                f"{self._mirror.root / IMAGES} holds nothing at all: mount the disk it lies "
                "on, or, if it is lost, run tcgamirror rebuild and update"
            )
        self._removed = remove_partial_files(self._mirror, catalogue)
        # What an earlier repair could not have is asked for again, too.
        names = [*(wrong.file_name for wrong in found.wrong), *catalogue.images.to_repair()]
        catalogue.queue.requeue(names)
        self._asked_for = len(names)
        if not names:
            return UpdateOptions()
        return UpdateOptions(
            fetch=FetchOptions(time_limit=self._deadline.left, only=frozenset(names))
        )

    def _end(self, fetched: FetchReport) -> ExitCode:
        assert self._found is not None
        unrepaired = self._asked_for - fetched.done
        code = ExitCode.DAMAGED if unrepaired else ExitCode.DONE
        if fetched.failed:
            code = ExitCode.SOME_FAILED
        if self._as_json:
            more = {"fetched": dataclasses.asdict(fetched), "removed": self._removed}
            _print_json(self._found, code, more)
            return code
        for path in self._removed:
            print(f"removed {text.plain(path)}")
        if self._asked_for:
            print(
                f"{text.images(fetched.done)} fetched again, {fetched.failed:,} failed, "
                f"{text.in_bytes(fetched.bytes)} moved" + output.unknown(fetched.unknown_mpp)
            )
        if unrepaired:
            print(f"{text.images(unrepaired)} not repaired; the next --repair tries again")
        return code


def _print_json(
    found: VerifyReport, code: ExitCode, more: Mapping[str, object] | None = None
) -> None:
    print(json.dumps({**dataclasses.asdict(found), **(more or {}), "exit_code": int(code)}))


def _tell(found: VerifyReport, asked: VerifyOptions) -> None:
    _table("wrong", found.wrong)
    _table("not in the catalogue", found.strays)
    print(_sentence(found, asked))
    if found.awaited:
        print(
            f"{text.images(found.awaited)} besides, changed at the GDC, damaged before, or of a "
            "resolution that nobody may have read, which wait to be fetched again (tcgamirror "
            "status tells when)"
        )
    if found.left:
        stopped = "Ctrl-C" if found.interrupted else "--time-limit"
        print(f"stopped by {stopped} with {text.images(found.left)} left")


def _table(title: str, rows: Sequence[BadImage] | Sequence[Orphan]) -> None:
    if not rows:
        return
    shown = [(text.plain(row.path), text.plain(row.what)) for row in rows[:SHOWN]]
    print(output.table((title, "what"), shown))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN:,} more (all of them with --json)")
    print()


def _sentence(found: VerifyReport, asked: VerifyOptions) -> str:
    did = "looked at" if asked.quick else "decoded" if asked.decode else "read"
    of = f" of {found.of:,}" if found.images != found.of else ""
    how = f", chosen by the day ({found.sample_of})" if found.sample_of else ""
    rate = ""
    if not asked.quick:
        speed = text.in_bytes(found.bytes / max(found.seconds, 0.001))
        rate = f", {text.in_bytes(found.bytes)} at {speed}/s"
    wrong = f"{len(found.wrong):,} damaged or missing" if found.wrong else "all as recorded"
    return (
        f"{found.images:,}{of} image{'' if found.of == 1 else 's'} {did}{how}: {wrong}"
        f"{rate} in {text.in_time(found.seconds)}"
    )


# rebuild ---------------------------------------------------------------------------


def rebuild(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.rebuild import rebuild_catalogue

    mirror = home_of(given)
    shutdown = Shutdown()
    shutdown.install_handlers()
    reading = ProgressDisplay(quiet=given.json)
    try:
        made = rebuild_catalogue(mirror, reading, shutdown, offline=given.offline)
    finally:
        reading.close()
    if given.json:
        print(json.dumps(dataclasses.asdict(made) | {"exit_code": int(ExitCode.DONE)}))
    else:
        for line in _rebuilt_words(made):
            print(line)
    return ExitCode.DONE


def _rebuilt_words(made: RebuildReport) -> list[str]:
    from tcgamirror.mirror.rebuild import LOST

    _table("not taken", made.refused)
    of = "the images alone" if made.release is None else made.release
    lines = [
        f"a new {CATALOGUE} was made from {of}: {text.slides(made.sampled)} sampled, "
        f"{text.images(made.images)} taken, "
        f"{made.sampled - made.images + made.changed:,} to fetch"
    ]
    if made.changed:
        lines.append(
            f"{text.images(made.changed)} of files that have changed since, or of a resolution "
            "that nobody may have read"
        )
    if made.unlisted:
        lines.append(f"{text.images(made.unlisted)} of slides that are no longer listed: kept")
    if made.kept is not None:
        lines.append(f"the old one is kept as {made.kept}")
    lines.append(f"what only the old one knew is not in it: {LOST}")
    if made.release is None:
        lines.append("its ranks are of these images alone; the next update takes the listing")
    return lines


def say_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("--quick", action="store_true", help="only that files are there, and size")
    verify.add_argument(
        "--decode", action="store_true", help="decode every pixel too, also where the digest fits"
    )
    verify.add_argument(
        "--sample", type=whole_number, metavar="N", help="N images, others every day (UTC)"
    )
    verify.add_argument(
        "--repair", action="store_true", help="fetch again what is damaged or missing"
    )
    verify.add_argument(
        "--time-limit", type=duration, metavar="TIME", help="stop after, such as 2h"
    )
    verify.add_argument("--json", action="store_true", help="the result as one JSON line")
