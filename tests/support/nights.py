"""Nights of three mirrors beside a stand-in GDC that changes, and a model of what must be there.

One mirror is updated, one is fed by export and import, one by sync. The model knows
which files the GDC has had under each name, and which of them each mirror may show;
it reads images and catalogues by other means than the program does.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from tcgamirror.imaging.decode import Pixels
from tcgamirror.model.geometry import Size
from tests.gdc import Listed, StandIn, listed, made_up_name
from tests.gdc.faults import Fault
from tests.gdc.listing import made_up_id
from tests.support.carrying import inside
from tests.support.command import Result, started
from tests.support.levels import decibels, from_base
from tests.support.mirrors import images, made, rewrite, rows
from tests.support.slides import SlideSpec, make_slide

SAMPLED = 4
LISTED = ("current", "changed")


@dataclass
class Copy:
    """A mirror, as the model knows it.

    have: the md5 of the slide that each image shows. harmed: names of slides whose
    images were spoiled and are not made good yet. listing: what its catalogue must list,
    which is that of the release.
    """

    root: Path
    have: dict[str, str] = field(default_factory=dict)
    harmed: set[str] = field(default_factory=set)
    listing: dict[str, Listed] = field(default_factory=dict)
    release: int = 0
    sampled: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


class Nights:
    """All nights of one seed. acts: what was done so far, for who wants to do it again."""

    def __init__(self, folder: Path, seed: int, gdc: StandIn) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._gdc = gdc
        self.acts: list[str] = [f"seed {seed}"]
        self._exports = 0
        self._world = World(folder, self._chance, gdc, self._act)
        self.main, self.fed, self.synced = (
            Copy(folder / name) for name in ("main", "fed", "synced")
        )

    def run(self, nights: int) -> None:
        """Lives through so many nights, then has everything made good."""
        self._world.publish(self._world.truth)
        made(self.main.root, self._gdc, "--mpp", str(MPP), "--kind", "all", slides=SAMPLED)
        self._update()
        for number in range(nights):
            self._act(f"night {number + 1}")
            self._night()
        self._act("the last night")
        self._world.publish(self._world.truth)
        self._repair(self.main)
        self._update()
        self._feed()
        self._sync()

    def _act(self, words: str) -> None:
        self.acts.append(words)

    def _happens(self, chance: float) -> bool:
        return self._chance.random() < chance

    def _night(self) -> None:
        if self._happens(0.5):
            self._world.evolve()
        if self._happens(0.3):
            self._harm(self.main)
        with self._world.trouble() if self._happens(0.35) else nullcontext():
            acts: list[tuple[int, Callable[[], None]]] = [
                (6, self._update),
                (1, self._refresh),
                (1, self._grow),
                (2, lambda: self._repair(self.main)),
                (2, self._update_killed),
                (1, self._shrink),
            ]
            weights, choices = zip(*acts, strict=True)
            self._chance.choices(choices, weights)[0]()
        if self._happens(0.12):
            self._rebuild()
        if self._happens(0.5):
            self._feed()
        if self._happens(0.5):
            self._sync()
        if self.fed.have and self._happens(0.1):
            self._update(self.fed)
        for copy in (self.fed, self.synced):
            if copy.have and self._happens(0.08):
                self._harm(copy)
                self._repair(copy)

    # What is done to the mirrors ----------------------------------------------------

    def _do(self, copy: Copy, *args: str | Path, codes: Collection[int] = (0,)) -> Result:
        self._act(f"{copy.root.name}: {' '.join(map(str, args))}")
        result = inside(*self._mirror(copy, args[0]), *args)
        self.acts[-1] += f" -> {result.code}"
        assert result.code in codes, result
        return result

    def _killed(self, copy: Copy, *args: str | Path) -> None:
        seconds = self._chance.uniform(0.3, 1.3)
        words = " ".join(map(str, args))
        self._act(f"{copy.root.name}: {words}, killed after {seconds:.2f} s")
        with started(*self._mirror(copy, args[0]), *args) as process:
            time.sleep(seconds)
            process.kill()

    def _mirror(self, copy: Copy, command: str | Path) -> tuple[str | Path, ...]:
        return () if command == "sync" else ("--mirror", copy.root)

    def _update(self, copy: Copy | None = None) -> None:
        copy = copy or self.main
        self._do(copy, "update", "--retry-failed", codes=(0, 3))
        self._listed(copy)
        self._check(copy, self._offered(), must=self._to_be_had(copy))

    def _listed(self, copy: Copy) -> None:
        copy.listing, copy.release = dict(self._world.truth), self._world.release

    def _offered(self) -> dict[str, set[str]]:
        return {name: {file.md5} for name, file in self._world.truth.items()}

    def _to_be_had(self, copy: Copy) -> dict[str, str]:
        """What a run without limits has to have in the end."""
        return {
            name: file.md5
            for name, file in self._world.truth.items()
            if name not in self._world.away and name not in copy.harmed
        }

    def _update_killed(self) -> None:
        self._killed(self.main, "update")
        # Whoever opens the catalogue next finishes or rolls back what was cut off.
        self._do(self.main, "status")
        self._check(self.main, self._offered(), settled=False)
        self._update()

    def _refresh(self) -> None:
        self._do(self.main, "refresh")
        self._listed(self.main)
        self._check(self.main, {})

    def _grow(self) -> None:
        # No more than are always listed.
        count = max(len(self.main.sampled), min(len(self.main.sampled) + 1, LISTED_AT_LEAST))
        before = (self.main.root / "tcgamirror.toml").read_text()
        if f"\nslides = {count} " not in before and f"\nslides = {count}\n" not in before:
            rewrite(self.main.root, r"^slides = \d+", f"slides = {count}")
        self._update()
        assert len(self.main.sampled) >= min(count, LISTED_AT_LEAST)

    def _shrink(self) -> None:
        few = dict(list(self._world.truth.items())[: len(self._world.truth) // 3])
        self._world.publish(few)
        self._act("GDC: lists a third")
        self._do(self.main, "update", codes=(3, 4))
        self._check(self.main, self._offered())
        self._world.publish(self._world.truth)

    def _harm(self, copy: Copy) -> None:
        """Damages or deletes an image, as disks and people do."""
        whole = sorted(name for name in copy.have if name not in copy.harmed)
        if not whole:
            return
        name = self._chance.choice(whole)
        path = copy.root / self._path(copy, name)
        data = bytearray(path.read_bytes())
        what = self._chance.choice(["flipped", "cut", "gone"])
        self._act(f"{copy.root.name}: image of {name[:12]} {what}")
        if what == "gone":
            path.unlink()
        elif what == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
        copy.harmed.add(name)

    def _path(self, copy: Copy, name: str) -> str:
        return str(rows(copy.root, f"select path from mirror where file_name = '{name}'")[0][0])

    def _repair(self, copy: Copy) -> None:
        self._do(copy, "verify", "--repair", codes=(0, 3, 7))
        # What is not listed here, or no more, may be had again.
        offered = self._offered()
        for name, file in copy.listing.items():
            offered.setdefault(name, set()).add(file.md5)
        self._check(copy, offered)
        # One that waits to be fetched for another reason is not looked at.
        assert not copy.harmed & copy.done, "damage that verify has not found"

    def _rebuild(self) -> None:
        """The catalogue is lost; the person takes away what is damaged, too."""
        copy = self.main
        for name in copy.harmed:
            (copy.root / self._path(copy, name)).unlink(missing_ok=True)
            copy.have.pop(name, None)
        copy.harmed.clear()
        (copy.root / "catalogue.db").unlink()
        self._do(copy, "rebuild")
        self._listed(copy)
        copy.sampled = set(copy.have)
        self._check(copy, {})

    def _feed(self) -> None:
        self._exports += 1
        dest = self._folder / f"export-{self._exports}{self._chance.choice(['', '.tar'])}"
        self._do(self.main, "export", dest, codes=(0, 7) if self.main.harmed else (0,))
        if self._happens(0.2):
            self._killed(self.fed, "import", dest)
        code = (0, 3) if self.main.harmed else (0,)
        self._do(self.fed, "import", dest, codes=code)
        self._follow(self.fed)
        if dest.is_dir():
            shutil.rmtree(dest)
        else:
            dest.unlink()

    def _sync(self) -> None:
        source, root = self.main.root, self.synced.root
        if self._happens(0.2):
            self._killed(self.synced, "sync", source, root)
        self._do(self.synced, "sync", source, root, codes=(0, 3) if self.main.harmed else (0,))
        self._follow(self.synced)

    def _follow(self, copy: Copy) -> None:
        """Checks a mirror that was brought there: what is done at the source is done here.

        Where the listing here is the newer one, that is so for the files it lists.
        """
        main = self.main
        whole = {name for name in main.have if name not in main.harmed}
        if copy is self.synced or copy.release <= main.release:
            copy.listing, copy.release = dict(main.listing), main.release
            must = {name: main.have[name] for name in whole & main.done}
        else:
            must = {name: main.have[name] for name in whole & main.done & set(copy.listing)}
            must = {name: md5 for name, md5 in must.items() if md5 == copy.listing[name].md5}
        theirs = {name: {main.have[name]} for name in whole}
        for name, md5 in copy.have.items():
            file = copy.listing.get(name)
            if name in copy.done - copy.harmed and file is not None and file.md5 == md5:
                must[name] = md5
        self._check(copy, theirs, must=must)
        assert whole <= set(copy.have), "an image at the source is not here"

    # What must be there ---------------------------------------------------------------

    def _check(
        self,
        copy: Copy,
        offered: Mapping[str, Collection[str]],
        *,
        must: Mapping[str, str] | None = None,
        settled: bool = True,
    ) -> None:
        """Compares a mirror with the model, and lets the model know what has become of it.

        offered: md5 of the files whose images may have come. must: those that have to be
        there and done, where the slide is sampled. settled: whether nothing was cut off.
        """
        root = copy.root
        assert rows(root, "pragma integrity_check") == [("ok",)]
        assert rows(root, "pragma foreign_key_check") == []
        slides = {row[0]: row[1:] for row in rows(root, _SLIDES)}
        shown = {str(row[0]): row[1:] for row in rows(root, _SHOWN)}
        assert copy.sampled <= set(shown), "a sampled slide is gone"
        files = images(root)
        have: dict[str, str] = {}
        harmed: set[str] = set()
        for name, (status, path, sha256, *told) in shown.items():
            if path is None:
                assert status != "done" and name not in copy.have, (name, status, "lost its image")
                continue
            if files.get(str(path)) != sha256:
                assert name in copy.harmed or not settled, (name, status, path, "is not as told")
                harmed.add(name)
                if name in copy.have:
                    have[name] = copy.have[name]
                continue
            have[name] = self._world.md5_of(name, root / str(path), told)
            before = {copy.have[name]} if name in copy.have else set()
            assert have[name] in {*before, *offered.get(name, ())}, (name, "another file's image")
            assert status != "done" or have[name] == slides[name][1], (name, "done with an old one")
        done = {name for name, row in shown.items() if row[0] == "done"}
        for name, md5 in (must or {}).items():
            if name in shown:
                assert (have.get(name), name in done) == (md5, True), (name, shown[name], "lacking")
                assert slides[name][3] != "changed", (name, slides[name])
        if settled:
            self._check_listing(copy, slides)
            known = {str(row[1]) for row in shown.values()}
            assert set(files) <= known, ("strays", set(files) - known)
            assert not list(root.glob("images/*/.*")), "parts are left"
        copy.have, copy.harmed, copy.done, copy.sampled = have, harmed, done, set(shown)

    def _check_listing(self, copy: Copy, slides: Mapping[object, tuple[object, ...]]) -> None:
        for name, file in copy.listing.items():
            file_id, md5, project, upstream = slides[name]
            told = (file_id, md5, project, upstream in LISTED)
            assert told == (file.file_id, file.md5, file.project_id, True), (name, slides[name])
        unlisted = {name: row for name, row in slides.items() if name not in copy.listing}
        assert not {name for name, row in unlisted.items() if row[3] in LISTED}, unlisted


_SLIDES = "select file_name, file_id, md5, project_id, upstream from slides"
_SHOWN = "select file_name, status, path, sha256, width, height, mpp_x, mpp_y from mirror"


BASE_MPP, MPP = 0.252, 2.0
NAMES, VARIANTS, LISTED_AT_LEAST = 12, 3, 7
PROJECTS = ("TCGA-BRCA", "TCGA-LUAD", "TCGA-GBM")
LIKE_DB = 30.0
"""PSNR of an image and its slide; other slides' images have less than 20 dB."""

FILES = r"/data/|\.svs|/tile/"


class World:
    """The GDC's listing by file name (`truth`), and the files that it cannot serve now (`away`).

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
            if wanted.shape == found.shape and decibels(wanted, found) >= LIKE_DB:
                mpp = (base[0] * BASE_MPP / width, base[1] * BASE_MPP / height)
                assert np.allclose((mpp_x, mpp_y), mpp, rtol=1e-3), (name, mpp_x, mpp_y, mpp)
                assert np.allclose(dpi, [25400 / each for each in mpp], rtol=1e-3), (name, dpi)
                return md5
        raise AssertionError(f"{image} shows no file that {name} has ever been")


@cache
def _reduced(slide: Path) -> tuple[Size, Pixels]:
    """Return the base's size, and the whole slide at the resolution of the mirrors."""
    with openslide.OpenSlide(slide) as opened:
        base = Size(*opened.dimensions)
    size = Size(*(round(side * BASE_MPP / MPP) for side in base))
    return base, from_base(slide, size)
