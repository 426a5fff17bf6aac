"""GDC manifests: every real one is taken, everything else is refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcgamirror.errors import BadManifest
from tcgamirror.manifest import read_manifest
from tcgamirror.model import Kind

MANIFESTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "manifests"

HEADER = "id\tfilename\tmd5\tsize\tstate"
ID = "73c69d24-6f9e-44e2-bfe5-a608d4cf5c27"
NAME = "TCGA-22-1017-01Z-00-DX1.9562FE79-A261-42D3-B394-F3E0E2FF7DDA.svs"
OTHER_ID = "9f78624e-3f28-4cae-b419-f433b8a825d3"
OTHER_NAME = "TCGA-18-3410-01A-01-TS1.DB186D75-4AEE-4E1B-83D5-5A1970F03581.svs"
MD5 = "de53882038934cf5103bf32a33eabfa1"


def row(
    file_id: str = ID, name: str = NAME, md5: str = MD5, size: str = "968152543", *more: str
) -> str:
    return "\t".join((file_id, name, md5, size, "released", *more))


def written(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "list.txt"
    path.write_bytes(end.join(lines).encode())
    return path


def test_a_slide_has_all_that_its_row_and_its_name_tell(tmp_path: Path) -> None:
    listing = read_manifest(written(tmp_path, HEADER, row(), ""))
    (slide,) = listing.slides
    assert listing.release == "manifest list.txt"
    assert (slide.file_id, slide.file_name, slide.md5, slide.size) == (ID, NAME, MD5, 968152543)
    assert (slide.kind, slide.sample_type) == (Kind.DIAGNOSTIC, "Primary Tumor")
    assert (slide.case_barcode, slide.slide_barcode) == ("TCGA-22-1017", "TCGA-22-1017-01Z-00-DX1")
    assert (slide.state, slide.project_id) == ("released", None)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_line_ends_marks_and_blank_lines_do_not_matter(
    tmp_path: Path, start: str, end: str
) -> None:
    rows = (row(OTHER_ID, OTHER_NAME), "", row())
    listing = read_manifest(written(tmp_path, start + HEADER, *rows, end=end))
    assert [slide.file_name for slide in listing.slides] == [OTHER_NAME, NAME]


def test_columns_may_stand_in_another_order_beside_others(tmp_path: Path) -> None:
    lines = ("size\tcomment\tmd5\tid\tstate\tfilename", f"5\tno\t\t{ID.upper()}\tlive\t{NAME}")
    (slide,) = read_manifest(written(tmp_path, *lines)).slides
    assert (slide.file_id, slide.size, slide.md5, slide.state) == (ID, 5, None, "live")


def test_files_of_other_types_are_left_out(tmp_path: Path) -> None:
    other = row(OTHER_ID, "C_p_TCGASNP (1).seg.txt")
    (slide,) = read_manifest(written(tmp_path, HEADER, other, row())).slides
    assert slide.file_name == NAME


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "is empty"),
        (("File ID\tFile Name\tData Category", "a\tb\tc"), "begins with the columns id filename"),
        ((HEADER + "\tid", row()), "begins with the columns"),
        ((HEADER,), "names no TCGA slide"),
        ((HEADER, row(name="notes.txt")), "names no TCGA slide"),
        ((HEADER, f"{ID}\t{NAME}\t{MD5}\t5"), "line 2: 5 columns expected, 4 found"),
        ((HEADER, "", row("", NAME, MD5, "5", "more")), "line 3: 5 columns expected, 6 found"),
        ((HEADER, row(name=f"../{NAME}")), "line 2: a plain file name expected"),
        ((HEADER, row(name=f"/{NAME}")), "line 2: a plain file name expected"),
        ((HEADER, row(name="C:\\a.txt")), "line 2: a plain file name expected"),
        ((HEADER, row(name="..")), "line 2: a plain file name expected"),
        ((HEADER, row(name="")), "line 2: a plain file name expected"),
        ((HEADER, row(name="\x1b[2J.svs")), "line 2: a plain file name expected"),
        ((HEADER, row(name="é.svs")), "line 2: a plain file name expected"),
        ((HEADER, row("1234")), "line 2: a UUID expected"),
        ((HEADER, row(), row(name=OTHER_NAME)), f"line 3: {ID} stands in line 2"),
        ((HEADER, row(), row(ID.upper(), OTHER_NAME)), f"line 3: {ID} stands in line 2"),
        ((HEADER, row(), row(OTHER_ID)), f"line 3: {NAME} stands in line 2"),
        ((HEADER, row(md5="abc")), "line 2: 32 hexadecimal digits expected"),
        ((HEADER, row(size="-1")), "line 2: a number of bytes expected"),
        ((HEADER, row(size="1_0")), "line 2: a number of bytes expected"),
        ((HEADER, row(size="9" * 5000)), "line 2: a number of bytes expected"),
        ((HEADER, row(), "x" * 10_001), "line 3: longer than 10,000 characters"),
        ((HEADER, "a\0b"), "line 2: text expected, binary data found"),
    ],
)
def test_what_is_no_manifest_is_refused_by_file_and_line(
    tmp_path: Path, lines: tuple[str, ...], words: str
) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(BadManifest) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message and "\x1b" not in message


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "latin.txt"
    bad.write_bytes(HEADER.encode() + b"\n\xff\xfe\n")
    huge = tmp_path / "huge.txt"
    huge.touch()
    os.truncate(huge, 500_000_001)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in (
        (bad, "line 2: UTF-8 text expected"),
        (huge, "at most 500,000,000"),
        (tmp_path, "is a directory"),
        (pipe, "is no regular file"),
        (tmp_path / "none.txt", "cannot be read: No such file"),
    ):
        with pytest.raises(BadManifest, match=words):
            read_manifest(path)


@pytest.mark.parametrize(
    ("name", "slides"),
    [
        ("monuseg-validated-state.txt", 30),
        ("release-13-mixed-cnv-and-slides.txt", 36),
        ("tcga-diagnostic-2024-08.txt", 11765),
        ("tcga-luad-2020-09.txt", 530),
        ("tcga-luad-pilot-no-final-newline.txt", 3),
        ("tcga-ov-crlf-2024-08.txt", 107),
    ],
)
def test_every_real_manifest_is_taken(name: str, slides: int) -> None:
    if not MANIFESTS.exists():
        pytest.skip("../shared/data holds no real manifests")
    listing = read_manifest(MANIFESTS / name)
    assert len(listing.slides) == slides
    assert all(slide.slide_barcode and slide.size and slide.md5 for slide in listing.slides)


def test_the_sample_sheet_is_no_manifest() -> None:
    if not MANIFESTS.exists():
        pytest.skip("../shared/data holds no real manifests")
    with pytest.raises(BadManifest, match="this file with 'File ID File Name"):
        read_manifest(MANIFESTS / "gdc-sample-sheet.tsv")
