"""`export` beside what is there already: other mirrors, rows that wait, and what it cannot take."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.errors import UsageError
from tcgamirror.transfer import exporter as exporting
from tcgamirror.transfer.archive import reader
from tcgamirror.transfer.archive.format import EXPORT_LOCK, MAX_BYTES, SUMS
from tcgamirror.transfer.destination import open_destination
from tests.support.carrying import FORMS, exported, imported, inside
from tests.support.catalogues import LATER, listing, slide
from tests.support.command import run, succeeded
from tests.support.mirrors import column, contents, images, rewrite
from tests.support.publishing import change


@pytest.fixture
def root(tmp_path: Path, mirror: Path) -> Path:
    """A mirror of six slides."""
    return shutil.copytree(mirror, tmp_path / "m")


def in_the_way(root: Path, dest: Path) -> str:
    """The sentence of an export that is refused for what lies at DEST.part, and leaves that."""
    work = dest.with_name(f"{dest.name}.part")
    before = contents(work)
    result = inside("--mirror", root, "export", dest)
    assert result.code == 2 and f"{work}: is in the way" in result.sentence, result
    assert contents(work) == before and not dest.exists()
    return result.sentence


# What lies where it would be made -----------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_another_mirror_is_never_taken_for_a_killed_export(
    root: Path, tmp_path: Path, ending: str
) -> None:
    other = shutil.copytree(root, tmp_path / f"e{ending}.part")
    assert (other / ".lock").is_file()
    assert "older tcgamirror" in in_the_way(root, tmp_path / f"e{ending}")
    # Nor is one that was made of what a killed export left.
    (other / EXPORT_LOCK).touch()
    in_the_way(root, tmp_path / f"e{ending}")


def test_what_a_killed_archive_left_is_removed_and_no_link_followed(
    root: Path, tmp_path: Path
) -> None:
    work, other = tmp_path / "e.tar.part", tmp_path / "other"
    (work / "images").mkdir(parents=True)
    other.mkdir()
    (other / "mine").touch()
    for name in (EXPORT_LOCK, "catalogue.db", "catalogue.db-journal", "e.tar", "images/a.png"):
        (work / name).write_text("left")
    (work / "link").symlink_to(other)
    exported(root, tmp_path / "e.tar")
    assert not work.exists() and (other / "mine").exists()


def test_an_empty_directory_is_in_nobodys_way(root: Path, tmp_path: Path) -> None:
    for name in ("e", "e.tar"):
        (tmp_path / f"{name}.part").mkdir()
        exported(root, tmp_path / name)
        assert not (tmp_path / f"{name}.part").exists()
    assert not (tmp_path / "e" / EXPORT_LOCK).exists()


def test_where_nothing_was_made_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "e.part").mkdir()
    (tmp_path / "e.part" / EXPORT_LOCK).touch()
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine").touch()
    with (
        pytest.raises(UsageError, match="exists already"),
        open_destination(tmp_path / "e", tmp_path),
    ):
        pass
    assert not (tmp_path / "e.part").exists()


def test_a_lock_that_could_not_be_imported_is_not_exported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeded("--mirror", root, "lock", root / "sample.lock")
    rewrite(root, "^lock = .*", 'lock = "sample.lock"')
    monkeypatch.setattr(exporting, "MAX_LOCK_BYTES", 100)
    result = inside("--mirror", root, "export", tmp_path / "e")
    assert result.code == 2 and "sample.lock: would have" in result.sentence


@pytest.mark.parametrize("ending", FORMS)
def test_a_missing_lock_file_is_reported(root: Path, tmp_path: Path, ending: str) -> None:
    rewrite(root, r"lock = .*", 'lock = "s.lock"')
    refused = inside("--mirror", root, "export", tmp_path / f"e{ending}")
    assert refused.code == 2 and f"{root / 's.lock'}: is missing" in refused.sentence
    assert not (tmp_path / f"e{ending}").exists()


def test_a_link_in_what_a_killed_export_left_is_not_followed(root: Path, tmp_path: Path) -> None:
    work, other = tmp_path / "e.part", tmp_path / "other"
    other.write_bytes(b"mine")
    for name in (*images(root), "catalogue.db", "SHA256SUMS", ".SHA256SUMS.part"):
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(other)
    (work / EXPORT_LOCK).touch()
    exported(root, tmp_path / "e")
    assert other.read_bytes() == b"mine"
    assert not [path for path in (tmp_path / "e").rglob("*") if path.is_symlink()]
    assert images(tmp_path / "e") == images(root)


def test_what_another_user_made_is_in_the_way(root: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    work = tmp_path / "e.part"
    work.mkdir()
    (work / EXPORT_LOCK).touch()
    os.chown(work, 12_345, 12_345)
    in_the_way(root, tmp_path / "e")


def test_a_disk_that_takes_a_part_of_a_file_is_full(root: Path, tmp_path: Path) -> None:
    (root / "gallery").mkdir()
    (root / "gallery" / "large.html").write_bytes(bytes(3_000_000))
    result = run("--mirror", root, "export", tmp_path / "e", by=("prlimit", "--fsize=2000000"))
    assert (result.code, (tmp_path / "e").exists()) == (6, False)
    assert "large.html" in result.sentence


# What is waited for -------------------------------------------------------------------


def test_images_that_may_be_replaced_are_waited_for_together(root: Path, tmp_path: Path) -> None:
    for path in images(root):
        (root / path).unlink()
    change(root, "UPDATE images SET status = 'pending'")
    start = time.monotonic()
    answer = inside("--mirror", root, "export", tmp_path / "e", "--json").json()
    assert time.monotonic() - start < 7
    assert (answer["exit_code"], answer["images"], answer["slides"]) == (0, 0, {"pending": 6})
    assert column(tmp_path / "e", "select distinct path from mirror") == [None]


def test_an_image_that_comes_meanwhile_is_taken_and_its_row_with_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = images(root)
    kept = {path: (root / path).read_bytes() for path in (first, second)}
    for path in kept:
        (root / path).unlink()
    change(root, "UPDATE images SET status = 'pending' WHERE path IN (?, ?)", first, second)
    waits = 0

    def meanwhile(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            (root / first).write_bytes(kept[first])
            change(root, "UPDATE images SET status = 'done' WHERE path = ?", first)
        if waits == 4:
            # What is lost meanwhile is not waited for any longer.
            change(root, "UPDATE images SET status = 'done' WHERE path = ?", second)

    monkeypatch.setattr("tcgamirror.transfer.exporter.time.sleep", meanwhile)
    result = inside("--mirror", root, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"], waits) == (7, [second], 4)
    assert result.json()["slides"] == {"done": 5, "pending": 1}
    assert first in images(tmp_path / "e")


def test_it_tells_the_release_that_is_in_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to = Catalogue.copy_to

    def copied(live: Catalogue, path: Path) -> Catalogue:
        copy = copy_to(live, path)
        # An update beside it merges a new listing just then.
        with Catalogue.open(root / "catalogue.db") as other:
            new = listing(slide("new"), release="Data Release 99")
            other.listing.merge(new, LATER, accept_shrink=True)
        return copy

    (before,) = column(root, "select release from releases")
    monkeypatch.setattr(Catalogue, "copy_to", copied)
    answer = inside("--mirror", root, "export", tmp_path / "e", "--json").json()
    assert column(root, "select max(release) from releases") == ["Data Release 99"]
    assert column(tmp_path / "e", "select release from releases") == [before]
    assert answer["release"] == before
    assert "Data Release 99" not in (tmp_path / "e" / "README.txt").read_text()


# What it cannot take ------------------------------------------------------------------


def test_since_a_file_that_is_no_text(root: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF\x02\xff\xfe")
    (tmp_path / "SHA256SUMS").write_text("")
    (tmp_path / "SHA256SUMS.earlier").write_bytes(b"\xff")
    for since in (tmp_path / "program", tmp_path / "SHA256SUMS"):
        result = inside("--mirror", root, "export", tmp_path / "e", "--since", since)
        assert result.code == 2 and "is not text" in result.sentence, result
        assert f"{since}: is not an export that --since can continue" in result.sentence


def test_a_gallery_may_be_as_deep_as_it_will(root: Path, tmp_path: Path) -> None:
    (root / "gallery" / "a" / "b").mkdir(parents=True)
    (root / "gallery" / "a" / "b" / "page.html").write_text("a page")
    (root / "gallery" / ".hidden").mkdir()
    (root / "gallery" / ".hidden" / "page.html").write_text("a page")
    deep = Path(root, "gallery", *"d" * 1500)
    try:
        subprocess.run(["mkdir", "-p", deep], check=True)
        (deep / "page.html").write_text("a page")
        export = exported(root, tmp_path / "e")
    finally:
        # Python's own rmtree may not be up to it.
        subprocess.run(["rm", "-rf", root / "gallery" / "d"], check=True)
    pages = [str(path.relative_to(export)) for path in (export / "gallery").rglob("*.html")]
    assert pages == ["gallery/a/b/page.html"]


def test_no_more_files_are_exported_than_can_be_imported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "gallery").mkdir()
    for number in range(3):
        (root / "gallery" / f"{number}.html").write_text("a page")
    for most in (6 + 3, 30):
        for module in (exporting, reader):
            monkeypatch.setattr(module, "MAX_FILES", most)
        dest = tmp_path / f"{most}.tar"
        result = inside("--mirror", root, "export", dest)
        if result.code == 0:
            imported(tmp_path / "i", dest)
        else:
            assert "no more than 9 can be imported" in result.sentence
            assert result.code == 2 and not list(tmp_path.glob(f"{dest.name}*"))
    assert len(images(tmp_path / "i")) == 6


def test_no_larger_list_is_exported_than_can_be_imported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BYTES, SUMS, 100)
    result = inside("--mirror", root, "export", tmp_path / "e.tar")
    assert result.code == 2 and "no more than 100 can be imported" in result.sentence
    assert not list(tmp_path.glob("e.tar*"))
