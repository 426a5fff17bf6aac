"""The published sampler's two ways to get one slide's image, as plainly as they are described.

A: the whole file, read by OpenSlide and deleted. B: Deep Zoom tiles, whose server gives no
resolution, so that a scan at 40× is assumed. Each sends one request after another.
"""

from __future__ import annotations

import io
from pathlib import Path

import openslide
import requests
from PIL import Image

TIMEOUT = 60
MPP_OF_40X = 0.25


def whole_file(api: str, file_id: str, mpp: float, image: Path) -> None:
    """Way A. mpp: µm per pixel of the image."""
    path = image.with_suffix(".svs")
    with requests.get(f"{api}/data/{file_id}", stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        with path.open("wb") as file:
            for piece in answer.iter_content(1 << 20):
                file.write(piece)
    with openslide.OpenSlide(path) as slide:
        downsample = mpp / float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        level = slide.get_best_level_for_downsample(downsample)
        pixels = slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")
        size = [round(side / downsample) for side in slide.dimensions]
    pixels.resize((size[0], size[1]), Image.Resampling.LANCZOS).save(image)
    path.unlink()


def tile_by_tile(tiles: str, file_id: str, mpp: float, image: Path) -> None:
    """Way B. mpp: µm per pixel of the image, if the scan is at 40×."""
    answer = requests.get(f"{tiles}/metadata/{file_id}", timeout=TIMEOUT)
    answer.raise_for_status()
    metadata = answer.json()
    width, height = int(metadata["Width"]), int(metadata["Height"])
    tile_size, overlap = int(metadata["TileSize"]), int(metadata["Overlap"])
    last = (max(width, height) - 1).bit_length()
    halvings = int(mpp / MPP_OF_40X).bit_length() - 1
    width, height = -(-width >> halvings), -(-height >> halvings)
    canvas = Image.new("RGB", (width, height))
    for row in range(-(-height // tile_size)):
        for column in range(-(-width // tile_size)):
            place = {"level": last - halvings, "x": column, "y": row}
            answer = requests.get(f"{tiles}/{file_id}", params=place, timeout=TIMEOUT)
            answer.raise_for_status()
            left = column * tile_size - (overlap if column else 0)
            top = row * tile_size - (overlap if row else 0)
            canvas.paste(Image.open(io.BytesIO(answer.content)).convert("RGB"), (left, top))
    canvas.save(image)
