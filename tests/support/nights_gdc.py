"""A stand-in GDC that changes from night to night, and which of its files an image shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from tests.gdc import Listed, StandIn, listed, made_up_name
from tests.gdc.faults import Fault
from tests.gdc.listing import made_up_id
from tests.support.slides import SlideSpec, make_slide

BASE_MPP, MPP = 0.252, 2.0
NAMES, VARIANTS, LISTED_AT_LEAST = 12, 3, 7
PROJECTS = ("TCGA-BRCA", "TCGA-LUAD", "TCGA-GBM")
LIKE_DB = 30.0
"""PSNR of an image and its slide; other slides' images have less than 20 dB."""

FILES = r"/data/|\.svs|/tile/"


class World:
    """What the GDC lists, by file name (`truth`), and which of it cannot be had now (`away`).

    act: called with words for whatever happens.
    """

    def __init__(
        self, folder: Path, chance: random.Random, gdc: StandIn, act: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._chance = chance
        self._gdc = gdc
        self._act = act
        self._slides: dict[tuple[str, str], Path] = {}
        self._names = [made_up_name(f"night {number}") for number in range(NAMES)]
        self._variant = dict.fromkeys(self._names, 0)
        self._project = {name: PROJECTS[n % 3] for n, name in enumerate(self._names)}
        self.release = 45
        self.truth = {name: self._file(name) for name in self._names[: NAMES - 2]}
        self.away: set[str] = set()

    def _happens(self, chance: float) -> bool:
        return self._chance.random() < chance

    def _file(self, name: str) -> Listed:
        number, variant = self._names.index(name), self._variant[name]
        path = self._folder / f"{number}-{variant % VARIANTS}.svs"
        if not path.exists():
            spec = SlideSpec(
                width=500 + 8 * number,
                height=400 + 16 * (variant % VARIANTS),
                downsamples=(1, 4),
                thumbnail=False,
                mpp=BASE_MPP,
                seed=number * VARIANTS + variant % VARIANTS,
            )
            make_slide(path, spec)
        file = listed(
            path,
            file_name=name,
            file_id=made_up_id(f"{name} {variant}"),
            project_id=self._project[name],
            version=str(variant + 1),
        )
        self._slides[name, file.md5] = path
        return file

    def publish(self, files: Mapping[str, Listed], *older: Listed) -> None:
        self.release += 1
        self._gdc.publish(
            [*older, *files.values()], f"Data Release {self.release}.0 - March 04, 2026"
        )

    def evolve(self) -> None:
        older = []
        for name in self._names:
            what = self._chance.choices(
                ["", "file", "id", "project", "gone", "twice"], [70, 12, 6, 5, 4, 3]
            )[0]
            before = self.truth.get(name)
            if before is None:
                if self._happens(0.3):
                    self.truth[name] = self._file(name)
                    self._act(f"GDC: {name[:12]} is listed")
                continue
            if what == "gone" and len(self.truth) > LISTED_AT_LEAST:
                del self.truth[name]
            elif what == "id":
                self.truth[name] = replace(before, file_id=made_up_id(before.file_id))
            elif what == "project":
                self._project[name] = self._chance.choice(PROJECTS)
                self.truth[name] = replace(before, project_id=self._project[name])
            elif what in ("file", "twice"):
                self._variant[name] += 1
                self.truth[name] = self._file(name)
                if what == "twice":
                    older.append(before)
            if what:
                self._act(f"GDC: {name[:12]} {what}")
        self.publish(self.truth, *older)

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Slides that are listed and cannot be had yet, and answers that are cut off."""
        faults = []
        for name, file in self.truth.items():
            if self._happens(0.3):
                self.away.add(name)
                faults += [
                    Fault(file.file_id, "404", host="bucket"),
                    Fault(file.file_id, "403", host="api"),
                ]
        kind = self._chance.choice(["cut", "500", "truncated-json", None])
        if kind in ("cut", "500"):
            faults.append(Fault(FILES, kind, when="third"))  # type: ignore[arg-type]
            self.away.update(self.truth)
        self._act(f"GDC: trouble with {len(self.away)} slides, {kind}")
        self._gdc.faults.add(*faults)
        try:
            yield
        finally:
            self._gdc.faults.clear()
            self.away.clear()

    def md5_of(self, name: str, image: Path, told: Sequence[object]) -> str:
        """The md5 of the slide that an image shows, which has to tell its resolution right."""
        with Image.open(image) as opened:
            found, dpi = np.asarray(opened.convert("RGB")), opened.info["dpi"]
        width, height, mpp_x, mpp_y = map(float, map(str, told))
        assert found.shape == (height, width, 3)
        for (other, md5), slide in self._slides.items():
            if other != name:
                continue
            base, wanted = _reduced(slide)
            if wanted.shape == found.shape and _psnr(wanted, found) >= LIKE_DB:
                mpp = (base[0] * BASE_MPP / width, base[1] * BASE_MPP / height)
                assert np.allclose((mpp_x, mpp_y), mpp, rtol=1e-3), (name, mpp_x, mpp_y, mpp)
                assert np.allclose(dpi, [25400 / each for each in mpp], rtol=1e-3), (name, dpi)
                return md5
        raise AssertionError(f"{image} shows no file that {name} has ever been")


@cache
def _reduced(slide: Path) -> tuple[tuple[int, int], np.ndarray]:
    """The base's size, and the whole slide at the resolution asked for."""
    with openslide.OpenSlide(slide) as opened:
        width, height = opened.dimensions
        whole = opened.read_region((0, 0), 0, (width, height)).convert("RGB")
    size = (round(width * BASE_MPP / MPP), round(height * BASE_MPP / MPP))
    return (width, height), np.asarray(whole.resize(size, Image.Resampling.LANCZOS))


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean((one.astype(float) - other) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))
