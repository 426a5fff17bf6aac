"""Records of shards: outcomes that wait in `work/shards/` for a run that writes the catalogue.

A shard's run only reads the catalogue, because the runs of other shards work beside it. It
appends each outcome as a JSON line to `K-of-N.jsonl`, fsynced before the slide counts as done.
The next run that writes the catalogue collects the lines. Each run of a shard is applied in one
transaction, together with its id. A collecting run that is killed before it removes the files
thus counts nothing twice.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.columns import TABLES, Check, image_fault
from tcgamirror.catalogue.exclusions import apply_exclusions
from tcgamirror.catalogue.images import PICTURE_COLUMNS, picture_of, picture_row
from tcgamirror.imaging.store import Store, former_path
from tcgamirror.mirror.directory import SHARDS
from tcgamirror.mirror.journal import Journal
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, Locked, TcgaMirrorError
from tcgamirror.model.fields import matching, number, whole
from tcgamirror.model.shard import Shard
from tcgamirror.model.slide import Attempt, ImageFormat, Outcome, Slide, Status
from tcgamirror.system.files import disk_errors, sync_folder
from tcgamirror.system.lock import holder_of
from tcgamirror.system.openat import Tree

_IMAGES, _RUNS = TABLES["images"], TABLES["runs"]
_MOMENT, _WORDS = _RUNS["started"], _RUNS["command"]
_RUN: Mapping[str, Check] = {
    "id": matching("[0-9a-f]{32}"),
    "time": _MOMENT,
    "command": _WORDS,
}
_ORIGINS = ("bucket", "gdc")
_ATTEMPT: Mapping[str, Check] = {
    **{
        name: TABLES["attempts"][name]
        for name in ("source", "seconds", "requests", "fault", "message")
    },
    "started": number(0, 1e11),
    "bytes_fetched": TABLES["attempts"]["bytes"],
}

_NAME = re.compile(r"[1-9][0-9]{0,5}-of-(?P<count>[1-9][0-9]{0,5})\.(?P<kind>jsonl|lock)")
_COLLECTED = "collected "
"""Start of the keys of facts: of each collected run whose file may still be there."""


def path_of(root: Path, shard: Shard, suffix: str) -> Path:
    """Return the path of a shard's records (`.jsonl`) or of its lock (`.lock`)."""
    return root / SHARDS / f"{shard.number}-of-{shard.count}{suffix}"


def check_others(root: Path, shard: Shard) -> None:
    """Raise Locked if a shard of another division runs, because both may hold the same slide."""
    for name, holder in _holders(root):
        if not name.endswith(f"-of-{shard.count}.lock"):
            raise Locked(
                f"{root}: a shard of another number of shards runs ({holder}). Wait for it to end"
            )


def find_holder(root: Path) -> str | None:
    """Return who holds a shard of the mirror, in words; None if none runs."""
    return next((holder for _, holder in _holders(root)), None)


def _holders(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each lock that a running shard holds, and who that is, in words."""
    for name in _names(root, "lock"):
        if holder := holder_of(root / SHARDS / name):
            yield name, holder.words


def note_waiting(root: Path, note: Callable[[str], None]) -> None:
    """Note it if records of shards wait, because a copy of the catalogue lacks them."""
    if any(_holds_run(root, name) for name in _names(root, "jsonl")):
        note(
            f"{root}: records of shards wait to be collected, and are left out. Collect them "
            f"first by: {text.command_line('fetch', root)}"
        )


def _holds_run(root: Path, name: str) -> bool:
    """Return whether a file has a run's records; True if this user may not read it."""
    try:
        return bool(_runs(name, _lines(root, name) or ()))
    except TcgaMirrorError:
        return True


def _names(root: Path, kind: str) -> list[str]:
    """Return the names of the shards' records or locks."""
    try:
        names = [name for name, _ in Tree(root).entries(SHARDS)]
    except OSError:
        # There is no such folder, or a link in its place.
        return []
    return [name for name in names if (found := _NAME.fullmatch(name)) and found["kind"] == kind]


# Written by any run ------------------------------------------------------------------------


def record(catalogue: Catalogue, outcome: Outcome, run: int, now: float) -> list[str]:
    """Record an outcome. Return the paths of images that it leaves in another project's folder.

    Remove them once this is committed; one that stays is an orphan.
    """
    name, picture = outcome.slide.file_name, outcome.picture
    former = None if picture is None else former_path(catalogue.images.path_of(name), picture.path)
    catalogue.queue.record(outcome, run, now)
    return [] if former is None else [former]


def set_origins(catalogue: Catalogue, origins: Mapping[str, str]) -> None:
    """Keep what a run learned of each origin, in words, by its name."""
    for name, words in origins.items():
        catalogue.set_fact(f"origin {name}", words)


# Written by a shard ---------------------------------------------------------------------


class Records(Journal):
    """The file to which a shard, whose lock is held, appends its outcomes.

    Every line names the run, so that a damaged line costs no other.

    Attributes:
        origins: What the run learned of each origin, in words, by its name.
    """

    origins: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path, command: str) -> None:
        """Append a run's beginning. Raises UsageError or as `disk_errors`."""
        head = {"id": os.urandom(16).hex(), "command": command}
        super().__init__(path, "Move away what is there", head, is_record=True)
        self.write("begin")
        with disk_errors(path):
            sync_folder(path.parent)

    def add(self, outcome: Outcome) -> None:
        """Append an outcome and force it to the disk. Raises as `disk_errors`."""
        slide, picture, now = outcome.slide, outcome.picture, time.time()
        self.write(
            "slide",
            file_name=slide.file_name,
            md5=slide.md5,
            attempts=[asdict(each) for each in outcome.attempts],
            picture=None if picture is None else picture_row(slide.file_name, picture, now),
        )

    def end(self, exit_code: int) -> None:
        """Append the run's end."""
        # A run whose end is not recorded counts as killed.
        with suppress(TcgaMirrorError):
            self.write("end", exit_code=exit_code, origins=dict(self.origins))


