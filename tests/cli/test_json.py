"""Every command that takes --json prints one JSON object, whatever its exit code."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.cli import main, status
from tcgamirror.cli.parser import make_parser
from tests.gdc import Fault, StandIn
from tests.mirror.test_hard_times import mounted, small_disk
from tests.support.command import Result, ended, inside, started
from tests.support.mirrors import repointed, rewrite, until
from tests.support.publishing import change

DONE, BUG, USAGE_ERROR, SOME_FAILED, UNREACHABLE, LOCKED = 0, 1, 2, 3, 4, 5
DISK_FULL, DAMAGED, INTERRUPTED = 6, 7, 130

IN_A_MIRROR = {
    "update": ["update"],
    "dry run": ["update", "--dry-run"],
    "refresh": ["refresh"],
    "sample": ["sample"],
    "fetch": ["fetch"],
    "exclude": ["exclude", "{slide}"],
    "include": ["include", "{slide}"],
    "status": ["status"],
    "changes": ["changes"],
    "show": ["show", "{slide}"],
    "get": ["get", "{slide}", "-o", "{new}/"],
    "verify": ["verify"],
    "repair": ["verify", "--repair"],
    "rebuild": ["rebuild"],
    "doctor": ["doctor"],
    "export": ["export", "{new}.tar"],
}
"""The commands that take --json and --mirror, by a name for the test."""

FROM_ANOTHER = {"import": ["--mirror", "{new}", "import", "{m}"], "sync": ["sync", "{m}", "{new}"]}
"""Those that bring a mirror elsewhere."""


def test_no_command_is_left_out() -> None:
    _, commands = make_parser()
    with_json = {
        name
        for name, command in commands.items()
        if any("--json" in action.option_strings for action in command._actions)
    }
    assert with_json == {*IN_A_MIRROR, *FROM_ANOTHER} - {"dry run", "repair"}


class _Place:
    """A mirror of two slides that is done, and its GDC."""

    def __init__(self, folder: Path, pattern: Path, gdc: StandIn) -> None:
        self.gdc = gdc
        self.new = folder / "new"
        self.root = repointed(pattern, folder / "m", gdc)
        rewrite(self.root, "^workers = .*", "workers = 1")

    def words(self, name: str) -> list[str]:
        image = next((self.root / "images").rglob("*.png"), Path("none"))
        here = {"m": self.root, "new": self.new, "slide": f"{image.stem}.svs"}
        if name in IN_A_MIRROR:
            words = ["--mirror", "{m}", *IN_A_MIRROR[name]]
        else:
            words = FROM_ANOTHER[name]
        return [word.format(**here) for word in words]

    def run(self, name: str, *more: str) -> Result:
        return inside(*self.words(name), "--json", *more)


@pytest.fixture
def place(tmp_path: Path, pattern: Path, small_gdc: StandIn) -> _Place:
    return _Place(tmp_path, pattern, small_gdc)


def is_one_object(result: Result, code: int) -> dict[str, Any]:
    """Fails unless stdout is one JSON value that tells the exit code, as stderr tells the error."""
    assert result.code == code, result
    told = result.json()
    assert "Traceback" not in result.err
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(told, dict) and "exit_code" in told:
        assert told["exit_code"] == code
    else:
        assert code == DONE
    if error is not None:
        assert error in result.err.splitlines()[-1]
    return told if isinstance(told, dict) else {"list": told}


def fails(result: Result, code: int) -> str:
    """The error that the one object tells. Fails if there is none."""
    return str(is_one_object(result, code)["error"])


def ends(result: Result, code: int) -> None:
    """Fails unless the one object is the command's own result."""
    assert is_one_object(result, code).get("error") is None


@pytest.mark.parametrize("name", [*IN_A_MIRROR, *FROM_ANOTHER])
def test_all_done(place: _Place, name: str) -> None:
    if name == "rebuild":
        (place.root / "catalogue.db").unlink()
    if name == "include":
        ends(place.run("exclude", "--keep"), DONE)
    ends(place.run(name), DONE)


def test_what_the_command_line_cannot_mean(place: _Place) -> None:
    assert "--nonsense" in fails(place.run("update", "--nonsense"), USAGE_ERROR)


