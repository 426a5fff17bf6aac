"""The executable does what the source does, on machines that have nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn, listed
from tests.support.binary import PROGRAM, bare_root, inside, launched, needed, starts
from tests.support.command import ROOT
from tests.support.mirrors import MPP, addresses, images, rows, until
from tests.support.raw_server import RawServer, Request, Step, whole
from tests.support.slides import SlideSpec, make_slide

pytestmark = needed

SOURCE = [sys.executable, str(ROOT / "main.py")]
MOST_BYTES, MOST_SECONDS = 32_000_000, 0.30
OTHER_ROOT = "TCGAMIRROR_OTHER_ROOT"
"""Names a root file system of another, older Linux to run in as well."""

MIRROR_THERE = "mirror-of-a-test"
BY_RUN = {"seconds", "fetched_at", "bytes_fetched"}
"""Columns that no two runs share."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """What cron gives, with an unpacked copy of the executable in its home."""
    home = tmp_path_factory.mktemp("home")
    yield {"HOME": str(home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    shutil.rmtree(home)


def wanted(root: Path, gdc: StandIn) -> list[str | Path]:
    """A mirror of twelve slides, some JPEG and some TIFF-shaped, by whatever program."""
    size = ("--slides", "12", "--mpp", str(MPP), "--kind", "all", "--by", "project_id")
    return ["--mirror", root, "init", *size, *addresses(gdc)]


def catalogue(root: Path) -> list[tuple[object, ...]]:
    columns = [str(name) for (name,) in rows(root, "select name from pragma_table_info('mirror')")]
    kept = ", ".join(name for name in columns if name not in BY_RUN)
    return rows(root, f"select {kept} from mirror order by sample_rank")


# As the source ----------------------------------------------------------------------


def test_it_makes_the_same_mirror(
    tmp_path: Path, small_slides: tuple[Listed, ...], env: Mapping[str, str]
) -> None:
    jpeg_2000 = SlideSpec(2400, 1800, compression="j2k-ycbcr")
    slides = [*small_slides, listed(make_slide(tmp_path / "slide.svs", jpeg_2000))]
    with StandIn(slides) as gdc:
        for name, program, before in (("binary", PROGRAM, []), ("source", SOURCE[1], SOURCE[:1])):
            root = tmp_path / name
            words = [*wanted(root, gdc), "--slides", str(len(slides))]
            made = launched(*words, env=env, program=program, before=before)
            assert made.code == 0, made
            ran = launched("--mirror", root, "update", env=env, program=program, before=before)
            assert (ran.code, ran.err) == (0, ""), ran
    assert len(images(tmp_path / "source")) == len(slides)
    assert images(tmp_path / "binary") == images(tmp_path / "source")
    assert catalogue(tmp_path / "binary") == catalogue(tmp_path / "source")


@pytest.mark.parametrize("way", ["range", "tiles", "whole"])
def test_every_way_to_an_image_works(
    tmp_path: Path, small_gdc: StandIn, env: Mapping[str, str], way: str
) -> None:
    root = tmp_path / "m"
    launched(*wanted(root, small_gdc), "--via", way, env=env)
    ran = launched("--mirror", root, "update", env=env)
    assert (ran.code, ran.err) == (0, ""), ran
    assert rows(root, "select distinct source from mirror") == [(way,)]


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["init", "--help"], ["nonsense"]])
def test_words_and_exit_codes_are_the_source_s(words: list[str], env: Mapping[str, str]) -> None:
    own = launched(*words, env=env)
    assert own == launched(*words, env=env, program=SOURCE[1], before=SOURCE[:1])


# However it is started --------------------------------------------------------------


def test_it_starts_in_an_empty_environment(tmp_path: Path, env: Mapping[str, str]) -> None:
    (tmp_path / "here").mkdir(0o555)
    assert starts(launched("--version", env={"TMPDIR": env["HOME"]}, cwd=tmp_path / "here"))


def test_it_starts_under_another_name_and_by_links(tmp_path: Path, env: Mapping[str, str]) -> None:
    other = tmp_path / "ünï code" / "other name"
    other.parent.mkdir()
    shutil.copy(PROGRAM, other)
    (tmp_path / "link").symlink_to(other)
    for path in (other, tmp_path / "link"):
        assert starts(launched("--version", env=env, program=path))
    assert starts(launched("--version", env=env, program="./other name", cwd=other.parent))


def test_ctrl_c_while_it_starts_prints_nothing(env: Mapping[str, str]) -> None:
    assert starts(launched("--version", env=env))
    for milliseconds in (*range(0, 100, 4), *range(100, 300, 20)):
        with subprocess.Popen(
            [PROGRAM, "help-that-is-none"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        said_before = "help-that-is-none" in err
        assert said_before or (out, err) == ("", ""), (milliseconds, err)
        # In its very first moments the process may not be the program yet.
        assert process.returncode in (130, 2, -signal.SIGINT)


def test_a_schedule_names_its_own_path(
    tmp_path: Path, small_gdc: StandIn, env: Mapping[str, str]
) -> None:
    (tmp_path / "link").symlink_to(PROGRAM)
    launched(*wanted(tmp_path / "m", small_gdc), env=env)
    words = ("--mirror", "m", "schedule", "cron")
    told = launched(*words, env=env, program="./link", cwd=tmp_path)
    assert told.code == 0 and re.search(rf"{tmp_path}/(\./)?link\b", told.out), told
    assert ".cache" not in told.out


def test_few_open_files_suffice(tmp_path: Path, small_gdc: StandIn, env: Mapping[str, str]) -> None:
    root = tmp_path / "m"
    launched(*wanted(root, small_gdc), "--workers", "16", env=env)
    few = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
    assert launched("--mirror", root, "update", env=env, before=few).code == 0


def test_the_host_s_libraries_stay_out(env: Mapping[str, str]) -> None:
    others = {"LD_PRELOAD": "/nowhere/of.so", "LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu"}
    assert starts(launched("--version", env={**env, **others}))


def test_what_it_starts_gets_the_user_s_environment() -> None:
    show = "import json, os, runpy, sys; runpy.run_path(sys.argv[1]); "
    show += "print(json.dumps(dict(os.environ)))"
    own = {"LD_LIBRARY_PATH": "/mine"}
    added = {"_PYI_ARCHIVE_FILE": "/copy/program", "_TCGAMIRROR_PATH": "/bin/tcgamirror"}
    told = subprocess.run(
        [sys.executable, "-I", "-c", show, str(ROOT / "build" / "hook.py")],
        env={**own, **added},
        capture_output=True,
        text=True,
        check=True,
    )
    kept = json.loads(told.stdout)
    assert kept.items() >= own.items() and not added.keys() & kept.keys()


def test_the_name_shown_is_its_own(env: Mapping[str, str]) -> None:
    with _answering(slow=True) as server:
        words = [str(PROGRAM), "doctor", "--api", server.url("")]
        with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL) as run:
            name = Path(f"/proc/{run.pid}/comm")
            until(lambda: name.read_text() == "tcgamirror\n")
            run.kill()


# The network from inside ------------------------------------------------------------


@contextmanager
def _answering(*, certificate: Path | None = None, slow: bool = False) -> Iterator[RawServer]:
    """A server with a status and nothing else."""
    status = whole(b'{"data_release": "Data Release 45.0", "status": "OK"}')

    def script(request: Request) -> Iterator[Step]:
        yield 5.0 if slow else 0.0
        yield from (whole(b"", "404 Not Found") if request.method == "POST" else status)(request)

    with RawServer(script, certificate=certificate) as server:
        yield server


def _status(env: Mapping[str, str], api: str) -> str:
    told = launched("doctor", "--json", "--api", api, env=env)
    (found,) = [row for row in json.loads(told.out)["findings"] if row["what"] == "status"]
    return str(found["found"])


def test_certificates_of_the_environment_are_trusted(
    certificate: Path, env: Mapping[str, str]
) -> None:
    with _answering(certificate=certificate) as server:
        address = server.url("")
        assert "certificate verify failed" in _status(env, address)
        trusting = {**env, "SSL_CERT_FILE": str(certificate)}
        assert _status(trusting, address) == f"Data Release 45.0 at {address}"


def test_a_proxy_is_used(env: Mapping[str, str]) -> None:
    with _answering() as proxy:
        behind = {**env, "http_proxy": proxy.url("")}
        assert _status(behind, "http://gdc.example").startswith("Data Release 45.0")
        paths = [request.path for request in proxy.requests if request.method == "GET"]
        assert paths == ["http://gdc.example/status"]


def test_names_are_looked_up(env: Mapping[str, str]) -> None:
    assert "cannot be reached" in _status(env, "http://no-such-host.invalid")


# Where there is nothing -------------------------------------------------------------


@pytest.fixture(params=["nothing else", "not even /proc", "an older system"])
def other_root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A root file system with the executable in it, left as it was found; words to run it by."""
    named = os.environ.get(OTHER_ROOT)
    if request.param == "an older system" and not named:
        pytest.skip(f"{OTHER_ROOT} names no root file system (debootstrap bullseye makes one)")
    root = bare_root(Path(named or "") if request.param == "an older system" else tmp_path / "root")
    yield root, inside(root, proc=request.param != "not even /proc")
    (root / "tcgamirror").unlink()
    shutil.rmtree(root / "tmp" / MIRROR_THERE, ignore_errors=True)
    shutil.rmtree(root / "tmp" / f"tcgamirror-{os.geteuid()}", ignore_errors=True)