# Read by other runs -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a shard. start: in ISO 8601. file: its name. lines: the run's records."""

    start: str
    file: str
    id: str
    command: str
    lines: list[bytes]


def collect(
    catalogue: Catalogue,
    root: Path,
    form: ImageFormat,
    note: Callable[[str], None],
    *,
    remove: bool,
) -> None:
    """Collect all records into an open catalogue, one transaction for each run of a shard.

    Args:
        note: called with the counts, in words, and about each file that has invalid lines.
        remove: whether to remove the records, for which the caller holds the mirror's lock.

    Raises as `disk_errors` for a file that exists but cannot be read.
    """
    files = {name: _lines(root, name) for name in _names(root, "jsonl")}
    runs = [run for name, lines in files.items() for run in _runs(name, lines or ())]
    foreign = {name for name, lines in files.items() if lines != []} - {run.file for run in runs}
    for name in sorted(foreign):
        note(f"{root / SHARDS / name}: not the records of a shard. It is left out")
    done, store = dict[str, bool](), Store(root, form)
    invalid = {name: len(lines) for name, lines in files.items() if lines and name not in foreign}
    # Of two images of one slide, the later is recorded.
    for run in sorted(runs, key=attrgetter("start", "file")):
        invalid[run.file] -= len(run.lines)
        key = f"{_COLLECTED}{run.id}"
        if catalogue.fact(key) is not None:
            continue
        with catalogue.change() as connection:
            former, wrong = _apply(catalogue, run, store, done)
            apply_exclusions(connection)
            catalogue.set_fact(key, run.file)
        invalid[run.file] += wrong
        for path in former if remove else ():
            with suppress(OSError):
                (root / path).unlink()
    for name, count in invalid.items():
        if count:
            note(
                f"{root / SHARDS / name}: {count:,} of its lines are not records of sampled "
                "slides as they are listed now. They are left out"
            )
    if done:
        good = sum(done.values())
        note(
            f"{text.slides(len(done))} of shards collected: {good:,} done, "
            f"{len(done) - good:,} failed"
        )
    if remove:
        _remove(root, files.keys() - foreign)
        with catalogue.change() as connection:
            connection.execute("DELETE FROM facts WHERE key GLOB ?", (f"{_COLLECTED}*",))
        # Last, as the folder brings the next run here after a kill.
        with suppress(OSError):
            (root / SHARDS).rmdir()


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files of records, and all locks: the caller's lock of the mirror excludes shards."""
    folder = root / SHARDS
    with disk_errors(folder):
        for name in (*names, *_names(root, "lock")):
            (folder / name).unlink(missing_ok=True)
        # A file that a power cut brings back would be collected twice once its fact is gone.
        sync_folder(folder)


