"""A mirror fed by another one that was rebuilt, or has damaged images or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn
from tests.support.carrying import (
    exported,
    imported,
    inside,
    is_clean,
    moved_projects,
    other_pixels,
)
from tests.support.command import went_well
from tests.support.mirrors import column, images, made, rows, updated
from tests.support.publishing import paths, synced

RELEASES = (
    "Data Release 45.0 - December 04, 2025",
    "Data Release 46.0 - March 04, 2026",
    "Data Release 47.0 - May 04, 2026",
)
PICTURES = "select file_name, status, path, sha256, pixels_sha256 from mirror order by file_name"
UPSTREAM = "select distinct upstream from mirror"


@pytest.fixture
def gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    with StandIn(small_slides, release=RELEASES[0]) as gdc:
        yield gdc


@pytest.fixture
def source(tmp_path: Path, gdc: StandIn) -> Path:
    """A mirror of three slides."""
    root = made(tmp_path / "source", gdc, slides=3)
    updated(root)
    return root


@pytest.fixture
def root(tmp_path: Path, source: Path) -> Path:
    """A mirror that was synced from the source."""
    synced(source, tmp_path / "root")
    return tmp_path / "root"


def _rebuilt(root: Path) -> None:
    (root / "catalogue.db").unlink()
    went_well("--mirror", root, "rebuild")


def _damaged(root: Path, path: str) -> None:
    """Damage an image, and have `verify` find it while the GDC is away."""
    file = root / path
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert inside("--mirror", root, "verify", "--repair").code == 4
    assert column(root, f"select status from mirror where path = '{path}'") == ["pending"]


def _changed(files: tuple[Listed, ...], name: str, folder: Path) -> list[Listed]:
    """Return the slides, of which the one of this name is another file."""
    return [
        other_pixels(file, folder / f"{name}.svs") if file.file_name == name else file
        for file in files
    ]


def _parts(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


# A source that was rebuilt -------------------------------------------------------------


def test_imports_follow_a_source_that_was_rebuilt(
    tmp_path: Path, source: Path, gdc: StandIn, small_slides: tuple[Listed, ...]
) -> None:
    files, fed = small_slides, tmp_path / "fed"
    imported(fed, exported(source, tmp_path / "0"))
    _rebuilt(source)
    for number, release in enumerate(RELEASES[1:], start=1):
        name = str(column(source, "select file_name from mirror order by 1")[number])
        files = tuple(_changed(files, name, tmp_path))
        gdc.publish(files, release)
        updated(source)
        answer = imported(fed, exported(source, tmp_path / str(number)))
        assert (answer["images"], answer["older"], answer["same"]) == (1, 0, 2)
        assert rows(fed, PICTURES) == rows(source, PICTURES)
        assert images(fed) == images(source) and is_clean(fed)
    history = "select release, added, changed, withdrawn from releases order by merge"
    assert rows(fed, history) == [
        (RELEASES[0], len(files), 0, 0), (RELEASES[1], 0, 1, 0), (RELEASES[2], 0, 1, 0)
    ]  # fmt: skip
    changes = went_well("--mirror", fed, "changes", "--json").json()
    assert [len(each["changes"]) for each in changes][1:] == [1, 1]
    assert column(fed, UPSTREAM) == ["current"]


def test_an_older_listing_of_a_rebuilt_source_changes_nothing(
    tmp_path: Path, source: Path, gdc: StandIn, small_slides: tuple[Listed, ...]
) -> None:
    newer = shutil.copytree(source, tmp_path / "newer")
    files = [
        other_pixels(file, tmp_path / f"{number}.svs") if number < 15 else file
        for number, file in enumerate(small_slides)
    ]
    _rebuilt(source)
    gdc.publish(files, RELEASES[1])
    updated(newer)
    before = rows(newer, PICTURES)
    answer = imported(newer, source)
    assert (answer["images"], answer["slides"]) == (0, 0)
    assert rows(newer, PICTURES) == before
    assert column(newer, "select release from releases order by merge") == list(RELEASES[:2])


def test_a_listing_of_another_manifest_is_not_newer(
    tmp_path: Path, small_slides: tuple[Listed, ...], gdc: StandIn
) -> None:
    row = "{0.file_id}\t{0.file_name}\t{0.md5}\t{0.size}\treleased\n"
    mirrors = []
    for folder, part in (("a", small_slides[:3]), ("b", small_slides[3:8])):
        (tmp_path / folder).mkdir()
        manifest = tmp_path / folder / "manifest.txt"
        lines = ["id\tfilename\tmd5\tsize\tstate\n", *map(row.format, part)]
        manifest.write_text("".join(lines))
        root = made(tmp_path / folder / "m", gdc, "--manifest", str(manifest), slides=len(part))
        updated(root)
        mirrors.append(root)
    imported(*mirrors)
    upstream = "select upstream, count(*) from mirror group by 1 order by 1"
    assert rows(mirrors[0], upstream) == [("current", 3), ("withdrawn", 5)]


# Images that the source does not have --------------------------------------------------


@pytest.mark.parametrize("gone", [True, False])
def test_an_unavailable_image_is_named_and_leaves_nothing(
    tmp_path: Path, export: Path, gone: bool
) -> None:
    # A mirror whose GDC is gone.
    source = shutil.copytree(export.parent / "m", tmp_path / "source")
    path = paths(source)[1]
    _damaged(source, path)
    if gone:
        (source / path).unlink()
    result = inside("sync", source, tmp_path / "synced")
    assert result.code == 3 and path in result.sentence
    answer = inside("--mirror", tmp_path / "imported", "import", source)
    assert answer.code == (0 if gone else 3) and (path in answer.out) != gone
    for root in (tmp_path / "synced", tmp_path / "imported"):
        statuses = rows(root, "select status, path is null from mirror order by sample_rank")
        assert statuses == [("done", 0), ("pending", 1), ("done", 0)]
        assert not _parts(root) and is_clean(root)


def test_an_older_image_stays_where_the_newer_one_is_unavailable(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root, source = moved_projects(tmp_path, small_slides)
    before, new = rows(root, PICTURES), str(paths(source)[1])
    old = str(paths(root)[1])
    _damaged(source, new)
    for _ in range(2):
        result = inside("sync", source, root)
        assert result.code == 3 and new in result.sentence
        pictures = rows(root, PICTURES)
        assert [row[2:] for row in pictures] == [row[2:] for row in before]
        slide = f"select status, upstream, project_id from mirror where path = '{old}'"
        assert rows(root, slide) == [("pending", "changed", "TCGA-NEW")]
        assert not _parts(root) and is_clean(root)


def test_what_is_right_here_stays_done_whatever_the_source_lost(source: Path, root: Path) -> None:
    before, path = rows(root, PICTURES), paths(source)[0]
    (source / path).unlink()
    _rebuilt(source)
    gone = "select status, path from mirror order by path limit 1"
    assert rows(source, gone) == [("pending", None)]
    synced(source, root)
    assert rows(root, PICTURES) == before and is_clean(root)
    assert synced(source, root, "--delete")["removed"] == 1
    assert rows(root, PICTURES) == rows(source, PICTURES) and is_clean(root)


def test_an_outdated_image_there_does_not_replace_a_current_one(
    tmp_path: Path, source: Path, root: Path, gdc: StandIn, small_slides: tuple[Listed, ...]
) -> None:
    name = str(column(source, "select file_name from mirror")[0])
    gdc.publish(_changed(small_slides, name, tmp_path), RELEASES[1])
    updated(root)
    went_well("--mirror", source, "refresh")
    before = rows(root, PICTURES)
    assert synced(source, root)["fetched"] == 0
    assert rows(root, PICTURES) == before and is_clean(root)
    assert column(root, UPSTREAM) == ["current"]


def test_a_slide_that_only_this_mirror_has_follows_the_sources_listing(
    tmp_path: Path, source: Path, root: Path, gdc: StandIn, small_slides: tuple[Listed, ...]
) -> None:
    ((name, path),) = rows(source, "select file_name, path from mirror where sample_rank = 1")
    state = f"select status, upstream, path from mirror where file_name = '{name}'"
    gdc.publish([file for file in small_slides if file.file_name != name], RELEASES[1])
    (source / str(path)).unlink()
    _rebuilt(source)
    updated(source)
    assert rows(source, state) == []
    assert synced(source, root)["others"] == 1
    assert rows(root, state) == [("done", "withdrawn", path)]
    gdc.publish(_changed(small_slides, str(name), tmp_path), RELEASES[2])
    updated(source)
    synced(source, root)
    assert rows(root, state) == [("pending", "changed", path)] and is_clean(root)