def test_the_main_job_in_a_root_with(
    other_root: tuple[Path, list[str]],
    tmp_path: Path,
    small_gdc: StandIn,
    env: Mapping[str, str],
) -> None:
    root, by = other_root
    there, source = Path("/tmp") / MIRROR_THERE, tmp_path / "source"
    for words in (wanted(there, small_gdc), ["--mirror", there, "update"]):
        ran = launched(*words, env={}, program="/tcgamirror", before=by)
        assert (ran.code, ran.err) == (0, ""), ran
    for words in (wanted(source, small_gdc), ["--mirror", source, "update"]):
        assert launched(*words, env=env, program=SOURCE[1], before=SOURCE[:1]).code == 0
    mirror = root / "tmp" / MIRROR_THERE
    assert len(images(mirror)) == 12
    assert images(mirror) == images(source) and catalogue(mirror) == catalogue(source)


# Its papers -------------------------------------------------------------------------


def test_it_is_small_and_starts_fast(env: Mapping[str, str]) -> None:
    assert PROGRAM.stat().st_size <= MOST_BYTES
    took: list[float] = []
    # The fastest of some: this machine may have other work.
    while len(took) < 40 and min(took, default=1) >= MOST_SECONDS:
        began = time.monotonic()
        assert starts(launched("--version", env=env))
        took.append(time.monotonic() - began)
    assert min(took) < MOST_SECONDS


