"""`get`: fetch images of single slides, without a mirror."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from tcgamirror.cli import output
from tcgamirror.cli.common import find_settings
from tcgamirror.cli.progress import stoppable_run
from tcgamirror.mirror.get import GetResult, get_images
from tcgamirror.mirror.settings import Settings, with_options
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, TcgaMirrorError, UsageError
from tcgamirror.model.slide import ImageFormat, Resample, Target

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
"""Formats by the suffix of a file."""


def do_get(args: argparse.Namespace) -> ExitCode:
    mirror, settings = find_settings(args)
    place = (args.slide, args.output, _sized(args, settings), mirror)
    images: list[GetResult] = []
    unknown: list[str] = []
    with stoppable_run(args) as (progress, shutdown):
        try:
            images.extend(get_images(*place, progress, shutdown, unknown, force=args.force))
        except TcgaMirrorError as error:
            error.found = _members(images, unknown)
            progress.close()
            if not args.json:
                output.show(_lines(images))
            raise
    members = _members(images, unknown)
    code = ExitCode.SOME_FAILED if members["failed"] or unknown else ExitCode.DONE
    return output.finish(args, members, _lines(images), code)


def _sized(args: argparse.Namespace, settings: Settings) -> Settings:
    """Return the settings with the target and the format that the options ask for."""
    options = ("mpp", "max_size", "resample")
    given = {name: value for name in options if (value := getattr(args, name)) is not None}
    sized = given.keys() & {"mpp", "max_size"}
    if sized:
        settings = dataclasses.replace(settings, target=Target(None, None))
    settings = with_options(settings, given)
    target, via = settings.target, settings.via
    if args.level is not None:
        if sized:
            raise UsageError("--level: gives a size. Leave it out, or --mpp and --max-size")
        target = Target(None, None, Resample.NATIVE, args.level)
        # The tile server has levels of its own.
        via = tuple(source for source in via if source != "tiles")
        if not via:
            raise UsageError("--level: the source tiles has other levels. Use --mpp or --max-size")
    form = ImageFormat(_format(args, settings.form))
    return dataclasses.replace(settings, target=target, form=form, via=via)


def _format(args: argparse.Namespace, usual: str) -> str:
    """Return the format of --format, of the file's suffix, or the usual one for a directory."""
    path = Path(args.output)
    if args.output.endswith("/") or path.is_dir():
        return args.format or usual
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None or args.format not in (None, form):
        remedy = "End it in .png, .jpg or .tif, or in / for a directory"
        if form is not None:
            remedy = f"Leave --format out, or end it in .{args.format}"
        raise UsageError(
            f"-o {args.output}: not the name of a {args.format or 'known'} image. {remedy}"
        )
    return form


def _members(images: Sequence[GetResult], unknown: Sequence[str]) -> dict[str, object]:
    done = sum(image.picture is not None for image in images)
    counts = {"done": done, "failed": len(images) - done, "unknown": unknown}
    return {"images": [*map(_facts, images)], **counts}


def _facts(image: GetResult) -> dict[str, object]:
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


def _lines(images: Sequence[GetResult]) -> Iterator[str]:
    """Yield a line for each image; failures were reported as they came."""
    for image in images:
        picture, moved = image.picture, "there already"
        if picture is None:
            continue
        mpp = "unknown"
        if picture.mpp_x is not None and picture.mpp_y is not None:
            mpp = " × ".join(dict.fromkeys((f"{picture.mpp_x:.6g}", f"{picture.mpp_y:.6g}")))
        if image.outcome is not None:
            size = sum(attempt.bytes_fetched for attempt in image.outcome.attempts)
            moved = f"{text.format_bytes(size)} moved"
        yield (
            f"{image.path}: {picture.size} px, {mpp} µm/px, level {picture.level}, "
            f"by {picture.source}, {moved}"
        )
