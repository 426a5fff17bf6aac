"""A new data release, command by command: what it did is told, and only what changed is fetched."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.sources.manifest import read_manifest
from tests.gdc import Listed, StandIn
from tests.gdc.faults import Fault
from tests.gdc.listing import made_up_id
from tests.support.carrying import is_clean, moved_projects, other_pixels
from tests.support.command import inside, run, went_well
from tests.support.mirrors import column, filled, images, impatient, made, rows, updated
from tests.support.publishing import change

NEXT = "Data Release 46.0 - March 10, 2026"
FIRST = "Data Release 45.0 - December 04, 2025"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = r"/data/|\.svs"


def _next_release(files: Sequence[Listed]) -> tuple[list[Listed], dict[str, list[Listed]]]:
    """Of 18 slides: 3 that come, 2 changed, 2 re-identified, 1 superseded, 1 withdrawn."""
    came, stay = list(files[:3]), list(files[3:])
    changed = [
        replace(old, path=new.path, md5=new.md5, size=new.size, version="2")
        for old, new in zip(stay[:2], came, strict=False)
    ]
    renamed = [replace(old, file_id=made_up_id(old.file_id)) for old in stay[2:4]]
    # What took its place is not open: the listing lacks it, but /files/versions names it.
    hidden = replace(stay[4], file_id=made_up_id("hidden"), access="controlled")
    now = [*came, *changed, *renamed, hidden, *stay[6:]]
    return now, {"changed": changed, "re-identified": renamed, "superseded": [hidden]}


def test_only_changes_are_fetched(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    before = small_slides[3:]
    with StandIn(before, release=FIRST) as gdc:
        root = filled(tmp_path / "m", gdc, "--kind", "all", "--slides", "all")
        old_images = images(root)
        now, parts = _next_release(small_slides)
        gdc.publish(now, NEXT)
        gdc.clear()
        report = updated(root).out.splitlines()
        assert report[0] == (
            f"{NEXT}: 3 added, 2 changed, 2 reidentified, 1 superseded, 1 withdrawn, 9 unchanged"
        )
        fetched = {record.path.split("/")[-1] for record in gdc.requests(FILES)}
        news = [*parts["changed"], *small_slides[:3]]
        assert fetched == {file.file_name for file in news}
    assert len(images(root)) == len(old_images) + 3
    told = _changes(root, "--since", "45")
    assert len(told) == 1 and told[0]["release"] == NEXT
    assert told[0]["counts"] == {
        "added": 3, "changed": 2, "reidentified": 2, "superseded": 1, "withdrawn": 1
    }  # fmt: skip
    by_name = {file.file_name: file for file in before}
    expected: set[tuple[str, str, str | None]]
    expected = {("added", file.file_name, None) for file in small_slides[:3]}
    for new in parts["changed"]:
        old = by_name[new.file_name]
        expected.add(("changed", new.file_name, f"md5 {old.md5} to {new.md5}"))
    for new in parts["re-identified"]:
        old = by_name[new.file_name]
        expected.add(("re-identified", new.file_name, f"{old.file_id} to {new.file_id}"))
    (hidden,) = parts["superseded"]
    expected.add(("superseded", hidden.file_name, f"by {hidden.file_id}"))
    expected.add(("withdrawn", small_slides[8].file_name, f"last listed in {FIRST}"))
    seen = [tuple(change.values()) for change in told[0]["changes"]]
    assert set(seen) == expected and len(seen) == len(expected)
    lines = went_well("--mirror", root, "changes").out.splitlines()
    assert lines[0].startswith(FIRST) and "15 added" in lines[0]
    assert f"superseded {hidden.file_name} by {hidden.file_id}" in lines
    assert len(lines) == 2 + len(expected)
    assert rows(root, "select upstream, count(*) from mirror group by 1 order by 1") == [
        ("current", 16), ("superseded", 1), ("withdrawn", 1)
    ]  # fmt: skip
    for new in parts["re-identified"]:
        old_id = by_name[new.file_name].file_id
        shown = went_well("--mirror", root, "show", old_id, "--json").json()
        assert (shown["file_name"], shown["former_ids"]) == (new.file_name, [old_id])


def test_successors_are_looked_up_again(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    with StandIn(small_slides, release=FIRST) as gdc:
        root = made(tmp_path / "m", gdc, slides=1)
        went_well("--mirror", root, "refresh")
        now, _ = _next_release(small_slides)
        gdc.publish(now, NEXT)
        gdc.faults.add(Fault("/files/versions", "500"))
        assert "2 withdrawn" in went_well("--mirror", root, "refresh").out
        gdc.faults.clear()
        gdc.publish(now, "Data Release 47.0 - June 10, 2026")
        assert "1 superseded" in went_well("--mirror", root, "refresh").out
    assert column(root, "select count(*) from slides where upstream = 'superseded'") == [1]


def test_a_moved_image_leaves_no_other(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    _, root = moved_projects(tmp_path, small_slides)
    assert set(images(root)) == set(column(root, "select path from mirror"))
    assert is_clean(root)


@pytest.mark.parametrize("fails", [True, False])
def test_an_older_image_stays_until_there_is_a_newer_one(
    tmp_path: Path, small_slides: tuple[Listed, ...], fails: bool
) -> None:
    with StandIn(small_slides, release=FIRST) as gdc:
        root = filled(tmp_path / "m", gdc, slides=1)
        ((name, path),) = rows(root, "select file_name, path from mirror")
        mine = root / Path(str(path)).name
        if fails:
            gdc.faults.add(Fault(FILES, "reset"))
        else:
            # What only looks like an older image is left alone.
            shutil.copy(root / str(path), mine)
            change(root, "UPDATE images SET path = ?", f"images/../{mine.name}")
        files = {file.file_name: file for file in small_slides}
        fresh = other_pixels(files[str(name)], tmp_path / "a.svs")
        files[str(name)] = replace(fresh, project_id="TCGA-NEW")
        gdc.publish(list(files.values()), NEXT)
        assert inside("--mirror", root, "update").code == (3 if fails else 0)
    assert (root / str(path)).exists()
    assert mine.exists() != fails


def test_an_unknown_release_names_the_known_ones(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=1)
    assert went_well("--mirror", root, "changes").out == "no listing was merged yet\n"
    went_well("--mirror", root, "refresh")
    missing = inside("--mirror", root, "changes", "--since", "44")
    assert missing.code == 2 and FIRST in missing.sentence
    for name in ("45", "45.0", FIRST):
        out = went_well("--mirror", root, "changes", "--since", name).out
        assert out == f"no listing was merged after {name}\n"


def _luad_of_2024(target: Path) -> Path:
    """The rows of the diagnostic manifest that belong to the project TCGA-LUAD."""
    with gzip.open(DATA / "tables" / "idc-tcga-slides.csv.gz", "rt", encoding="utf-8") as file:
        luad = {
            row["PatientID"] for row in csv.DictReader(file) if row["collection_id"] == "tcga_luad"
        }
    first, *lines = (DATA / "manifests" / "tcga-diagnostic-2024-08.txt").read_text().splitlines()
    kept = [line for line in lines if line.split("\t")[1][:12] in luad]
    target.write_text("\n".join([first, *kept]))
    return target


def test_the_real_lung_slides_of_2020_and_2024_differ_as_the_manifests_do(tmp_path: Path) -> None:
    if not DATA.exists():
        pytest.skip("../shared/data holds no real manifests")
    manifest, later = tmp_path / "luad.txt", _luad_of_2024(tmp_path / "later.txt")
    shutil.copy(DATA / "manifests" / "tcga-luad-2020-09.txt", manifest)
    old = {slide.file_name: slide for slide in read_manifest(manifest).slides}
    new = {slide.file_name: slide for slide in read_manifest(later).slides}
    assert len(old) == 530 and len(new) > 500
    root = tmp_path / "m"
    nowhere = ("--api", "http://127.0.0.1:9", "--bucket", "none")
    went_well("--mirror", root, "init", "--mpp", "15", "--manifest", manifest, *nowhere)
    impatient(root)
    # That the GDC cannot be asked for projects and sites is a warning.
    assert run("--mirror", root, "refresh").code == 0
    shutil.copy(later, manifest)
    assert run("--mirror", root, "refresh").code == 0
    (counts,) = [each["counts"] for each in _changes(root)[1:]]
    both = old.keys() & new.keys()
    changed = {name for name in both if old[name].md5 != new[name].md5}
    same = (old[name].file_id == new[name].file_id for name in both - changed)
    assert Counter(counts) == Counter(
        added=len(new.keys() - both),
        changed=len(changed),
        withdrawn=len(old.keys() - both),
        reidentified=sum(not each for each in same),
    )
    assert len(changed) > 500
    assert run("--mirror", root, "refresh").out.startswith("nothing new")
    assert len(_changes(root)) == 2


def _changes(root: Path, *options: str) -> list[dict[str, Any]]:
    return list(went_well("--mirror", root, "changes", "--json", *options).json())


def test_the_first_listing_does_not_wait_for_its_release(
    tmp_path: Path, small_slides: Sequence[Listed]
) -> None:
    """Which is needed all the same: without it nothing is listed."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, slides=3)
        for fault in (Fault("/status", "stall"), Fault("/", "html")):
            gdc.clear()
            gdc.faults.add(fault)
            refused = run("--mirror", root, "refresh")
            assert refused.code == 4 and "/status" in refused.err
            assert gdc.requests("/files")
            assert column(root, "select count(*) from slides") == [0]
            gdc.faults.clear()
        went_well("--mirror", root, "refresh")
        assert column(root, "select count(*) from slides") == [len(small_slides)]