@pytest.mark.parametrize("name", [*IN_A_MIRROR, *FROM_ANOTHER])
def test_a_mirror_that_is_none(place: _Place, name: str) -> None:
    shutil.rmtree(place.root)
    assert fails(place.run(name), USAGE_ERROR)


@pytest.mark.parametrize(
    "name", [name for name in (*IN_A_MIRROR, *FROM_ANOTHER) if name not in ("rebuild", "doctor")]
)
def test_a_damaged_catalogue(place: _Place, name: str) -> None:
    catalogue = place.root / "catalogue.db"
    catalogue.write_bytes(b"no catalogue" * 1000)
    # An import's source is what the user named.
    assert fails(place.run(name), USAGE_ERROR if name == "import" else DAMAGED)


@pytest.mark.parametrize("name", ["update", "fetch", "repair", "rebuild"])
def test_a_mirror_that_another_run_holds(place: _Place, name: str) -> None:
    rewrite(place.root, "^first_byte = .*", "first_byte = 30.0")
    place.gdc.faults.add(Fault("/status", "stall", hold=60.0))
    place.gdc.clear()
    with started("--mirror", place.root, "update"):
        until(lambda: place.gdc.requests("/status"))
        is_one_object(place.run(name), LOCKED)


def _spoil(root: Path) -> Path:
    """Damages an image; its path within the mirror."""
    image = next((root / "images").rglob("*.png"))
    image.write_bytes(b"no image")
    return image.relative_to(root)


def _give_work(root: Path, name: str) -> None:
    """Has the command need the GDC."""
    if name == "rebuild":
        (root / "catalogue.db").unlink()
    elif name != "repair":
        change(root, "UPDATE images SET status = 'pending', path = NULL")
        shutil.rmtree(root / "images")


@pytest.mark.parametrize("name", ["verify", "export", "sync"])
def test_an_image_that_is_damaged(place: _Place, name: str) -> None:
    _spoil(place.root)
    code = SOME_FAILED if name == "sync" else DAMAGED
    ends(place.run(name), code)


@pytest.mark.parametrize("name", ["update", "fetch", "repair"])
def test_slides_that_fail(place: _Place, name: str) -> None:
    _spoil(place.root)
    _give_work(place.root, name)
    place.gdc.faults.add(Fault(r"/data/|\.svs|/tile/", "404"))
    ends(place.run(name), SOME_FAILED)


@pytest.mark.parametrize("name", ["update", "dry run", "fetch", "repair", "rebuild", "doctor"])
def test_a_gdc_that_is_away(place: _Place, name: str) -> None:
    spoiled = _spoil(place.root)
    _give_work(place.root, name)
    place.gdc.stop()
    told = is_one_object(place.run(name), UNREACHABLE)
    if name == "repair":
        # What was found is told all the same.
        assert told["images"] == 2
        assert [wrong["path"] for wrong in told["wrong"]] == [str(spoiled)]


@pytest.mark.parametrize("name", ["update", "fetch", "repair"])
def test_a_disk_that_is_full(place: _Place, name: str) -> None:
    _give_work(place.root, name)
    shutil.rmtree(place.root / "images", ignore_errors=True)
    with mounted(*small_disk(place.root / "images", "16k")) as full:
        (full / "filler.png").write_bytes(b"\0" * 15_000)
        result = inside(*place.words(name), "--json")
    assert fails(result, DISK_FULL)


@pytest.mark.parametrize("name", ["update", "dry run", "fetch", "repair", "rebuild", "doctor"])
def test_ctrl_c(place: _Place, name: str) -> None:
    _spoil(place.root)
    _give_work(place.root, name)
    for timeout in ("first_byte", "stall"):
        rewrite(place.root, f"^{timeout} = .*", f"{timeout} = 30.0")
    place.gdc.faults.add(Fault("/", "stall", after=0, hold=60.0))
    place.gdc.clear()
    with started(*place.words(name), "--json") as process:
        until(lambda: place.gdc.served)
        process.send_signal(signal.SIGINT)
        # Two signals at once would arrive as one.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert fails(ended(process), INTERRUPTED)


def test_a_bug(
    place: _Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "do_status", lambda _: 1 // 0)
    code = main.main(["--mirror", str(place.root), "status", "--json"])
    assert "ZeroDivisionError" in fails(Result(code, *capsys.readouterr()), BUG)
