"""Every variety of slide worth testing, small enough to be made in a moment."""

from dataclasses import replace

from tests.support.slides_spec import SlideSpec

_PLAIN = SlideSpec(width=2403, height=1809)


def zoo() -> dict[str, SlideSpec]:
    """Specs by name; each is made in well under a second."""
    return _codecs() | _containers() | _pyramids() | _resolutions() | _blanks() | _extras()


def _codecs() -> dict[str, SlideSpec]:
    ycbcr = replace(_PLAIN, compression="jpeg-ycbcr")
    return {
        "plain": _PLAIN,
        "rgb-components-from-one": replace(_PLAIN, first_component=1),
        "rgb-shared-tables": replace(_PLAIN, shared_tables=True),
        "ycbcr-444": ycbcr,
        "ycbcr-422": replace(ycbcr, subsampling=1),
        "ycbcr-420": replace(ycbcr, subsampling=2),
        "ycbcr-420-shared-tables": replace(ycbcr, subsampling=2, shared_tables=True),
        "j2k-rgb": replace(_PLAIN, compression="j2k-rgb"),
        "j2k-ycbcr": replace(_PLAIN, compression="j2k-ycbcr", tile=(256, 256)),
    }


def _containers() -> dict[str, SlideSpec]:
    big = replace(_PLAIN, big=True)
    return {
        "big": big,
        "big-narrow-counts": replace(big, narrow_counts=True),
        "narrow-counts": replace(_PLAIN, narrow_counts=True),
        "big-shared-tables": replace(big, shared_tables=True),
        "big-j2k": replace(big, compression="j2k-rgb"),
        "big-endian": replace(_PLAIN, byte_order=">"),
        "big-and-big-endian": replace(big, byte_order=">", shared_tables=True),
        "shuffled": replace(_PLAIN, offsets="shuffled"),
        "shared": replace(_PLAIN, offsets="shared"),
        "big-shuffled-ycbcr": replace(
            big, offsets="shuffled", compression="jpeg-ycbcr", subsampling=2
        ),
    }


def _pyramids() -> dict[str, SlideSpec]:
    return {
        "base-only": replace(_PLAIN, downsamples=(1,)),
        "base-only-without-thumbnail": replace(_PLAIN, downsamples=(1,), thumbnail=False),
        "two-levels": replace(_PLAIN, downsamples=(1, 4)),
        "one-four-eight": replace(_PLAIN, downsamples=(1, 4, 8)),
        "four-levels-to-32": replace(_PLAIN, downsamples=(1, 4, 16, 32)),
        "four-levels-to-64": replace(_PLAIN, downsamples=(1, 4, 16, 64)),
        "tiles-of-512": replace(_PLAIN, tile=(512, 512)),
        "oblong-tiles": replace(_PLAIN, tile=(256, 128)),
        "whole-number-of-tiles": replace(_PLAIN, width=2400, height=1920, downsamples=(1, 2, 4)),
        "upright": replace(_PLAIN, width=1201, height=3907),
        "wide": replace(_PLAIN, width=3999, height=1001),
        "smaller-than-a-tile": replace(_PLAIN, width=203, height=181, downsamples=(1,)),
    }


def _resolutions() -> dict[str, SlideSpec]:
    silent = replace(_PLAIN, mpp=None, app_mag=None)
    return {
        "twenty-times": replace(_PLAIN, mpp=0.5026, app_mag="20"),
        "lying-appmag": replace(_PLAIN, mpp=0.2325, app_mag="20"),
        "appmag-with-decimals": replace(_PLAIN, mpp=0.2277, app_mag="40.000000"),
        "appmag-alone": replace(_PLAIN, mpp=None),
        "appmag-not-a-number": replace(_PLAIN, mpp=None, app_mag="forty"),
        "mpp-alone": replace(_PLAIN, app_mag=None),
        "no-resolution": silent,
        "resolution-tag-per-centimetre": replace(silent, resolution=(10_000 / 0.2520, 3)),
        "resolution-tag-per-inch": replace(silent, resolution=(25_400 / 0.5026, 2)),
        "resolution-tag-of-no-unit": replace(silent, resolution=(1.0, 1)),
        "resolution-tag-of-a-screen": replace(silent, resolution=(72.0, 2)),
        "resolution-tag-against-mpp": replace(_PLAIN, resolution=(72.0, 2)),
    }


def _blanks() -> dict[str, SlideSpec]:
    base = frozenset((0, column, row) for column in (1, 2, 5) for row in (0, 3))
    corner = frozenset({(0, 10, 7), (0, 9, 7)})
    coarse = frozenset({(1, 1, 1), (2, 0, 0)})
    # The tiles of the base under tile (0, 0) of level 1, and that tile.
    agreed = frozenset((0, column, row) for column in range(4) for row in range(4)) | {(1, 0, 0)}
    everything = frozenset((0, column, row) for column in range(11) for row in range(8))
    return {
        "blank-in-the-base": replace(_PLAIN, blank=base),
        "blank-in-a-corner": replace(_PLAIN, blank=corner),
        "blank-in-coarser-levels": replace(_PLAIN, blank=coarse),
        "blank-on-two-levels": replace(_PLAIN, blank=agreed),
        "blank-first-tile": replace(_PLAIN, blank=frozenset({(0, 0, 0), (1, 0, 0)})),
        "blank-base": replace(_PLAIN, blank=everything),
        "blank-j2k": replace(_PLAIN, compression="j2k-rgb", blank=base),
        "blank-with-shared-tables": replace(
            _PLAIN, shared_tables=True, offsets="shuffled", blank=base | coarse
        ),
        "blank-base-only": replace(_PLAIN, downsamples=(1,), blank=base | corner),
    }


def _extras() -> dict[str, SlideSpec]:
    return {
        "no-thumbnail": replace(_PLAIN, thumbnail=False),
        "label-and-macro": replace(_PLAIN, label_and_macro=True),
        "small-icc": replace(_PLAIN, icc_bytes=140),
        "icc": replace(_PLAIN, icc_bytes=3144),
        "large-icc": replace(_PLAIN, icc_bytes=1_500_001),
        "everything": replace(
            _PLAIN,
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
    }
