"""Paths on other machines are refused with a line that works: it is run, by a stand-in ssh."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.carrying import inside, known
from tests.support.command import ROOT

_SSH = """\
#!/bin/sh
# Every option that is used here has a value. A host is a directory.
while [ "${1#-}" != "$1" ]; do shift 2; done
cd "$HOSTS/${1#*@}" || exit 255
shift
exec sh -c "$*"
"""


@pytest.fixture
def hosts(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Homes on the hosts `one` and `two`, each with a mirror, an export and its archive."""
    bin_, hosts = tmp_path / "bin", tmp_path / "hosts"
    bin_.mkdir()
    program = f'#!/bin/sh\nexec {sys.executable} {ROOT}/main.py "$@"\n'
    for name, script in {"ssh": _SSH, "tcgamirror": program}.items():
        (bin_ / name).write_text(script)
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("HOSTS", str(hosts))
    for host in ("here", "one", "two"):
        (hosts / host).mkdir(parents=True)
        shutil.copytree(mirror, hosts / host / "my m")
    assert inside("--mirror", mirror, "export", hosts / "one" / "e.tar").code == 0
    monkeypatch.chdir(hosts / "here")
    return hosts


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (("sync", "my m", "me@one:its copy"), "one/its copy"),
        (("sync", "me@one:~/my m", "copy"), "here/copy"),
        (("sync", "one:my m", "two:copy"), "two/copy"),
        (("--mirror", "my m", "export", "one:its copy"), "one/its copy"),
        (("--mirror", "copy", "import", "one:e.tar"), "here/copy"),
        (("--mirror", "a copy", "import", "one:my m"), "here/a copy"),
        (("--mirror", "two:a copy", "import", "my m"), "two/a copy"),
        (("--mirror", "two:copy", "import", "one:e.tar"), "two/copy"),
    ],
)
def test_the_line_in_the_refusal_does_it(
    hosts: Path, mirror: Path, words: tuple[str, ...], new: str
) -> None:
    if words[0] == "sync" and shutil.which("rsync") is None:
        pytest.skip("there is no rsync (Debian: apt-get install rsync)")
    before = sorted(hosts.rglob("*"))
    refused = inside(*words)
    assert refused.code == 2 and "is on another machine" in refused.sentence, refused
    assert sorted(hosts.rglob("*")) == before
    line = refused.sentence.split("un: ", 1)[1]
    subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True, capture_output=True)
    assert known(hosts / new) == known(mirror)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--mirror", "m", "export", "--only", "a = 'b'", "one:x.tar"),
            """--only 'a = '"'"'b'"'"'' - | ssh one 'cat > x.tar'""",
        ),
        (("--mirror", "m", "import", "[::1]:x.tar"), "ssh ::1 cat x.tar | tcgamirror --mirror m"),
        (("sync", "http://x/", "one:m"), "run: ssh one tcgamirror sync http://x/ m"),
        (("sync", "rsync://b/m", "m"), "rsync://b/m: rsync:// is not supported here. Use http"),
        (("sync", "ftp://me:secret@h/p", "m"), "ftp://h/p: ftp:// is not"),
        (("init", "one:m", "--mpp", "2"), "ssh one tcgamirror init m"),
        (("--mirror", "me@one:", "init", "--mpp", "2"), "ssh me@one tcgamirror init ."),
        (("--mirror", "ssh://one:2/m", "status"), "ssh:// is not supported here. Name a"),
        (("--mirror", "one:m", "get", "TCGA-3C-AALI"), "tcgamirror --mirror m get"),
        (("--mirror", "s3://b/m", "update"), "s3://b/m: s3:// is not supported here. Name a"),
        (("sync", "m", "http://x/m"), "http:// is not supported here. Name a directory or an s3"),
        (("export", "file:///m"), "Pipe the archive from: tcgamirror export -"),
        (("--mirror", "m", "import", "https://x/e.tar"), "to: tcgamirror --mirror m import -"),
    ],
)
def test_options_and_schemes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = inside(*words)
    assert (refused.code, list(tmp_path.iterdir())) == (2, []), refused
    assert line.lower() in refused.sentence.lower()


def test_a_path_with_a_colon_is_local_if_it_exists_or_is_plainly_a_path(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mirror, tmp_path / "a:b")
    for words in (
        ("sync", "a:b", "./c:d"),
        ("sync", "c:d", "a:b"),
        ("--mirror", "c:d", "export", f"{tmp_path}/x:y.tar"),
        ("--mirror", "./e:f", "import", "x:y.tar"),
    ):
        assert inside(*words).code == 0, words
    assert known(tmp_path / "e:f") == known(mirror)
