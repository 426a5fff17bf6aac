"""Paths on other machines, as ssh, scp and rsync write them.

No command reads or writes such a path. The error for one has the command line that does.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tcgamirror.model.errors import UsageError
from tcgamirror.model.text import command_line, display_url
from tcgamirror.net.object_store import is_object_address
from tcgamirror.transfer.archive.format import is_tar

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = r"((?:[^\s/:@-][^\s/:]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]))"
_BY_SCP = re.compile(rf"{_HOST}:(.*)", re.DOTALL)


class _RemotePath(NamedTuple):
    host: str
    path: str

    def rsync(self) -> str:
        """Return it as rsync takes it, with a slash at the end."""
        return f"{self.host}:{_folder(self.path)}"

    def ssh(self, command: str) -> str:
        """Return the line that runs a shell's command on the host, in the user's home."""
        login = shlex.join(["ssh", re.sub(r"[][]", "", self.host)])
        # ssh hands over its words in one string, which a shell parses again.
        is_plain = shlex.join(command.split(" ")) == command
        return f"{login} {command if is_plain else shlex.quote(command)}"


def check_mirror(mirror: str, command: str) -> None:
    """Raise UsageError for a mirror on another machine. command: what is to work on it."""
    remote = _remote_path(mirror, "Name a directory")
    if remote:
        words = ["init", remote.path] if command == "init" else ["--mirror", remote.path, command]
        line = remote.ssh(shlex.join(["tcgamirror", *words]))
        raise _refusal(mirror, line, "Run the command there, with all of its options")


def check_export(dest: str, mirror: Path, options: list[str]) -> None:
    """Raise UsageError for an export to another machine. options: of the export."""
    piped = command_line(shlex.join(["export", *options, "-"]), mirror)
    remote = _remote_path(dest, f"Pipe the archive from: {piped}")
    if remote is not None:
        command = _import_command(remote.path)
        if is_tar(Path(remote.path)):
            command = f"cat > {shlex.quote(remote.path)}"
        raise _refusal(dest, f"{piped} | {remote.ssh(command)}")


def check_import(source: str, mirror: str) -> None:
    """Raise UsageError for an import from or to another machine."""
    receive = command_line("import -", Path(mirror))
    remote = _remote_path(source, f"Pipe the archive to: {receive}")
    target = _remote_path(mirror, "Name a directory by --mirror")
    path = remote.path if remote else source
    is_file = path == "-" or is_tar(Path(path))
    send = shlex.join(["cat", path] if is_file else ["tar", "-cf", "-", "-C", path, "."])
    if remote:
        send = remote.ssh(send)
    if target:
        receive = target.ssh(_import_command(target.path))
    if remote or target:
        raise _refusal(source if remote else mirror, f"{send} | {receive}")


def check_sync(source: str, dest: str) -> None:
    """Raise UsageError for a sync from or to another machine, but not for a server or a bucket."""
    is_url = source.startswith(("http://", "https://")) or is_object_address(source)
    remedy = "Use http://, https:// or s3://, or a directory"
    there = None if is_url else _remote_path(source, remedy)
    remedy = "Name a directory or an s3:// address as DST, or run sync on that machine"
    target = None if is_object_address(dest) else _remote_path(dest, remedy)
    if target and is_url:
        line = target.ssh(shlex.join(["tcgamirror", "sync", source, target.path]))
    elif target and there:
        line = there.ssh(shlex.join(["rsync", "-a", _folder(there.path), target.rsync()]))
    elif target:
        line = _rsync(target, _local(source), target.rsync())
    elif there:
        line = _rsync(there, there.rsync(), _local(dest))
    else:
        return
    when = "Run" if is_url else "Between two updates, run"
    raise _refusal(dest if target else source, line, when)


def _rsync(remote: _RemotePath, source: str, dest: str) -> str:
    # Otherwise older versions of rsync have a shell parse the path again.
    options = [] if shlex.quote(remote.path) == remote.path else ["--protect-args"]
    return shlex.join(["rsync", "-a", *options, source, dest])


def _refusal(text: str, line: str, when: str = "Run") -> UsageError:
    return UsageError(
        f"{text}: is on another machine (a local path begins with ./ or /). {when}: {line}"
    )


def _remote_path(text: str, remedy: str) -> _RemotePath | None:
    """Return the path on another machine that a text means; None for a local path.

    Raises:
        UsageError: for a URL, with the remedy.
    """
    if text.startswith(("/", "./", "../")) or os.path.lexists(text):
        return None
    if (scheme := _SCHEME.match(text)) is not None:
        raise UsageError(
            f"{scheme[0]}{display_url(text)}: {scheme[0]} is not supported here. {remedy}"
        )
    if (path := _BY_SCP.fullmatch(text)) is not None:
        # Commands over ssh run in the home directory.
        return _RemotePath(path[1], path[2].removeprefix("~/").removeprefix("~") or ".")
    return None


def _import_command(path: str) -> str:
    return shlex.join(["tcgamirror", "--mirror", path, "import", "-"])


def _folder(path: str) -> str:
    return f"{path.rstrip('/')}/"


def _local(path: str) -> str:
    """Return a local directory as rsync takes it."""
    return _folder(f"./{path}" if re.match(r"-|[^/]*:", path) else path)
