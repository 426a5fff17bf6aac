"""A mirror fed by another one that was rebuilt, or has damaged images or none."""

from __future__ import annotations

import shutil
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
from tests.support.command import run, succeeded
from tests.support.mirrors import column, images, made, rows, updated
from tests.support.publishing import paths, synced

RELEASES = (
    "Data Release 45.0 - December 04, 2025",
    "Data Release 46.0 - March 04, 2026",
    "Data Release 47.0 - May 04, 2026",
)
PICTURES = "select file_name, status, path, sha256 from mirror order by file_name"


def _rebuilt(root: Path) -> None:
    (root / "catalogue.db").unlink()
    succeeded("--mirror", root, "rebuild")


def _damaged(root: Path, path: str) -> None:
    """Damages an image, and has it found out while the GDC is away."""
    file = root / path
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert run("--mirror", root, "verify", "--repair").code == 4
    assert column(root, f"select status from mirror where path = '{path}'") == ["failed"]


def _parts(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


# A source that was rebuilt -------------------------------------------------------------


def test_a_mirror_fed_by_import_follows_a_source_that_was_rebuilt(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    files = {file.file_name: file for file in small_slides}
    source, fed = tmp_path / "source", tmp_path / "fed"
    with StandIn(small_slides, release=RELEASES[0]) as gdc:
        made(source, gdc, slides=4)
        updated(source)
        imported(fed, exported(source, tmp_path / "0"))
        _rebuilt(source)
        for number, release in enumerate(RELEASES[1:], start=1):
            name = str(column(source, "select file_name from mirror order by 1")[number])
            files[name] = other_pixels(files[name], tmp_path / f"{number}.svs")
            gdc.publish(list(files.values()), release)
            updated(source)
            told = imported(fed, exported(source, tmp_path / str(number)))
            assert (told["images"], told["older"], told["same"]) == (1, 0, 3)
            assert rows(fed, PICTURES) == rows(source, PICTURES)
            assert images(fed) == images(source) and is_clean(fed)
    history = "select release, added, changed, withdrawn from releases order by merge"
    assert rows(fed, history) == [
        (RELEASES[0], len(files), 0, 0), (RELEASES[1], 0, 1, 0), (RELEASES[2], 0, 1, 0)
    ]  # fmt: skip
    told = succeeded("--mirror", fed, "changes", "--json").json()
    assert [len(each["changes"]) for each in told][1:] == [1, 1]
    assert column(fed, "select distinct upstream from mirror") == ["current"]


def test_an_older_listing_of_a_rebuilt_source_takes_nothing_back(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    with StandIn(small_slides, release=RELEASES[0]) as gdc:
        made(older, gdc, slides=4)
        updated(older)
        shutil.copytree(older, newer)
        files = [
            other_pixels(file, tmp_path / f"{number}.svs") if number < 15 else file
            for number, file in enumerate(small_slides)
        ]
        _rebuilt(older)
        gdc.publish(files, RELEASES[1])
        updated(newer)
    before = rows(newer, PICTURES)
    told = imported(newer, older)
    assert (told["images"], told["slides"]) == (0, 0)
    assert rows(newer, PICTURES) == before
    assert column(newer, "select release from releases order by merge") == list(RELEASES[:2])


# Images that the source cannot give ----------------------------------------------------


@pytest.mark.parametrize("gone", [True, False])
def test_an_image_to_be_fetched_again_that_cannot_be_had_is_told_and_leaves_nothing(
    tmp_path: Path, small_slides: tuple[Listed, ...], gone: bool
) -> None:
    source = tmp_path / "source"
    with StandIn(small_slides) as gdc:
        made(source, gdc, slides=3)
        updated(source)
    path = paths(source)[1]
    _damaged(source, path)
    if gone:
        (source / path).unlink()
    result = run("sync", source, tmp_path / "synced")
    assert result.code == 3 and path in result.sentence
    told = inside("--mirror", tmp_path / "imported", "import", source)
    assert told.code == (0 if gone else 3) and (path in told.out) != gone
    for root in (tmp_path / "synced", tmp_path / "imported"):
        statuses = rows(root, "select status, path is null from mirror order by sample_rank")
        assert statuses == [("done", 0), ("failed", 1), ("done", 0)]
        assert not _parts(root) and is_clean(root)


def test_an_image_of_before_stays_where_the_newer_one_cannot_be_had(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root, source = moved_projects(tmp_path, small_slides)
    before, new = rows(root, PICTURES), str(paths(source)[1])
    old = str(paths(root)[1])
    _damaged(source, new)
    for _ in range(2):
        result = run("sync", source, root)
        assert result.code == 3 and new in result.sentence
        pictures = rows(root, PICTURES)
        assert [row[2:] for row in pictures] == [row[2:] for row in before]
        slide = f"select status, upstream, project_id from mirror where path = '{old}'"
        assert rows(root, slide) == [("failed", "changed", "TCGA-NEW")]
        assert not _parts(root) and is_clean(root)


def test_what_is_right_here_stays_done_whatever_becomes_of_it_at_the_source(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    with StandIn(small_slides) as gdc:
        made(source, gdc, slides=3)
        updated(source)
        synced(source, root)
        before, path = rows(root, PICTURES), paths(source)[0]
        (source / path).unlink()
        _rebuilt(source)
        gone = "select status, path from mirror order by path limit 1"
        assert rows(source, gone) == [("pending", None)]
        synced(source, root)
        assert rows(root, PICTURES) == before and is_clean(root)
        assert synced(source, root, "--delete")["removed"] == 1
        assert rows(root, PICTURES) == rows(source, PICTURES) and is_clean(root)


def test_an_image_to_be_fetched_again_replaces_none_of_the_file_listed(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    with StandIn(small_slides, release=RELEASES[0]) as gdc:
        made(source, gdc, slides=3)
        updated(source)
        synced(source, root)
        name = str(column(source, "select file_name from mirror")[0])
        files = [
            other_pixels(file, tmp_path / "a.svs") if file.file_name == name else file
            for file in small_slides
        ]
        gdc.publish(files, RELEASES[1])
        updated(root)
        succeeded("--mirror", source, "refresh")
        before = rows(root, PICTURES)
        assert synced(source, root)["fetched"] == 0
        assert rows(root, PICTURES) == before and is_clean(root)
        assert column(root, "select distinct upstream from mirror") == ["current"]


def test_a_listing_of_another_manifest_is_not_taken_for_a_newer_one(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    row = "{0.file_id}\t{0.file_name}\t{0.md5}\t{0.size}\treleased\n"
    mirrors = []
    with StandIn(small_slides) as gdc:
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


def test_what_is_told_of_a_slide_kept_here_follows_the_listing_of_the_source(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    with StandIn(small_slides, release=RELEASES[0]) as gdc:
        made(source, gdc, slides=3)
        updated(source)
        synced(source, root)
        ((name, path),) = rows(source, "select file_name, path from mirror where sample_rank = 1")
        told = f"select status, upstream, path from mirror where file_name = '{name}'"
        others = [file for file in small_slides if file.file_name != name]
        (this,) = {*small_slides} - {*others}
        gdc.publish(others, RELEASES[1])
        (source / str(path)).unlink()
        _rebuilt(source)
        updated(source)
        assert rows(source, told) == []
        assert synced(source, root)["others"] == 1
        assert rows(root, told) == [("done", "withdrawn", path)]
        gdc.publish([*others, other_pixels(this, tmp_path / "a.svs")], RELEASES[2])
        updated(source)
        synced(source, root)
        assert rows(root, told) == [("pending", "changed", path)] and is_clean(root)
