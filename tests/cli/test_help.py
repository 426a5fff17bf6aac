"""Hold the manual to the code: its lists are complete, its examples run, `help` shows it."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli.commands import COMMANDS
from tcgamirror.cli.help import TOPICS
from tcgamirror.mirror.settings import Settings, format_settings
from tcgamirror.model.errors import ExitCode
from tcgamirror.model.slide import Target
from tests.gdc import StandIn, listed, made_up_name
from tests.support import documents
from tests.support.command import ROOT, inside, on_a_terminal, succeeded, went_well
from tests.support.documents import MANUAL, PAGES, README, Example, Shell, examples, table
from tests.support.mirrors import PROJECTS, SITES, column, filled, rows, says
from tests.support.slides import SlideSpec, make_slide

SHELL, PYTHON, CONSOLE, PLAIN = "sh", "python", "console", ""
FRESH = ("README", "usage")
"""Pages whose examples begin in an empty folder."""

NOT_RUN = {
    "README": ["install"],
    "catalogue": ["datasette"],
    "cluster": ["server"],
    "development": ["checkout", "checkout"],
    "recipes": ["ssh"],
    "transfer": ["ssh", "server", "bucket"],
}
"""Reasons for which examples are not run, by page, so that another one is seen."""

DOCUMENTS = {"README": README, **PAGES}
PROSE = {**DOCUMENTS, "build": ROOT / "build" / "README.md"}
VIEWS = ("mirror", "labels")
README_LINES = 150
SUMMARY_CHARACTERS = 72
SENTENCE_WORDS = 25
KNOWN = "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291.svs"
"""File name of a slide that the examples name."""
LISTED, UNKNOWN = 13, 11
"""Slides of the README's GDC, and the number of the one that does not state its resolution."""


def names(cells: list[list[str]]) -> list[str]:
    """Return the names in backticks of a table's first column."""
    return [name for row in cells for name in re.findall(r"`([^`]+)`", row[0])]


# The lists -------------------------------------------------------------------


def test_the_pages_are_those_that_help_lists() -> None:
    assert set(TOPICS) == set(PAGES)


@pytest.mark.parametrize("name", TOPICS)
def test_a_page_begins_with_its_title_and_one_sentence(name: str) -> None:
    title, blank, sentence, end, *_ = PAGES[name].read_text(encoding="utf-8").splitlines()
    assert title.lower() == f"# {name}"
    assert (blank, end) == ("", "")
    assert sentence.endswith(".") and len(sentence) <= SUMMARY_CHARACTERS, sentence


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("name", PROSE)
def test_sentences_are_short(name: str) -> None:
    long = [each for each in documents.sentences(PROSE[name]) if len(each.split()) > SENTENCE_WORDS]
    assert not long


@pytest.mark.parametrize("page", [README, MANUAL / "usage.md"], ids=["README", "usage"])
def test_every_command_is_listed(page: Path) -> None:
    assert names(table(page, "Commands")) == list(COMMANDS)


@pytest.mark.parametrize(
    ("name", "target"),
    [("mpp", Target(mpp=15.0, max_size=None)), ("max_size", Target(mpp=None, max_size=2048))],
)
def test_every_setting_is_listed_with_its_default(name: str, target: Target) -> None:
    defaults = tomllib.loads(format_settings(Settings(target)))
    del defaults["target"][name]
    for heading, settings in defaults.items():
        cells = table(MANUAL / "settings.md", f"[{heading}]")
        written = {key.strip("`"): default for key, _, default in cells}
        sizes = {"mpp", "max_size"} & set(written)
        assert sizes == ({"mpp", "max_size"} if heading == "target" else set())
        assert set(written) - sizes == set(settings)
        for key, value in settings.items():
            assert tomllib.loads(f"is = {written[key].strip('`')}") == {"is": value}, key


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_a_view_is_listed_in_its_order(tmp_path: Path, view: str) -> None:
    with Catalogue.create(tmp_path / "catalogue.db"):
        pass
    columns = [name for (name,) in rows(tmp_path, f"select name from pragma_table_info('{view}')")]
    assert names(table(MANUAL / "catalogue.md", f"The view `{view}`")) == columns


def test_the_catalogue_explains_itself(finished: Path) -> None:
    result = succeeded("--mirror", finished, "query", "--schema", "--format", "json")
    found = json.loads(result.out)
    told = [(row["relation"], row["column"]) for row in found if row["meaning"]]
    assert told == [(row["relation"], row["column"]) for row in found[: len(told)]]
    assert told == [
        (view, name)
        for view in VIEWS
        for name in names(table(MANUAL / "catalogue.md", f"The view `{view}`"))
    ]
    meanings = {row["column"]: row["meaning"] for row in found[: len(told)]}
    units = {"mpp_x": "µm per pixel", "percent_necrosis": "percent", "age_at_index": "years"}
    units |= {"days_to_death": "days", "age_at_diagnosis": "days"}
    assert {name: unit in meanings[name] for name, unit in units.items()} == dict.fromkeys(
        units, True
    )
    assert {row["relation"] for row in found} > {"slides", "images", "runs"}


