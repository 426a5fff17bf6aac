"""`get`: fetch images of single slides, without a mirror."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.cli.argtypes import level
from tcgamirror.cli.common import (
    ADDRESSES,
    JSON,
    VIA,
    Commands,
    add_command,
    add_options,
    find_mirror,
    sources,
    stoppable_run,
)
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, TcgaMirrorError, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.get import GetResult
    from tcgamirror.mirror.settings import Settings

_GET = """\
fetch images of single slides

SLIDE is a barcode, a file name or a file_id; a case's barcode means all of its open slides.
In a mirror they are looked up in its catalogue, and its target, format and servers are the
defaults. The mirror itself is not changed.

An image that is there already, of the same slide and resolution, is kept. Any other file is
only replaced with --force.

  tcgamirror get TCGA-3C-AALI-01Z-00-DX1 --mpp 0.5 -o slide.tif
  tcgamirror get TCGA-3C-AALI TCGA-3C-AALJ --max-size 2048 -o images/"""


_SIZE = """\
--mpp X        at exactly X µm per pixel
--max-size PX  halved until the longer side is at most PX pixels
--level N      the unchanged pixels of the pyramid's level N; 0 is the base"""

_IMAGES = """\
--resample exact|fast|native
    as for init (default: exact)
--format png|jpeg|tiff
    of images in DIR/ (default: png)
--force  replace existing files (default: see above)"""

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
"""Formats by the suffix of a file."""


def get(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.get import get_images

    mirror = find_mirror(args)
    settings = _settings(args, mirror)
    images: list[GetResult] = []
    with stoppable_run(as_json=args.json) as (progress, shutdown):
        try:
            place = (args.slides, args.output, settings, mirror)
            images.extend(get_images(*place, progress, shutdown, force=args.force))
        except TcgaMirrorError as error:
            error.found = _object(images)
            raise
        finally:
            progress.close()
            if not args.json:
                for image in images:
                    _print_image(image)
    failed = any(image.picture is None for image in images)
    code = ExitCode.SOME_FAILED if failed else ExitCode.DONE
    if args.json:
        print(json.dumps(_object(images) | {"exit_code": int(code)}))
    return code


def _settings(args: argparse.Namespace, mirror: Mirror | None) -> Settings:
    """Return the settings of the mirror or the usual ones, changed by the options."""
    import dataclasses

    from tcgamirror.mirror import settings as setting
    from tcgamirror.model.slide import FALLBACK_MAX_SIZE, ImageFormat, Resample, Target

    settings = (
        setting.Settings(Target(None, FALLBACK_MAX_SIZE)) if mirror is None else mirror.settings
    )
    images = ("mpp", "max_size", "resample")
    given = {name: value for name in images if (value := getattr(args, name)) is not None}
    if given.keys() & {"mpp", "max_size"}:
        settings = dataclasses.replace(settings, target=Target(None, None))
    settings = setting.with_options(settings, sources(args) | given)
    target, via = settings.target, settings.via
    if args.level is not None:
        target = Target(None, None, Resample.NATIVE, args.level)
        # The tile server has levels of its own.
        via = tuple(source for source in via if source != "tiles")
        if not via:
            raise UsageError("--level: the source tiles has other levels. Use --mpp or --max-size")
    form = _format(args, settings.form)
    return dataclasses.replace(settings, target=target, form=ImageFormat(form), via=via)


def _format(args: argparse.Namespace, usual: str) -> str:
    """Return the format of --format, of the file's suffix, or the usual one for a directory."""
    path = Path(args.output)
    if args.output.endswith("/") or path.is_dir():
        return args.format or usual
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None or args.format not in (None, form):
        remedy = "End it in .png, .jpg or .tif, or in / for a directory"
        raise UsageError(
            f"-o {args.output}: not the name of a {args.format or 'known'} image. {remedy}"
        )
    return form


def _object(images: Sequence[GetResult]) -> dict[str, object]:
    done = sum(image.picture is not None for image in images)
    return {"images": [*map(_image_object, images)], "done": done, "failed": len(images) - done}


def _image_object(image: GetResult) -> dict[str, object]:
    """Return an image's facts for JSON, named as the catalogue's columns."""
    slide, picture = image.slide, image.picture
    attempts = image.outcome.attempts if image.outcome else ()
    found: dict[str, object] = {"file_id": slide.file_id, "file_name": slide.file_name}
    if picture is None:
        found["error"] = "; ".join(f"{each.source}: {each.message}" for each in attempts)
    else:
        found |= {"path": str(image.path), "width": picture.size.width}
        found |= {"height": picture.size.height, "mpp_x": picture.mpp_x, "mpp_y": picture.mpp_y}
        found |= {"base_mpp": picture.mpp.value, "mpp_source": picture.mpp.source}
        found |= {"level": picture.level, "source": picture.source, "bytes": picture.bytes}
    found["bytes_fetched"] = sum(each.bytes_fetched for each in attempts)
    return found


def _print_image(image: GetResult) -> None:
    """Print one line about an image; failures were told as they came."""
    picture, outcome = image.picture, image.outcome
    if picture is None:
        return
    mpp = "unknown µm/px"
    if picture.mpp_x is not None and picture.mpp_y is not None:
        mpp = " × ".join(dict.fromkeys((f"{picture.mpp_x:.6g}", f"{picture.mpp_y:.6g}")))
        mpp += " µm/px"
    moved = "there already"
    if outcome is not None:
        size = sum(attempt.bytes_fetched for attempt in outcome.attempts)
        moved = f"{text.format_bytes(size)} moved"
    words = f"{picture.size} px, {mpp}, level {picture.level}, by {picture.source}, {moved}"
    print(text.plain(f"{image.path}: {words}"))


def add_commands(commands: Commands) -> None:
    """Add `get`."""
    command = add_command(commands, "get", get, _GET)
    command.add_argument("slides", nargs="+", metavar="SLIDE", help="barcode, file name or file_id")
    command.add_argument(
        "-o",
        "--output",
        default="./",
        metavar="PATH",
        help="FILE.png, .jpg or .tif, or DIR/ for images with the slides' names (default: ./)",
    )
    images = command.add_argument_group("images (default: that of the mirror, or --max-size 2048)")
    add_options(images.add_mutually_exclusive_group(), _SIZE, level={"type": level})
    add_options(images, _IMAGES)
    add_options(command.add_argument_group("fetching"), f"{VIA}\n{ADDRESSES}")
    add_options(command, JSON)
