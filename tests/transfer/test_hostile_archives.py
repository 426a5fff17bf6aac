"""Hostile archives, settings and images: refused in one sentence, and nothing is left."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tcgamirror.transfer.archive import tar as tar_module
from tests.support.carrying import (
    catalogue,
    entry,
    exported,
    imported,
    packed,
    refused,
    resummed,
)
from tests.support.command import FROM_WITHIN, inside, program, run, went_well
from tests.support.mirrors import column, contents, images, rows
from tests.support.publishing import change

BOUNDED = ("prlimit", "--as=1500000000")


@pytest.fixture
def root(place: Path) -> Path:
    return place / "m"


# Names and kinds of entries --------------------------------------------------------

LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
ENTRIES = {
    "above": entry("../evil"),
    "above, later": entry("x/images/../../../evil"),
    "absolute": entry("/tmp/evil"),
    "doubled slash": entry("x//evil"),
    "backslash": entry("x\\..\\evil"),
    "terminal": entry("x/\x1b[2Jevil"),
    "long": entry("x/" + "a" * 10_000),
    "many folders": entry("x/" + "a/" * 3000 + "b"),
    "symbolic link": entry("x/images/link", **LINK),
    "link to a folder": entry("x/images", type=tarfile.SYMTYPE, linkname="/tmp"),
    "hard link": entry("x/images/hard", type=tarfile.LNKTYPE, linkname="x/catalogue.db"),
    "character device": entry("x/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": entry("x/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
    "fifo": entry("x/images/fifo", type=tarfile.FIFOTYPE),
    "contiguous": entry("x/images/contiguous", type=tarfile.CONTTYPE),
    "sparse": entry("x/images/sparse", pax_headers={"GNU.sparse.realsize": "1000000000000"}),
    "other size": entry("x/images/size", pax_headers={"size": "99999999999"}),
    "twice": entry("x/catalogue.db"),
    "twice, otherwise": entry("./x/catalogue.db"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_no_export_has_is_refused(
    export: Path, root: Path, tmp_path: Path, name: str
) -> None:
    tar = packed(export, tmp_path / "a.tar", (ENTRIES[name], b""))
    sentence = refused(root, tar)
    assert "cannot be imported: it has" in sentence or "in it is" in sentence


def test_a_directory_with_a_link_or_a_pipe_is_refused(
    copy: Path, root: Path, tmp_path: Path
) -> None:
    image = next((copy / "images").rglob("*.png"))
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    image.unlink()
    image.symlink_to(secret)
    assert "link or not a plain file" in refused(root, copy)
    image.unlink()
    os.mkfifo(image)
    assert "link or not a plain file" in refused(root, copy)


# Bombs and wrong sizes --------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_any_length_are_not_read(root: Path, tmp_path: Path, kind: bytes) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(entry("x", type=kind, size=1 << 34).tobuf(tarfile.GNU_FORMAT))
    os.truncate(tar, 1 << 34)
    assert "a header of 17,179,869,184 bytes" in refused(root, tar)


@FROM_WITHIN
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE])
def test_headers_without_end_are_not_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(tar_module, "_MAX_HEADERS", 100)
    tar = tmp_path / "a.tar"
    data = b"" if kind == tarfile.DIRTYPE else b"9 path=x\n".ljust(512, b"\0")[:512]
    head = entry("x", type=kind, size=9 if data else 0).tobuf(tarfile.GNU_FORMAT)
    tar.write_bytes((head + data) * 101)
    assert "more than 100 headers" in refused(root, tar)


@pytest.mark.parametrize("size", [0, 1 << 49])
def test_a_pipe_without_end_does_not_fill_the_disk(root: Path, tmp_path: Path, size: int) -> None:
    head = tmp_path / "head"
    head.write_bytes(entry("x/a", size=size).tobuf(tarfile.GNU_FORMAT) if size else b"")
    importing = f"{shlex.join(program())} --mirror {root} import -"
    script = f"cat {head} <(yes) | head -c 200000000 | {importing}; echo ${{PIPESTATUS[@]:1}}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    # 141: its reader has gone.
    assert ended.stdout == ("141 6\n" if size else "141 2\n"), ended
    assert ("no room" if size else "not a tar archive") in ended.stderr
    assert list(root.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["catalogue.db", "tcgamirror.toml", "SHA256SUMS"])
def test_a_small_file_that_is_huge_is_not_copied(copy: Path, root: Path, name: str) -> None:
    (copy / name).unlink()
    tar = packed(copy, copy.with_name("a.tar"))
    others = tar.read_bytes()
    with tar.open("wb") as file:
        file.write(entry(f"x/{name}", size=1 << 34).tobuf(tarfile.GNU_FORMAT))
        file.seek(1 << 34, os.SEEK_CUR)
        file.write(others)
    assert "more than any has" in refused(root, tar)


def test_damaged_archives_are_refused(export: Path, root: Path, tmp_path: Path) -> None:
    data = exported(export.parent / "m", tmp_path / "whole.tar").read_bytes()
    noise = random.Random(1).randbytes(5000)
    for number, text in enumerate((b"", bytes(5000), noise, data[:-100], data[: len(data) // 2])):
        path = tmp_path / f"{number}.tar"
        # It is padded with zeros at its end: those are not missed.
        path.write_bytes(text[:-20_000])
        assert "it is cut off. Copy or export it again" in refused(root, path)


# Settings and images -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('workers = "auto"', "workers = 4000"),
        ("[gdc]", "[gdc]\nevil = 1"),
        ("[target]", "[target"),
        ("api = ", 'api = "file:///etc" #'),
        ("mpp = 4.0", "mpp = 2.0"),
    ],
)
def test_invalid_settings_are_refused(copy: Path, root: Path, old: str, new: str) -> None:
    path = copy / "tcgamirror.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    resummed(copy)
    sentence = refused(root, copy)
    assert "tcgamirror.toml" in sentence and "/tmp/tcgamirror-import" not in sentence


def _instead(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


HOSTILE_SETTINGS: dict[str, Callable[[Path], object]] = {
    "huge": lambda path: path.write_text(path.read_text() + "#" * (200 << 20)),
    "pipe": lambda path: _instead(path, os.mkfifo),
    "zeros": lambda path: _instead(path, lambda path: path.symlink_to("/dev/zero")),
    "brackets": lambda path: path.write_text("a = " + "[" * 900_000),
    "dots": lambda path: path.write_text("a." * 400_000 + "b = 1"),
    "digits": lambda path: path.write_text("[target]\nmpp = " + "9" * 900_000),
    "terminal": lambda path: path.write_text('[target]\n"\\u001b[2J\\u009b31m" = 1\nmpp = 4'),
    "keys": lambda path: path.write_text("".join(f"[a{n}]\nb = 1\n" for n in range(60_000))),
}


@pytest.mark.parametrize("name", HOSTILE_SETTINGS)
def test_hostile_settings_end_in_one_sentence_at_once(copy: Path, root: Path, name: str) -> None:
    HOSTILE_SETTINGS[name](copy / "tcgamirror.toml")
    result = run("sync", copy, root, by=BOUNDED, timeout=60)
    assert result.code in (2, 7) and "a bug" not in result.sentence, result
    assert len(result.sentence) < 1000 and result.sentence.isprintable()
    assert not root.exists()


def test_files_of_the_other_machine_are_not_read_nor_a_gallery(copy: Path, root: Path) -> None:
    path = copy / "tcgamirror.toml"
    path.write_text(path.read_text().replace('manifest = ""', 'manifest = "/etc/passwd"'))
    (copy / "gallery").mkdir()
    (copy / "gallery" / "index.html").write_text("<script>evil()</script>")
    resummed(copy)
    assert "manifest = /etc/passwd" in went_well("--mirror", root, "import", copy).out
    assert 'manifest = ""' in (root / "tcgamirror.toml").read_text()
    assert not (root / "gallery").exists()


WRONG: dict[str, Callable[[Path, Path], bytes]] = {
    "it is no PNG": lambda image, _: os.urandom(image.stat().st_size),
    "another slide": lambda _, other: other.read_bytes(),
    "bytes instead of": lambda image, _: image.read_bytes()[:-1],
    "its digest differs": lambda image, _: bytes(image.stat().st_size),
}


def spoil(copy: Path, path: str, why: str, export: Path) -> None:
    """Spoil an image of an export's copy; its row gets the new size and digest."""
    other, size = rows(
        export, f"select path, width || ',' || height from mirror where path <> '{path}'"
    )[0]
    image = copy / path
    image.write_bytes(WRONG[why](image, export / str(other)))
    if why in ("bytes instead of", "its digest differs"):
        resummed(copy)
        return
    with catalogue(copy) as connection:
        sizes = f", (width, height) = ({size})" if why == "another slide" else ""
        connection.execute(
            f"UPDATE images SET sha256 = ?, bytes = ?{sizes} WHERE path = ?",
            (hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_size, path),
        )


