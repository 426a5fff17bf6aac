"""`get`: images of single slides by the command line, against the stand-in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path

import openslide
import pytest
from PIL import Image

from tests.gdc import Listed, StandIn
from tests.gdc.faults import Fault
from tests.mirror.test_hard_times import mounted, small_disk
from tests.support.command import Result, inside, ordinary, run, started, succeeded
from tests.support.mirrors import addresses, contents, images, made, small_slide, until, updated


@pytest.fixture(scope="module")
def gdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("slides")
    with StandIn([small_slide(folder, number) for number in range(4)]) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def slides(gdc: StandIn) -> list[Listed]:
    """Slides of 500, 508, 516 and 524 by 400 pixels, of 0.252 µm/px."""
    return sorted(gdc.files, key=lambda file: file.size)


@pytest.fixture(autouse=True)
def no_faults(gdc: StandIn) -> Iterator[None]:
    yield
    gdc.faults.clear()


def get(gdc: StandIn, cwd: Path, *words: str, by: Sequence[str] = ()) -> Result:
    """Run `get` in a folder, in this process unless by another user."""
    if by:
        return run("get", *words, *addresses(gdc), cwd=cwd, by=by)
    with chdir(cwd):
        return inside("get", *words, *addresses(gdc))


def names(file: Listed) -> tuple[str, str, str, str]:
    assert file.slide_barcode and file.case_barcode
    return file.slide_barcode.lower(), file.case_barcode, file.file_name, file.file_id


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("way", range(4))
def test_names(way: int, gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    result = get(gdc, tmp_path, names(slides[0])[way], "--mpp", "2", "-o", "new/slide.png")
    assert result.code == 0, result
    assert "by range" in result.out and "µm/px" in result.out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["slide.png"]


def test_json_has_size_and_source(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    words = (slides[1].file_id, "--mpp", "0.25", "--format", "tiff", "-o", "./", "--json")
    (image,) = get(gdc, tmp_path, *words).json()["images"]
    width, height = round(base_width(slides[1]) * 0.252 / 0.25), round(400 * 0.252 / 0.25)
    assert (image["width"], image["height"], image["source"]) == (width, height, "range")
    assert image["mpp_x"] == pytest.approx(0.25, rel=0.5 / width)
    assert size(tmp_path / image["path"]) == (width, height)


def base_width(file: Listed) -> int:
    assert file.path is not None
    with openslide.OpenSlide(file.path) as slide:
        return slide.dimensions[0]


def test_a_level_is_taken_as_it_is(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    assert get(gdc, tmp_path, slides[0].file_id, "--level", "1", "-o", "a.png").code == 0
    assert size(tmp_path / "a.png") == (base_width(slides[0]) // 4, 100)
    lost = get(gdc, tmp_path, slides[0].file_id, "--level", "2", "-o", "b.png")
    assert lost.code == 3
    assert "no level 2: the coarsest is 1" in lost.sentence
    other = get(gdc, tmp_path, slides[0].file_id, "--level", "1", "--via", "tiles", "-o", "b.png")
    assert (other.code, "--level" in other.sentence) == (2, True)
    assert not (tmp_path / "b.png").exists()


def test_several_slides_go_to_a_directory(
    gdc: StandIn, slides: list[Listed], tmp_path: Path
) -> None:
    words = (*(file.file_id for file in slides), "--max-size", "300", "-o", "out/")
    assert get(gdc, tmp_path, *words).out.count("µm/px, level") == 4
    assert len(list((tmp_path / "out").iterdir())) == 4
    again = get(gdc, tmp_path, *words)
    assert (again.code, again.out.count("there already")) == (0, 4)
    other = get(gdc, tmp_path, slides[0].file_id, "--max-size", "100", "-o", "out/")
    assert other.code == 2
    assert "file exists" in other.sentence and "--force" in other.sentence
    forced = get(gdc, tmp_path, slides[0].file_id, "--max-size", "100", "-o", "out/", "--force")
    assert (forced.code, forced.out.count("there already")) == (0, 0)


def test_wrong_use_ends_before_anything_is_fetched(
    gdc: StandIn, slides: list[Listed], tmp_path: Path
) -> None:
    result = get(gdc, tmp_path, slides[0].file_id, slides[1].file_id, "-o", "a.png")
    assert (result.code, "-o a.png/" in result.sentence) == (2, True)
    result = get(gdc, tmp_path, "TCGA-XX-0000", "-o", "out/", "--json")
    assert result.code == 2
    assert result.json()["error"].startswith("TCGA-XX-0000: the GDC lists no")
    away = run("get", slides[0].file_id, "--api", "http://127.0.0.1:1", cwd=tmp_path)
    assert away.code == 4 and "tcgamirror doctor --api http://127.0.0.1:1" in away.sentence
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_listed_and_the_others_are_fetched(
    gdc: StandIn, slides: list[Listed], tmp_path: Path
) -> None:
    words = ("TCGA-XX-0000", slides[0].file_id, "--mpp", "2", "-o", "out/", "--json")
    for _ in range(2):
        result = get(gdc, tmp_path, *words)
        found = result.json()
        assert (result.code, found["done"], found["unknown"]) == (3, 1, ["TCGA-XX-0000"])
        assert result.sentence == "TCGA-XX-0000: the GDC lists no open TCGA slide of that name"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_some_failed_is_exit_code_3(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    gdc.faults.add(Fault(slides[0].file_id, "404"))
    words = (slides[0].file_id, slides[1].file_id, "--mpp", "2", "-o", "out/", "--json")
    result = get(gdc, tmp_path, *words)
    found = result.json()
    assert (result.code, found["done"], found["failed"]) == (3, 1, 1)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_mirror_does_not_change(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    root = made(tmp_path / "mirror", gdc, "--max-size", "100", slides=1)
    updated(root)
    before = images(root), (root / "catalogue.db").read_bytes()
    requests = len(gdc.requests("/files"))
    ids = [file.file_id for file in slides]
    succeeded("--mirror", root, "get", *ids, "-o", f"{tmp_path}/out/")
    found = list((tmp_path / "out").iterdir())
    assert len(found) == 4 and all(max(size(path)) <= 100 for path in found)
    assert len(gdc.requests("/files")) == requests
    assert (images(root), (root / "catalogue.db").read_bytes()) == before


def test_an_image_in_the_way_is_named(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    first, other = (("--mpp", "2", "-o", "out/a.png", slides[at].file_id) for at in (0, 1))
    assert get(gdc, tmp_path, *first).code == 0
    path = tmp_path / "out" / "a.png"
    before = path.read_bytes()
    result = get(gdc, tmp_path, *other)
    assert (result.code, path.read_bytes()) == (2, before)
    said = f"a.png: file exists (it is an image of another slide, {slides[0].file_name}). Name"
    assert said in result.sentence and "--force" in result.sentence
    path.chmod(0)
    result = get(gdc, tmp_path, *first, by=ordinary())
    assert result.code == 2 and "out/a.png: file exists, and cannot be read" in result.sentence


def test_only_killed_runs_are_cleaned_up(
    gdc: StandIn, slides: list[Listed], tmp_path: Path
) -> None:
    words = ("--mpp", "0.252", *addresses(gdc), "-o", f"{tmp_path}/out/")
    gdc.faults.add(Fault(slides[1].file_id, "stall", hold=60.0))
    with (
        started("get", slides[1].file_id, *words) as killed,
        started("get", slides[1].file_id, *words) as running,
    ):
        until(lambda: len([*(tmp_path / "out").glob(".tcgamirror-*/*/range")]) == 2)
        killed.kill()
        killed.wait()
        assert get(gdc, tmp_path, slides[0].file_id, "--mpp", "2", "-o", "out/").code == 0
        (left,) = (tmp_path / "out").glob(".tcgamirror-*/*/range")
        assert f'"pid": {running.pid}' in (left.parents[1] / ".lock").read_text()
    gdc.faults.clear()
    assert get(gdc, tmp_path, slides[0].file_id, "--mpp", "2", "-o", "out/").code == 0
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".png"]


@pytest.mark.parametrize(
    "place", ["m/images/", "m/images/TCGA-BRCA/a.png", "m/work/", "m/gallery/", "link/x/"]
)
def test_no_image_comes_where_a_mirror_knows_every_file(
    place: str, gdc: StandIn, slides: list[Listed], pattern: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(pattern, tmp_path / "m")
    (tmp_path / "link").symlink_to(root / "images")
    before = contents(root)
    result = get(gdc, tmp_path, slides[0].file_id, "--mpp", "2", "-o", place)
    assert result.code == 2 and f"the mirror {root} keeps its own files there" in result.sentence
    assert result.sentence.startswith(f"tcgamirror: {place}")
    assert contents(root) == before
    assert get(gdc, tmp_path, slides[0].file_id, "--mpp", "2", "-o", "m/own/").code == 0


def test_a_full_disk_has_a_remedy(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    with mounted(*small_disk(tmp_path / "small", "64m")) as small:
        result = get(gdc, tmp_path, slides[0].file_id, "-o", f"{small}/")
        assert (result.code, list(small.iterdir())) == (6, [])
    assert "settings" not in result.sentence and "0 needed" not in result.sentence
    assert (
        "stay free for other programs. Free some, or name a directory on a larger"
        in result.sentence
    )


def test_pauses_are_short(gdc: StandIn, slides: list[Listed], tmp_path: Path) -> None:
    gdc.faults.add(Fault(slides[0].file_id, "reset", host="bucket"))
    began = time.monotonic()
    result = get(gdc, tmp_path, slides[0].file_id, "--mpp", "2", "-o", "a.png")
    assert result.code == 0 and time.monotonic() - began < 30
    assert "it resets connections. All requests to it pause for 1.0 s" in result.err
