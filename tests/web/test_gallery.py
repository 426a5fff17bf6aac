"""The gallery's files: what is in them, and which of them are made again."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import zlib
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.mirror.directory import Mirror
from tcgamirror.model.errors import Locked, UsageError
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.lock import Lock
from tcgamirror.web.gallery.builder import GalleryReport, build
from tcgamirror.web.gallery.entries import sanitize
from tcgamirror.web.gallery.packs import PACK, slug
from tcgamirror.web.gallery.thumbnails import LONGEST, Thumbnails
from tests.gdc import StandIn
from tests.imaging.test_image_reader import head, png
from tests.support.command import inside, killed, started, succeeded
from tests.support.crowd import crowd
from tests.support.mirrors import column, made, rows
from tests.support.publishing import change

SLIDES = 130


def quiet(done: int, total: int) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror without a gallery, never to be changed."""
    return crowd(tmp_path_factory.mktemp("plain") / "mirror", SLIDES).root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Mirror:
    """A mirror with a gallery, never to be changed."""
    folder = tmp_path_factory.mktemp("built") / "mirror"
    mirror = Mirror.find(shutil.copytree(plain, folder), above=False)
    assert build(mirror, quiet).slides == SLIDES
    return mirror


@pytest.fixture
def mirror(tmp_path: Path, plain: Path) -> Mirror:
    return Mirror.find(shutil.copytree(plain, tmp_path / "mirror"), above=False)


@pytest.fixture
def built_copy(tmp_path: Path, built: Mirror) -> Mirror:
    return Mirror.find(shutil.copytree(built.root, tmp_path / "mirror"), above=False)


