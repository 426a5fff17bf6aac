"""The plan of a sample: fixed at init, and told wherever the sample is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror import provenance
from tcgamirror.mirror.settings import plan_values
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import Kind
from tests.gdc import Listed, StandIn
from tests.support.catalogues import NOW, three_slides
from tests.support.command import Result, inside, went_well
from tests.support.mirrors import MPP, addresses, column, filled, made, rewrite, updated
from tests.support.publishing import by_serve, change

USUAL = Plan(0, kinds=frozenset({Kind.DIAGNOSTIC}))
EDITED = (("^seed = .*", "seed = 7"), ("^order = .*", 'order = "shuffle"'))


def head(lock: str) -> dict[str, str]:
    """What the lock says of how the slides were drawn."""
    lines = [line.split("\t") for line in lock.split("\n\n")[0].splitlines()[2:]]
    return {name: value for name, value in lines if name in plan_values(USUAL)}


def edit(root: Path) -> None:
    for pattern, text in EDITED:
        rewrite(root, pattern, text)


def unplanned(result: Result) -> None:
    assert result.code == 0
    assert "plan is unknown" in result.sentence
    assert set(head(result.out).values()) == {"-"}


def as_of_an_older_version(root: Path) -> None:
    """Make the mirror one whose plan was not fixed."""
    change(root, "DELETE FROM facts WHERE key = ?", provenance.PLAN)


@pytest.mark.parametrize("sampled", [False, True])
def test_an_edited_plan_is_refused(tmp_path: Path, small_gdc: StandIn, sampled: bool) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    if sampled:
        updated(root)
    before = (root / "tcgamirror.toml").read_text()
    edit(root)
    for command in ("update", "sample --slides 9", "fetch", "verify", "exclude x"):
        refused = inside("--mirror", root, *command.split())
        assert refused.code == 2
        assert (
            "asks for slides by seed 7 (shuffle), but the mirror was made for slides by seed 0 "
            "(stable). Change [sample] back, or make another mirror by init"
        ) in refused.sentence
    (root / "tcgamirror.toml").write_text(before)
    rewrite(root, "^slides = .*", "slides = 5")
    updated(root)
    assert "5 slides by seed 0 (stable): 5 done" in went_well("--mirror", root, "status").out


def test_an_older_mirror_gets_a_fixed_plan(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=3)
    as_of_an_older_version(root)
    edit(root)
    rewrite(root, "^slides = .*", "slides = 5")
    assert "3 slides by seed 0" in went_well("--mirror", root, "status").out
    updated(root)
    rewrite(root, "^seed = .*", "seed = 8")
    refused = inside("--mirror", root, "update")
    assert refused.code == 2 and "made for slides by seed 7" in refused.sentence
    rewrite(root, "^seed = .*", "seed = 7")

    told = inside("--mirror", root, "lock")
    unplanned(told)
    assert "5 slides by more than one plan" in went_well("--mirror", root, "status").out
    assert went_well("--mirror", root, "status", "--json").json()["drawn"] is None
    lock = tmp_path / "sample.lock"
    lock.write_text(told.out)
    again = tmp_path / "again"
    went_well("--mirror", again, "init", "--lock", lock, *addresses(small_gdc))
    updated(again)
    names = "SELECT file_name FROM mirror ORDER BY sample_rank"
    assert column(again, names) == column(root, names)
    relocked = inside("--mirror", again, "lock")
    unplanned(relocked)
    assert relocked.out == told.out


def test_a_synced_mirror_keeps_its_plan(tmp_path: Path, small_gdc: StandIn) -> None:
    plan = ("--seed", "42", "--order", "shuffle", "--project", "TCGA-GBM", "--project", "TCGA-LUAD")
    root = filled(tmp_path / "m", small_gdc, *plan, slides=3)
    with by_serve(root) as published:
        inside("sync", published.url, tmp_path / "copy")
    lock = went_well("--mirror", root, "lock").out
    assert head(lock)["projects"] == "TCGA-GBM,TCGA-LUAD"
    assert head(went_well("--mirror", tmp_path / "copy", "lock").out) == head(lock)
    told = went_well("--mirror", tmp_path / "copy", "status").out
    assert "3 slides by seed 42 (shuffle, projects TCGA-GBM TCGA-LUAD): 3 done" in told
    told = went_well("--mirror", tmp_path / "copy", "status", "--json").json()["drawn"]
    assert told == {
        "seed": 42,
        "order": "shuffle",
        "by": "none",
        "kind": "diagnostic",
        "projects": ["TCGA-GBM", "TCGA-LUAD"],
    }


def test_an_import_keeps_the_plan(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path / "m", gdc, "--seed", "42", slides=6)
        before = head(went_well("--mirror", root, "lock").out)
        # What is withdrawn is drawn by no plan any more, so that only what was noted can tell.
        (name,) = column(root, "SELECT file_name FROM mirror WHERE sample_rank = 1")
        left = [file for file in small_slides if file.file_name != name]
        gdc.publish(left, "Data Release 46.0 - March 04, 2026")
        updated(root)
    went_well("--mirror", root, "export", tmp_path / "e.tar")
    for source in (tmp_path / "e.tar", root):
        copy = tmp_path / f"copy of {source.name}"
        went_well("--mirror", copy, "import", source)
        assert "6 slides by seed 42 (stable): 6 done" in went_well("--mirror", copy, "status").out
        assert head(went_well("--mirror", copy, "lock").out) == before
        assert before["seed"] == "42"


@pytest.mark.parametrize("command", ["import", "sync"])
def test_merged_mirrors_have_no_plan(tmp_path: Path, small_gdc: StandIn, command: str) -> None:
    root, other = (
        made(tmp_path / seed, small_gdc, "--seed", seed, slides=3) for seed in ("1", "2")
    )
    updated(root)
    updated(other)
    noted = "SELECT value FROM facts WHERE key = 'drawn by'"
    before = column(other, noted)
    words = ("sync", root, other) if command == "sync" else ("--mirror", other, "import", root)
    went_well(*words)
    assert len(column(other, "SELECT file_name FROM mirror")) > 3
    assert command == "sync" or column(other, noted) == before
    unplanned(inside("--mirror", other, "lock"))


@pytest.mark.parametrize("text", ["rubbish", '{"seed": 1}', "[" * 10_000])
def test_an_invalid_plan_is_not_imported(tmp_path: Path, small_gdc: StandIn, text: str) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=2)
    change(root, "UPDATE facts SET value = ? WHERE key = ?", text, provenance.DRAWN)
    went_well("--mirror", tmp_path / "copy", "import", root)
    assert not column(tmp_path / "copy", "SELECT value FROM facts WHERE key = 'drawn by'")


def test_part_of_a_sample_is_of_no_plan(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=4)
    only = ("--only", "sample_rank > 1")
    went_well("--mirror", root, "export", tmp_path / "part", *only)
    unplanned(inside("--mirror", tmp_path / "part", "lock"))
    went_well("--mirror", tmp_path / "taken", "import", tmp_path / "part")
    unplanned(inside("--mirror", tmp_path / "taken", "lock"))


def test_a_rebuilt_catalogue_knows_the_plan_again(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=4)
    before = went_well("--mirror", root, "lock").out
    (root / "catalogue.db").unlink()
    went_well("--mirror", root, "rebuild")
    assert went_well("--mirror", root, "lock").out == before
    edit(root)
    assert inside("--mirror", root, "update").code == 2


def test_slides_and_the_plan_that_adds_them_are_one_change(tmp_path: Path) -> None:
    plan = Plan(3, Order.SHUFFLE, By.PROJECT, frozenset(Kind), frozenset({"TCGA-OV"}))
    with three_slides(tmp_path / "c.db") as catalogue:
        catalogue.sample.add(["c.svs"], NOW, provenance.addition_facts(catalogue, plan, 1))
        assert provenance.sample_plan(catalogue, USUAL) is None, "two were sampled before"
    with Catalogue.create(tmp_path / "d.db") as catalogue:
        assert provenance.sample_plan(catalogue, plan) == plan, "nothing is drawn yet"


@pytest.mark.parametrize(
    "spoiled",
    [
        "",
        "null",
        "[1]",
        "[" * 100_000,
        '{"seed": 0}',
        {"seed": None},
        {"seed": 1e999},
        {"order": "none"},
        {"kind": 5},
        {"projects": "TCGA"},
        {"projects": ["\x1b"]},
        {"slides": "many"},
    ],
)
def test_an_invalid_plan_is_ignored(tmp_path: Path, spoiled: str | dict[str, object]) -> None:
    with three_slides(tmp_path / "c.db") as catalogue:
        told = {**plan_values(Plan(7)), "slides": 2}
        catalogue.set_fact(provenance.DRAWN, json.dumps(told))
        assert provenance.sample_plan(catalogue, USUAL) == Plan(7)
        text = spoiled if isinstance(spoiled, str) else json.dumps({**told, **spoiled})
        catalogue.set_fact(provenance.DRAWN, text)
        assert provenance.sample_plan(catalogue, USUAL) is None


def test_restored_settings_report_the_sample(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    went_well("--mirror", root, "refresh")
    went_well("--mirror", root, "sample")
    (root / "tcgamirror.toml").unlink()
    told = went_well("--mirror", root, "init", "--mpp", str(MPP), *addresses(small_gdc)).out
    assert f"restored the settings of the mirror in {root}" in told
    assert "4 slides already sampled are kept" in told and "100 slides by seed 0" in told