@pytest.mark.parametrize("why", WRONG)
def test_an_image_that_differs_from_its_row_is_left_out(
    export: Path, copy: Path, root: Path, why: str
) -> None:
    path = str(column(copy, "select min(path) from mirror")[0])
    spoil(copy, path, why, export)
    result = inside("--mirror", root, "import", copy, "--json")
    assert result.code == 3
    (fault,) = result.json()["refused"]
    assert fault["path"] == path and why in fault["what"] and path not in fault["what"]
    assert sorted(images(root)) == sorted(set(images(export)) - {path})
    assert column(root, "select path from mirror where status = 'done' order by 1") == sorted(
        images(root)
    )


@pytest.mark.parametrize("command", ["import", "sync"])
def test_dimensions_are_compared_though_the_digest_is_right(
    copy: Path, root: Path, command: str
) -> None:
    path = str(column(copy, "select min(path) from mirror")[0])
    with catalogue(copy) as connection:
        connection.execute("UPDATE images SET height = height + 1 WHERE path = ?", (path,))
    words = ("sync", copy, root) if command == "sync" else ("--mirror", root, "import", copy)
    result = inside(*words)
    assert result.code == 3 and "not as many as the catalogue says" in result.out + result.err
    assert sorted(images(root)) == sorted(set(images(copy)) - {path})
    assert path not in column(root, "select path from mirror where status = 'done'")


