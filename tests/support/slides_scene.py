"""The painting on made slides: one smooth scene that every level shows at its own scale.

Glass with blobs of tissue, and in the tissue a sum of plane waves of random length and
direction. A wave averaged over a box is the same wave, weaker by a known factor, so a coarser
level is the box average of the base without the base ever being painted. Sums of products of a
function of x and a function of y are matrix products, which makes painting cheap.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rgb = NDArray[np.uint8]

GLASS = (243, 242, 245)
TISSUE_ABSORPTION = (66.0, 128.0, 72.0)
TEXTURE_SWING = (18.0, 33.0, 22.0)
BLOBS = 7
WAVES = 24
WAVELENGTHS = (7.0, 900.0)
SMOOTH_WAVELENGTHS = (40.0, 900.0)

# Waves shorter than this are made stronger, so that a shift of one base pixel stands out.
FINE_WAVELENGTH = 25.0
FINE_GAIN = 1.4


@dataclass(frozen=True, slots=True)
class Scene:
    """What is painted, in base pixels; pixel (0, 0) covers 0 to 1 both ways.

    centres, radii: (BLOBS, 2) of x, y.
    waves: (WAVES, 2) radians per base pixel; phases: (WAVES,) radians.
    swings: (WAVES, 3) grey levels of red, green, blue.
    """

    centres: Floats
    radii: Floats
    waves: Floats
    phases: Floats
    swings: Floats


@dataclass(frozen=True, slots=True)
class Window:
    """Pixels to paint: `size` of them from `origin`, each `step` base pixels wide and high."""

    step: tuple[float, float]
    origin: tuple[int, int]
    size: tuple[int, int]

    def centres(self, axis: int) -> Floats:
        """Places of the pixel centres along x (0) or y (1), in base pixels."""
        pixels = np.arange(self.size[axis], dtype=np.float64) + self.origin[axis] + 0.5
        return pixels * self.step[axis]


def make_scene(width: int, height: int, seed: int, *, smooth: bool = False) -> Scene:
    """A scene over width x height base pixels; blobs grow with the slide, texture does not.

    smooth: without the fine texture.
    """
    rng = np.random.default_rng(seed)
    extent = np.array([width, height], dtype=np.float64)
    across = (np.arange(BLOBS) + rng.uniform(0.25, 0.75, BLOBS)) / BLOBS
    centres = np.stack([across, rng.uniform(0.15, 0.85, BLOBS)], axis=1) * extent
    radii = rng.uniform((0.05, 0.10), (0.10, 0.22), (BLOBS, 2)) * extent

    wavelengths = SMOOTH_WAVELENGTHS if smooth else WAVELENGTHS
    ladder = np.geomspace(*wavelengths, WAVES) * rng.uniform(0.93, 1.07, WAVES)
    # Turning by the golden angle spreads the directions evenly over every range of lengths.
    angles = np.arange(WAVES) * 2.399963 + rng.uniform(0, 0.3, WAVES)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (2 * np.pi / ladder)[:, None]
    gain = np.where(ladder < FINE_WAVELENGTH, FINE_GAIN, 1.0)[:, None] * np.sqrt(2 / WAVES)
    share = rng.uniform(0.6, 1.4, (WAVES, 3)) * gain
    return Scene(
        centres, radii, waves, rng.uniform(0, 2 * np.pi, WAVES), share * np.array(TEXTURE_SWING)
    )


@lru_cache(maxsize=48)
def painted(width: int, height: int, seed: int, window: Window, *, smooth: bool = False) -> Rgb:
    """What `paint` gives of `make_scene`; kept, because many slides are of the same scene."""
    pixels = paint(make_scene(width, height, seed, smooth=smooth), window)
    pixels.setflags(write=False)
    return pixels


def tissue(scene: Scene, window: Window) -> NDArray[np.float32]:
    """How much tissue there is, 0 to 1, shape (height, width)."""
    along_x, along_y = (
        np.exp(
            -(
                ((window.centres(axis) - scene.centres[:, axis, None]) / scene.radii[:, axis, None])
                ** 4
            )
        ).astype(np.float32)
        for axis in (0, 1)
    )
    # Where blobs overlap the sum passes 1; this saturates it smoothly, so no edge is made.
    return np.asarray(1 - np.exp(-3 * (along_y.T @ along_x)), dtype=np.float32)


def _wave_factors(scene: Scene, window: Window) -> tuple[Floats, Floats]:
    """Factors along x (2 * WAVES, width) and y (2 * WAVES, height).

    Their products summed are cos(kx x + ky y + phase), averaged over the pixel.
    """
    kx, ky = scene.waves[:, 0, None], scene.waves[:, 1, None]
    turn_x = kx * window.centres(0) + scene.phases[:, None]
    turn_y = ky * window.centres(1)
    fade_x, fade_y = (
        np.sinc(k * step / (2 * np.pi)) for k, step in zip((kx, ky), window.step, strict=True)
    )
    along_x = np.concatenate([np.cos(turn_x) * fade_x, np.sin(turn_x) * fade_x])
    along_y = np.concatenate([np.cos(turn_y) * fade_y, -np.sin(turn_y) * fade_y])
    return along_x, along_y


def paint(scene: Scene, window: Window) -> Rgb:
    """The pixels of a window, shape (height, width, 3)."""
    mask = tissue(scene, window)
    along_x, along_y = _wave_factors(scene, window)
    along_x32 = along_x.astype(np.float32)
    pixels = np.empty((*mask.shape, 3), dtype=np.uint8)
    for channel in range(3):
        swing = np.tile(scene.swings[:, channel], 2)[:, None]
        texture = (along_y * swing).astype(np.float32).T @ along_x32
        texture += np.float32(TISSUE_ABSORPTION[channel])
        texture *= mask
        shade = np.float32(GLASS[channel] + 0.5) - texture
        pixels[..., channel] = np.clip(shade, 0, 255, out=shade)
    return pixels
