"""The catalogue: what it keeps of a mirror, and how it gives it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import tables
from tcgamirror.catalogue.images import write_images
from tcgamirror.model.slide import Attempt, Outcome
from tests.support.catalogues import (
    LOST,
    NOW,
    PICTURE,
    done,
    mirror_row,
    slide,
    three_slides,
)


@pytest.fixture
def three() -> Catalogue:
    return three_slides()


def test_a_finished_slide_shows_its_picture(three: Catalogue) -> None:
    done(three, "a")
    row = mirror_row(three, "a.svs")
    expected = {
        **{"status": "done", "source": "range", "attempts": 1, "error": None},
        **{"bytes_fetched": 1010, "seconds": 2.0, "bytes": 1234, "sha256": PICTURE.sha256},
        **{"mpp_source": "header", "mpp_x": 8.001, "base_mpp": 0.25},
        **{"width": 400, "height": 300, "path": PICTURE.path},
        **{"fetched_at": "2026-11-22T13:14:15Z", "data_release": "Data Release 1"},
    }
    assert row == row | expected
    assert [each.file_name for each in three.queue.due(retry_failed=True)] == ["b.svs"]


def test_a_failed_slide_says_why_and_comes_last_when_retried(three: Catalogue) -> None:
    run = three.begin_run("fetch", NOW)
    cut = Attempt("range", NOW, 1.0, 5, 2, "cut short", "5 of 9 bytes")
    three.queue.record(Outcome(slide("b"), (LOST, cut), None), run, NOW)
    three.queue.record(Outcome(slide("b"), (cut, LOST), None), run, NOW)
    row = mirror_row(three, "b.svs")
    assert row["error"] == "range: 5 of 9 bytes; tiles: 404 for /tile"
    assert (row["status"], row["attempts"], row["source"]) == ("failed", 2, None)
    assert [each.file_name for each in three.queue.due(retry_failed=False)] == ["a.svs"]
    assert [each.file_name for each in three.queue.due(retry_failed=True)] == ["a.svs", "b.svs"]


def test_facts_and_runs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    three = three_slides(path)
    three.set_fact("target", "8 µm/px")
    three.set_fact("target", "15 µm/px")
    run = three.begin_run("update", NOW)
    three.close()
    with Catalogue.open(path, read_only=True) as again:
        assert (again.fact("target"), again.fact("none")) == ("15 µm/px", None)
        assert again.listing.release() == "Data Release 1"
        (last,) = again.reports.counts().runs
        assert (last.run, last.command, last.ended) == (run, "update", None)


def test_rows_written_by_sqlite_utils_belong_to_the_open_change(three: Catalogue) -> None:
    with pytest.raises(RuntimeError), three.change() as connection:
        write_images(connection, [{"file_name": "a.svs", "error": "half"}])
        tables(connection).table("facts").insert_all([{"key": "half", "value": "written"}])
        raise RuntimeError
    assert (mirror_row(three, "a.svs")["error"], three.fact("half")) == (None, None)
