"""What a slide's resolution is, and how far that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tcgamirror.model import UNKNOWN_MPP, Mpp, MppSource

MPP_PLAUSIBLE = (0.05, 20.0)
"""µm per pixel: outside of it a number is no microscope's, but a screen's or a printer's."""


def aperio_properties(description: str) -> dict[str, str]:
    """The `key = value` pairs of an Aperio ImageDescription; of a key given twice the last one.

    >>> aperio_properties("Aperio Image Library v10|AppMag = 40|MPP = 0.2520")
    {'AppMag': '40', 'MPP': '0.2520'}
    """
    properties: dict[str, str] = {}
    for part in description.split("|")[1:]:
        key, equals, value = part.partition("=")
        if equals:
            properties[key.strip()] = value.strip()
    return properties


def resolution_of(
    properties: Mapping[str, str], x: float | None, y: float | None, unit: int
) -> Mpp:
    """The base level's MPP, from the best place that has a plausible one.

    Aperio's MPP first, then the TIFF resolution (pixels per inch where `unit`
    is 2, per centimetre where it is 3) if it is the same along both sides, then
    AppMag, by the convention that 40 is 0.25 µm per pixel.

    >>> resolution_of({"MPP": "0.2325", "AppMag": "20"}, None, None, 2)
    Mpp(value=0.2325, source=<MppSource.HEADER: 'header'>)
    >>> resolution_of({}, 40000.0, 40000.0, 3).value
    0.25
    >>> resolution_of({}, 72.0, 72.0, 2).value is None
    True
    >>> resolution_of({"AppMag": "40.000000"}, None, None, 2)
    Mpp(value=0.25, source=<MppSource.APPMAG: 'appmag'>)
    """
    header = _plausible(_decimal(properties.get("MPP")))
    if header is not None:
        return Mpp(header, MppSource.HEADER)
    micrometres = {2: 25_400.0, 3: 10_000.0}.get(unit)
    if micrometres and x and y and math.isclose(x, y, rel_tol=0.01):
        tiff = _plausible(micrometres / x)
        if tiff is not None:
            return Mpp(tiff, MppSource.TIFF)
    magnification = _decimal(properties.get("AppMag"))
    if magnification is not None and 1 <= magnification <= 100:
        return Mpp(10 / magnification, MppSource.APPMAG)
    return UNKNOWN_MPP


def _decimal(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plausible(mpp: float | None) -> float | None:
    low, high = MPP_PLAUSIBLE
    return mpp if mpp is not None and low <= mpp <= high else None