@pytest.mark.parametrize("words", [[], ["select 1", "--schema"]])
def test_query_takes_either_sql_or_schema(finished: Path, words: list[str]) -> None:
    assert "--schema" in inside("--mirror", finished, "query", *words).sentence


def test_every_table_and_exit_code_is_listed(tmp_path: Path) -> None:
    with Catalogue.create(tmp_path / "catalogue.db"):
        pass
    tables = column(tmp_path, "select name from sqlite_schema where type = 'table'")
    assert set(names(table(MANUAL / "catalogue.md", "Tables"))) == set(tables)
    codes = [int(row[0]) for row in table(MANUAL / "usage.md", "Exit codes")]
    assert codes == [int(code) for code in ExitCode]


@pytest.mark.parametrize("name", PROSE)
def test_links_lead_to_files(name: str) -> None:
    path = PROSE[name]
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_places_to_change_are_files() -> None:
    places = re.findall(
        r"`([a-z_/]+(?:\.py|/))`",
        " ".join(row[1] for row in table(MANUAL / "development.md", "Where to change what")),
    )
    assert places
    assert not [place for place in places if not (MANUAL.parent / place).exists()]


# The examples ----------------------------------------------------------------


@pytest.fixture(scope="module")
def gdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in with 13 small slides of three projects, one of unknown resolution."""
    folder = tmp_path_factory.mktemp("listed")
    files = []
    for number in range(LISTED):
        mpp = None if number == UNKNOWN else 0.252
        spec = SlideSpec(
            width=500 + 8 * number,
            height=400,
            downsamples=(1, 4),
            thumbnail=False,
            mpp=mpp,
            app_mag=None,
        )
        files.append(
            listed(
                make_slide(folder / f"{number}.svs", spec),
                file_name=made_up_name(str(number)) if number else KNOWN,
                project_id=PROJECTS[number % len(PROJECTS)],
                primary_site=SITES[number % len(SITES)],
            )
        )
    with StandIn(files) as gdc:
        yield gdc


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, gdc: StandIn) -> Path:
    return filled(tmp_path_factory.mktemp("finished") / "tcga", gdc, slides=6)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_examples_run(tmp_path: Path, gdc: StandIn, finished: Path, name: str) -> None:
    shell = Shell(tmp_path, gdc)
    if name not in FRESH:
        shutil.copytree(finished, shell.folder / "tcga")
    missing = []
    for example in examples(DOCUMENTS[name]):
        if example.language == PLAIN or example.not_run is not None:
            continue
        if documents.is_missing(example):
            missing.append(example.needs)
        elif example.language == CONSOLE:
            compare(shell, example)
        else:
            shell.perform(example)
    if missing:
        pytest.skip(f"examples not run: there is no {', '.join(map(str, missing))}")


def compare(shell: Shell, example: Example) -> None:
    """Fail unless the commands print what the page shows, but for sizes, times and paths."""
    for command, shown in documents.sessions(example):
        assert masked(shell.run(command)) == masked(shown), command


def masked(text: str) -> list[str]:
    """Return the lines without what differs from run to run."""
    text = re.sub(r"[0-9-]+T[0-9:]+Z", "TIME", text)
    text = re.sub(r"\d+(\.\d+)? (B|kB|MB|s)\b", "AMOUNT", text)
    text = re.sub(r"/\S+/", "/", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def test_examples_that_are_not_run_are_counted() -> None:
    reasons = {
        name: [example.not_run for example in examples(path) if example.not_run]
        for name, path in DOCUMENTS.items()
    }
    assert {name: found for name, found in reasons.items() if found} == NOT_RUN


def test_every_example_is_of_a_kind_that_is_run() -> None:
    kinds = {each.language for path in DOCUMENTS.values() for each in examples(path)}
    assert kinds <= {SHELL, PYTHON, CONSOLE, PLAIN}


# The command -----------------------------------------------------------------


@pytest.mark.parametrize("name", TOPICS)
def test_help_lists_and_shows_a_page(name: str) -> None:
    assert f"\n  {name} " in went_well("help").out
    shown, page = went_well("help", name).out, PAGES[name].read_text(encoding="utf-8")
    assert shown == re.sub(r"(?m)^(```[a-z]+) .*", r"\1", page)


def test_help_shows_the_help_of_a_command() -> None:
    assert went_well("help", "verify").out == succeeded("verify", "--help").out


@pytest.mark.parametrize(
    ("typed", "meant"), [("setings", "settings"), ("verfy", "verify"), ("qqqqq", "tcgamirror help")]
)
def test_a_misspelt_topic_is_answered_with_the_nearest_one(typed: str, meant: str) -> None:
    says(inside("help", typed), ExitCode.USAGE_ERROR, repr(typed), meant)


@pytest.mark.parametrize(
    ("pager", "begin"), [("sed s/^/PAGED:/", "PAGED:# Cluster"), ("no-such-pager", "# Cluster")]
)
def test_help_shows_a_page_by_the_pager_on_a_terminal(pager: str, begin: str) -> None:
    shown = on_a_terminal(80, "help", "cluster", env={"PAGER": pager})
    assert shown.replace("\r", "").startswith(begin)
