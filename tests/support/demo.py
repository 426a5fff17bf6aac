"""`make run`: the program's main job against a stand-in GDC, by the command line a user types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.settings import FILE_NAME
from tests.gdc import Listed, StandIn, listed, made_up_name
from tests.gdc.labels import labelled
from tests.support.slides import SlideSpec, make_slide

ROOT = Path(__file__).parents[2]
MIRROR = Path("demo-mirror")
MADE = Path(".build") / "demo-slides"
REAL = ROOT.parent / "shared" / "data" / "slides"
PROJECTS = [("TCGA-BRCA", "Breast"), ("TCGA-LUAD", "Bronchus and lung"), ("TCGA-GBM", "Brain")]
SLIDES = 12
MPP = 15
QUERY = "select project_id, count(*) slides, round(avg(mpp_x), 3) mpp from mirror group by 1"

SPECS = [
    SlideSpec(width=16_000, height=12_000, downsamples=(1, 4, 16, 32), seed=1),
    SlideSpec(width=14_000, height=9_000, compression="jpeg-ycbcr", shared_tables=True, seed=2),
    SlideSpec(width=12_000, height=12_000, mpp=0.2325, app_mag="20", seed=3),
    SlideSpec(width=9_000, height=7_000, compression="j2k-rgb", seed=4),
    SlideSpec(width=8_000, height=9_000, compression="j2k-ycbcr", seed=5),
    SlideSpec(width=15_000, height=8_000, downsamples=(1, 4), big=True, seed=6),
    SlideSpec(width=9_000, height=6_000, downsamples=(1,), mpp=0.5026, app_mag="20", seed=7),
    SlideSpec(width=10_000, height=10_000, blank=frozenset({(0, 0, 0), (0, 1, 0)}), seed=8),
    SlideSpec(width=11_000, height=7_500, tile=(256, 256), icc_bytes=1_000_000, seed=9),
    SlideSpec(width=13_000, height=9_500, offsets="shuffled", label_and_macro=True, seed=10),
    SlideSpec(width=9_500, height=8_500, tile=(512, 512), seed=11),
    SlideSpec(width=8_500, height=6_500, mpp=None, app_mag=None, seed=12),
    SlideSpec(width=12_500, height=6_500, mpp=None, seed=13),
]


def made_slides() -> Iterator[Path]:
    MADE.mkdir(parents=True, exist_ok=True)
    for number, spec in enumerate(SPECS):
        path = MADE / made_up_name(f"demo-{number}")
        if not path.exists():
            make_slide(path.with_suffix(".part"), spec).rename(path)
        yield path


def listing() -> list[Listed]:
    real = [REAL / "CMU-1-Small-Region.svs", REAL / "tcga-cr-7395-ts1.svs"]
    paths = [*made_slides(), *(path for path in real if path.exists())]
    return labelled(
        listed(path, project_id=project_id, primary_site=site)
        for path, (project_id, site) in zip(paths, cycle(PROJECTS), strict=False)
    )


def ports() -> tuple[int, int]:
    """Those the mirror of an earlier run knows, so that it finds the stand-in again."""
    if not (MIRROR / FILE_NAME).exists():
        return 0, 0
    gdc = tomllib.loads((MIRROR / FILE_NAME).read_text())["gdc"]
    return urlsplit(gdc["api"]).port or 0, urlsplit(gdc["bucket"]).port or 0


def shown(*command: str) -> None:
    """Shows and runs a command of ours; ends the demonstration if it fails."""
    words = " ".join(f'"{word}"' if " " in word else word for word in command)
    print(f"\n$ tcgamirror --mirror {MIRROR} {words}", flush=True)
    program = [sys.executable, str(ROOT / "main.py"), "--mirror", str(MIRROR)]
    code = subprocess.run([*program, *command], timeout=300, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    print(f"making slides in {MADE} and starting a stand-in GDC on this machine ...", flush=True)
    files = listing()
    port, bucket_port = ports()
    with StandIn(files, port=port, bucket_port=bucket_port) as gdc:
        if not port:
            where = ["--api", gdc.api, "--bucket", gdc.bucket, "--kind", "all"]
            shown("init", "--slides", str(SLIDES), "--mpp", str(MPP), "--by", "project_id", *where)
        shown("update")
        shown("status")
    shown("query", QUERY)
    print(f'\nThe catalogue is SQLite:\n$ sqlite3 {MIRROR / CATALOGUE} "{QUERY}"', flush=True)
    if shutil.which("sqlite3"):
        subprocess.run(["sqlite3", MIRROR / CATALOGUE, QUERY], timeout=60, check=True)
    print(f"\nThe images are in {MIRROR / 'images'}; `make run` again finds nothing to do.")


if __name__ == "__main__":
    main()
