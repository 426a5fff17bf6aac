"""`doctor`, `licenses` and `completion`: about the program itself and where it runs.

What the shells complete, from the parser that makes `--help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror import __version__
from tcgamirror.cli.common import Parser, add_command, home_of, say_addresses
from tcgamirror.mirror import settings as setting
from tcgamirror.mirror.settings import Settings
from tcgamirror.model import text as words
from tcgamirror.model.errors import ExitCode, NotAMirror, UsageError
from tcgamirror.model.slide import Target

if TYPE_CHECKING:
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.doctor import Finding

TRIES = 2
"""How often a server is asked before it counts as not answering."""

PAUSE = 1.0
"""Seconds that a busy server is left alone."""

SHELLS = ("bash", "zsh", "fish")

_FOLDERS, _FILES = ("DIR", "DST"), ("FILE", "SRC", "DEST")
"""Place-holders in the help that stand for paths."""

DOCTOR = """\
Reads a little of everything and changes nothing: in a mirror with its settings, elsewhere
with the GDC's addresses. The report holds no secrets; send it along when you ask for help.

examples:
  tcgamirror doctor
  tcgamirror --mirror tcga doctor --json
  tcgamirror doctor --report report.txt"""

LICENSES = """\
example:
  tcgamirror licenses | less"""

COMPLETION = """\
examples:
  tcgamirror completion bash > ~/.local/share/bash-completion/completions/tcgamirror
  tcgamirror completion zsh > ~/.zfunc/_tcgamirror
  tcgamirror completion fish > ~/.config/fish/completions/tcgamirror.fish"""


def doctor(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.doctor import exit_code

    mirror = _mirror(given)
    if given.report is not None:
        _check_new(given.report)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    head = f"tcgamirror {__version__} doctor, {began}"
    if not given.json:
        print(head, flush=True)
    seen: list[Finding] = []
    lines, answers = [head], list[str]()
    for finding in _findings(given, mirror, answers):
        words = list(_lines(finding, seen[-1] if seen else None))
        if not given.json:
            print("\n".join(words), flush=True)
        lines += words
        seen.append(finding)
    code = exit_code(seen)
    if given.report is not None:
        _write_report(given.report, [*lines, "", *answers])
    if given.json:
        told = {"version": __version__, "began": began, "exit_code": int(code)}
        print(json.dumps(told | {"findings": [dataclasses.asdict(finding) for finding in seen]}))
    else:
        print("\n" + _summary(seen))
        if given.report is not None:
            print(f"report: {given.report}. It holds no passwords; read it before you send it")
    return code


def _mirror(given: argparse.Namespace) -> Mirror | None:
    """The mirror; none is needed where none was named."""
    try:
        return home_of(given)
    except NotAMirror:
        if given.mirror:
            raise
        return None


def _check_new(path: Path) -> None:
    """Raise UsageError for a report that would overwrite a file, or has no directory to lie in."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"--report {path}: it exists. Name a new file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: its directory is missing. Make it first")


def _write_report(path: Path, lines: Sequence[str]) -> None:
    """Write the report, in which the user's home is called ~."""
    from tcgamirror.system.files import atomic_write

    report = "\n".join(lines) + "\n"
    user = Path("~").expanduser()
    for home in sorted({str(user), str(user.resolve())}, key=len, reverse=True):
        if home != "/":
            report = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", report)
    with atomic_write(path) as file:
        file.write(report.encode("utf-8", "backslashreplace"))


def _findings(
    given: argparse.Namespace, mirror: Mirror | None, answers: list[str]
) -> Iterator[Finding]:
    """Yield what is found, and add the servers' raw answers if there is to be a report."""
    from tcgamirror.mirror import doctor
    from tcgamirror.net.client import HttpClient

    yield from doctor.findings()
    if mirror is not None:
        yield from doctor.mirror_findings(mirror)
    # Without a mirror the target plays no part.
    settings = mirror.settings if mirror is not None else Settings(Target(mpp=None, max_size=2048))
    settings = _led(settings, given)
    timeouts = dataclasses.replace(settings.timeouts, tries=TRIES, pause=PAUSE)
    with HttpClient(timeouts=timeouts) as client:
        servers = doctor.Servers(settings, client)
        yield from servers.looks()
        if given.report is not None:
            answers.extend(servers.report())


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


def _lines(finding: Finding, before: Finding | None) -> Iterator[str]:
    if before is None or finding.topic != before.topic:
        yield f"\n{finding.topic}"
    took = "" if finding.seconds is None else f" [{words.in_time(finding.seconds)}]"
    # A server's words come along in some: they stay on their line.
    yield f"  {finding.what:12} {words.plain(finding.found)}{took}"
    if finding.advice:
        yield f"  {'':12} -> {words.plain(finding.advice)}"


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

    print(script(given.parser, given.shell), end="")
    return ExitCode.DONE


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text for the shell to read."""
    import shtab

    folders = dict.fromkeys(_FOLDERS, shtab.DIRECTORY)
    _mark_paths(parser, folders | dict.fromkeys(_FILES, shtab.FILE))
    return shtab.complete(parser, shell=shell, root_prefix="tcgamirror")


def _mark_paths(parser: argparse.ArgumentParser, paths: Mapping[str, object]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, paths)
        elif isinstance(action.metavar, str) and action.metavar in paths:
            action.complete = paths[action.metavar]  # type: ignore[attr-defined]


def say_helping(commands: argparse._SubParsersAction[Parser]) -> None:
    doctor = add_command(commands, "doctor", "look at this machine, mirror and network", DOCTOR)
    doctor.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the report and the servers' raw answers to a new file, to be sent to the "
        "program's authors",
    )
    say_addresses(doctor)
    add_command(commands, "licenses", "the licences of all that is inside", LICENSES)
    completion = add_command(commands, "completion", "what a shell completes", COMPLETION)
    completion.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"])
