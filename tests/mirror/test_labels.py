"""Labels as a night reads them: once a listing, never in the way of anything else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror import refresh
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.model.errors import UsageError
from tcgamirror.model.labels import SlideLabels
from tcgamirror.sources.gdc import Page
from tcgamirror.system.interrupt import Shutdown
from tests.gdc import Fault, Listed, StandIn, listed_without_data
from tests.gdc.labels import labelled
from tests.gdc.listing import manifest
from tests.support.carrying import exported
from tests.support.command import (
    FROM_WITHIN,
    Result,
    ended,
    inside,
    on_a_terminal,
    started,
    went_well,
)
from tests.support.mirrors import (
    column,
    contents,
    finished_images,
    images,
    made,
    rewrite,
    rows,
    until,
)

NEXT = "Data Release 46.0 - August 10, 2026"
PAGE = 1000
LISTED = 2 * PAGE + 1
STAGES = "select ajcc_pathologic_stage, count(*) from labels group by 1 order by 1"
DONE = "select count(*) from mirror where status = 'done'"
LABELLED = "select count(*) from tissue"
QUIET, LISTING, LABELS = ["/status"], ["/files"] * 3, ["/files"] * 3


@pytest.fixture(scope="module")
def files() -> list[Listed]:
    return labelled(listed_without_data(LISTED))


@pytest.fixture
def gdc(files: list[Listed]) -> Iterator[StandIn]:
    with StandIn(files) as gdc:
        yield gdc


@pytest.fixture
def root(tmp_path: Path, gdc: StandIn) -> Path:
    """A mirror that waits for pages of a thousand slides, which take a busy machine seconds."""
    root = made(tmp_path / "m", gdc, slides=12)
    rewrite(root, "^(first_byte|stall) = .*\n(.*\n)?", "first_byte = 60.0\nstall = 60.0\n")
    return root


def without_labels(root: Path) -> Path:
    """Have a mirror read the listing alone; its next run reads the labels."""
    rewrite(root, "^labels = .*", "labels = false")
    went_well("--mirror", root, "refresh")
    rewrite(root, "^labels = .*", "labels = true")
    return root


def asked(gdc: StandIn, root: Path, *options: str) -> list[str]:
    """The requests of a successful refresh, `/status` last: it may be made together with others."""
    gdc.clear()
    went_well("--mirror", root, "refresh", *options)
    return sorted(record.path for record in gdc.served)


def test_labels_are_read_once_a_listing(root: Path, gdc: StandIn, files: list[Listed]) -> None:
    assert asked(gdc, root) == LISTING + LABELS + QUIET
    assert asked(gdc, root) == QUIET
    gdc.publish([replace(files[0], tissue={"percent_necrosis": 99}), *files[1:]], NEXT)
    assert asked(gdc, root) == LISTING + LABELS + QUIET
    assert asked(gdc, root) == QUIET
    assert asked(gdc, root, "--force") == LISTING + LABELS + QUIET
    assert column(root, LABELLED) == [LISTED]
    assert column(root, "select count(*) from tissue where percent_necrosis = 99") == [1]
    assert column(root, "select count(*) from changes where what <> 'added'") == [0]
    assert column(root, "select count(*) from slides join cases using (case_barcode)") == [LISTED]


def test_every_shape_of_the_gdcs_becomes_a_row(root: Path) -> None:
    went_well("--mirror", root, "refresh")
    went_well("--mirror", root, "sample")
    found = rows(root, STAGES)
    assert sum(int(str(count)) for _, count in found) == 12
    by_count = "select diagnoses, count(*), count(primary_diagnosis) from cases group by 1"
    counts = {number: (cases, told) for number, cases, told in rows(root, by_count)}
    assert set(counts) == {0, 1, 2} and counts[0][1] == 0 and counts[1][0] == counts[1][1]
    # Of two diagnoses, every other pair tells which is the primary one.
    assert abs(int(str(counts[2][0])) - 2 * int(str(counts[2][1]))) <= 1
    assert column(root, "select distinct gender from cases order by 1") == [None, "female", "male"]


def test_settings_turn_labels_off(root: Path, gdc: StandIn) -> None:
    rewrite(root, "^labels = .*", "labels = false")
    assert asked(gdc, root) == LISTING + QUIET
    assert column(root, "select count(*) from cases") == [0]
    rewrite(root, "^labels = .*", "labels = true")
    assert asked(gdc, root) == LABELS + QUIET
    assert column(root, "select count(*) > 0 from cases") == [1]


@pytest.mark.parametrize("kind", ["html", "foreign-json", "truncated-json", "503", "reset", "403"])
def test_unreadable_labels_are_read_later(root: Path, gdc: StandIn, kind: str) -> None:
    rewrite(root, "^labels = .*", "labels = false")
    went_well("--mirror", root, "refresh")
    went_well("--mirror", root, "sample")
    rewrite(root, "^labels = .*", "labels = true")
    rewrite(root, "^tries = .*", "tries = 1")
    gdc.faults.add(Fault("/files", kind))  # type: ignore[arg-type]
    before = contents(root)
    told = warned(inside("--mirror", root, "refresh"))
    assert told.out.startswith("nothing new: ")
    assert contents(root) == before
    warned(inside("--mirror", root, "refresh"))
    gdc.faults.clear()
    assert asked(gdc, root) == LABELS + QUIET
    assert asked(gdc, root) == QUIET


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_labels_are_resumed(root: Path, gdc: StandIn, number: signal.Signals) -> None:
    without_labels(root)
    gdc.clear()
    gdc.faults.add(Fault("/files", "stall", hold=60.0))
    with started("--mirror", root, "refresh") as refresh:
        until(lambda: gdc.requests("/files"))
        refresh.send_signal(number)
        assert ended(refresh).code == (130 if number == signal.SIGINT else -9)
    assert column(root, LABELLED) == [0]
    gdc.faults.clear()
    assert asked(gdc, root) == LABELS + QUIET


def warned(result: Result) -> Result:
    assert result.code == 0 and result.err.startswith("labels: not read ("), result
    assert "labels = false" in result.sentence
    return result


def test_a_dry_run_reads_no_labels(root: Path, gdc: StandIn) -> None:
    went_well("--mirror", root, "update", "--dry-run")
    assert sorted(record.path for record in gdc.served) == LISTING + QUIET


def test_a_manifest_needs_no_gdc(tmp_path: Path, gdc: StandIn, files: list[Listed]) -> None:
    path = tmp_path / "manifest.txt"
    path.write_text(manifest(files[:12]))
    root = made(tmp_path / "m", gdc, "--manifest", str(path))
    gdc.switch("api", "refused")
    alone = inside("--mirror", root, "refresh")
    assert alone.code == 0 and "labels" not in alone.err
    assert column(root, LABELLED) == [0]
    gdc.switch("api", "up")
    assert asked(gdc, root) == ["/files"] * 2
    assert column(root, LABELLED) == [12]
    assert asked(gdc, root) == []


def test_slides_are_fetched_while_labels_are_read(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(labelled(small_slides)) as gdc:
        root = without_labels(made(tmp_path / "m", gdc, slides=4))
        rewrite(root, "^stall = .*", "stall = 60.0")
        stall = Fault("/files", "stall", "once", hold=60.0)
        gdc.faults.add(stall)
        with started("--mirror", root, "update") as update:
            until(lambda: len(finished_images(root)) == 4)
            assert column(root, LABELLED) == [0]
            stall.over.set()
            assert ended(update).code == 0
    assert column(root, LABELLED) == [len(small_slides)]


def test_the_bar_of_the_slides_keeps_its_words_while_labels_are_waited_for(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(labelled(small_slides)) as gdc, ThreadPoolExecutor(1) as pool:
        root = without_labels(made(tmp_path / "m", gdc, slides=4))
        rewrite(root, "^stall = .*", "stall = 60.0")
        stall = Fault("/files", "stall", "once", hold=60.0)
        gdc.faults.add(stall)

        def labels_come_after_the_slides() -> None:
            until(lambda: column(root, DONE) == [4])
            time.sleep(0.5)
            stall.over.set()

        pool.submit(labels_come_after_the_slides)
        lines = on_a_terminal(100, "--mirror", root, "update").splitlines()
    bar = [line for line in lines if "of 4 slides |" in line][-1]
    assert bar.startswith("4 of 4 slides |") and "B/s" in bar
    assert "\x1b[Kasking for the labels ..." in lines


def test_labels_are_kept_however_the_fetch_ends(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(labelled(small_slides)) as gdc:
        root = without_labels(made(tmp_path / "m", gdc, slides=12))
        # The slides last for seconds, and the labels do not.
        rewrite(root, "^workers = .*", "workers = 1")
        gdc.delay = 0.2
        with started("--mirror", root, "update") as update:
            until(lambda: column(root, LABELLED) == [len(small_slides)])
            assert update.poll() is None and len(finished_images(root)) < 12


@FROM_WITHIN
@pytest.mark.parametrize("of_manifest", [False, True])
def test_labels_that_memory_lacks_for_end_no_slide(
    tmp_path: Path,
    small_slides: tuple[Listed, ...],
    of_manifest: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_labels(*_: object) -> Iterator[Page[SlideLabels]]:
        raise MemoryError

    monkeypatch.setattr(refresh, "read_labels", read_labels)
    path = tmp_path / "manifest.txt"
    path.write_text(manifest(small_slides))
    with StandIn(small_slides) as gdc:
        options = ("--manifest", str(path)) if of_manifest else ()
        root = made(tmp_path / "m", gdc, *options, "--workers", "2", slides=6)
        assert "not enough memory" in warned(inside("--mirror", root, "update")).err
    assert len(images(root)) == 6


def test_ctrl_c_during_the_last_slides_waits_for_no_labels(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(labelled(small_slides)) as gdc:
        root = without_labels(made(tmp_path / "m", gdc, slides=2))
        rewrite(root, "^(first_byte|stall) = .*\n(.*\n)?", "first_byte = 60.0\nstall = 60.0\n")
        gdc.faults.add(Fault("/files", "stall", hold=60.0))
        gdc.delay = 0.3
        with started("--mirror", root, "update") as update:
            until(lambda: len({record.path for record in gdc.requests("svs")}) == 2)
            update.send_signal(signal.SIGINT)
            result = ended(update, 40)
        assert result.code == 130 and "The next run reads them" in result.err, result
        assert len(images(root)) == 2


def test_ctrl_c_in_a_pause_of_the_labels_finishes_the_slides_in_flight(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(labelled(small_slides)) as gdc:
        root = without_labels(made(tmp_path / "m", gdc, slides=2))
        rewrite(root, "^pause = .*", "pause = 60.0")
        rewrite(root, "^(first_byte|stall) = .*\n(.*\n)?", "first_byte = 60.0\nstall = 60.0\n")
        went_well("--mirror", root, "sample")
        names = list(map(str, column(root, "select file_id from mirror")))
        gdc.faults.add(Fault("/files", "429", retry_after=None))
        for name, hold in zip(names, (2.0, 5.0), strict=True):
            gdc.faults.add(Fault(name, "stall", "once", hold=hold))
        gdc.delay = 0.3
        with started("--mirror", root, "update") as update:
            until(lambda: all(map(gdc.requests, names)))
            until(lambda: any(record.status == 429 for record in gdc.requests("/files")))
            update.send_signal(signal.SIGINT)
            result = ended(update, 40)
        assert result.code == 130 and len(images(root)) == 2, result


def test_no_thread_reads_labels_after_an_error(root: Path, gdc: StandIn) -> None:
    mirror = Mirror.find(without_labels(root), above=False)
    gdc.faults.add(Fault("/files", "stall", hold=60.0))
    options = UpdateOptions(refresh=True, fetch=FetchOptions())
    with pytest.raises(UsageError, match="no slide is sampled yet"):
        run_update(mirror, "update", options, ProgressDisplay(quiet=True), Shutdown())
    until(lambda: "labels" not in {thread.name for thread in threading.enumerate()})


def test_labels_are_shown_and_queried(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    hostile = {"race": "\x1b[2Jwhite", "gender": "<script>alert(1)</script>"}
    slide = replace(labelled(small_slides)[0], demographic=hostile, tissue={"percent_necrosis": 5})
    with StandIn([slide]) as gdc:
        root = made(tmp_path / "m", gdc, slides=1)
        went_well("--mirror", root, "update")
    shown = went_well("--mirror", root, "show", slide.file_id)
    told = dict(line.split(maxsplit=1) for line in shown.out.split("\n\n")[0].splitlines())
    assert (told["percent_necrosis"], told["race"]) == ("5.0", "[2Jwhite")
    assert told["ajcc_pathologic_stage"] == "Stage I"
    assert "tumor_grade" not in told
    seen = went_well("--mirror", root, "show", slide.file_id, "--json").json()
    assert (seen["age_at_diagnosis"], seen["tumor_grade"]) == (365 * 40, None)
    assert "Stage I" in went_well("--mirror", root, "query", STAGES).out
    assert "percent" not in went_well("--mirror", root, "changes").out


def test_labels_travel_with_a_mirror(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    view = "select * from labels order by file_name"
    with StandIn(labelled(small_slides)) as gdc:
        root = made(tmp_path / "m", gdc, slides=4)
        went_well("--mirror", root, "update")
        export = exported(root, tmp_path / "export")
        went_well("--mirror", tmp_path / "imported", "import", export)
        went_well("sync", root, tmp_path / "synced")
        known = made(tmp_path / "known", gdc, slides=4)
        rewrite(known, "^labels = .*", "labels = false")
        went_well("--mirror", known, "update")
        went_well("--mirror", known, "import", export)
    for other in ("imported", "synced", "known"):
        assert rows(tmp_path / other, view) == rows(root, view)
        assert rows(tmp_path / other, "select * from cases order by 1") == rows(
            root, "select * from cases order by 1"
        )
