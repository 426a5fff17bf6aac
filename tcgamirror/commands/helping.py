"""`doctor`, `licenses` and `completion`: about the program itself and where it runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror import __version__, console
from tcgamirror import settings as setting
from tcgamirror.commands import home_of
from tcgamirror.errors import ExitCode, NotAMirror
from tcgamirror.model import Target
from tcgamirror.settings import Settings

if TYPE_CHECKING:
    from tcgamirror.home import Home
    from tcgamirror.machine import Finding

TRIES = 2
"""How often a server is asked before it counts as not answering."""


def doctor(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.doctor import exit_code

    home = _home(given)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if not given.json:
        print(f"tcgamirror {__version__} doctor, {began}", flush=True)
    seen: list[Finding] = []
    for finding in _findings(given, home):
        if not given.json:
            _show(finding, seen[-1] if seen else None)
        seen.append(finding)
    code = exit_code(seen)
    if given.json:
        told = {"version": __version__, "began": began, "exit_code": int(code)}
        print(json.dumps(told | {"findings": [dataclasses.asdict(finding) for finding in seen]}))
    else:
        print("\n" + _summary(seen))
    return code


def _home(given: argparse.Namespace) -> Home | None:
    """The mirror; none is needed where none was named."""
    try:
        return home_of(given)
    except NotAMirror:
        if given.mirror:
            raise
        return None


def _findings(given: argparse.Namespace, home: Home | None) -> Iterator[Finding]:
    from tcgamirror import doctor, machine
    from tcgamirror.transport import Transport

    yield from machine.findings()
    if home is not None:
        yield from doctor.mirror_findings(home)
    # Without a mirror the target plays no part.
    settings = home.settings if home is not None else Settings(Target(mpp=None, max_size=2048))
    settings = _led(settings, given)
    patience = dataclasses.replace(settings.patience, tries=TRIES)
    with Transport(patience=patience) as transport:
        yield from doctor.Servers(settings, transport).looks()


def _led(settings: Settings, given: argparse.Namespace) -> Settings:
    """The settings with the addresses named on the command line in their place."""
    if given.api:
        api = setting.address(given.api, "--api")
        settings = dataclasses.replace(settings, api=api, tiles=f"{api}/tile", bucket=None)
    if given.tiles:
        tiles = setting.address(given.tiles, "--tiles")
        settings = dataclasses.replace(settings, tiles=tiles)
    if given.bucket:
        none = given.bucket == "none"
        bucket = None if none else setting.address(given.bucket, "--bucket")
        settings = dataclasses.replace(settings, bucket=bucket)
    return settings


def _show(finding: Finding, before: Finding | None) -> None:
    if before is None or finding.topic != before.topic:
        print(f"\n{finding.topic}")
    took = "" if finding.seconds is None else f" [{console.in_time(finding.seconds)}]"
    # A server's words come along in some: they stay on their line.
    print(f"  {finding.what:12} {console.text(finding.found)}{took}", flush=True)
    if finding.advice:
        print(f"  {'':12} -> {console.text(finding.advice)}", flush=True)


def _summary(seen: Sequence[Finding]) -> str:
    advised = [finding.what for finding in seen if finding.advice]
    if not advised:
        return "all is well"
    return f"to look at: {', '.join(advised)} (see the lines marked ->)"


def licenses(given: argparse.Namespace) -> ExitCode:  # noqa: ARG001
    for name, text in _licence_texts():
        print(f"{name}\n{'=' * len(name)}\n\n{text.strip()}\n")
    return ExitCode.DONE


def _licence_texts() -> Iterator[tuple[str, str]]:
    """Name and licence of each part: those inside the executable, or those installed."""
    unpacked = getattr(sys, "_MEIPASS", None)
    if unpacked:
        for path in sorted(Path(unpacked, "licences").iterdir()):
            yield path.stem, path.read_text(encoding="utf-8")
        return
    from importlib.metadata import PackageNotFoundError, distribution

    for wanted in distribution("tcgamirror").requires or ():
        if "extra ==" in wanted:
            continue
        try:
            found = distribution(re.split(r"[^\w.-]", wanted)[0])
        except PackageNotFoundError:
            continue
        texts = [
            Path(str(found.locate_file(file))).read_text(encoding="utf-8", errors="replace")
            for file in found.files or ()
            if re.search(r"\.dist-info/.*(licen[cs]e|copying|notice)", str(file), re.IGNORECASE)
        ]
        yield f"{found.metadata['Name']} {found.version}", "\n\n".join(texts)


def completion(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.completion import script

    print(script(given.shell), end="")
    return ExitCode.DONE
