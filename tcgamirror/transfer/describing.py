"""The page that lies in an export, for whoever finds it."""

from __future__ import annotations

from collections.abc import Mapping

from tcgamirror import __version__
from tcgamirror.mirror.settings import Settings
from tcgamirror.transfer.archive.format import EARLIER, SUMS

_PAGE = """\
TCGA whole-slide images at a known resolution

This is an export of a mirror made by tcgamirror {version}.

  images     {target}
  release    {release}
  sample     {sample}
  in here    {images} images

images/          one image a slide; each tells its resolution and slide inside
catalogue.db     SQLite; its view `mirror` has a row for each slide of the sample
tcgamirror.toml  the settings of the mirror
gallery/         pages to look at, if they were made: open gallery/index.html
{sums:16} digests of all of these files
{earlier}
To check that all is as it was made, in this directory (Linux; `shasum -a 256 -c` on a Mac):

  sha256sum -c {sums}

To make a mirror of it, or add it to one (of the archive, too, without unpacking it):

  tcgamirror --mirror DIR import THIS

The slides are the work of The Cancer Genome Atlas (https://www.cancer.gov/tcga),
served by the NCI Genomic Data Commons (https://gdc.cancer.gov).
"""
_EARLIER = """\

{count} images are not in here, because an earlier export holds them:
import that one first. {name} names them.
"""


def readme(
    settings: Settings,
    release: str | None,
    slides: Mapping[str, int],
    images: int,
    left_out: int,
) -> str:
    """The page. slides: by status. left_out: images that an earlier export holds."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(slides.items()))
    return _PAGE.format(
        version=__version__,
        target=settings.fixed,
        release=release or "none listed yet",
        sample=f"{sum(slides.values()):,} slides: {counts or 'none'}",
        images=f"{images:,}",
        sums=SUMS,
        earlier=_EARLIER.format(count=f"{left_out:,}", name=EARLIER) if left_out else "",
    )
