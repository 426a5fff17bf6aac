"""The slides that a run of the bench measures, and how many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.bench.material import Kind
from tests.support.slides import SlideSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """The ways tried on one kind of slide.

    range_slides: Number of slides for `range`, enough that its start counts little. others: Other
    ways, each tried once.
    """

    kind: Kind
    range_slides: int = 48
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The material of each part.

    base_kinds: Slides whose base level is decoded. at_once: Slides fetched at the same time, by
    their name in the table. link_kind: The slide for one link, and for many in flight. link_slides:
    How many slides come over the link. plot_counts: Numbers of slides, one for each point of the
    plot. image_counts: How many images of 3 MB are carried, and how many small ones. listing_sizes:
    Numbers of slides in the catalogue. repetitions: Runs of each program, which take turns. before:
    The program of the version before.
    """

    trials: tuple[Trial, ...]
    base_kinds: tuple[Kind, ...]
    at_once: Mapping[str, tuple[Kind, ...]]
    link_kind: Kind
    link_slides: int
    plot_counts: tuple[int, ...]
    image_counts: tuple[int, int]
    listing_sizes: tuple[int, ...]
    repetitions: int
    before: Sequence[str] = ()


A = "published A: whole files"
B = "published B: tiles"
SEVERAL = "whole files, several connections"
WHOLE = "tcgamirror: whole"
TILES = "tcgamirror: tiles"
OTHERS = {A: 1, SEVERAL: 16, B: 1, WHOLE: 4, TILES: 8}
"""The number of slides for each way other than `range`."""

_LEVELS = (1, 4, 16, 32)
_LARGE = SlideSpec(width=48_000, height=36_000, downsamples=_LEVELS)
_SMALL = SlideSpec(width=16_000, height=12_000, downsamples=_LEVELS)
_ALONE = SlideSpec(width=12_000, height=9_000, downsamples=(1,))


def _alone(width: int, height: int, tile: int) -> Kind:
    """Return a slide with a base level alone, of few different tiles.

    Such a slide is quick to make, and as slow to decode as any.
    """
    spec = replace(_ALONE, width=width, height=height, tile=(tile, tile), offsets="shared")
    return Kind(f"{width:,}×{height:,} alone, tiles of {tile}", spec)


def _ycbcr(spec: SlideSpec) -> SlideSpec:
    return replace(spec, compression="jpeg-ycbcr", subsampling=2, shared_tables=True, seed=2)


_RGB = Kind("48,000×36,000 JPEG RGB", replace(_LARGE, seed=1))
_TABLES = Kind("48,000×36,000 JPEG YCbCr 4:2:0, shared tables", _ycbcr(_LARGE))
_J2K = Kind("48,000×36,000 JPEG 2000", replace(_LARGE, compression="j2k-rgb", seed=3))
# As large as a usual slide of the TCGA. Equal tiles are stored only once.
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

ALL_MOVED = "four 30,000×24,000 base levels alone, every tile's bytes moved"
LARGEST = "three 173,263×67,948 with levels 1, 4, 16, 64, one 100,000×80,000 base level alone"

AT_ONCE: Mapping[str, tuple[Kind, ...]] = {
    "two 50,000×40,000 base levels alone in tiles of 512, two in tiles of 256": (
        *[_alone(50_000, 40_000, 512)] * 2,
        *[_alone(50_000, 40_000, 256)] * 2,
    ),
    ALL_MOVED: (_BASE_LONG,) * 4,
    "four 12,000×9,000 JPEG 2000 base levels alone": (_BASE_J2K,) * 4,
    "four of four levels": (_RGB, _TABLES, _J2K, _USUAL),
    LARGEST: (
        *[_WIDEST] * 3,
        _alone(100_000, 80_000, 240),
    ),
}
"""Slides that need the most memory. Those in `FULL` need more than the others."""

FULL = Plan(
    trials=(
        Trial(_RGB, others=tuple(OTHERS)),
        Trial(_TABLES),
        Trial(_J2K),
        Trial(_USUAL, others=(B,)),
        Trial(_BASE, range_slides=4),
    ),
    base_kinds=(_BASE, _BASE_TABLES),
    at_once={name: AT_ONCE[name] for name in (ALL_MOVED, LARGEST)},
    link_kind=_USUAL,
    link_slides=64,
    plot_counts=(10, 100, 200, 1000, 2000),
    image_counts=(300, 6_000),
    listing_sizes=(30_075, 1_000_000),
    repetitions=3,
)

_SMALL_RGB = Kind("16,000×12,000 JPEG RGB", replace(_SMALL, seed=1))
_SMALL_TABLES = Kind("16,000×12,000 JPEG YCbCr 4:2:0, shared tables", _ycbcr(_SMALL))

QUICK = Plan(
    trials=(
        Trial(_SMALL_RGB, range_slides=8, others=tuple(OTHERS)),
        Trial(_SMALL_TABLES, range_slides=8, others=(B,)),
    ),
    base_kinds=(_BASE,),
    at_once={
        "two 30,000×20,000 base levels alone in tiles of 512, two in tiles of 256": (
            *[_alone(30_000, 20_000, 512)] * 2,
            *[_alone(30_000, 20_000, 256)] * 2,
        ),
    },
    link_kind=_SMALL_RGB,
    link_slides=8,
    plot_counts=(10, 20),
    image_counts=(20, 400),
    listing_sizes=(5_000,),
    repetitions=1,
)
