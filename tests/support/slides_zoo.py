"""Every variety of slide worth testing, small enough to be made in a moment."""

from dataclasses import replace

from tests.support.slides_spec import SlideSpec

_LARGE = SlideSpec(width=2403, height=1809)
_SMALL = SlideSpec(width=1203, height=909)


def zoo() -> dict[str, SlideSpec]:
    """Specs by name: large ones where the pyramid or the bytes of a level count."""
    j2k, ycbcr = replace(_SMALL, compression="j2k-rgb"), replace(_SMALL, compression="jpeg-ycbcr")
    ycbcr_420, big = replace(ycbcr, subsampling=2), replace(_SMALL, big=True)
    return {
        "plain": _LARGE,
        # Codecs
        "rgb-components-from-one": replace(_SMALL, first_component=1),
        "rgb-shared-tables": replace(_SMALL, shared_tables=True),
        "ycbcr-444": ycbcr,
        "ycbcr-422": replace(ycbcr, subsampling=1),
        "ycbcr-420": ycbcr_420,
        "ycbcr-420-shared-tables": replace(ycbcr_420, shared_tables=True),
        "j2k-rgb": j2k,
        "j2k-ycbcr": replace(_LARGE, compression="j2k-ycbcr", tile=(256, 256)),
        # Containers
        "big": big,
        "big-narrow-counts": replace(_LARGE, big=True, narrow_counts=True),
        "narrow-counts": replace(_SMALL, narrow_counts=True),
        "big-shared-tables": replace(big, shared_tables=True),
        "big-j2k": replace(j2k, big=True),
        "big-endian": replace(_SMALL, byte_order=">"),
        "big-and-big-endian": replace(big, byte_order=">", shared_tables=True),
        "shuffled": replace(_LARGE, offsets="shuffled"),
        "shared": replace(_SMALL, offsets="shared"),
        "big-shuffled-ycbcr": replace(ycbcr_420, big=True, offsets="shuffled"),
        # Pyramids
        "base-only": replace(_LARGE, downsamples=(1,)),
        "base-only-without-thumbnail": replace(_SMALL, downsamples=(1,), thumbnail=False),
        "two-levels": replace(_SMALL, downsamples=(1, 4)),
        "one-four-eight": replace(_SMALL, downsamples=(1, 4, 8)),
        "four-levels-to-32": replace(_LARGE, downsamples=(1, 4, 16, 32)),
        "four-levels-to-64": replace(_LARGE, downsamples=(1, 4, 16, 64)),
        "tiles-of-512": replace(_LARGE, tile=(512, 512)),
        "oblong-tiles": replace(_SMALL, tile=(256, 128)),
        "whole-number-of-tiles": replace(_SMALL, width=1200, height=960, downsamples=(1, 2, 4)),
        "upright": replace(_SMALL, width=601, height=1957),
        "wide": replace(_SMALL, width=1999, height=501),
        "smaller-than-a-tile": replace(_SMALL, width=203, height=181, downsamples=(1,)),
        # Without some of an ordinary file's parts, and with more
        "no-thumbnail": replace(_SMALL, thumbnail=False),
        "label-and-macro": replace(_LARGE, label_and_macro=True),
        "small-icc": replace(_SMALL, icc_bytes=140),
        "icc": replace(_SMALL, icc_bytes=3144),
        "large-icc": replace(_LARGE, icc_bytes=1_500_001),
        "everything": replace(
            _LARGE,
            compression="jpeg-ycbcr",
            subsampling=2,
            shared_tables=True,
            big=True,
            downsamples=(1, 4, 16, 32),
            label_and_macro=True,
            resolution=(10_000 / 0.2520, 3),
            blank=frozenset({(0, 3, 2)}),
            icc_bytes=13_000,
            offsets="shuffled",
            seed=7,
        ),
        **_resolutions(),
        **_blanks(),
    }


def _resolutions() -> dict[str, SlideSpec]:
    silent = replace(_SMALL, mpp=None, app_mag=None)
    return {
        "twenty-times": replace(_SMALL, mpp=0.5026, app_mag="20"),
        "lying-appmag": replace(_SMALL, mpp=0.2325, app_mag="20"),
        "appmag-with-decimals": replace(_SMALL, mpp=0.2277, app_mag="40.000000"),
        "appmag-alone": replace(_SMALL, mpp=None),
        "appmag-not-a-number": replace(_SMALL, mpp=None, app_mag="forty"),
        "mpp-alone": replace(_SMALL, app_mag=None),
        "no-resolution": silent,
        "resolution-tag-per-centimetre": replace(silent, resolution=(10_000 / 0.2520, 3)),
        "resolution-tag-per-inch": replace(silent, resolution=(25_400 / 0.5026, 2)),
        "resolution-tag-of-no-unit": replace(silent, resolution=(1.0, 1)),
        "resolution-tag-of-a-screen": replace(silent, resolution=(72.0, 2)),
        "resolution-tag-against-mpp": replace(_SMALL, resolution=(72.0, 2)),
    }


def _blanks() -> dict[str, SlideSpec]:
    base = frozenset((0, column, row) for column in (1, 2, 5) for row in (0, 3))
    corner = frozenset({(0, 5, 3), (0, 4, 3)})
    coarse = frozenset({(1, 1, 1), (2, 0, 0)})
    # The tiles of the base under tile (0, 0) of level 1, and that tile.
    agreed = frozenset((0, column, row) for column in range(4) for row in range(4)) | {(1, 0, 0)}
    everything = frozenset((0, column, row) for column in range(6) for row in range(4))
    return {
        "blank-in-the-base": replace(_LARGE, blank=base),
        "blank-in-a-corner": replace(_SMALL, blank=corner),
        "blank-in-coarser-levels": replace(_LARGE, blank=coarse),
        "blank-on-two-levels": replace(_LARGE, blank=agreed),
        "blank-first-tile": replace(_SMALL, blank=frozenset({(0, 0, 0), (1, 0, 0)})),
        "blank-base": replace(_SMALL, blank=everything),
        "blank-j2k": replace(_SMALL, compression="j2k-rgb", blank=base),
        "blank-with-shared-tables": replace(
            _SMALL, shared_tables=True, offsets="shuffled", blank=base | {(1, 1, 0), (2, 0, 0)}
        ),
        "blank-base-only": replace(_SMALL, downsamples=(1,), blank=base | corner),
    }
