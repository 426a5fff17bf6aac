"""The nouns: slides and their names, pyramids, what is asked for and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tcgamirror.model.errors import TooFine, UnsupportedSlide
from tcgamirror.model.geometry import Grid, Size, at_mpp, coarsest_serving, halved, halvings_to_fit

FALLBACK_MAX_SIZE = 2048
"""Longer side, in pixels, of the image of a slide whose MPP nobody knows."""

SOURCES = ("range", "tiles", "whole")


class Kind(StrEnum):
    """DX slides are fixed and used for diagnosis; TS, BS and MS ones are frozen tissue."""

    DIAGNOSTIC = "diagnostic"
    TISSUE = "tissue"


class Status(StrEnum):
    """What has become of a sampled slide."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Upstream(StrEnum):
    """What has become of a slide at the GDC since it was first listed."""

    CURRENT = "current"
    CHANGED = "changed"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class Resample(StrEnum):
    """How an image is made of the chosen level.

    `exact`: resized to the size asked for. `fast`: the same, but where a JPEG level is
    reduced at least fourfold its tiles are decoded smaller, to nearly the same pixels.
    `native`: the level's own pixels.
    """

    EXACT = "exact"
    FAST = "fast"
    NATIVE = "native"


class ImageFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    TIFF = "tiff"

    @property
    def suffix(self) -> str:
        return {"png": ".png", "jpeg": ".jpg", "tiff": ".tif"}[self]


class MppSource(StrEnum):
    """Where a slide's base resolution stands: Aperio's header, TIFF tags, AppMag, nowhere."""

    HEADER = "header"
    TIFF = "tiff"
    APPMAG = "appmag"
    UNKNOWN = "unknown"


SAMPLE_TYPES = {
    "01": "Primary Tumor",
    "02": "Recurrent Tumor",
    "03": "Primary Blood Derived Cancer - Peripheral Blood",
    "05": "Additional - New Primary",
    "06": "Metastatic",
    "07": "Additional Metastatic",
    "11": "Solid Tissue Normal",
}
"""TCGA's sample type codes that slides were seen with, in the GDC's words."""

_SLIDE_NAME = re.compile(
    r"(?P<slide>(?P<case>TCGA-\w{2}-\w{4})-(?P<sample>\d{2})[A-Z]-\d{2}-(?P<kind>DX|TS|BS|MS)\w*)"
    r"(?:\.[0-9A-Fa-f-]{36})?\.[Ss][Vv][Ss]",
    re.ASCII,
)

SLIDE_SUFFIX = ".svs"
"""How a slide's file name ends, in any case."""


@dataclass(frozen=True, slots=True)
class Barcode:
    """What a TCGA slide's file name tells of it."""

    case: str
    slide: str
    sample_type: str | None
    kind: Kind

    @classmethod
    def of(cls, file_name: str) -> Barcode | None:
        """Read `TCGA-TSS-PART-SSV-PP-KIND.UUID.svs`, with or without UUID; None for other names.

        >>> name = "TCGA-22-1017-01Z-00-DX1.9562FE79-A261-42D3-B394-F3E0E2FF7DDA.svs"
        >>> barcode = Barcode.of(name)
        >>> barcode.case, barcode.slide, barcode.sample_type, str(barcode.kind)
        ('TCGA-22-1017', 'TCGA-22-1017-01Z-00-DX1', 'Primary Tumor', 'diagnostic')
        """
        match = _SLIDE_NAME.fullmatch(file_name)
        if match is None:
            return None
        return cls(
            case=match["case"],
            slide=match["slide"],
            sample_type=SAMPLE_TYPES.get(match["sample"]),
            kind=Kind.DIAGNOSTIC if match["kind"] == "DX" else Kind.TISSUE,
        )


