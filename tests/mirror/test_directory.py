"""Where a mirror is, and what makes it one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror import lockfile
from tcgamirror.mirror.directory import CATALOGUE, FIXED, Mirror
from tcgamirror.mirror.settings import FILE_NAME, LOCKED, Settings
from tcgamirror.model.errors import BadSettings, DiskFull, NotAMirror, UsageError
from tcgamirror.model.sampling import Plan
from tcgamirror.model.slide import ImageFormat, Target
from tcgamirror.system.lock import Lock
from tests.gdc import StandIn
from tests.support.command import inside, run, went_well
from tests.support.mirrors import addresses, contents, made, updated, write_lock

SETTINGS = Settings(target=Target(15.0, None))


def test_a_new_mirror_is_found_with_its_settings(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    Mirror.create(root, SETTINGS)
    assert Mirror.find(root, above=False) == Mirror(root, SETTINGS)
    assert sorted(path.name for path in root.iterdir()) == [CATALOGUE, FILE_NAME]


def test_the_nearest_of_two_mirrors_is_found_from_below(tmp_path: Path) -> None:
    inner = Mirror.create(tmp_path / "inner", replace(SETTINGS, plan=Plan(1)))
    Mirror.create(tmp_path, SETTINGS)
    below = inner.root / "images" / "x"
    below.mkdir(parents=True)
    assert Mirror.find(below, above=True) == inner
    assert Mirror.find(tmp_path / "inner" / "..", above=True).root.samefile(tmp_path)
    with pytest.raises(NotAMirror, match=r"holds no tcgamirror\.toml"):
        Mirror.find(below, above=False)


def use_catalogue(root: Path) -> None:
    with Catalogue.create(root / CATALOGUE) as catalogue:
        catalogue.begin_run("update", 0.0)


@pytest.mark.parametrize(
    ("occupy", "name"),
    [
        (lambda root: (root / FILE_NAME).write_text("mine"), FILE_NAME),
        (lambda root: (root / FILE_NAME).symlink_to(root / "nowhere"), FILE_NAME),
        (lambda root: (root / CATALOGUE).write_text("mine"), CATALOGUE),
        (use_catalogue, CATALOGUE),
    ],
)
def test_no_mirror_replaces_another(
    tmp_path: Path, occupy: Callable[[Path], object], name: str
) -> None:
    occupy(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(NotAMirror, match=name):
        Mirror.create(tmp_path, SETTINGS)
    assert contents(tmp_path) == before


def test_a_killed_init_and_other_files_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with Catalogue.create(tmp_path / CATALOGUE) as catalogue:
        catalogue.set_fact(FIXED, "other images")
    mirror = Mirror.create(tmp_path, SETTINGS)
    with Catalogue.open(tmp_path / CATALOGUE) as catalogue:
        mirror.check_fixed(catalogue.fact)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("root", ["/proc/x/y", "/dev/null", "/dev/null/x", "x" * 300])
def test_where_there_can_be_no_directory_it_is_said(root: str) -> None:
    with pytest.raises(UsageError, match="mount the disk it lies on, or remove what is in its way"):
        Mirror.create(Path(root), SETTINGS)


@pytest.mark.parametrize("other", [Target(15.0000001, None), Target(None, 15), Target(30.0, None)])
def test_another_target_than_the_mirrors_own_is_refused(tmp_path: Path, other: Target) -> None:
    mirror = Mirror.create(tmp_path, SETTINGS)
    with Catalogue.open(tmp_path / CATALOGUE) as catalogue:
        mirror.check_fixed(catalogue.fact)
        for changed in (replace(SETTINGS, target=other), replace(SETTINGS, form=ImageFormat.TIFF)):
            with pytest.raises(BadSettings, match="15 µm/px, exact, png"):
                replace(mirror, settings=changed).check_fixed(catalogue.fact)


# Of a lock file --------------------------------------------------------------------


def test_lost_settings_are_restored_with_the_lock(small_gdc: StandIn, tmp_path: Path) -> None:
    two, four = _locks(tmp_path, small_gdc, (2, 4))
    root = _locked(tmp_path / "m", small_gdc, two)
    (root / FILE_NAME).unlink()
    refused = inside("--mirror", root, "init", "--lock", four, *addresses(small_gdc))
    assert refused.code == 2 and f"{root / LOCKED}: exists already, and names" in refused.sentence
    assert (root / LOCKED).read_bytes() == two.read_bytes() and not (root / FILE_NAME).exists()
    (root / LOCKED).unlink()
    for lock in (four, four):
        (root / FILE_NAME).unlink(missing_ok=True)
        again = went_well("--mirror", root, "init", "--lock", lock, *addresses(small_gdc))
        assert "restored the settings" in again.out
        assert (root / LOCKED).read_bytes() == lock.read_bytes()
    assert "2 slides added" in updated(root).out
    assert "4 of 4 slides" in went_well("--mirror", root, "lock", "--check", four).out


def test_the_lock_that_a_killed_init_left_is_replaced(small_gdc: StandIn, tmp_path: Path) -> None:
    two, four = _locks(tmp_path, small_gdc, (2, 4))
    root = tmp_path / "m"
    went_well("--mirror", root, "init", "--lock", two, *addresses(small_gdc))
    (root / FILE_NAME).unlink()
    made_now = went_well("--mirror", root, "init", "--lock", four, *addresses(small_gdc))
    assert "made a mirror" in made_now.out
    assert (root / LOCKED).read_bytes() == four.read_bytes()


def test_another_lock_fills_the_sample_up(small_gdc: StandIn, tmp_path: Path) -> None:
    (all_four,) = _locks(tmp_path, small_gdc, (4,))
    read, parts = lockfile.read_lock(all_four), [tmp_path / "0.lock", tmp_path / "1.lock"]
    for kept, part in enumerate(parts):
        lines = lockfile.lock_lines(replace(read, slides=read.slides[kept::2]))
        part.write_bytes(b"".join(lines))
    root = _locked(tmp_path / "m", small_gdc, parts[0])
    for name in (FILE_NAME, LOCKED):
        (root / name).unlink()
    went_well("--mirror", root, "init", "--lock", parts[1], *addresses(small_gdc))
    assert "2 slides added" in updated(root).out


def _locks(folder: Path, gdc: StandIn, sizes: Sequence[int]) -> list[Path]:
    """Return the lock file of a mirror of each number of slides."""
    return [write_lock(folder / f"of {slides}", gdc, slides=slides) for slides in sizes]


def _locked(root: Path, gdc: StandIn, lock: Path) -> Path:
    """An updated mirror of what the lock file names."""
    went_well("--mirror", root, "init", "--lock", lock, *addresses(gdc))
    updated(root)
    return root


# Two at once -----------------------------------------------------------------------


def test_of_two_inits_at_once_one_makes_the_mirror(tmp_path: Path, small_gdc: StandIn) -> None:
    for number in range(6):
        root = tmp_path / str(number)
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(run, "--mirror", root, "init", "--mpp", mpp, *addresses(small_gdc))
                for mpp in ("4", "8")
            ]
        codes = [each.result().code for each in runs]
        assert sorted(codes)[0] == 0 and sorted(codes)[1] in (2, 5), [r.result() for r in runs]
        mirror = Mirror.find(root, above=False)
        assert mirror.settings.target.mpp == (4, 8)[codes.index(0)]
        with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
            mirror.check_fixed(catalogue.fact)


def test_init_waits_for_no_other_run(tmp_path: Path, small_gdc: StandIn) -> None:
    root = tmp_path / "m"
    with Lock(root / ".lock", "import"):
        kept_out = inside("--mirror", root, "init", "--mpp", "4", *addresses(small_gdc))
    assert kept_out.code == 5 and "import" in kept_out.sentence
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_no_mirror_is_made_within_another(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    (tmp_path / "big").mkdir()
    (root / "images").symlink_to(tmp_path / "big")
    refused = inside("--mirror", root / "images" / "sub", "init", "--mpp", "4")
    assert refused.code == 2 and f"lies in the mirror {root}" in refused.sentence
    assert not list((tmp_path / "big").iterdir())


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path, small_gdc: StandIn) -> None:
    (lock,) = _locks(tmp_path, small_gdc, (2,))
    root = tmp_path / "m"
    (root / LOCKED).mkdir(parents=True)
    refused = inside("--mirror", root, "init", "--lock", lock, *addresses(small_gdc))
    assert refused.code == 2 and f"{root / LOCKED} " in refused.sentence


def test_a_directory_that_was_removed_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for words in ("status", "init --mpp 4"):
        command = f'rmdir "{gone}"; exec "$@" {words}; '
        result = run(by=("sh", "-c", f'cd "{gone}" && {command}', "sh"))
        gone.mkdir()
        assert result.code == 2 and "was removed" in result.sentence


def test_a_refused_init_changes_nothing(small_gdc: StandIn, tmp_path: Path) -> None:
    first = tmp_path / "first"
    lock = write_lock(first, small_gdc)
    before = sorted(first.rglob("*"))
    assert inside("--mirror", first / "within", "init", "--lock", lock).code == 2
    assert sorted(first.rglob("*")) == before
    (first / FILE_NAME).unlink()
    refused = run("status", cwd=first)
    assert refused.code == 2 and f"holds {CATALOGUE}, but no {FILE_NAME}" in refused.sentence


def test_init_takes_the_directory_as_its_argument(tmp_path: Path) -> None:
    for root, words in ((tmp_path / "a" / "m", ()), (tmp_path / "b", ("--mirror", tmp_path / "b"))):
        assert run("init", root, *words, "--mpp", "15", cwd=tmp_path).code == 0
        assert (root / FILE_NAME).is_file()
    refused = run("--mirror", tmp_path / "c", "init", tmp_path / "d", "--mpp", "15")
    assert "--mirror names another" in refused.sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_current_directory_with_other_files_is_no_place_for_init(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    refused = run("init", "--mpp", "15", cwd=tmp_path)
    assert refused.code == 2
    assert "thesis.txt" in refused.sentence and "tcgamirror init DIR" in refused.sentence
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert run("init", ".", "--mpp", "15", cwd=tmp_path).code == 0


def test_a_failed_init_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> str:
        raise DiskFull("no room")

    monkeypatch.setattr("tcgamirror.mirror.directory.format_settings", fail)
    with pytest.raises(DiskFull):
        Mirror.begin(tmp_path / "new" / "m", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_is_not_wanted_is_told_with_its_files(tmp_path: Path) -> None:
    Mirror.begin(tmp_path, SETTINGS)
    for place in (tmp_path, tmp_path / "within"):
        refused = run("init", place, "--mpp", "15", cwd=tmp_path)
        assert refused.code == 2
        assert f"remove {FILE_NAME}, {CATALOGUE}" in refused.sentence
    # Its plan is fixed: its settings are no way to other slides.
    again = run("init", tmp_path, "--mpp", "15").sentence
    assert f"--mirror {tmp_path} update --slides N" in again and "edit" not in again
