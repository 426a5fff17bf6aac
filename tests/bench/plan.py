"""The slides that a run of the bench measures, and how many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.bench.material import Kind
from tests.support.slides import SlideSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """The ways tried on one kind of slide.

    fast: slides for `range`, enough that its start counts little. whole: slides for `whole`.
    several: whole files that several connections move at once; 0 leaves out that way.
    repetitions: runs of each quick way. by_a: whether A is tried. judged: whether the aims are
    for such slides: as large as real ones, and with levels.
    """

    kind: Kind
    fast: int = 48
    whole: int = 0
    several: int = 0
    repetitions: int = 3
    by_a: bool = True
    judged: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The material of each part.

    decoded: slides whose base level is decoded. at_once: four slides, by the table's name. linked:
    slides that come over one link. counts: slides of each point of the plot. carried: images of
    3 MB, and small ones. listed: slides in the catalogue. sharded: slides fetched by shards.
    measured: slides whose processor time is measured. before: the program of the version before.
    """

    trials: tuple[Trial, ...]
    decoded: tuple[Kind, ...]
    decodings: int
    at_once: Mapping[str, tuple[Kind, ...]]
    linked: Kind
    links: int
    counts: tuple[int, ...]
    carried: tuple[int, int]
    listed: tuple[int, ...]
    sharded: int
    measured: int
    before: Sequence[str] = ()


_LEVELS = (1, 4, 16, 32)
_LARGE = SlideSpec(width=48_000, height=36_000, downsamples=_LEVELS)
_SMALL = SlideSpec(width=16_000, height=12_000, downsamples=_LEVELS)
_ALONE = SlideSpec(width=12_000, height=9_000, downsamples=(1,))


def _alone(width: int, height: int, tile: int) -> Kind:
    """A base level of few different tiles: quick to make, and as slow to decode as any."""
    spec = replace(_ALONE, width=width, height=height, tile=(tile, tile), offsets="shared")
    return Kind(f"{width:,}×{height:,} alone, tiles of {tile}", spec)


def _ycbcr(spec: SlideSpec) -> SlideSpec:
    return replace(spec, compression="jpeg-ycbcr", subsampling=2, shared_tables=True, seed=2)


_RGB = Kind("48,000×36,000 JPEG RGB", replace(_LARGE, seed=1))
_TABLES = Kind("48,000×36,000 JPEG YCbCr 4:2:0, shared tables", _ycbcr(_LARGE))
_J2K = Kind("48,000×36,000 JPEG 2000", replace(_LARGE, compression="j2k-rgb", seed=3))
# As large as a usual slide of the TCGA's; most of its base level's tiles are stored only once.
_USUAL = Kind(
    "100,000×80,000 JPEG RGB",
    SlideSpec(width=100_000, height=80_000, downsamples=_LEVELS, offsets="shared", seed=4),
)
_WIDEST = Kind(
    "173,263×67,948 JPEG RGB, levels 1, 4, 16, 64",
    SlideSpec(width=173_263, height=67_948, downsamples=(1, 4, 16, 64), offsets="shared", seed=6),
)
_BASE = Kind("12,000×9,000 JPEG RGB, base alone", replace(_ALONE, seed=5))
_BASE_TABLES = Kind("12,000×9,000 JPEG YCbCr 4:2:0, base alone", _ycbcr(_ALONE))
_BASE_J2K = Kind("12,000×9,000 JPEG 2000, base alone", replace(_ALONE, compression="j2k-rgb"))
_BASE_LONG = Kind(
    "30,000×24,000 JPEG RGB, base alone", replace(_ALONE, width=30_000, height=24_000)
)

LARGEST = "three 173,263×67,948 with levels 1, 4, 16, 64, one 100,000×80,000 base level alone"

FULL = Plan(
    trials=(
        Trial(_RGB, whole=4, several=16),
        Trial(_TABLES, by_a=False),
        Trial(_J2K),
        Trial(_USUAL, by_a=False),
        Trial(_BASE, fast=8, whole=4, repetitions=1, judged=False),
    ),
    decoded=(_BASE, _BASE_TABLES),
    decodings=3,
    at_once={
        "two 50,000×40,000 base levels alone in tiles of 512, two in tiles of 256": (
            *[_alone(50_000, 40_000, 512)] * 2,
            *[_alone(50_000, 40_000, 256)] * 2,
        ),
        "four 30,000×24,000 base levels alone, every tile's bytes moved": (_BASE_LONG,) * 4,
        "four 12,000×9,000 JPEG 2000 base levels alone": (_BASE_J2K,) * 4,
        "four of four levels": (_RGB, _TABLES, _J2K, _USUAL),
        LARGEST: (
            *[_WIDEST] * 3,
            _alone(100_000, 80_000, 240),
        ),
    },
    linked=_USUAL,
    links=96,
    counts=(10, 20, 100, 200, 1000, 2000),
    carried=(300, 12_000),
    listed=(30_075, 1_000_000),
    sharded=96,
    measured=48,
)

_SMALL_RGB = Kind("16,000×12,000 JPEG RGB", replace(_SMALL, seed=1))
_SMALL_TABLES = Kind("16,000×12,000 JPEG YCbCr 4:2:0, shared tables", _ycbcr(_SMALL))

QUICK = Plan(
    trials=(
        Trial(_SMALL_RGB, fast=8, whole=4, repetitions=1, judged=False),
        Trial(_SMALL_TABLES, fast=8, repetitions=1, judged=False),
    ),
    decoded=(_BASE,),
    decodings=1,
    at_once={
        "two 30,000×20,000 base levels alone in tiles of 512, two in tiles of 256": (
            *[_alone(30_000, 20_000, 512)] * 2,
            *[_alone(30_000, 20_000, 256)] * 2,
        ),
    },
    linked=_SMALL_RGB,
    links=8,
    counts=(10, 20),
    carried=(20, 400),
    listed=(5_000,),
    sharded=20,
    measured=8,
)