@pytest.mark.parametrize("command", ["import", "sync"])
def test_pixels_are_decoded_by_request(copy: Path, root: Path, command: str) -> None:
    path = str(column(copy, "select min(path) from mirror")[0])
    data = bytearray((copy / path).read_bytes())
    # The checksum of the packed pixels, before that of their chunk and the last chunk.
    data[-20] ^= 1
    (copy / path).write_bytes(data)
    with catalogue(copy) as connection:
        digest = hashlib.sha256(data).hexdigest()
        connection.execute("UPDATE images SET sha256 = ? WHERE path = ?", (digest, path))
    words = ("sync", copy, root) if command == "sync" else ("--mirror", root, "import", copy)
    result = inside(*words, "--decode")
    assert result.code == 3 and path in result.out + result.err
    assert path not in images(root)
    went_well(*words)
    assert inside("--mirror", root, "verify", "--decode").code == 7


@pytest.mark.parametrize("why", WRONG)
def test_without_a_usable_image_nothing_is_made_or_changed(
    export: Path, copy: Path, tmp_path: Path, why: str
) -> None:
    for path in images(copy):
        spoil(copy, path, why, export)
    root = tmp_path / "place" / "m"
    for number, source in enumerate((copy, packed(copy, tmp_path / "e.tar"))):
        fresh = tmp_path / f"new-{number}"
        sentence = refused(fresh, source)
        assert "none of 3 new images is as its catalogue says" in sentence
        assert "Copy or export it again" in sentence
    imported(root, export)
    change(root, "update images set status = 'pending'")
    before = contents(root)
    assert "none of 3 new images" in refused(root, source)
    assert contents(root) == before


def test_an_image_of_the_mirror_is_not_written_through_a_link(
    export: Path, root: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = str(column(export, "select path from mirror")[0])
    place = root / path
    place.parent.mkdir(parents=True)
    place.with_name(f".{place.name}.part").symlink_to(victim)
    place.symlink_to(victim)
    imported(root, export)
    assert victim.read_text() == "precious" and not place.is_symlink()
