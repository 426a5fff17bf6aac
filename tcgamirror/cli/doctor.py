"""`doctor`: check this machine, the mirror and the network."""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tcgamirror import __version__
from tcgamirror.cli import output
from tcgamirror.cli.common import find_settings
from tcgamirror.mirror import doctor
from tcgamirror.mirror.directory import Mirror
from tcgamirror.mirror.doctor import Finding
from tcgamirror.mirror.probes import probes
from tcgamirror.mirror.settings import Settings
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.net.client import HttpClient
from tcgamirror.system.files import atomic_write

TRIES = 2
"""Requests to a server before it counts as unreachable."""

PAUSE = 1.0
"""Seconds to pause requests to a busy server."""


def do_doctor(args: argparse.Namespace) -> ExitCode:
    mirror, settings = find_settings(args)
    if args.report is not None:
        _check_new(args.report)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    seen: list[Finding] = []
    answers: list[str] = []
    report = [f"tcgamirror {__version__} doctor, {began}"]
    if not args.json:
        output.show(report)
    for finding in _findings(mirror, settings, None if args.report is None else answers):
        lines = [*_lines(finding, seen[-1] if seen else None)]
        if not args.json:
            output.show(lines)
        report += map(text.plain, lines)
        seen.append(finding)
    advised = [finding.what for finding in seen if finding.advice]
    to_look_at = f"to look at: {', '.join(advised)} (see the lines marked ->)"
    end = ["", to_look_at if advised else "all is well"]
    if args.report is not None:
        _write_report(args.report, [*report, "", *answers])
        end.append(f"report: {args.report}. Read it before you send it; it holds no passwords")
    findings = [output.members(finding) for finding in seen]
    members = {"version": __version__, "began": began, "findings": findings}
    return output.finish(args, members, end, doctor.exit_code(seen))


def _check_new(path: Path) -> None:
    """Raise UsageError for a report that would overwrite a file or whose directory is missing."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"--report {path}: file exists. Name a new file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: its directory is missing. Make it first")


def _write_report(path: Path, lines: Sequence[str]) -> None:
    """Write the report with ~ in place of the user's home directory."""
    report = "\n".join(lines) + "\n"
    user = Path("~").expanduser()
    for home in sorted({str(user), str(user.resolve())}, key=len, reverse=True):
        if home != "/":
            report = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", report)
    with atomic_write(path, shared=True) as file:
        file.write(report.encode("utf-8", "backslashreplace"))


def _findings(
    mirror: Mirror | None, settings: Settings, answers: list[str] | None
) -> Iterator[Finding]:
    """Yield findings; append the servers' raw answers if there is to be a report."""
    yield from doctor.findings()
    if mirror is not None:
        yield from doctor.mirror_findings(mirror)
    timeouts = dataclasses.replace(settings.timeouts, tries=TRIES, pause=PAUSE)
    with HttpClient(timeouts=timeouts) as client:
        slide = yield from doctor.server_findings(settings, client, mirror)
        if answers is not None:
            answers.extend(probes(settings, client, slide))


def _lines(finding: Finding, before: Finding | None) -> Iterator[str]:
    if before is None or finding.topic != before.topic:
        yield from ("", finding.topic)
    took = "" if finding.seconds is None else f" [{text.format_duration(finding.seconds)}]"
    yield f"  {finding.what:12} {finding.found}{took}"
    if finding.advice:
        yield f"  {'':12} -> {finding.advice}"
