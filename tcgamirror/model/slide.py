"""Slides and their names, pyramids, the target of a mirror, and the outcome of a fetch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tcgamirror.model.errors import NoSuchLevel, TooFine, UnsupportedSlide
from tcgamirror.model.geometry import Grid, Size, at_mpp, coarsest_serving, halved, halvings_to_fit

FALLBACK_MAX_SIZE = 2048
"""Longer side, in pixels, of the image of a slide whose MPP is unknown."""

SOURCES = ("range", "tiles", "whole")


class Kind(StrEnum):
    """Diagnostic slides (DX) are fixed; tissue slides (TS, BS, MS) are frozen."""

    DIAGNOSTIC = "diagnostic"
    TISSUE = "tissue"


class Status(StrEnum):
    """State of a sampled slide's image."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    EXCLUDED = "excluded"


class Upstream(StrEnum):
    """State of a slide at the GDC since it was first listed."""

    CURRENT = "current"
    CHANGED = "changed"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class Resample(StrEnum):
    """The way from the chosen level to the image.

    `exact` resizes the level to the target's size. `fast` also decodes JPEG tiles smaller
    where the level is reduced at least threefold. `native` keeps the level's own pixels.
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

    @classmethod
    def of_path(cls, path: str) -> ImageFormat:
        """Return the format of an image in a mirror. Raises ValueError for no image.

        >>> ImageFormat.of_path("images/TCGA-OV/a.jpg")
        <ImageFormat.JPEG: 'jpeg'>
        """
        for form in cls:
            if path.endswith(form.suffix):
                return form
        raise ValueError(f"not an image: {path}")


class MppSource(StrEnum):
    """Origin of a slide's base MPP: Aperio's header, TIFF tags, AppMag, or none."""

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
"""TCGA's sample type codes of slides, with the GDC's names."""

PROJECTS = (
    *("TCGA-ACC", "TCGA-BLCA", "TCGA-BRCA", "TCGA-CESC", "TCGA-CHOL", "TCGA-COAD", "TCGA-DLBC"),
    *("TCGA-ESCA", "TCGA-GBM", "TCGA-HNSC", "TCGA-KICH", "TCGA-KIRC", "TCGA-KIRP", "TCGA-LAML"),
    *("TCGA-LGG", "TCGA-LIHC", "TCGA-LUAD", "TCGA-LUSC", "TCGA-MESO", "TCGA-OV", "TCGA-PAAD"),
    *("TCGA-PCPG", "TCGA-PRAD", "TCGA-READ", "TCGA-SARC", "TCGA-SKCM", "TCGA-STAD", "TCGA-TGCT"),
    *("TCGA-THCA", "TCGA-THYM", "TCGA-UCEC", "TCGA-UCS", "TCGA-UVM"),
)
"""TCGA's projects. The program ended in 2018, so there will be no others."""

_SLIDE_NAME = re.compile(
    r"(?P<slide>(?P<case>TCGA-\w{2}-\w{4})-(?P<sample>\d{2})[A-Z]-\d{2}-(?P<kind>DX|TS|BS|MS)\w*)"
    r"(?:\.[0-9A-Fa-f-]{36})?\.[Ss][Vv][Ss]",
    re.ASCII,
)

SLIDE_SUFFIX = ".svs"
"""End of a slide's file name, in upper or lower case."""


@dataclass(frozen=True, slots=True)
class Barcode:
    """The parts of a TCGA slide's file name."""

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
    """One slide as the GDC or a manifest lists it. size: bytes.

    `file_name` is its lasting identity: `file_id` and `md5` change between data releases.
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

    `release` is the GDC's text (`Data Release 45.0 - December 04, 2025`), or the manifest's name.
    """

    release: str
    slides: tuple[Slide, ...]


@dataclass(frozen=True, slots=True)
class Mpp:
    """Resolution of the base level in µm per pixel, equal along both axes."""

    value: float | None
    source: MppSource


UNKNOWN_MPP = Mpp(None, MppSource.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a pyramid. downsample: base pixels per pixel, such as 4.0003."""

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
    """The image to be made of a slide, from the level of an index.

    mpp_x, mpp_y: exact µm per pixel of the image; None if the slide's MPP is unknown.
    """

    level: int
    size: Size
    mpp_x: float | None
    mpp_y: float | None
    resample: Resample = Resample.EXACT


@dataclass(frozen=True, slots=True)
class Target:
    """The resolution of images: `mpp` (µm per pixel), `max_size` (pixels), or a level's index.

    The other two are None. Mirrors have no target by level, as it says nothing about scale.
    """

    mpp: float | None
    max_size: int | None
    resample: Resample = Resample.EXACT
    level: int | None = None

    def __str__(self) -> str:
        if self.level is not None:
            return f"level {self.level}"
        size = f"{self.mpp:g} µm/px" if self.mpp is not None else f"at most {self.max_size} px"
        return f"{size}, {self.resample}"

    def rendition(self, pyramid: Pyramid) -> Rendition:
        """Return the level to read and the size of the image.

        Raises:
            TooFine: The base is more than 1 % coarser than `mpp`.
            NoSuchLevel: The slide has fewer levels than `level` needs.
            UnsupportedSlide: No level's own pixels fit in `max_size`.
        """
        base = pyramid.levels[0].size
        if self.mpp is not None and pyramid.mpp.value is not None:
            wanted, size = self.mpp / pyramid.mpp.value, at_mpp(base, pyramid.mpp.value, self.mpp)
        else:
            times = halvings_to_fit(base, self.max_size or FALLBACK_MAX_SIZE)
            wanted, size = float(2**times), halved(base, times)
        level = self._level(pyramid, wanted) if self.level is None else self.level
        if level >= len(pyramid.levels):
            last = len(pyramid.levels) - 1
            raise NoSuchLevel(f"no level {level}: the coarsest is {last}")
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
            for index, one in enumerate(pyramid.levels):
                if one.size.longer <= self.max_size:
                    return index
            raise UnsupportedSlide(
                f"no level fits in {self.max_size} px: the coarsest is "
                f"{pyramid.levels[-1].size}; use --resample exact"
            )
        level = coarsest_serving([level.downsample for level in pyramid.levels], wanted)
        if level is None:
            raise TooFine(
                f"requested {self.mpp:g} µm/px, but the slide's base has "
                f"{pyramid.mpp.value:g} µm/px. Use --mpp of at least that, in get or for another "
                "mirror"
            )
        return level


@dataclass(frozen=True, slots=True)
class Attempt:
    """One source's try to fetch one slide. started: seconds since the epoch.

    fault: name of the error; None after success, as is `message`. retryable: the same try
    may succeed later.
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
    """A finished image, at `path` relative to the mirror. mpp: resolution of the slide's base.

    bytes, sha256: of the image file. patched_tiles: tiles of the level that were rendered from
    finer levels; None if unknown. pixels_sha256: of the pixels row by row, three bytes each; None
    where they depend on the program that decodes them.
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
    pixels_sha256: str | None = None

    @property
    def in_doubt(self) -> bool:
        """Return whether the slide's header may never have been read, as by an older version."""
        return self.source == "tiles" and self.mpp.value is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one slide in one run: a picture, or the attempts that failed."""

    slide: Slide
    attempts: tuple[Attempt, ...]
    picture: Picture | None
