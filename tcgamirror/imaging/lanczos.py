"""Resize rows of pixels by Lanczos, the same on every machine and in little memory.

Each output pixel is a weighted sum of the inputs around it, down first and then across. Weights
are multiples of 2**-14, and pixels whole numbers. Every sum therefore fits in the 24 bits of a
float32 without rounding, so that neither its order nor the processor matters. Sums are products
of small matrices, which takes half the time of Pillow's resize.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.geometry import Size

REACH = 3
"""Inputs that the kernel spans on each side, per unit of downsample."""

OUTPUTS = 8
"""Outputs of one product: more of them have fewer inputs in common."""

SMALL_PRODUCT = 250_000
"""Multiplications of one product. OpenBLAS makes larger ones by threads that wait for another."""

MOST_INPUTS = Size(2000, 100)
"""Inputs, across and down, that are resized at once; at least those of one product."""

MOST_BAND_PIXELS = 10_000_000
"""Pixels of the rows that are resized at once: fewer rows of a very wide level."""

_UNIT = 1 << 14

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kernel:
    """Weights of neighbouring outputs. matrix: of shape (inputs, outputs)."""

    inputs: slice
    outputs: slice
    matrix: Floats


def kernels(length: int, span: float, count: int) -> list[Kernel]:
    """Return the kernels of `count` outputs that cover `span` of `length` inputs."""
    scale = span / count
    width = max(scale, 1.0)
    centres = (np.arange(count) + 0.5) * scale
    firsts = np.maximum(0, np.floor(centres - REACH * width + 0.5)).astype(int)
    lasts = np.minimum(length, np.floor(centres + REACH * width + 0.5)).astype(int)
    inputs = firsts[:, None] + np.arange((lasts - firsts).max())
    distances = (inputs + 0.5 - centres[:, None]) / width
    weights = np.sinc(distances) * np.sinc(distances / REACH)
    weights[(np.abs(distances) >= REACH) | (inputs >= lasts[:, None])] = 0
    weights = np.rint(weights / weights.sum(axis=1, keepdims=True) * _UNIT)
    # One colour stays as it is.
    weights[np.arange(count), weights.argmax(axis=1)] += _UNIT - weights.sum(axis=1)
    found = []
    for start in range(0, count, OUTPUTS):
        outputs = slice(start, min(start + OUTPUTS, count))
        first, last = int(firsts[start]), int(lasts[outputs].max())
        matrix = np.zeros((last - first + inputs.shape[1], outputs.stop - start), np.float32)
        places = inputs[outputs] - first
        matrix[places, np.arange(outputs.stop - start)[:, None]] = weights[outputs] / _UNIT
        found.append(Kernel(slice(first, last), outputs, matrix[: last - first]))
    return found


def resize(
    strips: Iterable[Pixels], length: Size, span: tuple[float, float], size: Size
) -> Iterator[Pixels]:
    """Yield the image of `size` in strips.

    Args:
        strips: all rows of the input.
        length: pixels of the input.
        span: columns and rows of the input that the image covers.
    """
    most_rows = min(MOST_INPUTS.height, MOST_BAND_PIXELS // length.width)
    groups = list(_groups(kernels(length.height, span[1], size.height), most_rows))
    columns = list(_groups(kernels(length.width, span[0], size.width), MOST_INPUTS.width))
    memory = _Memory(), _Memory(), _Memory()
    rows = _rows(strips)
    most = max(group.inputs.stop - group.inputs.start for group in groups)
    band: Pixels = np.empty((most, length.width, 3), np.uint8)
    top = stop = 0
    for group in groups:
        kept = stop - group.inputs.start
        # Row by row, as an overlapping copy would take as much memory again.
        for place in range(kept):
            band[place] = band[stop - top - kept + place]
        top, stop = group.inputs.start, group.inputs.stop
        for place in range(kept, stop - top):
            band[place] = next(rows)
        pixels: Pixels = np.empty(
            (group.outputs.stop - group.outputs.start, size.width, 3), np.uint8
        )
        for across in columns:
            part = band[: stop - top, across.inputs]
            block = _resized(part, group.kernels, across.kernels, memory)
            pixels[:, across.outputs].transpose(2, 0, 1)[...] = block
        yield pixels


def _rows(strips: Iterable[Pixels]) -> Iterator[Pixels]:
    for strip in strips:
        yield from strip


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring kernels, whose places are counted from the group's first input and output."""

    inputs: slice
    outputs: slice
    kernels: Sequence[Kernel]


def _groups(of: Sequence[Kernel], most_inputs: int) -> Iterator[_Group]:
    """Yield the kernels in groups of at most so many inputs, at least one in each."""
    stops = [kernel.inputs.stop for kernel in of]
    start = 0
    while start < len(of):
        first, base = of[start].inputs.start, of[start].outputs.start
        stop = max(start + 1, bisect_right(stops, first + most_inputs))
        moved = [
            Kernel(_moved(each.inputs, first), _moved(each.outputs, base), each.matrix)
            for each in of[start:stop]
        ]
        yield _Group(slice(first, stops[stop - 1]), slice(base, of[stop - 1].outputs.stop), moved)
        start = stop


def _moved(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


class _Memory:
    """Memory to be used again: it takes as long to get new memory as to fill it."""

    def __init__(self) -> None:
        self._floats = np.empty(0, np.float32)

    def array(self, rows: int, columns: int) -> Floats:
        """Return an array with any contents, in the place of the one before."""
        if self._floats.size < rows * columns:
            self._floats = np.empty(rows * columns, np.float32)
        return self._floats[: rows * columns].reshape(rows, columns)


def _resized(
    block: Pixels,
    down: Sequence[Kernel],
    across: Sequence[Kernel],
    memory: tuple[_Memory, _Memory, _Memory],
) -> Floats:
    """Return the block resized, as an array of shape (3, rows, columns)."""
    (rows, columns, _), height, width = block.shape, down[-1].outputs.stop, across[-1].outputs.stop
    lines = memory[0].array(rows, 3 * columns)
    tall = memory[1].array(3 * columns, height)
    wide = memory[2].array(3 * height, width)
    # Either product turns its input, so that the next one finds its inputs in whole lines.
    lines.reshape(block.shape)[...] = block
    _multiply(lines, down, tall)
    _multiply(tall.reshape(columns, 3 * height), across, wide)
    return wide.reshape(3, height, width)


def _multiply(values: Floats, by: Iterable[Kernel], out: Floats) -> None:
    """Set `out`, of shape (columns, outputs), to the rounded outputs of rows of values."""
    for kernel in by:
        step = max(1, SMALL_PRODUCT // kernel.matrix.size)
        for start in range(0, len(out), step):
            part = values[kernel.inputs, start : start + step].T
            np.matmul(part, kernel.matrix, out=out[start : start + step, kernel.outputs])
    np.rint(out, out=out)
    np.clip(out, 0, 255, out=out)
