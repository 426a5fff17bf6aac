"""Deep Zoom tiles of the listed slides."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import openslide
from openslide.deepzoom import DeepZoomGenerator

from tests.gdc.answers import Answer, Content, Request, of_json, refusal
from tests.gdc.listing import Listed

TileFormat = Literal["png", "jpeg"]

_DEEP_ZOOM = "{http://schemas.microsoft.com/deepzoom/2008}"


@dataclass(frozen=True, slots=True)
class _Opened:
    """A slide held open; OpenSlide is asked by one thread at a time."""

    slide: openslide.OpenSlide
    generator: DeepZoomGenerator
    lock: threading.Lock = field(default_factory=threading.Lock)


class Tiles:
    """Tile metadata and tiles. tile_size: pixels a side, without the overlap, as in Deep Zoom."""

    def __init__(self, tile_size: int, overlap: int, tile_format: TileFormat) -> None:
        self._tile_size = tile_size
        self._overlap = overlap
        self._format = tile_format
        self._lock = threading.Lock()
        self._opened: dict[Path, _Opened] = {}

    def close(self) -> None:
        with self._lock:
            for opened in self._opened.values():
                opened.slide.close()
            self._opened.clear()

    def metadata(self, file: Listed) -> Answer:
        """The metadata as the GDC gives it: every value is a string."""
        if file.dzi is not None:
            shown = _ready_metadata(file.dzi)
        else:
            opened = self._open(file)
            if isinstance(opened, Answer):
                return opened
            width, height = opened.slide.dimensions
            shown = {
                "Format": self._format,
                "Height": str(height),
                "Overlap": str(self._overlap),
                "TileSize": str(self._tile_size),
                "Width": str(width),
            }
        return of_json({**shown, "uuid": file.file_id})

    def tile(self, file: Listed, request: Request) -> Answer:
        try:
            level, x, y = (int(request.query[name]) for name in ("level", "x", "y"))
        except (KeyError, ValueError):
            return refusal(404, "level, x and y have to be whole numbers")
        if file.dzi is not None:
            return _ready_tile(file.dzi, level, x, y)
        opened = self._open(file)
        if isinstance(opened, Answer):
            return opened
        try:
            with opened.lock:
                image = opened.generator.get_tile(level, (x, y))
        except ValueError as error:
            return refusal(404, str(error))
        except openslide.OpenSlideError as error:
            return refusal(500, str(error))
        data = io.BytesIO()
        # OpenSlide's own tile server sends the slide's colour profile along, too.
        image.save(data, self._format, icc_profile=image.info.get("icc_profile"))
        return _image(data.getvalue())

    def _open(self, file: Listed) -> _Opened | Answer:
        """The open slide, or the answer that tells why there is none."""
        if file.path is None or not file.tiles:
            return refusal(404, f"No tiles for {file.file_id}")
        with self._lock:
            if file.path not in self._opened:
                try:
                    slide = openslide.OpenSlide(file.path)
                except openslide.OpenSlideError as error:
                    return refusal(500, str(error))
                generator = DeepZoomGenerator(slide, self._tile_size, self._overlap)
                self._opened[file.path] = _Opened(slide, generator)
            return self._opened[file.path]


def _image(data: bytes) -> Answer:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return Answer(200, (("Content-Type", kind),), Content(data))


def _ready_metadata(dzi: Path) -> dict[str, str]:
    root = ElementTree.parse(dzi).getroot()
    size = root.find(f"{_DEEP_ZOOM}Size")
    if size is None:
        raise ValueError(f"{dzi} has no Size")
    return {
        "Format": root.attrib["Format"],
        "Height": size.attrib["Height"],
        "Overlap": root.attrib["Overlap"],
        "TileSize": root.attrib["TileSize"],
        "Width": size.attrib["Width"],
    }


def _ready_tile(dzi: Path, level: int, x: int, y: int) -> Answer:
    suffix = _ready_metadata(dzi)["Format"]
    path = dzi.parent / f"{dzi.stem}_files" / str(level) / f"{x}_{y}.{suffix}"
    if not path.is_file():
        return refusal(404, "Invalid address")
    return _image(path.read_bytes())
