"""GDC manifests: every real one is taken, everything else is refused in one sentence."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import pytest

from tcgamirror.model.errors import BadManifest
from tcgamirror.model.slide import Kind
from tcgamirror.sources import manifest
from tcgamirror.sources.manifest import read_manifest, read_slides
from tests.gdc import StandIn, listed
from tests.support.command import run, succeeded
from tests.support.mirrors import addresses, impatient, rows
from tests.support.slides import SlideSpec, make_slide

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, start: str, end: str) -> None:
    rows = (row(OTHER_ID, OTHER_NAME), "", row())
    listing = read_manifest(written(tmp_path, start + HEADER, *rows, end=end))
    assert [slide.file_name for slide in listing.slides] == [OTHER_NAME, NAME]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, row()),
        ("ID\tFileName\tMD5\tSize\tState", f" {ID} \t{NAME} \t{MD5.upper()}\t968152543.0\t\t"),
        ("id,filename,md5,size", f'"{ID}","{NAME}","{MD5}",968152543'),
        ("file_name,note,file_size,file_id,md5sum", f'{NAME},"a, ""b"" µ",968152543,{ID},{MD5}'),
        ("id\tfile_id\tfile_name\tmd5\tsize", f"1\t{ID}\t{ID}/{NAME}\t{MD5}\t968152543"),
    ],
    ids=["as the GDC writes it", "capitals", "quotes", "commas", "id of its own"],
)
def test_tables_of_every_form_are_read(
    tmp_path: Path, lines: tuple[str, ...], encoding: str, packed: bool
) -> None:
    path = tmp_path / "list"
    data = "\n".join(lines).encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    (slide,) = read_manifest(path).slides
    assert (slide.file_id, slide.file_name, slide.md5, slide.size) == (ID, NAME, MD5, 968152543)


@pytest.mark.parametrize(
    "lines",
    [
        ("id\tfilename", f"{ID}\t{NAME}"),
        (HEADER, f"{ID}\t{NAME}"),
        (HEADER, f"{ID}\t{NAME}\t\t\t"),
        (HEADER, f"{ID}\t{NAME}\tNA\tNaN\t'--"),
    ],
)
def test_md5_size_and_state_may_be_missing(tmp_path: Path, lines: tuple[str, ...]) -> None:
    (slide,) = read_manifest(written(tmp_path, *lines)).slides
    assert (slide.file_name, slide.md5, slide.size, slide.state) == (NAME, None, None, None)


def test_rows_that_do_not_contradict_each_other_are_one_slide(tmp_path: Path) -> None:
    rows = (row(), row(ID.upper()), f"{ID}\t{NAME}\t{MD5}\t\tvalidated", row(OTHER_ID, OTHER_NAME))
    listing = read_manifest(written(tmp_path, HEADER, *rows, *rows))
    assert [slide.file_name for slide in listing.slides] == [NAME, OTHER_NAME]


def test_slides_of_any_program_are_slides(tmp_path: Path) -> None:
    names = (
        "C3L-00081-21.svs",
        "TCGA-ZZ-A0CE-01Z-00-DX1.SVS",
        "HCM-ZZZZ-0012-C71-01A-01-S1-HE.Svs",
    )
    rows = (row(f"{number}{ID[1:]}", name) for number, name in enumerate(names))
    slides = read_manifest(written(tmp_path, HEADER, *rows)).slides
    assert [slide.file_name for slide in slides] == list(names)
    assert [slide.case_barcode for slide in slides] == [None, "TCGA-ZZ-A0CE", None]
    assert [slide.kind for slide in slides] == [None, Kind.DIAGNOSTIC, None]


def test_files_of_other_types_are_counted(tmp_path: Path) -> None:
    names = ("C_p_TCGASNP (1).seg.txt", "C:\\a.TXT", "../b.vcf.gz", "no type")
    others = Counter[str]()
    rows = (f"nothing\t{name}" for name in names)
    (slide,) = read_slides(written(tmp_path, HEADER, *rows, row()), others)
    assert slide.file_name == NAME
    assert others == {".txt": 2, ".vcf.gz": 1, "without a type": 1}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "is empty"),
        (("a\tb\tData Category", "a\tb\tc"), "expected a table with columns such as id, filename"),
        ((ID,), "line 1: expected a table"),
        ((HEADER + "\tid", row()), "two columns 'id'"),
        ((HEADER,), "no slide (.svs) in it"),
        ((HEADER, row(name="notes.txt")), "no slide (.svs) in it; 1 file of other types left out"),
        ((HEADER, "", row("", NAME, MD5, "5", "more")), "line 3: expected 5 columns, got 6"),
        ((HEADER, row(name=f"../{NAME}")), "line 2: expected a plain file name"),
        ((HEADER, row(name=f"/{NAME}")), "line 2: expected a plain file name"),
        ((HEADER, row(name=f"{OTHER_ID}/{NAME}")), "line 2: expected a plain file name"),
        ((HEADER, row(name=f"a/{ID}/{NAME}")), "line 2: expected a plain file name"),
        ((HEADER, row(name="C:\\a.svs")), "line 2: expected a plain file name"),
        ((HEADER, row(name="")), "line 2: missing file name"),
        ((HEADER, ID), "line 2: missing file name"),
        ((HEADER, row(name="\x1b[2J.svs")), "line 2: expected a plain file name"),
        ((HEADER, row(name="é.svs")), "line 2: expected a plain file name"),
        ((HEADER, row("1234")), "line 2: expected a UUID as id"),
        ((HEADER, row("")), "line 2: expected a UUID as id"),
        ((HEADER, row(), row(name=OTHER_NAME)), f"line 3: {ID} has file_name {OTHER_NAME}, but"),
        ((HEADER, row(), row(ID.upper(), OTHER_NAME)), "in line 2. Remove one"),
        (
            (HEADER, row(), row(md5="0" * 32)),
            f"line 3: {ID} has md5 {'0' * 32}, but {MD5} in line 2",
        ),
        ((HEADER, row(), row(size="5")), f"line 3: {ID} has size 5, but 968152543 in line 2"),
        ((HEADER, row(), row(OTHER_ID)), f"line 3: {NAME} has another id in line 2"),
        ((HEADER, row(), row(OTHER_ID, NAME[:-3] + "SVS")), "has another id in line 2"),
        ((HEADER, row(md5="abc")), "line 2: expected 32 hexadecimal digits"),
        ((HEADER, row(size="-1")), "line 2: expected a number of bytes"),
        ((HEADER, row(size="1_0")), "line 2: expected a number of bytes"),
        ((HEADER, row(size="9" * 5000)), "line 2: expected a number of bytes"),
        ((HEADER, f'"{ID}\t{NAME}', row()), "line 2: invalid quotes"),
        ((HEADER, row(), "x" * 100_001), "line 3: longer than 100,000 characters"),
        ((HEADER, "a\0b"), "line 2: expected text, got binary data"),
    ],
)
def test_an_invalid_row_is_refused(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(BadManifest) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message and "\x1b" not in message


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    utf16 = tmp_path / "utf16.txt"
    utf16.write_bytes(f"{HEADER}\n{row()}\n".encode("utf-16-le"))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(f"{HEADER}\n{row()}\n".encode())[:-9])
    spoiled = tmp_path / "spoiled.gz"
    spoiled.write_bytes(b"\x1f\x8b" + bytes(100))
    huge = tmp_path / "huge.txt"
    huge.touch()
    os.truncate(huge, 500_000_001)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in (
        (utf16, "line 1: expected text, got binary data"),
        (cut, "damaged gzip"),
        (spoiled, "damaged gzip"),
        (huge, "at most 500,000,000"),
        (tmp_path, "cannot be read: Is a directory"),
        (pipe, "cannot be read: not a regular file"),
        (tmp_path / "none.txt", "cannot be read: No such file"),
    ):
        with pytest.raises(BadManifest, match=words):
            read_manifest(path)


@pytest.mark.parametrize("line", [b"\n", b"\r", b"a\n", b"a", b"\0", b'"\n'])
def test_what_unpacks_to_much_more_than_a_manifest_is_refused(
    tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_FILE_BYTES", 2_000_000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\n{row()}\n".encode() + line * 3_000_000))
    with pytest.raises(BadManifest, match=r"at most 2,000,000|longer than|binary|file name|quotes"):
        read_manifest(path)


def test_bytes_that_are_not_utf8_do_not_matter_beside_the_columns_read(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(f"id,filename,note\n{ID},{NAME},".encode() + "Käse\n".encode("latin-1"))
    assert [slide.file_name for slide in read_manifest(path).slides] == [NAME]


@pytest.mark.parametrize(
    ("name", "slides", "unknown"),
    [
        ("manifests/monuseg-validated-state.txt", 30, 0),
        ("manifests/release-13-mixed-cnv-and-slides.txt", 36, 0),
        ("manifests/tcga-diagnostic-2024-08.txt", 11765, 0),
        ("manifests/tcga-luad-2020-09.txt", 530, 0),
        ("manifests/tcga-luad-pilot-no-final-newline.txt", 3, 0),
        ("manifests/tcga-ov-crlf-2024-08.txt", 107, 0),
        ("manifests/gdc-sample-sheet.tsv", 940, 0),
        ("faults/MANIFEST.txt", 1, 0),
        ("faults/manifest-of-several-programs.txt", 5, 2),
    ],
)
def test_every_real_table_is_read(name: str, slides: int, unknown: int) -> None:
    if not DATA.exists():
        pytest.skip("../shared/data holds no real manifests")
    listing = read_manifest(DATA / name)
    assert len(listing.slides) == slides
    assert sum(slide.slide_barcode is None for slide in listing.slides) == unknown
    assert not any("/" in slide.file_name for slide in listing.slides)
    if name.endswith(".txt") and name.startswith("manifests"):
        assert all(slide.size and slide.md5 for slide in listing.slides)


OF_ANY_PROGRAM = (
    "C3L-00081-21.svs",
    "HCM-ZZZZ-0012-C71-01A-01-S1-HE.1B2C3D4E-5F60-4718-8293-A4B5C6D7E8F9.SVS",
    "TCGA-ZZ-A0CE-01Z-00-DX1.svs",
)


def test_a_mirror_of_slides_without_barcodes_and_sizes_is_like_any_other(tmp_path: Path) -> None:
    spec = SlideSpec(width=600, height=400, downsamples=(1, 4), thumbnail=False)
    files = [
        listed(make_slide(tmp_path / f"{number}.svs", spec), file_name=name, program="FM")
        for number, name in enumerate(OF_ANY_PROGRAM)
    ]
    sheet = tmp_path / "sheet.tsv"
    lines = ["File ID\tFile Name", *(f"{file.file_id}\t{file.file_name}" for file in files)]
    sheet.write_text("\n".join([*lines, f"{ID}\ta.bam\n"]))
    root, copy, synced = tmp_path / "m", tmp_path / "copy", tmp_path / "synced"
    with StandIn(files) as gdc:
        words = ("init", "--mpp", "4", "--manifest", str(sheet), *addresses(gdc))
        output = run("--mirror", tmp_path / "one", *words, "--kind", "diagnostic").out
        assert "lists 3 slides" in output and "1 .bam" in output
        assert "2 slides not of --kind diagnostic left out (2 of unknown kind)" in output
        succeeded("--mirror", root, *words)
        impatient(root)
        updated = run("--mirror", root, "update")
        assert updated.code == 0 and "1 .bam" in updated.err, updated
    images = rows(root, "select path, source, mpp_x, slide_barcode from mirror order by path")
    assert [path for path, *_ in images] == sorted(
        f"images/unknown/{name[:-4]}.png" for name in OF_ANY_PROGRAM
    )
    assert {source for _, source, *_ in images} == {"range"}
    assert None not in [mpp_x for _, _, mpp_x, _ in images]
    assert [barcode for *_, barcode in images] == [None, None, "TCGA-ZZ-A0CE-01Z-00-DX1"]
    for name in (OF_ANY_PROGRAM[1], f"images/unknown/{OF_ANY_PROGRAM[1][:-4]}.png"):
        shown = succeeded("--mirror", root, "show", name, "--json").json()
        assert shown["file_name"] == OF_ANY_PROGRAM[1]
    for command in ("status", "verify", "gallery", "lock lock.txt", f"export {tmp_path}/e.tar"):
        assert run("--mirror", root, *command.split(), cwd=tmp_path).code == 0, command
    assert run("--mirror", copy, "import", tmp_path / "e.tar").code == 0
    assert run("sync", root, synced).code == 0
    (root / "catalogue.db").unlink()
    assert run("--mirror", root, "rebuild").code == 0
    for mirror in (root, copy, synced):
        assert (
            rows(mirror, "select path, source, mpp_x, slide_barcode from mirror order by path")
            == images
        )
