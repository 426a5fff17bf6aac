"""The sparse file against a model that keeps each byte on its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcgamirror.model.byteranges import Span, SpanSet
from tcgamirror.model.errors import NotFetched
from tcgamirror.sources.sparse_file import SparseFile

SIZE = 300
CONTENT = random.Random(7).randbytes(SIZE)
"""Every write takes its bytes from here, as every span of one remote file does."""

spans = st.tuples(st.integers(0, SIZE), st.integers(0, 60)).map(
    lambda pair: Span(pair[0], min(SIZE, pair[0] + pair[1]))
)
steps = st.one_of(spans, st.just("reopen"), st.integers(1, 12).map(lambda count: ("torn", count)))


def opened(path: Path, identity: str = "file_id md5", size: int = SIZE) -> SparseFile:
    return SparseFile.open(path, identity=identity, size=size)


def record(path: Path) -> Path:
    return path.with_name(path.name + ".spans")


@settings(max_examples=150)
@given(st.lists(steps, max_size=20), spans)
def test_it_holds_what_was_written(
    history: list[Span | str | tuple[str, int]], wanted: Span
) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "slide.svs")
        partial = opened(path)
        written: list[Span] = []
        for step in history:
            if isinstance(step, Span):
                partial.write(step.start, CONTENT[step.start : step.stop])
                written += [step] if step.length else []
                continue
            partial.close()
            if isinstance(step, tuple) and written:
                text = record(path).read_bytes()
                last = text.splitlines(keepends=True)[-1]
                record(path).write_bytes(text[: -min(step[1], len(last))])
                written.pop()
            partial = opened(path)
        model = {index for span in written for index in range(span.start, span.stop)}
        with partial:
            assert partial.available == SpanSet(written)
            if model >= set(range(wanted.start, wanted.stop)):
                assert partial.read(wanted) == CONTENT[wanted.start : wanted.stop]
            else:
                with pytest.raises(NotFetched):
                    partial.read(wanted)


@settings(max_examples=100)
@given(st.lists(spans, min_size=1, max_size=6), st.binary(max_size=40), st.integers(0, 400))
def test_a_damaged_record_is_not_believed(written: list[Span], noise: bytes, place: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.svs")
        with opened(path) as partial:
            assert partial.check_etag("gdc", '"a"')
            for span in written:
                partial.write(span.start, CONTENT[span.start : span.stop])
        text = record(path).read_bytes()
        record(path).write_bytes(text[:place] + noise + text[place + len(noise) :])
        with opened(path) as partial:
            for span in partial.available:
                assert partial.read(span) == CONTENT[span.start : span.stop]
            partial.write(0, CONTENT[:9])
        with opened(path) as partial:
            assert not partial.missing(Span(0, 9))


def test_a_read_names_the_bytes_it_lacks_and_no_write_goes_beyond_the_file(tmp_path: Path) -> None:
    with opened(tmp_path / "slide.svs") as partial:
        partial.write(10, CONTENT[10:20])
        with pytest.raises(NotFetched, match=r"slide\.svs lacks bytes 5-9, 20-24 of 5-24"):
            partial.read(Span(5, 25))
        for outside in (Span(-1, 2), Span(SIZE - 2, SIZE + 1), Span(SIZE, SIZE + 3)):
            with pytest.raises(NotFetched):
                partial.read(outside)
            with pytest.raises(ValueError, match="are outside of"):
                partial.write(outside.start, b"abc")
        assert list(partial.available) == [Span(10, 20)]


def test_damaged_bytes_are_forgotten_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    with opened(path) as partial:
        for start in (0, 100, 200):
            partial.write(start, CONTENT[start : start + 50])
    with path.open("r+b") as file:
        file.seek(120)
        file.write(b"\x00\x01\x02")
    with opened(path) as partial:
        assert list(partial.available) == [Span(0, 50), Span(200, 250)]
        partial.write(100, CONTENT[100:150])
    with opened(path) as partial:
        assert partial.available.total == 150


@pytest.mark.parametrize("change", ["identity", "size", "no record", "no file", "longer file"])
def test_another_file_is_fetched_anew(tmp_path: Path, change: str) -> None:
    path = tmp_path / "slide.svs"
    with opened(path) as partial:
        assert partial.check_etag("gdc", '"a"') and not partial.check_etag("gdc", '"b"')
        partial.write(0, CONTENT[:100])
    with opened(path) as partial:
        assert (partial.available.total, partial.etag("gdc")) == (100, '"a"')
    if change == "no record":
        record(path).unlink()
    elif change == "no file":
        path.unlink()
    elif change == "longer file":
        path.write_bytes(CONTENT + b"x")
    identity = "other\nidentity" if change == "identity" else "file_id md5"
    size = SIZE - 1 if change == "size" else SIZE
    for had in (0, 5):
        with opened(path, identity, size) as partial:
            assert (partial.available.total, partial.size) == (had, size)
            assert (partial.etag("gdc") is None) is (change != "no file")
            partial.write(0, CONTENT[:5])
            assert partial.read(Span(0, 5)) == CONTENT[:5]


def test_a_large_file_takes_no_more_room_than_what_is_had(tmp_path: Path) -> None:
    path, place = tmp_path / "slide.svs", Span(5_000_000_000, 5_000_000_000 + SIZE)
    with opened(path, size=5 << 30) as partial:
        partial.write(place.start, CONTENT)
        assert path.stat().st_size == 5 << 30
        assert path.stat().st_blocks * 512 < 1 << 20
    with opened(path, size=5 << 30) as partial:
        assert partial.read(place) == CONTENT


def test_a_file_may_grow_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = os.ftruncate

    def refuse(handle: int, length: int) -> None:
        if length == SIZE:
            raise OSError("no sparse files here")
        truncate(handle, length)

    monkeypatch.setattr("os.ftruncate", refuse)
    path = tmp_path / "slide.svs"
    for _ in range(2):
        with opened(path) as partial:
            partial.write(50, CONTENT[50:60])
            assert path.stat().st_size == 60
            assert partial.read(Span(50, 60)) == CONTENT[50:60]
    with opened(path) as partial:
        assert list(partial.available) == [Span(50, 60)]


def test_many_threads_write_and_read_at_once(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(400_000)
    path = tmp_path / "slide.svs"
    places = range(0, len(content), 1000)
    with opened(path, size=len(content)) as partial, ThreadPoolExecutor(8) as pool:

        def there_and_back(start: int) -> bool:
            data = content[start : start + 1000]
            partial.write(start, data)
            return partial.read(Span(start, start + 1000)) == data

        assert all(pool.map(there_and_back, places))
    with opened(path, size=len(content)) as partial:
        assert partial.read(Span(0, len(content))) == content


WRITE = """
    import pathlib, resource, sys
    from tcgamirror.model.errors import DiskFull
    from tcgamirror.sources.sparse_file import SparseFile
    limit = int(sys.argv[2])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    partial = SparseFile.open(pathlib.Path(sys.argv[1]), identity="x", size=1 << 20)
    for start in range(0, 1 << 20, 64):
        try:
            partial.write(start, bytes([start // 64 % 255 + 1]) * 64)
        except DiskFull as error:
            sys.exit(str(error))
        print(start, flush=True)
"""


def fill(path: Path, limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITE), str(path), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_right_so_far(path: Path, lines: list[str]) -> None:
    with opened(path, "x", 1 << 20) as partial:
        done = [int(line) for line in lines if line.endswith("\n")]
        assert not partial.missing(Span(0, done[-1] + 64))
        for span in partial.available:
            data = partial.read(span)
            assert data == b"".join(bytes([n % 255 + 1]) * 64 for n in range(len(data) // 64))


def test_a_killed_run_keeps_all_it_had(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    with fill(path, 0) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert_right_so_far(path, lines)


def test_a_full_disk_is_named_and_keeps_all_that_was_had(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    with fill(path, 5000) as process:
        lines, complaint = process.communicate(timeout=30)
    assert "allows no larger file" in complaint
    assert_right_so_far(path, lines.splitlines(keepends=True))
