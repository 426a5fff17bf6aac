"""Lists of names as people have them: plain, with a header, and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcgamirror.model.errors import UsageError
from tcgamirror.sources.namelist import read_names

CASE, OTHER = "TCGA-3C-AALI", "tcga-3c-aalj"
FILE = "9.SVS"
UUID = "7ab52949-b902-4a79-a9f4-65379e221444"


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ((CASE, OTHER), [CASE, OTHER]),
        *(((header, CASE, OTHER), [CASE, OTHER]) for header in ("slide_id", "case_id", "\ufeffid")),
        (("# a comment", "", "filename", FILE), [FILE]),
        (("file_id", UUID), [UUID]),
        (("case\tage", f"{CASE}\t60", f"{OTHER}\t50"), [CASE, OTHER]),
        ((f"{CASE},60", f"{OTHER},50"), [CASE, OTHER]),
        (("id,filename", f"{UUID},{FILE}"), [FILE]),
        (("case_id,slide_id,label", f"{CASE},{FILE},1", f"{OTHER},typo,0"), [FILE, "typo"]),
        (("case_id,slide_id,label", f"{CASE},{FILE},1", f"{OTHER},,0"), [CASE, OTHER]),
        (("case_id,sample_id", f"{CASE},{CASE}-01A"), [CASE]),
        ((f"{CASE}, {OTHER}", CASE), [CASE, OTHER]),
        ((UUID, CASE, FILE), [UUID, CASE, FILE]),
        ((CASE, "a typing error"), [CASE, "a typing error"]),
    ],
)
def test_a_first_row_without_a_name_is_a_header(
    tmp_path: Path, lines: tuple[str, ...], names: list[str]
) -> None:
    (tmp_path / "list").write_text("\n".join(lines), encoding="utf-8")
    assert read_names(tmp_path / "list") == names


@pytest.mark.parametrize("lines", ["", "slide_id\n", "slide_id\nx\n", "# nothing\n"])
def test_a_list_without_names_is_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / "list").write_text(lines)
    with pytest.raises(UsageError, match="no barcode, file name or file_id in it"):
        read_names(tmp_path / "list")