@dataclass(frozen=True, slots=True)
class Slide:
    """One slide as the GDC, or a manifest, lists it.

    file_name is its lasting identity: file_id and md5 change between data
    releases. size: bytes. Everything but the first two may be unknown.
    """

    file_id: str
    file_name: str
    md5: str | None = None
    size: int | None = None
    kind: Kind | None = None
    project_id: str | None = None
    primary_site: str | None = None
    disease_type: str | None = None
    sample_type: str | None = None
    case_barcode: str | None = None
    slide_barcode: str | None = None
    state: str | None = None
    version: str | None = None
    data_release: str | None = None
    updated: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All slides of one data release, in the order they were listed.

    release: the GDC's words (`Data Release 45.0 - December 04, 2025`), or the manifest's name.
    """

    release: str
    slides: tuple[Slide, ...]


@dataclass(frozen=True, slots=True)
class Mpp:
    """Resolution of the base level in µm per pixel, the same along both sides."""

    value: float | None
    source: MppSource


UNKNOWN_MPP = Mpp(None, MppSource.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide's pyramid.

    size, tile: pixels of this level. downsample: base pixels per pixel, as the
    sizes give it (4.0003, not 4).
    """

    size: Size
    tile: Size
    downsample: float

    @property
    def grid(self) -> Grid:
        return Grid(self.size, self.tile)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """A slide's levels, the base first, and its resolution."""

    levels: tuple[Level, ...]
    mpp: Mpp


@dataclass(frozen=True, slots=True)
class Rendition:
    """The image to be made of a slide.

    level: index in the pyramid of the level to read. size: pixels of the image.
    mpp_x, mpp_y: exact µm per pixel of the image, None if the slide's are unknown.
    resample: as asked for.
    """

    level: int
    size: Size
    mpp_x: float | None
    mpp_y: float | None
    resample: Resample = Resample.EXACT


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: `mpp` (µm per pixel) or `max_size` (pixels), one of them None."""

    mpp: float | None
    max_size: int | None
    resample: Resample = Resample.EXACT

    def __str__(self) -> str:
        asked = f"{self.mpp:g} µm/px" if self.mpp is not None else f"at most {self.max_size} px"
        return f"{asked}, {self.resample}"

    def rendition(self, pyramid: Pyramid) -> Rendition:
        """The level to read and the size to make of it.

        Raises TooFine where the base is coarser than `mpp`, and UnsupportedSlide
        where no level's own pixels fit in `max_size`.
        """
        base = pyramid.levels[0].size
        if self.mpp is not None and pyramid.mpp.value is not None:
            wanted, size = self.mpp / pyramid.mpp.value, at_mpp(base, pyramid.mpp.value, self.mpp)
            if wanted < 1 - 1e-9:
                raise TooFine(
                    f"asked for {self.mpp:g} µm/px, but the slide's finest is "
                    f"{pyramid.mpp.value:g} µm/px; use an --mpp of at least that"
                )
        else:
            times = halvings_to_fit(base, self.max_size or FALLBACK_MAX_SIZE)
            wanted, size = float(2**times), halved(base, times)
        level = self._level(pyramid, wanted)
        if self.resample is Resample.NATIVE:
            size = pyramid.levels[level].size
        mpp = pyramid.mpp.value
        return Rendition(
            level=level,
            size=size,
            mpp_x=None if mpp is None else mpp * base.width / size.width,
            mpp_y=None if mpp is None else mpp * base.height / size.height,
            resample=self.resample,
        )

    def _level(self, pyramid: Pyramid, wanted: float) -> int:
        if self.resample is Resample.NATIVE and self.max_size is not None:
            for index, level in enumerate(pyramid.levels):
                if level.size.longer <= self.max_size:
                    return index
            raise UnsupportedSlide(
                f"no level fits in {self.max_size} px: the coarsest is "
                f"{pyramid.levels[-1].size}; use --resample exact"
            )
        return coarsest_serving([level.downsample for level in pyramid.levels], wanted)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One source's try at one slide. fault and message are None if it went well.

    started: seconds since the epoch. seconds: duration. bytes_fetched: from the
    network. retryable: the same try may succeed later.
    """

    source: str
    started: float
    seconds: float
    bytes_fetched: int
    requests: int
    fault: str | None = None
    message: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished image: what was read, what it is, and where it lies.

    path: relative to the mirror. level_downsample: of the level read.
    size: pixels. bytes, sha256: of the image file. patched_tiles: tiles of the
    level that were rendered from finer ones, None if the source knows of none.
    """

    source: str
    level: int
    level_downsample: float
    mpp: Mpp
    mpp_x: float | None
    mpp_y: float | None
    size: Size
    path: str
    bytes: int
    sha256: str
    patched_tiles: int | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether the slide's header may never have been read, as in an older version's image."""
        return self.source == "tiles" and self.mpp.value is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one slide in one run: a picture, or the attempts that failed."""

    slide: Slide
    attempts: tuple[Attempt, ...]
    picture: Picture | None
