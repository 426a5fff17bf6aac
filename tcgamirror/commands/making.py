"""`init`: a new mirror."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tcgamirror import console
from tcgamirror import settings as setting
from tcgamirror.errors import ExitCode
from tcgamirror.home import Home
from tcgamirror.manifest import read_manifest
from tcgamirror.model import ImageFormat
from tcgamirror.sampling import By, Order
from tcgamirror.settings import Settings


def init(given: argparse.Namespace) -> ExitCode:
    settings = _settings(given)
    root = Path(given.mirror or os.environ.get("TCGAMIRROR") or ".")
    # Read first: a manifest that cannot be taken leaves no mirror behind.
    listing = read_manifest(Path(settings.manifest)) if settings.manifest else None
    home = Home.create(root, settings)
    print(f"made a mirror in {home.root}: {_sample_words(settings)} at {settings.fixed}")
    if listing is not None:
        print(f"{settings.manifest} lists {console.slides(len(listing.slides))}")
    print(f"next: tcgamirror --mirror {home.root} update")
    return ExitCode.DONE


def _settings(given: argparse.Namespace) -> Settings:
    api = setting.address(given.api or setting.GDC, "--api")
    elsewhere = api != setting.GDC
    tiles = given.tiles or (f"{api}/tile" if elsewhere else setting.GDC_TILES)
    bucket = given.bucket or ("none" if elsewhere else setting.BUCKET)
    via = given.via.split(",") if given.via else setting.SOURCES
    return setting.Settings(
        target=setting.target(given.mpp, given.max_size, given.resample),
        form=ImageFormat(given.format),
        slides=given.slides,
        seed=given.seed,
        order=Order(given.order),
        by=By(given.by),
        kinds=setting.kinds(given.kind, "--kind"),
        projects=tuple(given.project),
        manifest=str(given.manifest.absolute()) if given.manifest else None,
        via=setting.ladder(via, "--via"),
        workers=setting.count(given.workers, "--workers", setting.MOST_WORKERS),
        rate=given.rate,
        api=api,
        tiles=setting.address(tiles, "--tiles"),
        bucket=None if bucket == "none" else setting.address(bucket, "--bucket"),
    )


def _sample_words(settings: Settings) -> str:
    count = "all slides" if settings.slides is None else console.slides(settings.slides)
    return f"{count} by seed {settings.seed} ({settings.order})"
