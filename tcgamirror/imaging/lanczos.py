"""Resize rows of pixels by Lanczos, the same on every machine and in little memory.

Each output pixel is a weighted sum of the inputs around it, down first and then across. Weights
are multiples of 2**-14, and pixels are whole numbers. Every sum therefore fits in the 24 bits of
a float32 without rounding. So neither the order of a sum nor the processor matters. The sums are
computed as products of small matrices, in half the time of Pillow's resize.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tcgamirror.imaging.blocks import Memory, Row, split, windows
from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.geometry import Size

REACH = 3
"""Inputs that the kernel spans on each side, per unit of downsample."""

OUTPUTS = 16
"""Outputs of one product. More outputs have fewer inputs in common. With fewer, products are so
short that threads spend their time on taking turns."""

MOST_INPUTS = Size(500, 300)
"""Most inputs, across and down, that are resized at once. One product may need more."""

WEIGHED_AT_ONCE = 8192
"""Most outputs whose weights are computed at once, as that takes many times their memory."""

_UNIT = 1 << 14

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kernels:
    """Weights of all outputs along one axis. Those of `OUTPUTS` neighbours form one matrix.

    firsts, stops: the first input of each matrix, and the one after its last. matrices: of shape
    (matrices, inputs, outputs), 0 beyond the last input and output. outputs: number of all.
    """

    firsts: Sequence[int]
    stops: Sequence[int]
    matrices: Floats
    outputs: int

    def count_ready(self, stop: int) -> int:
        """Return the number of matrices that need no input from `stop` on."""
        return bisect_right(self.stops, stop)

    def first_needed(self, stop: int) -> int:
        """Return the first input needed by matrices that are not ready at `stop`, or `stop`."""
        ready = self.count_ready(stop)
        return min(stop, self.firsts[ready]) if ready < len(self.firsts) else stop

    def parts(self, numbers: range, most: int) -> Iterator[Part]:
        """Yield these matrices in parts of at most `most` inputs, or of one matrix."""
        start = numbers.start
        while start < numbers.stop:
            stop = bisect_right(self.stops, self.firsts[start] + most, start, numbers.stop)
            stop = max(start + 1, stop)
            yield Part(self, range(start, stop))
            start = stop


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring matrices of an axis. numbers: their places in `kernels`."""

    kernels: Kernels
    numbers: range

    @property
    def inputs(self) -> slice:
        return slice(self.kernels.firsts[self.numbers[0]], self.kernels.stops[self.numbers[-1]])

    @property
    def outputs(self) -> slice:
        stop = min(self.numbers.stop * OUTPUTS, self.kernels.outputs)
        return slice(self.numbers.start * OUTPUTS, stop)

    def matrices(self) -> Iterator[tuple[slice, slice, Floats]]:
        """Yield the places of a matrix's inputs and outputs among the part's, and the matrix."""
        kernels, base = self.kernels, self.inputs.start
        for place, number in enumerate(self.numbers):
            inputs = slice(kernels.firsts[number] - base, kernels.stops[number] - base)
            count = min(OUTPUTS, kernels.outputs - number * OUTPUTS)
            outputs = slice(place * OUTPUTS, place * OUTPUTS + count)
            yield inputs, outputs, kernels.matrices[number, : inputs.stop - inputs.start, :count]


def build_kernels(length: int, span: float, count: int) -> Kernels:
    """Return the kernels of `count` outputs that cover the first `span` of `length` inputs."""
    scale = span / count
    width = max(scale, 1.0)
    centres = (np.arange(count) + 0.5) * scale
    firsts = np.maximum(0, np.floor(centres - REACH * width + 0.5)).astype(int)
    stops = np.minimum(length, np.floor(centres + REACH * width + 0.5)).astype(int)
    offsets = np.arange((stops - firsts).max())
    starts = firsts[::OUTPUTS]
    ends = np.append(stops[OUTPUTS - 1 :: OUTPUTS], stops[-1])[: len(starts)]
    matrices = np.zeros((len(starts), (ends - starts).max(), OUTPUTS), np.float32)
    for first in range(0, count, WEIGHED_AT_ONCE):
        batch = slice(first, first + WEIGHED_AT_ONCE)
        inputs = firsts[batch, None] + offsets
        distances = (inputs + 0.5 - centres[batch, None]) / width
        used = (np.abs(distances) < REACH) & (inputs < stops[batch, None])
        weights = np.where(used, np.sinc(distances) * np.sinc(distances / REACH), 0)
        weights = np.rint(weights / weights.sum(axis=1, keepdims=True) * _UNIT)
        # Makes the weights of each output add up to 1, so that an even colour stays as it is.
        weights[np.arange(len(weights)), weights.argmax(axis=1)] += _UNIT - weights.sum(axis=1)
        output = first + used.nonzero()[0]
        number = output // OUTPUTS
        matrices[number, inputs[used] - starts[number], output % OUTPUTS] = weights[used] / _UNIT
    return Kernels(starts.tolist(), ends.tolist(), matrices, count)


def resize(
    rows: Iterable[Row], length: Size, span: tuple[float, float], size: Size
) -> Iterator[Pixels]:
    """Yield the image of `size` in strips.

    Args:
        rows: of the whole input.
        length: columns and rows of the input.
        span: columns and rows of the input that the image covers.
    """
    across = build_kernels(length.width, span[0], size.width)
    down = build_kernels(length.height, span[1], size.height)
    memory = [Memory(np.float32) for _ in range(3)]
    kept = Size(length.width, down.matrices.shape[1])
    first_row = 0
    for row in windows(rows, kept, across.first_needed, down.first_needed):
        rows_ready = range(first_row, down.count_ready(row.bottom))
        top, first_row = first_row * OUTPUTS, rows_ready.stop
        bottom = min(first_row * OUTPUTS, size.height)
        pixels: Pixels = np.empty((bottom - top, size.width, 3), np.uint8)
        first_column = 0
        for left, window in row.blocks:
            columns_ready = range(first_column, across.count_ready(left + window.shape[1]))
            first_column = columns_ready.stop
            for lines, columns in product(
                down.parts(rows_ready, MOST_INPUTS.height),
                across.parts(columns_ready, MOST_INPUTS.width),
            ):
                part = window[_shift(lines.inputs, row.top), _shift(columns.inputs, left)]
                block = _resize_block(part, lines, columns, memory)
                out = pixels[_shift(lines.outputs, top), columns.outputs]
                out.transpose(2, 0, 1)[...] = block
        if len(pixels):
            yield from split(pixels)


def _shift(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def _resize_block(
    block: Pixels, down: Part, across: Part, memory: Sequence[Memory[np.float32]]
) -> Floats:
    """Return the block resized, as an array of shape (3, rows, columns)."""
    rows, columns, _ = block.shape
    height, width = (part.outputs.stop - part.outputs.start for part in (down, across))
    lines = memory[0].array(rows, 3 * columns)
    tall = memory[1].array(3 * columns, height)
    wide = memory[2].array(3 * height, width)
    # Each product transposes its values, so that the inputs of the next one are whole rows.
    lines.reshape(block.shape)[...] = block
    _multiply(lines, down, tall)
    _multiply(tall.reshape(columns, 3 * height), across, wide)
    return wide.reshape(3, height, width)


def _multiply(values: Floats, by: Part, out: Floats) -> None:
    """Set `out`, of shape (columns, outputs), to the outputs of each column, as whole pixels."""
    for inputs, outputs, matrix in by.matrices():
        np.matmul(values[inputs].T, matrix, out=out[:, outputs])
    np.rint(out, out=out)
    np.clip(out, 0, 255, out=out)
