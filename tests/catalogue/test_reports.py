"""The catalogue as people read it: counts, one slide, and SQL that can only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.errors import BadQuery, UsageError
from tests.support.catalogues import LATER, NOW, done, in_memory, listing, slide, three_slides
from tests.support.command import run, started, went_well
from tests.support.mirrors import column
from tests.support.publishing import made_up


@pytest.fixture
def three(tmp_path: Path) -> Catalogue:
    return three_slides(tmp_path / "catalogue.db")


def test_the_counts_add_up(three: Catalogue) -> None:
    done(three, "a")
    counts = three.reports.counts()
    assert (counts.listed, counts.sampled, counts.pending, counts.done) == (3, 2, 1, 1)
    assert (counts.bytes, counts.bytes_fetched, counts.release) == (1234, 1010, "Data Release 1")
    assert [(each.project, each.done) for each in counts.by_project] == [("TCGA-OV", 1), (None, 0)]
    assert [(each.source, each.images) for each in counts.by_source] == [("range", 1), ("tiles", 0)]
    assert (counts.runs[0].exit_code, counts.runs[0].done, counts.runs[0].bytes) == (0, 1, 1010)


def test_status_tells_sources_of_images_whose_tries_are_not_known(tmp_path: Path) -> None:
    root = made_up(tmp_path / "m", 3)
    told = went_well("--mirror", root, "status").out
    assert "source  images  tries  moved  time\nrange        3      0  0 B    0.0 s\n" in told
    (source,) = went_well("--mirror", root, "status", "--json").json()["by_source"]
    nothing = {"tries": 0, "bytes_fetched": 0, "seconds": 0.0}
    assert source == {"source": "range", "images": 3, **nothing}


def test_a_slide_is_shown_by_any_of_its_names(three: Catalogue) -> None:
    done(three, "a")
    three.listing.merge(
        listing(slide("a", file_id="new"), slide("b"), slide("c"), slide("ab")), LATER
    )
    for name in ("new", "NEW", "id-a", "a.svs", " tcga-a "):
        shown = three.reports.show(name)
        assert shown["file_name"] == "a.svs"
    assert (shown["former_ids"], shown["status"], shown["md5"]) == (["id-a"], "done", "md5-a")
    tries = shown["tries"]
    assert isinstance(tries, list) and [each["source"] for each in tries] == ["tiles", "range"]
    assert three.reports.show("c.svs")["upstream"] == "current"
    with pytest.raises(UsageError, match="'nobody': there is no slide"):
        three.reports.show("nobody")


def test_a_case_with_several_slides_is_asked_about_again() -> None:
    with in_memory() as catalogue:
        catalogue.listing.merge(listing(slide("xa"), slide("xb")), NOW)
        with pytest.raises(UsageError, match=r"2 slides\. Name one of xa\.svs, xb\.svs"):
            catalogue.reports.show("TCGA-X")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        *(
            (sql, "query only reads")
            for sql in (
                "delete from slides",
                "update images set status = 'done'",
                "insert into facts values ('a', 'b')",
                "drop view mirror",
                "create table more (a)",
                "create temp table more (a)",
                "attach 'other.db' as other",
                "vacuum into 'other.db'",
                "pragma query_only = 0",
                "pragma journal_mode = wal",
                "begin",
                "with x as (select 1) delete from slides",
            )
        ),
        ("select load_extension('x')", "not authorized"),
        ("selct 1", 'near "selct": syntax error'),
        ("select colour from mirror", "no such column: colour. For text write 'colour', in"),
        ("select 1; select 2", "one statement"),
        ("select ?", "bindings"),
        ("", "no query was given"),
        ("-- nothing", "no query was given"),
        ("select 1\0", "null character"),
        ("select '\ud800'", "surrogate"),
    ],
)
def test_a_query_that_writes_or_is_wrong_is_refused(three: Catalogue, sql: str, words: str) -> None:
    with pytest.raises(BadQuery, match=words):
        three.reports.query(sql)
    assert len(three.sample.candidates()) == 3


def test_a_query_that_fails_half_way_says_so(three: Catalogue) -> None:
    answer = three.reports.query("select 1 union all select cast(x'ff' as text)")
    with pytest.raises(BadQuery, match="UTF-8"):
        list(answer.rows)


def test_a_slide_is_shown_by_its_images_name(mirror: Path) -> None:
    path = str(column(mirror, "select path from mirror where sample_rank = 1")[0])
    shown = [went_well("--mirror", mirror, "show", name).out for name in (path, Path(path).name)]
    assert shown[0] == shown[1] and path in shown[0]


@pytest.mark.parametrize(
    "sql",
    [
        "select zeroblob(900000000)",
        "select length(hex(zeroblob(400000000)))",
        "select json_group_array(hex(zeroblob(1000000))) from N",
        "select group_concat(hex(zeroblob(1000000))) from N",
        "select " + ", ".join(["hex(zeroblob(2000000))"] * 200),
        "select max(x) from (select hex(zeroblob(5000000)) || i as x from N order by x)",
        "select " + ", ".join(["printf('%.*c', 15000000, 'x')"] * 100),
    ],
)
def test_a_query_takes_bounded_memory(mirror: Path, sql: str) -> None:
    numbers = "(with recursive n(i) as (select 1 union all select i + 1 from n where i < 40) "
    asked = sql.replace("from N", f"from {numbers} select i from n)")
    result = run("--mirror", mirror, "query", asked, by=("prlimit", "--as=900000000"))
    assert result.code in (0, 2, 6), result
    if result.code:
        assert "too big" in result.sentence or "a query may use 256 MB" in result.sentence


def test_rows_without_end_are_written_as_they_come(mirror: Path) -> None:
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select i, 'x' from n"
    for form in ("table", "csv", "json"):
        with started("--mirror", mirror, "query", endless, "--format", form) as process:
            assert process.stdout is not None
            for _ in range(100_000):
                assert process.stdout.readline()


def test_no_terminal_obeys_the_name_of_a_column(mirror: Path) -> None:
    for form in ("table", "csv", "json"):
        asked = f'select 1 as "a{chr(27)}[2J{chr(0x9B)}{chr(0x202E)}b"'
        told = went_well("--mirror", mirror, "query", asked, "--format", form).out
        assert "a [2J  b" in told and told.replace("\n", "").isprintable()
