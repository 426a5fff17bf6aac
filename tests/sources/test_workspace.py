"""What may lie in `work/`, and for how long."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tcgamirror.model.errors import BadTile, Damaged, DiskFull, Interrupted, UnsupportedSlide
from tcgamirror.sources.workspace import Workspace

MB = 1 << 20


def workspace(root: Path, limit: int | None = None, min_free: int = 0) -> Workspace:
    return Workspace(root, limit, threading.Event(), min_free)


def fill(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\1" * size)


def test_bytes_in_doubt_are_removed_and_those_of_another_source_kept(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "range" / "slide.part", 100)
    with pytest.raises(BadTile), workspace(tmp_path).lease("one", "whole") as lease:
        fill(lease.folder / "slide.svs", 100)
        raise BadTile("it is empty")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["range"]


def test_what_belongs_to_no_slide_that_is_due_is_removed(tmp_path: Path) -> None:
    fill(tmp_path / "due" / "range" / "slide.part", 10)
    fill(tmp_path / "gone" / "range" / "slide.part", 10)
    fill(tmp_path / "rubbish.txt", 10)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "due")
    assert workspace(tmp_path).keep_only(["due", "elsewhere"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["due"]
    assert (tmp_path / "due" / "range" / "slide.part").exists()


def test_a_slide_that_needs_too_much_is_refused(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=5 * MB)
    with pytest.raises(UnsupportedSlide, match="work_limit"), work.lease("one", "whole") as lease:
        lease.reserve(6 * MB)
    work = workspace(tmp_path, min_free=1 << 60)
    words = f" 0 are needed for a slide, and {1 << 60:,} stay free for other programs. Free some"
    with pytest.raises(DiskFull, match=words), work.lease("one", "whole") as lease:
        # As much as a killed run left, up to whole blocks of the disk.
        fill(lease.folder / "slide.part", 1)
        lease.reserve(1)


def test_waiting_for_room_ends_when_the_run_is_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    work = Workspace(tmp_path, 10 * MB, stop, 0)
    with work.lease("one", "whole") as first, work.lease("two", "whole") as second:
        first.reserve(6 * MB)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Interrupted):
            second.reserve(6 * MB)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_oldest_leftover_makes_room_and_the_younger_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    fill(tmp_path / "old" / "whole" / "slide.svs", 4 * MB)
    fill(tmp_path / "young" / "whole" / "slide.svs", 4 * MB)
    os.utime(tmp_path / "old" / "whole", (0, 0))
    if on_disk:

        def free(_: Path) -> int:
            return 4 * MB if (tmp_path / "old").exists() else 8 * MB

        monkeypatch.setattr("tcgamirror.sources.workspace.free_bytes", free)
    with workspace(tmp_path, limit=None if on_disk else 10 * MB).lease("one", "whole") as lease:
        lease.reserve(5 * MB)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "young"]


def test_a_failing_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tcgamirror.sources.workspace.free_bytes", fails)
    with (
        pytest.raises(Damaged, match="the disk fails"),
        workspace(tmp_path).lease("one", "whole") as lease,
    ):
        lease.reserve(1)


def test_a_hole_takes_no_room(tmp_path: Path) -> None:
    with workspace(tmp_path).lease("one", "range") as lease:
        with (lease.folder / "slide.part").open("wb") as file:
            file.truncate(1 << 30)
        assert lease.bytes < MB


def test_two_that_wait_for_each_others_room_both_come_through(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=10 * MB)
    ready = threading.Barrier(2)

    def fetch(name: str) -> None:
        with work.lease(name, "range") as lease:
            fill(lease.folder / "slide.part", MB)
            ready.wait(20)
            lease.reserve(10 * MB - 1000)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fetch, ("one", "two"), timeout=60))


def test_a_slide_waits_for_room_and_who_asked_first_is_served_first(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=10 * MB)
    served: list[str] = []

    def fetch(name: str, need: int) -> None:
        with work.lease(name, "whole") as lease:
            lease.reserve(need)
            served.append(name)

    with ThreadPoolExecutor(2) as pool, work.lease("first", "whole") as first:
        first.reserve(6 * MB)
        pool.submit(fetch, "large", 9 * MB)
        time.sleep(0.3)
        pool.submit(fetch, "small", 2 * MB)
        time.sleep(0.4)
        assert not served
    assert served == ["large", "small"]


def test_who_has_room_does_not_queue_again(tmp_path: Path) -> None:
    stop = threading.Event()
    work = Workspace(tmp_path, 10 * MB, stop, 0)

    def fetch() -> None:
        with work.lease("waiting", "range") as waiting:
            waiting.reserve(6 * MB)

    threading.Timer(5, stop.set).start()
    with ThreadPoolExecutor(1) as pool, work.lease("first", "range") as first:
        first.reserve(6 * MB)
        second = pool.submit(fetch)
        time.sleep(0.3)
        first.reserve(6 * MB)
        assert not second.done()
    second.result()


def test_a_lease_that_begins_while_room_is_made_is_no_leftover(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=4 * MB)
    stop = threading.Event()

    def begin() -> list[str]:
        lost = []
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            with work.lease(f"new-{number}", "range") as lease:
                fill(lease.folder / "slide.part", 1000)
                if not (lease.folder / "slide.part").exists():
                    lost.append(lease.folder.name)
        return lost

    with ThreadPoolExecutor(1) as pool:
        beginner = pool.submit(begin)
        for number in range(200):
            fill(tmp_path / f"old-{number}" / "whole" / "slide.svs", 3 * MB)
            with work.lease("grown", "whole") as lease:
                lease.reserve(3 * MB)
        stop.set()
        assert beginner.result(60) == []


def test_a_source_that_begins_late_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is there before that of the slide, which seemed empty, goes."""
    fill(tmp_path / "other" / "range" / "slide.part", 3 * MB)
    begun = tmp_path / "other" / "whole"
    rmdir = Path.rmdir

    def late(path: Path) -> None:
        if path == begun.parent:
            begun.mkdir()
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", late)
    with workspace(tmp_path, limit=4 * MB).lease("one", "whole") as lease:
        lease.reserve(2 * MB)
    assert list(begun.parent.iterdir()) == [begun]


def test_a_folder_that_is_held_only_to_be_read_is_no_leftover(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=2 * MB)
    fill(tmp_path / "old" / "range" / "slide.part", MB)
    with work.lease("one", "range", keep=True) as held:
        fill(held.folder / "slide.part", MB)
        with work.lease("two", "whole") as lease:
            lease.reserve(2 * MB)
        assert (held.folder / "slide.part").exists()
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "one" / "range" / "slide.part").exists()
