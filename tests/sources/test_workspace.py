"""What may lie in `work/`, and for how long."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from tcgamirror.model.errors import (
    BadTile,
    Damaged,
    DiskFull,
    Interrupted,
    UnsupportedSlide,
)
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


def test_a_slide_that_needs_more_than_the_limit_goes_another_way(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=5 * MB)
    with pytest.raises(UnsupportedSlide, match="work_limit"), work.lease("one", "whole") as lease:
        lease.reserve(6 * MB)


def test_a_slide_waits_until_another_gives_its_room_back(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=10 * MB)
    granted = threading.Event()

    def second() -> None:
        with work.lease("two", "whole") as lease:
            lease.reserve(6 * MB)
            granted.set()

    with work.lease("one", "whole") as lease:
        lease.reserve(6 * MB)
        thread = threading.Thread(target=second)
        thread.start()
        assert not granted.wait(0.5)
    assert granted.wait(5)
    thread.join(5)


def test_waiting_for_room_ends_when_the_run_is_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    work = Workspace(tmp_path, 10 * MB, stop, 0)
    with work.lease("one", "whole") as first, work.lease("two", "whole") as second:
        first.reserve(6 * MB)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Interrupted):
            second.reserve(6 * MB)


def test_the_oldest_leftover_makes_room_and_the_younger_stays(tmp_path: Path) -> None:
    fill(tmp_path / "old" / "whole" / "slide.svs", 4 * MB)
    time.sleep(0.05)
    fill(tmp_path / "young" / "whole" / "slide.svs", 4 * MB)
    with workspace(tmp_path, limit=10 * MB).lease("one", "whole") as lease:
        lease.reserve(5 * MB)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "young"]


def test_a_disk_that_is_nearly_full_ends_the_run(tmp_path: Path) -> None:
    work = workspace(tmp_path, min_free=1 << 60)
    with pytest.raises(DiskFull, match="bytes are free"), work.lease("one", "whole") as lease:
        lease.reserve(1)


def test_a_failing_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tcgamirror.sources.workspace.free_bytes", fails)
    work = workspace(tmp_path)
    with pytest.raises(Damaged, match="the disk fails"):
        work.check_free_space()
    with pytest.raises(Damaged, match="the disk fails"), work.lease("one", "whole") as lease:
        lease.reserve(1)


def test_a_hole_takes_no_room(tmp_path: Path) -> None:
    with workspace(tmp_path).lease("one", "range") as lease:
        with (lease.folder / "slide.part").open("wb") as file:
            file.truncate(1 << 30)
        assert lease.bytes < MB


def test_two_that_wait_for_each_others_room_both_come_through(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=10 * MB)
    ended = []
    ready = threading.Barrier(2)

    def fetch(name: str) -> None:
        with work.lease(name, "range") as lease:
            fill(lease.folder / "slide.part", MB)
            ready.wait(5)
            lease.reserve(10 * MB - 1000)
            ended.append(name)

    threads = [threading.Thread(target=fetch, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["one", "two"]


def test_who_asked_first_is_served_first(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=10 * MB)
    served: list[str] = []

    def fetch(name: str, need: int) -> None:
        with work.lease(name, "whole") as lease:
            lease.reserve(need)
            served.append(name)

    with work.lease("first", "whole") as first:
        first.reserve(6 * MB)
        large = threading.Thread(target=fetch, args=("large", 9 * MB))
        large.start()
        time.sleep(0.3)
        small = threading.Thread(target=fetch, args=("small", 2 * MB))
        small.start()
        time.sleep(0.5)
        assert not served
    large.join(5)
    small.join(5)
    assert served == ["large", "small"]


def test_a_lease_that_begins_while_room_is_made_is_no_leftover(tmp_path: Path) -> None:
    work = workspace(tmp_path, limit=4 * MB)
    stop = threading.Event()
    lost: list[str] = []

    def begin() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with work.lease(f"new-{number}", "range") as lease:
                fill(lease.folder / "slide.part", 1000)
                if not (lease.folder / "slide.part").exists():
                    lost.append(lease.folder.name)

    beginner = threading.Thread(target=begin)
    beginner.start()
    try:
        for number in range(200):
            fill(tmp_path / f"old-{number}" / "whole" / "slide.svs", 3 * MB)
            with work.lease("grown", "whole") as lease:
                lease.reserve(3 * MB)
    finally:
        stop.set()
        beginner.join(10)
    assert not lost


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
    with work.hold("one", "range") as held:
        fill(held.folder / "slide.part", MB)
        with work.lease("two", "whole") as lease:
            lease.reserve(2 * MB)
        assert (held.folder / "slide.part").exists()
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "one" / "range" / "slide.part").exists()


def test_leftovers_make_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "old" / "whole" / "slide.svs", 5 * MB)

    def free(_: Path) -> int:
        return 8 * MB if (tmp_path / "old").exists() else 13 * MB

    monkeypatch.setattr("tcgamirror.sources.workspace.free_bytes", free)
    with workspace(tmp_path).lease("one", "whole") as lease:
        lease.reserve(10 * MB)
        assert not (tmp_path / "old").exists()
