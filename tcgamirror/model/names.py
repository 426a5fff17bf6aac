"""Names that people give slides, understood by one rule in commands and lists."""

from __future__ import annotations

from itertools import accumulate
from pathlib import PurePosixPath

from tcgamirror.model.slide import SLIDE_SUFFIX, ImageFormat

CASE_PARTS = 3
"""Parts of a case's barcode, `TCGA-3C-AALI`."""

_SUFFIXES = frozenset({SLIDE_SUFFIX, *(form.suffix for form in ImageFormat)})


def without_suffix(name: str) -> str:
    """Return a name of a slide, or the path of its image, without directories and suffix.

    >>> without_suffix("images/TCGA-BRCA/TCGA-3C-AALI-01Z-00-DX1.B3.png")
    'TCGA-3C-AALI-01Z-00-DX1.B3'
    """
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def slide_names(
    file_name: str, file_id: str, case_barcode: str | None, slide_barcode: str | None
) -> frozenset[str]:
    """Return all names of a slide, in small letters: those that `without_suffix` can return.

    The barcode of its case, its sample and its portion are among them.

    >>> sorted(slide_names("b.svs", "", "TCGA-3C-AALI", "TCGA-3C-AALI-01Z-00-DX1"))[1:]
    ['tcga-3c-aali', 'tcga-3c-aali-01z', 'tcga-3c-aali-01z-00', 'tcga-3c-aali-01z-00-dx1']
    """
    barcodes = accumulate((slide_barcode or "").split("-"), lambda left, part: f"{left}-{part}")
    names = (without_suffix(file_name), file_id, case_barcode, *list(barcodes)[CASE_PARTS:])
    return frozenset(name.lower() for name in (*names, slide_barcode) if name)
