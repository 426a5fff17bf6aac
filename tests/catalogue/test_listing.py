"""Listings merged one after another, against a slow and obvious model in plain dicts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import Exclusion
from tcgamirror.catalogue.listing import MergeCounts
from tcgamirror.model.errors import ListingShrunk
from tcgamirror.model.slide import Listing, Outcome, Slide
from tests.support.catalogues import (
    LATER,
    NOW,
    PICTURE,
    done,
    in_memory,
    listing,
    mirror_row,
    slide,
)

SLIDES = st.lists(
    st.builds(
        Slide,
        file_id=st.sampled_from([f"id{number}" for number in range(8)]),
        file_name=st.sampled_from(["a.svs", "b.svs", "c.svs", "d.svs"]),
        md5=st.sampled_from(["m1", "m2", None]),
        size=st.sampled_from([1, 2, None]),
        project_id=st.sampled_from(["P", "Q", None]),
        updated=st.sampled_from(["2024", "2025", None]),
        version=st.sampled_from(["9", "10", None]),
    ),
    unique_by=lambda each: each.file_id,
    min_size=1,
    max_size=6,
)


@dataclass
class Model:
    """What a catalogue must hold after some listings."""

    slides: dict[str, Slide] = field(default_factory=dict)
    upstream: dict[str, str] = field(default_factory=dict)
    former: dict[str, set[str]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    imaged: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)

    def merge(self, slides: list[Slide]) -> MergeCounts:
        counts = dict.fromkeys(MergeCounts.__dataclass_fields__, 0)
        chosen: dict[str, Slide] = {}
        for each in slides:
            self.former.setdefault(each.file_name, set())
            other = chosen.get(each.file_name)
            if other is None or age(each) >= age(other):
                chosen[each.file_name] = each
        for name in self.slides.keys() - chosen.keys():
            if self.upstream[name] != "withdrawn":
                counts["withdrawn"] += 1
                self.upstream[name] = "withdrawn"
        for name, new in chosen.items():
            for what in self.take(name, new):
                counts[what] += 1
        for each in slides:
            if each is not chosen[each.file_name]:
                counts["duplicates"] += 1
                self.former[each.file_name].add(each.file_id)
        for name, each in self.slides.items():
            self.former[name].discard(each.file_id)
        return MergeCounts(**counts)

    def take(self, name: str, new: Slide) -> list[str]:
        old = self.slides.get(name)
        if old is None:
            self.slides[name], self.upstream[name] = new, "current"
            return ["added"]
        notes = []
        if self.upstream[name] == "withdrawn":
            self.upstream[name] = "changed" if name in self.outdated else "current"
            notes.append("returned")
        if old.file_id != new.file_id:
            self.former[name].add(old.file_id)
        if changed(old, new):
            notes.append("changed")
            self.upstream[name] = "changed"
            self.slides[name] = new
            if name in self.status:
                self.status[name] = "pending"
            if name in self.imaged:
                self.outdated.add(name)
        else:
            if old.file_id != new.file_id:
                notes.append("reidentified")
            self.slides[name] = new
            self.keep(name, old)
        return notes or ["unchanged"]

    def keep(self, name: str, old: Slide) -> None:
        new = self.slides[name]
        self.slides[name] = Slide(new.file_id, name, new.md5 or old.md5, new.size or old.size)


def age(each: Slide) -> tuple[str, int]:
    return each.updated or "", int(each.version or 0)


def changed(old: Slide, new: Slide) -> bool:
    if old.md5 and new.md5:
        return old.md5 != new.md5
    return bool(old.size and new.size and old.size != new.size)


@given(st.lists(SLIDES, min_size=1, max_size=5))
def test_any_listings_give_what_the_plain_model_gives(listings: list[list[Slide]]) -> None:
    model = Model()
    with in_memory() as catalogue:
        for day, slides in enumerate(listings):
            now = NOW + 86400 * day
            merged = catalogue.listing.merge(Listing("R", tuple(slides)), now, accept_shrink=True)
            assert merged == model.merge(slides)
            fresh = sorted(model.slides.keys() - model.status.keys())
            catalogue.sample.add(fresh, NOW)
            model.status.update(dict.fromkeys(fresh, "pending"))
            with catalogue.reading() as connection:
                rows = connection.execute(
                    "select file_name, file_id, md5, size, mirror.upstream, status "
                    "from mirror join slides using (file_name, file_id)"
                ).fetchall()
            assert {row[0]: row[1:] for row in rows} == {
                name: (each.file_id, each.md5, each.size, model.upstream[name], model.status[name])
                for name, each in model.slides.items()
            }
            for name, former in model.former.items():
                shown = catalogue.reports.show(name)["former_ids"]
                assert isinstance(shown, list) and set(shown) == former
            pending = {name for name, status in model.status.items() if status == "pending"}
            assert set(catalogue.images.to_repair()) == (pending & model.imaged) - model.outdated
            first = sorted(model.slides)[0]
            run = catalogue.begin_run("fetch", now)
            catalogue.queue.record(Outcome(model.slides[first], (), PICTURE), run, now)
            model.status[first] = "done"
            model.imaged.add(first)
            model.outdated.discard(first)
            if model.upstream[first] == "changed":
                model.upstream[first] = "current"


@dataclass
class Successors:
    """Successors by `file_id`, and the ids that were looked up."""

    known: dict[str, str] = field(default_factory=dict)
    requests: list[list[str]] = field(default_factory=list)

    def __call__(self, lost: list[str]) -> dict[str, str]:
        self.requests.append(lost)
        return self.known


@pytest.fixture
def catalogue() -> Catalogue:
    """Slides a and b, both sampled and done."""
    made = in_memory()
    made.listing.merge(listing(slide("a"), slide("b")), NOW)
    made.sample.add(["a.svs", "b.svs"], NOW)
    done(made, "a")
    done(made, "b")
    return made


def logged(catalogue: Catalogue, name: str) -> list[tuple[object, object]]:
    """Return the logged changes of a slide with their details."""
    changes = catalogue.reports.show(name)["changes"]
    assert isinstance(changes, list)
    return [(change["what"], change["detail"]) for change in changes]


def test_a_changed_file_is_pending_again_but_keeps_its_picture(catalogue: Catalogue) -> None:
    merged = catalogue.listing.merge(listing(slide("a", md5="other"), slide("b"), release="2"), NOW)
    assert (merged.changed, merged.unchanged) == (1, 1)
    row = mirror_row(catalogue, "a.svs")
    assert (row["status"], row["upstream"], row["path"]) == ("pending", "changed", PICTURE.path)
    assert row["data_release"] == "2"
    assert [each.md5 for each in catalogue.queue.due(retry_failed=False)] == ["other"]
    done(catalogue, "a")
    row = mirror_row(catalogue, "a.svs")
    assert (row["status"], row["upstream"], row["attempts"]) == ("done", "current", 2)


@pytest.mark.parametrize("md5", ["", None])
def test_a_new_file_id_alone_makes_nothing_pending(catalogue: Catalogue, md5: str | None) -> None:
    merged = catalogue.listing.merge(listing(slide("a", file_id="new", md5=md5), slide("b")), NOW)
    assert (merged.reidentified, merged.changed) == (1, 0)
    row = mirror_row(catalogue, "a.svs")
    assert (row["status"], row["upstream"], row["file_id"]) == ("done", "current", "new")
    shown = catalogue.reports.show("id-a")
    assert (shown["former_ids"], shown["md5"]) == (["id-a"], "md5-a")


def test_a_withdrawn_slide_is_kept_and_may_return(catalogue: Catalogue) -> None:
    assert catalogue.listing.merge(listing(slide("a")), NOW, accept_shrink=True).withdrawn == 1
    row = mirror_row(catalogue, "b.svs")
    assert (row["status"], row["upstream"]) == ("done", "withdrawn")
    assert [each.file_name for each in catalogue.sample.candidates()] == ["a.svs"]
    assert catalogue.listing.merge(listing(slide("a"), slide("b")), NOW).returned == 1
    assert mirror_row(catalogue, "b.svs")["upstream"] == "current"
    assert [what for what, _ in logged(catalogue, "b.svs")] == ["added", "withdrawn", "returned"]


@pytest.mark.parametrize("is_excluded", [False, True])
def test_an_image_of_an_older_file_is_outdated_while_withdrawn_and_after(
    catalogue: Catalogue, is_excluded: bool
) -> None:
    newer, others = slide("b", md5="other"), slide("a")
    if is_excluded:
        catalogue.exclusions.add([Exclusion("b.svs", "torn", "me", "2026")])
    catalogue.listing.merge(listing(others, newer, release="2"), LATER)
    catalogue.listing.merge(listing(others, release="3"), LATER, accept_shrink=True)
    if is_excluded:
        assert catalogue.exclusions.remove(["b.svs"]) == (["b.svs"], 1)
    catalogue.images.accept_kept(["b.svs"])
    assert catalogue.images.to_repair() == []
    catalogue.listing.merge(listing(others, newer, release="4"), LATER)
    row = mirror_row(catalogue, "b.svs")
    assert (row["status"], row["upstream"]) == ("pending", "changed")


def test_the_newest_of_two_files_of_one_name_counts(catalogue: Catalogue) -> None:
    both = listing(
        slide("a", file_id="newer", updated="2025"), slide("a", updated="2024"), slide("b")
    )
    for _ in range(2):
        assert catalogue.listing.merge(both, NOW).duplicates == 1
    assert mirror_row(catalogue, "a.svs")["file_id"] == "newer"
    assert logged(catalogue, "a.svs")[1:] == [("re-identified", "id-a to newer")]


def test_a_manifest_does_not_make_known_things_unknown(catalogue: Catalogue) -> None:
    catalogue.listing.merge(listing(Slide("id-a", "a.svs"), Slide("id-b", "b.svs")), NOW)
    shown = catalogue.reports.show("a.svs")
    assert (shown["project_id"], shown["md5"], shown["status"]) == ("TCGA-OV", "md5-a", "done")


@pytest.mark.parametrize(("count", "too_few", "enough"), [(20, 17, 18), (4, 1, 2)])
def test_a_listing_that_lost_too_much_is_refused(count: int, too_few: int, enough: int) -> None:
    slides, successors = [slide(f"s{number}") for number in range(count)], Successors()
    with in_memory() as catalogue:
        catalogue.listing.merge(listing(*slides), NOW)
        shrunk = listing(*slides[:too_few], release="half")
        with pytest.raises(ListingShrunk, match=f"lacks 3 of the {count} slides"):
            catalogue.listing.merge(shrunk, LATER, successors_of=successors)
        assert (catalogue.listing.release(), catalogue.reports.counts().listed) == (
            "Data Release 1",
            count,
        )
        assert successors.requests == []
        merged = catalogue.listing.merge(listing(*slides[:enough]), LATER, successors_of=successors)
        assert merged.withdrawn == 2
        assert successors.requests == [[each.file_id for each in slides[enough:]]]
        accepted = catalogue.listing.merge(shrunk, LATER, accept_shrink=True)
        assert accepted.withdrawn == enough - too_few


def test_a_superseded_slide_names_its_successor_and_may_return(catalogue: Catalogue) -> None:
    two = listing(slide("a"), slide("c"), release="2")
    successors = Successors({"id-b": "id-c", "id-a": "id-a"})
    merged = catalogue.listing.merge(two, NOW, successors_of=successors)
    assert (merged.superseded, merged.withdrawn, merged.added) == (1, 0, 1)
    assert mirror_row(catalogue, "b.svs")["upstream"] == "superseded"
    again = catalogue.listing.merge(two, NOW, successors_of=successors)
    assert (again.superseded, again.withdrawn) == (0, 0)
    assert successors.requests == [["id-b"]]
    back = listing(slide("a"), slide("b"), slide("c"), release="3")
    assert catalogue.listing.merge(back, NOW).returned == 1
    changes = [("superseded", "by id-c c.svs"), ("returned", None)]
    assert logged(catalogue, "b.svs")[1:] == changes
