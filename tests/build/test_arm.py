"""The executable for ARM does what the one for x86-64 does. Elsewhere qemu-user runs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.build.test_binary import wanted
from tests.gdc import Listed, StandIn, listed
from tests.support.binary import ARM, PROGRAM, lack, launched, needed
from tests.support.command import Result
from tests.support.mirrors import addresses, images, rows
from tests.support.slides import SlideSpec, make_slide

FACTS = (
    "select path, width, height, mpp_x, mpp_y, source, level, pixels_sha256 from mirror "
    "order by sample_rank"
)


def _why_not() -> str:
    if "TCGAMIRROR_SOAK" not in os.environ:
        return "takes minutes under qemu: make soak runs it"
    if missing := lack(ARM, "build ARCH=aarch64"):
        return missing
    try:
        subprocess.run([ARM, "--version"], check=True, capture_output=True)
    except OSError:
        return "nothing here runs programs for ARM: qemu-user-static and binfmt-support do"
    return ""


pytestmark = [needed, pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "it runs")]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return {"HOME": str(tmp_path_factory.mktemp("home")), "PATH": "/usr/bin:/bin"}


def ended_well(*words: str | Path, env: Mapping[str, str], program: Path = ARM) -> Result:
    result = launched(*words, env=env, program=program)
    assert (result.code, result.err) == (0, ""), result
    return result


def filled(root: Path, gdc: StandIn, way: str, program: Path, env: Mapping[str, str]) -> Path:
    """A mirror of twelve slides, some JPEG and some TIFF-shaped, made by the program."""
    ended_well(*wanted(root, gdc), "--via", way, env=env, program=program)
    ended_well("--mirror", root, "update", env=env, program=program)
    assert len(images(root)) == 12
    return root


def pixels(root: Path) -> dict[str, bytes]:
    """The decoded pixels of every image, by path."""
    found = {}
    for path in images(root):
        with Image.open(root / path) as image:
            found[path] = image.convert("RGB").tobytes()
    return found


@pytest.fixture(scope="module")
def mirror(
    tmp_path_factory: pytest.TempPathFactory,
    small_slides: tuple[Listed, ...],
    env: Mapping[str, str],
) -> Iterator[Path]:
    """A mirror made by the executable for ARM, with its GDC there."""
    with StandIn(small_slides) as gdc:
        yield filled(tmp_path_factory.mktemp("arm") / "mirror", gdc, "range", ARM, env)


@pytest.mark.parametrize("way", ["range", "tiles", "whole"])
def test_its_images_have_the_same_pixels(
    tmp_path: Path, small_gdc: StandIn, env: Mapping[str, str], way: str
) -> None:
    """Only pixels: ISA-L compresses by other code on each processor."""
    here = filled(tmp_path / "here", small_gdc, way, PROGRAM, env)
    arm = filled(tmp_path / "arm", small_gdc, way, ARM, env)
    assert pixels(arm) == pixels(here)
    assert rows(arm, FACTS) == rows(here, FACTS)


def test_its_jpeg_2000_differs_by_rounding_alone(tmp_path: Path, env: Mapping[str, str]) -> None:
    """OpenJPEG's wavelets are floats, which a compiler rounds once less on ARM."""
    specs = [SlideSpec(4000, 3000, compression=name) for name in ("j2k-rgb", "j2k-ycbcr")]
    slides = [listed(make_slide(tmp_path / f"{n}.svs", spec)) for n, spec in enumerate(specs)]
    with StandIn(slides) as gdc:
        for name, program in (("here", PROGRAM), ("arm", ARM)):
            words = ("--mirror", tmp_path / name, "init", "--slides", "all", "--mpp", "1")
            ended_well(*words, *addresses(gdc), env=env, program=program)
            ended_well("--mirror", tmp_path / name, "update", env=env, program=program)
    here, arm = pixels(tmp_path / "here"), pixels(tmp_path / "arm")
    assert here.keys() == arm.keys() and len(here) == len(specs)
    for path, expected in here.items():
        found = np.frombuffer(arm[path], np.uint8).astype(int)
        apart = np.abs(found - np.frombuffer(expected, np.uint8))
        assert apart.max() <= 2 and np.mean(apart > 0) < 0.0001


def test_each_imports_what_the_other_exports(
    tmp_path: Path, mirror: Path, env: Mapping[str, str]
) -> None:
    for writer, reader in ((ARM, PROGRAM), (PROGRAM, ARM)):
        export, copy = tmp_path / f"{writer.name}.tar", tmp_path / reader.name
        ended_well("--mirror", mirror, "export", export, env=env, program=writer)
        ended_well("--mirror", copy, "import", export, env=env, program=reader)
        assert images(copy) == images(mirror)


def test_it_syncs_and_verifies(tmp_path: Path, mirror: Path, env: Mapping[str, str]) -> None:
    copy = tmp_path / "copy"
    ended_well("sync", mirror, copy, env=env)
    ended_well("--mirror", copy, "verify", "--decode", env=env)
    assert images(copy) == images(mirror)
    image = next((copy / "images").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:-1])
    assert launched("--mirror", copy, "verify", env=env, program=ARM).code == 7


def test_doctor_names_its_processor(mirror: Path, env: Mapping[str, str]) -> None:
    told = ended_well("--mirror", mirror, "doctor", "--json", env=env)
    found = {row["what"]: row["found"] for row in json.loads(told.out)["findings"]}
    assert found["kernel"].endswith(", aarch64")
    assert found["C library"].endswith("inside the executable")
