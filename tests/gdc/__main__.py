"""Serves a folder of slides as the GDC would: `python -m tests.gdc --slides DIR`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from tests.gdc.labels import labelled
from tests.gdc.listing import Listed, listed, made_up_name
from tests.gdc.server import StandIn

_SUFFIXES = frozenset({".svs", ".tif", ".tiff"})


_CASE = ("project_id", "primary_site", "disease_type")
_PROJECTS = (
    ("TCGA-BRCA", "Breast", "Ductal and Lobular Neoplasms"),
    ("TCGA-LUAD", "Bronchus and lung", "Adenomas and Adenocarcinomas"),
    ("TCGA-GBM", "Brain", "Gliomas"),
    ("TCGA-KIRC", "Kidney", "Adenomas and Adenocarcinomas"),
    ("TCGA-SKCM", "Skin", "Nevi and Melanomas"),
)


def shown(slides: Path) -> list[Listed]:
    """Return every slide of the folder under a made-up name; each third one is a frozen one."""
    files = []
    paths = sorted(path for path in slides.iterdir() if path.suffix.lower() in _SUFFIXES)
    for number, path in enumerate(paths):
        name = made_up_name(path.name, "TSA" if number % 3 == 2 else "DX1")
        case = dict(zip(_CASE, _PROJECTS[number % len(_PROJECTS)], strict=True))
        files.append(listed(path, file_name=name, **case))
    return labelled(files)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gdc", description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, metavar="DIR")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket-port", type=int, default=0)
    parser.add_argument("--tile-size", type=int, default=512, help="pixels, without the overlap")
    parser.add_argument("--overlap", type=int, default=1, help="pixels")
    parser.add_argument("--tile-format", choices=("png", "jpeg"), default="png")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--tile-delay", type=float, default=0.0, help="further seconds for tiles")
    parser.add_argument("--rate", type=float, help="bytes per second of each connection")
    parser.add_argument("--link-rate", type=float, help="bytes per second of all together")
    options = parser.parse_args()

    # Blocked before any thread starts, so that the signals wait for sigwait alone.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    stand_in = StandIn(
        shown(options.slides),
        tile_size=options.tile_size,
        overlap=options.overlap,
        tile_format=options.tile_format,
        port=options.port,
        bucket_port=options.bucket_port,
    )
    stand_in.delay, stand_in.tile_delay = options.delay, options.tile_delay
    stand_in.rate, stand_in.link_rate = options.rate, options.link_rate
    with stand_in:
        addresses = {"api": stand_in.api, "tiles": stand_in.tiles, "bucket": stand_in.bucket}
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