def count_uncollected(catalogue: Catalogue, root: Path) -> tuple[int, int]:
    """Return how many slides are done, and failed, in records that no run has collected."""
    done = dict[str, bool]()
    for name in _names(root, "jsonl"):
        # A file that this user may not read is left to the run that collects it.
        with suppress(TcgaMirrorError):
            runs = _runs(name, _lines(root, name) or ())
            runs = [run for run in runs if catalogue.fact(f"{_COLLECTED}{run.id}") is None]
            for entry in (_object(line) for run in runs for line in run.lines):
                if entry.get("event") == "slide":
                    slide = str(entry.get("file_name"))
                    done[slide] = done.get(slide, False) or bool(entry.get("picture"))
    return sum(done.values()), len(done) - sum(done.values())


def _lines(root: Path, name: str) -> list[bytes] | None:
    """Return a file's whole lines; None if the file is not regular."""
    with disk_errors(root / SHARDS / name):
        try:
            file = Tree(root).open(f"{SHARDS}/{name}")
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return None
            raise
        with file:
            # The last line may be cut off by a kill, or still be written.
            return [line for line in io.BufferedReader(file) if line.endswith(b"\n")]


def _runs(name: str, lines: Iterable[bytes]) -> list[_Run]:
    """Return the runs in a shard's file, without the lines that name no run."""
    runs: dict[str, _Run] = {}
    for line in lines:
        with suppress(ValueError):
            head = _check_values(_object(line), _RUN)
            run = _Run(head["time"], name, head["id"], head["command"], [])
            runs.setdefault(run.id, run).lines.append(line)
    return list(runs.values())


def _object(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a line; an empty one if the line has none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _apply(
    catalogue: Catalogue, run: _Run, store: Store, done: dict[str, bool]
) -> tuple[list[str], int]:
    """Record what a run of a shard recorded, within the open transaction.

    Args:
        done: filled with whether each slide is done, by file name.

    Returns:
        the former paths of images, in another project's folder, and the number of lines that
        no shard of this sample can have recorded.
    """
    number = catalogue.begin_run(run.command, _seconds(run.start))
    former, invalid = [], 0
    for entry in map(_object, run.lines):
        try:
            now, found = _seconds(entry["time"]), _parse(catalogue, entry, store)
        except (ValueError, TypeError):
            invalid += 1
            continue
        match found:
            case Outcome():
                name = found.slide.file_name
                done[name] = done.get(name, False) or found.picture is not None
                former += record(catalogue, found, number, now)
            case (exit_code, origins):
                if exit_code == ExitCode.UNREACHABLE:
                    catalogue.queue.requeue_unreached(number)
                catalogue.end_run(number, exit_code=exit_code, now=now)
                set_origins(catalogue, origins)
    return former, invalid


def _parse(
    catalogue: Catalogue, entry: Mapping[str, Any], store: Store
) -> Outcome | tuple[int, Mapping[str, str]] | None:
    """Return a slide's outcome, or a run's exit code and origins; None for a run's beginning.

    Raises ValueError or TypeError for what no shard of this sample can have recorded.
    """
    match entry.get("event"):
        case "begin":
            return None
        case "slide":
            return _outcome(catalogue, entry, store)
        case "end":
            known = {name: _WORDS for name in entry.get("origins", ()) if name in _ORIGINS}
            origins = _check_values(entry.get("origins", {}), known)
            return whole(0, 255)(entry.get("exit_code")), origins
    raise ValueError


def _outcome(catalogue: Catalogue, entry: Mapping[str, Any], store: Store) -> Outcome:
    name = str(TABLES["slides"]["file_name"](entry.get("file_name")))
    slide = Slide("", name, entry.get("md5"))
    rows = catalogue.rows.slide(name)
    if rows is None or rows.slide["md5"] != slide.md5:
        raise ValueError
    attempts = tuple(Attempt(**_check_values(each, _ATTEMPT)) for each in entry.get("attempts", ""))
    if entry.get("picture") is None:
        return Outcome(slide, attempts, None)
    row = _check_values(entry["picture"], {column: _IMAGES[column] for column in PICTURE_COLUMNS})
    place = store.path(slide).rpartition("/")[2]
    if image_fault({**row, "status": Status.DONE}) or not row["path"].endswith(f"/{place}"):
        raise ValueError
    return Outcome(slide, attempts, picture_of(row))


def _check_values(values: object, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the checked values of an object. A check gets None for a value that is missing."""
    if not isinstance(values, dict):
        raise ValueError
    return {name: check(values.get(name)) for name, check in checks.items()}


def _seconds(moment: object) -> float:
    return datetime.fromisoformat(str(moment)).timestamp()