def files(mirror: Mirror) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of the gallery."""
    folder = mirror.root / "gallery"
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def written(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in after if before.get(name) != after[name]}


def handed(text: bytes) -> list[Any]:
    """What a script of data hands to the pages, as JSON."""
    match = re.fullmatch(rb"// made of \w+\ntcga\.\w+\((.*)\);\n", text, re.DOTALL)
    assert match, text[:100]
    return list(json.loads(b"[" + match[1] + b"]"))


def shown(mirror: Mirror, kind: str) -> dict[str, Any]:
    """Every slide in the packs of that kind, by name."""
    place = 0 if kind == "thumbnails" else 1
    found: dict[str, Any] = {}
    for path in (mirror.root / "gallery" / kind).iterdir():
        for row in handed(path.read_bytes())[-1]:
            found[row[place]] = row
    return found


# What is in it -------------------------------------------------------------------


def test_every_slide_is_in_the_index_and_in_the_packs(built: Mirror) -> None:
    (index,) = handed((built.root / "gallery" / "index.js").read_bytes())
    names = column(built.root, "SELECT file_name FROM mirror")
    assert sorted(index["columns"]["file_name"]) == sorted(map(str, names))
    done = column(built.root, "SELECT file_name FROM mirror WHERE status = 'done'")
    assert set(shown(built, "thumbnails")) == set(done)
    assert len(shown(built, "facts")) == SLIDES
    assert sum(size for _, size in index["packs"]) == SLIDES
    assert max(size for _, size in index["packs"]) <= PACK


def test_a_thumbnail_is_the_image_made_small(built: Mirror) -> None:
    (name, path), *_ = rows(built.root, "SELECT file_name, path FROM mirror WHERE status = 'done'")
    thumbnail = Image.open(BytesIO(b64decode(shown(built, "thumbnails")[str(name)][2])))
    image = Image.open(built.root / str(path))
    assert thumbnail.format == "JPEG"
    assert max(thumbnail.size) <= LONGEST
    assert thumbnail.size == image.size, "an image that is small already stays as it is"


@pytest.mark.parametrize("form", ImageFormat)
def test_thumbnails_are_made_of_every_format(tmp_path: Path, form: ImageFormat) -> None:
    path = tmp_path / f"a{form.suffix}"
    pixels = np.full((600, 900, 3), (200, 30, 120), np.uint8)
    with path.open("wb") as file:
        write_image(file, form, Size(900, 600), [pixels], None, {})
    thumbnail = Image.open(BytesIO(b64decode(Thumbnails().make(path) or "")))
    assert thumbnail.size == (LONGEST, round(LONGEST * 600 / 900))
    colour = thumbnail.getpixel((50, 50))
    assert isinstance(colour, tuple)
    assert all(abs(a - b) < 6 for a, b in zip(colour, (200, 30, 120), strict=True))


def test_a_lying_header_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(head(14_000, 14_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    with path.open("rb") as file:
        assert read_header(file, ImageFormat.PNG).size == Size(14_000, 14_000)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (300 << 20), limits[1]))
    try:
        assert Thumbnails().make(path) is None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_what_is_no_image_of_ours_has_no_thumbnail(tmp_path: Path) -> None:
    Image.new("RGB", (900, 600)).save(tmp_path / "progressive.jpg", progressive=True)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for number, data in enumerate((b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", os.urandom(500))):
        for suffix in (".png", ".jpg", ".tif", ".svg", ""):
            (tmp_path / f"{number}{suffix}").write_bytes(data)
    for path in [*tmp_path.iterdir(), tmp_path / "missing.png"]:
        assert Thumbnails().make(path) is None, path


def test_each_slide_has_its_own_thumbnail_though_others_have_none(mirror: Mirror) -> None:
    done = rows(mirror.root, "SELECT file_name, path FROM mirror WHERE status = 'done'")
    colours = {}
    for number, (name, path) in enumerate(done):
        file = mirror.root / str(path)
        file.unlink()
        if number % 3:
            colours[name] = (number, 255 - number, 100)
            Image.new("RGB", (40, 30), colours[name]).save(file)
        change(mirror.root, "UPDATE images SET sha256 = ? WHERE path = ?", f"{number:064x}", path)
    made = build(mirror, quiet)
    assert (made.thumbnails, made.unreadable) == (len(colours), len(done) - len(colours))
    thumbnails = shown(mirror, "thumbnails")
    assert set(thumbnails) == set(colours)
    for name, colour in colours.items():
        seen = Image.open(BytesIO(b64decode(thumbnails[str(name)][2]))).getpixel((20, 15))
        assert isinstance(seen, tuple)
        assert all(abs(a - b) < 6 for a, b in zip(seen, colour, strict=True))


def test_nothing_hostile_leaves_the_catalogue(mirror: Mirror) -> None:
    hostile = "</script><script>alert(1)</script>\u2028\u202e\x00\"'&"
    change(mirror.root, "UPDATE slides SET project_id = ?, primary_site = ?", hostile, hostile)
    change(
        mirror.root, "UPDATE images SET error = ?, source = ?, mpp_x = 9e999", "x" * 10**6, hostile
    )
    change(mirror.root, "UPDATE releases SET release = ?", hostile)
    build(mirror, quiet)
    for name, (content, _) in files(mirror).items():
        assert content.isascii() or name.endswith(".html") or "data" not in name
        assert b"<script>alert" not in content
        assert "\u202e".encode() not in content and b"\x00" not in content
        assert len(content) < 10**6
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", name)


def test_texts_and_names_are_safe() -> None:
    texts = ("a\ud800b", "é ×", "x" * 9999)
    assert [sanitize(text) for text in texts] == ["a\ufffdb", "é ×", "x" * 2000 + "…"]
    names = [None, "TCGA-OV", "tcga-ov", "TCGA-ov", "", "_unknown", "..", "a/b", "é"]
    assert len({slug(name).lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    "path", ["../a.png", "images/../../a.png", "/etc/a.png", "https://x.org/a.png", "images", "a"]
)
def test_no_path_leads_out_of_the_images(mirror: Mirror, path: str) -> None:
    (mirror.root.parent / "a.png").write_bytes(b"secret")
    change(mirror.root, "UPDATE images SET path = ?", path)
    assert build(mirror, quiet).thumbnails == 0


def test_only_its_own_scripts_may_run(built: Mirror) -> None:
    for name, (content, _) in files(built).items():
        if name.endswith(".html"):
            text = content.decode()
            assert "default-src 'none'; script-src 'self' file:;" in text
            assert not re.search(r"\son\w+=|\sstyle=|<script(?! src=)|<style", text)
            assert not re.search(r'(src|href)="(https?:)?//', text)


# What is made again --------------------------------------------------------------


def test_nothing_is_made_again_without_need(built_copy: Mirror) -> None:
    before = files(built_copy)
    progress: list[tuple[int, int]] = []
    made = build(built_copy, lambda done, total: progress.append((done, total)))
    assert (made.files, made.thumbnails) == (0, 0)
    assert files(built_copy) == before
    done = len(column(built_copy.root, "SELECT 1 FROM mirror WHERE status = 'done'"))
    assert (progress[0], progress[-1]) == ((0, done), (done, done))
    assert progress == sorted(progress)
    with Lock(built_copy.root / "gallery" / ".lock", "gallery"), pytest.raises(Locked):
        build(built_copy, quiet)


def test_only_the_pack_of_a_changed_image_is_made_again(built_copy: Mirror) -> None:
    before = files(built_copy)
    ((name, project, path), *_) = rows(
        built_copy.root, "SELECT file_name, project_id, path FROM mirror WHERE status = 'done'"
    )
    (built_copy.root / str(path)).unlink()
    Image.new("RGB", (50, 50), "red").save(built_copy.root / str(path))
    change(built_copy.root, "UPDATE images SET sha256 = ? WHERE file_name = ?", "cd" * 32, name)
    made = build(built_copy, quiet)
    assert made.thumbnails == 1
    changed = written(before, files(built_copy))
    assert {each.split("/")[0] for each in changed} == {"thumbnails", "facts"}
    assert len(changed) == 2
    assert all(str(project) in each for each in changed)


def test_slides_added_to_the_sample_leave_older_packs_alone(mirror: Mirror) -> None:
    change(mirror.root, "UPDATE slides SET project_id = 'TCGA-OV'")
    change(
        mirror.root,
        "DELETE FROM images WHERE file_name IN (SELECT file_name FROM sample WHERE rank > 120)",
    )
    build(mirror, quiet)
    before = files(mirror)
    change(
        mirror.root, "INSERT INTO images (file_name) SELECT file_name FROM sample WHERE rank > 120"
    )
    build(mirror, quiet)
    packs = {name for name in written(before, files(mirror)) if "/" in name}
    assert packs == {"facts/TCGA-OV-2.js"}


def test_an_image_that_cannot_be_read_is_tried_again(mirror: Mirror) -> None:
    ((path,), *_) = rows(mirror.root, "SELECT path FROM mirror WHERE status = 'done'")
    # Of its own, so that no other slide's thumbnail does as well.
    change(mirror.root, "UPDATE images SET sha256 = ? WHERE path = ?", "cd" * 32, path)
    there = mirror.root / str(path)
    there.rename(there.with_suffix(".away"))
    assert build(mirror, quiet).unreadable == 1
    assert build(mirror, quiet).unreadable == 1
    there.with_suffix(".away").rename(there)
    made = build(mirror, quiet)
    assert (made.thumbnails, made.unreadable) == (1, 0)
    assert build(mirror, quiet).files == 0


HEAD = "// made of unfinished\n"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        HEAD,
        f"{HEAD}tcga.thumbnails([[[[",
        f'{HEAD}tcga.thumbnails("a",[["n","s","<script>"],[1,2,3],7]);\n',
        f"{HEAD},{'[' * 100_000});",
    ],
)
def test_a_pack_that_is_not_ours_is_made_anew(built_copy: Mirror, text: str) -> None:
    before = files(built_copy)
    for path in (built_copy.root / "gallery" / "thumbnails").iterdir():
        path.write_text(text)
    build(built_copy, quiet)
    after = files(built_copy)
    assert all(after[name][0] == content for name, (content, _) in before.items())


def test_packs_that_no_slide_is_in_any_more_are_removed(built_copy: Mirror) -> None:
    stray = built_copy.root / "gallery" / "facts" / ".TCGA-OV-0.js.part"
    stray.write_text("half")
    (built_copy.root / "gallery" / "mine.txt").write_text("kept")
    change(
        built_copy.root, "UPDATE slides SET project_id = 'TCGA-UVM' WHERE project_id = 'TCGA-OV'"
    )
    build(built_copy, quiet)
    names = set(files(built_copy))
    assert not [name for name in names if "TCGA-OV" in name]
    assert {"facts/TCGA-UVM-0.js", "mine.txt"} <= names


def test_a_gallery_killed_at_any_moment_has_no_half_file(tmp_path: Path) -> None:
    mirror = crowd(tmp_path / "mirror", 400)
    for delay in (0.2, 0.35, 0.5, 0.7, 0.9):
        killed("--mirror", mirror.root, "gallery", after=delay)
        folder = mirror.root / "gallery"
        for path in folder.rglob("*.js") if folder.exists() else ():
            text = path.read_bytes()
            assert text.endswith(b"\n"), path
            if text.startswith(b"// made of"):
                handed(text)
    result: GalleryReport = build(mirror, quiet)
    assert result.slides == 400
    assert not list((mirror.root / "gallery").rglob("*.part"))
    assert len(shown(mirror, "thumbnails")) == len(
        column(mirror.root, "SELECT 1 FROM mirror WHERE status = 'done'")
    )


def test_an_empty_mirror_has_a_gallery_unless_it_leads_elsewhere(tmp_path: Path) -> None:
    mirror, elsewhere = crowd(tmp_path / "empty", 0), tmp_path / "elsewhere"
    elsewhere.mkdir()
    gallery = mirror.root / "gallery"
    for make in (lambda: gallery.symlink_to(elsewhere), lambda: gallery.write_text("a file")):
        make()
        with pytest.raises(UsageError, match="not a directory"):
            build(mirror, quiet)
        gallery.unlink()
    assert build(mirror, quiet).slides == 0
    assert b"No slide has failed" in files(mirror)["overview.html"][0]


# The command ---------------------------------------------------------------------


def test_it_is_made_while_an_update_runs(small_gdc: StandIn, tmp_path: Path) -> None:
    root = made(tmp_path / "m", small_gdc, slides=12)
    with started("--mirror", root, "update") as update:
        while update.poll() is None:
            succeeded("--mirror", root, "gallery")
        assert update.returncode == 0
    report = succeeded("--mirror", root, "gallery").out
    assert report.startswith(f"12 slides in {root / 'gallery' / 'index.html'}: ")


def test_images_without_a_thumbnail_are_told(mirror: Mirror) -> None:
    ((path,), *_) = rows(mirror.root, "SELECT path FROM mirror WHERE status = 'done'")
    (mirror.root / str(path)).unlink()
    result = inside("--mirror", mirror.root, "gallery")
    assert result.code == 0
    assert result.sentence.startswith("1 image ") and "verify" in result.sentence
