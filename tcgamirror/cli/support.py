"""`doctor`, `licenses` and `completion`: about the program and the machine it runs on."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror import __version__
from tcgamirror.cli import output
from tcgamirror.cli.common import (
    ADDRESSES,
    FILES,
    FOLDERS,
    Commands,
    add_command,
    find_mirror,
    sources,
)
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.directory import Mirror
    from tcgamirror.mirror.doctor import Finding

TRIES = 2
"""Requests to a server before it counts as unreachable."""

PAUSE = 1.0
"""Seconds to pause requests to a busy server."""

SHELLS = ("bash", "zsh", "fish")

_DOCTOR = f"""\
check this machine, the mirror and the network

Reads a little of everything and changes nothing. In a mirror it uses the mirror's
settings, elsewhere the addresses of the GDC. The report holds no passwords; attach it
when you ask for help.

--json         print one JSON object
--report FILE  write the report and the servers' raw answers to a new file, to send to the
               program's authors
{ADDRESSES}

  tcgamirror doctor
  tcgamirror --mirror tcga doctor --json
  tcgamirror doctor --report report.txt"""

_LICENSES = """\
print the licences of the included software

  tcgamirror licenses | less"""

_COMPLETION = """\
print a script that completes commands in a shell

  tcgamirror completion bash > ~/.local/share/bash-completion/completions/tcgamirror
  tcgamirror completion zsh > ~/.zfunc/_tcgamirror
  tcgamirror completion fish > ~/.config/fish/completions/tcgamirror.fish"""


def doctor(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.doctor import exit_code

    mirror = find_mirror(args)
    if args.report is not None:
        _check_new(args.report)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    head = f"tcgamirror {__version__} doctor, {began}"
    if not args.json:
        print(head, flush=True)
    seen: list[Finding] = []
    lines, answers = [head], list[str]()
    for finding in _findings(args, mirror, answers):
        new = list(_lines(finding, seen[-1] if seen else None))
        if not args.json:
            print("\n".join(new), flush=True)
        lines += new
        seen.append(finding)
    code = exit_code(seen)
    if args.report is not None:
        _write_report(args.report, [*lines, "", *answers])
    if args.json:
        told = {"version": __version__, "began": began, "exit_code": int(code)}
        print(json.dumps(told | {"findings": [output.members(finding) for finding in seen]}))
    else:
        print("\n" + _summary(seen))
        if args.report is not None:
            print(f"report: {args.report}. Read it before you send it; it holds no passwords")
    return code


def _check_new(path: Path) -> None:
    """Raise UsageError for a report that would overwrite a file or whose directory is missing."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"--report {path}: file exists. Name a new file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: its directory is missing. Make it first")


def _write_report(path: Path, lines: Sequence[str]) -> None:
    """Write the report with ~ in place of the user's home directory."""
    from tcgamirror.system.files import atomic_write

    report = "\n".join(lines) + "\n"
    user = Path("~").expanduser()
    for home in sorted({str(user), str(user.resolve())}, key=len, reverse=True):
        if home != "/":
            report = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", report)
    with atomic_write(path) as file:
        file.write(report.encode("utf-8", "backslashreplace"))


def _findings(
    args: argparse.Namespace, mirror: Mirror | None, answers: list[str]
) -> Iterator[Finding]:
    """Yield findings; append the servers' raw answers if there is to be a report."""
    import dataclasses

    from tcgamirror.mirror import doctor
    from tcgamirror.mirror.probes import probes
    from tcgamirror.mirror.settings import Settings, with_options
    from tcgamirror.model.slide import Target
    from tcgamirror.net.client import HttpClient

    yield from doctor.findings()
    if mirror is not None:
        yield from doctor.mirror_findings(mirror)
    # Without a mirror the target plays no part.
    settings = mirror.settings if mirror is not None else Settings(Target(mpp=None, max_size=2048))
    settings = with_options(settings, sources(args))
    timeouts = dataclasses.replace(settings.timeouts, tries=TRIES, pause=PAUSE)
    with HttpClient(timeouts=timeouts) as client:
        slide = yield from doctor.server_findings(settings, client)
        if args.report is not None:
            answers.extend(probes(settings, client, slide))


def _lines(finding: Finding, before: Finding | None) -> Iterator[str]:
    if before is None or finding.topic != before.topic:
        yield f"\n{finding.topic}"
    took = "" if finding.seconds is None else f" [{text.format_duration(finding.seconds)}]"
    # Some findings quote a server, whose line ends would break the layout.
    yield f"  {finding.what:12} {text.plain(finding.found)}{took}"
    if finding.advice:
        yield f"  {'':12} -> {text.plain(finding.advice)}"


def _summary(seen: Sequence[Finding]) -> str:
    advised = [finding.what for finding in seen if finding.advice]
    if not advised:
        return "all is well"
    return f"to look at: {', '.join(advised)} (see the lines marked ->)"


def licenses(args: argparse.Namespace) -> ExitCode:  # noqa: ARG001
    for name, licence in _read_licences():
        print(f"{name}\n{'=' * len(name)}\n\n{licence.strip()}\n")
    return ExitCode.DONE


def _read_licences() -> Iterator[tuple[str, str]]:
    """Yield name and licence of each package: those in the executable, or those installed."""
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


def completion(args: argparse.Namespace) -> ExitCode:
    print(completion_script(args.program, args.shell), end="")
    return ExitCode.DONE


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that the shell reads."""
    import shtab

    folders = dict.fromkeys(FOLDERS, shtab.DIRECTORY)
    _mark_paths(parser, folders | dict.fromkeys(FILES, shtab.FILE))
    return shtab.complete(parser, shell=shell, root_prefix="tcgamirror")


def _mark_paths(parser: argparse.ArgumentParser, paths: Mapping[str, object]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, paths)
        elif isinstance(action.metavar, str) and action.metavar in paths:
            action.complete = paths[action.metavar]  # type: ignore[attr-defined]


def add_commands(commands: Commands) -> None:
    """Add `doctor`, `licenses` and `completion`."""
    add_command(commands, "doctor", doctor, _DOCTOR)
    add_command(commands, "licenses", licenses, _LICENSES)
    command = add_command(commands, "completion", completion, _COMPLETION)
    command.add_argument("shell", choices=SHELLS)