def test_its_digest_and_its_list_of_contents_lie_beside_it() -> None:
    sums = (PROGRAM.parent / "SHA256SUMS").read_text(encoding="utf-8")
    digest = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    assert f"{digest}  {PROGRAM.name}\n" in sums
    listed = PROGRAM.with_name(f"{PROGRAM.name}.sbom.json")
    told = json.loads(listed.read_text(encoding="utf-8"))
    assert told["bomFormat"] == "CycloneDX"
    versions = {part["name"]: part.get("version") for part in told["components"]}
    lock = ROOT / "build" / f"requirements-{platform.machine()}.lock"
    locked = lock.read_text(encoding="utf-8")
    for name in ("numpy", "pillow", "openslide-bin", "requests", "imagecodecs", "pyinstaller"):
        assert f"{name}=={versions[name]} " in locked
    (openslide,) = [part for part in told["components"] if part["name"] == "openslide-bin"]
    assert {"openslide", "cairo", "glib"} <= {part["name"] for part in openslide["components"]}


def test_the_licences_are_inside(env: Mapping[str, str]) -> None:
    texts = launched("licenses", env=env).out
    for name in ("numpy", "obstore", "pillow", "openslide-bin", "imagecodecs", "requests"):
        assert f"\n{name}\n{'=' * len(name)}\n" in "\n" + texts
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in texts
    assert re.search("obstore .*: MIT License", texts) and "object_store 0" in texts


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_and_man_page_come_from_the_parser(shell: str, env: Mapping[str, str]) -> None:
    text = launched("completion", shell, env=env).out
    page = (PROGRAM.parent / "tcgamirror.1").read_text(encoding="utf-8")
    usage = launched("--help", env=env).out
    for name in re.findall(r"^    (\w+) ", usage, re.MULTILINE):
        assert name in text and f".SS {name}" in page
    assert "--max-size" in text or "max-size" in text
