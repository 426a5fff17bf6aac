"""Names that people give slides, understood by one rule in commands and lists."""

from __future__ import annotations

from itertools import accumulate
from pathlib import PurePosixPath

from tcgamirror.model.slide import SLIDE_SUFFIX, ImageFormat, Slide

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


def slide_names(slide: Slide) -> frozenset[str]:
    """Return all names of a slide, in small letters: those that `without_suffix` can return.

    The barcode of its case, its sample and its portion are among them.

    >>> slide = Slide("", "b.svs", slide_barcode="TCGA-3C-AALI-01Z-00-DX1")
    >>> sorted(slide_names(slide))
    ['b', 'tcga-3c-aali-01z', 'tcga-3c-aali-01z-00', 'tcga-3c-aali-01z-00-dx1']
    """
    parts = (slide.slide_barcode or "").split("-")
    barcodes = accumulate(parts, lambda left, part: f"{left}-{part}")
    names = (without_suffix(slide.file_name), slide.file_id, slide.case_barcode)
    return frozenset(
        name.lower() for name in (*names, *list(barcodes)[CASE_PARTS:], slide.slide_barcode) if name
    )
