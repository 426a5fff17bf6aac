"""The gallery as Chromium shows it: from disk, and from any static web server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tcgamirror.web.gallery.builder import build
from tests.support.browser import Visit, needs_browser, started, visiting
from tests.support.crowd import crowd
from tests.support.mirrors import column, rows
from tests.support.publishing import by_python, change

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = needs_browser

SLIDES = 450
DONE = "status = 'done' ORDER BY sample_rank"
MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>'\"&amp;\u202e\x07"


def quiet(done: int, total: int) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """450 slides; the first of them says hostile things, the second is of unknown resolution."""
    root = tmp_path_factory.mktemp("shown") / "mirror"
    home = crowd(root, SLIDES)
    first, second, *_ = column(root, f"SELECT file_name FROM mirror WHERE {DONE}")
    change(
        root,
        "UPDATE slides SET project_id = ?, primary_site = ?, slide_barcode = ?, "
        "case_barcode = ?, disease_type = ?, listed_in = ? WHERE file_name = ?",
        *(*[MARKUP] * 6, first),
    )
    change(root, "INSERT INTO cases (case_barcode, race) VALUES (?, ?)", MARKUP, MARKUP)
    unknown = "mpp_x = NULL, mpp_y = NULL, base_mpp = NULL, mpp_source = 'unknown'"
    change(root, f"UPDATE images SET {unknown} WHERE file_name = ?", second)
    build(home, quiet)
    return root


@pytest.fixture(params=["file", "http"])
def base(request: pytest.FixtureRequest, mirror: Path) -> Iterator[str]:
    if request.param == "file":
        yield mirror.as_uri()
    else:
        with by_python(mirror) as published:
            yield published.url.rstrip("/")


@pytest.fixture
def visit(browser: Browser, base: str) -> Iterator[Visit]:
    """A visit that ends well only if nothing complained and nobody else was asked."""
    with visiting(browser, base) as visit:
        yield visit
        visit.check()


@pytest.fixture
def disk(browser: Browser, mirror: Path) -> Iterator[Visit]:
    with visiting(browser, mirror.as_uri()) as visit:
        yield visit
        visit.check()


def name_of(mirror: Path, condition: str) -> str:
    where = f"WHERE {condition} ORDER BY sample_rank"
    return str(column(mirror, f"SELECT file_name FROM mirror {where}")[0])


def count_of(mirror: Path, condition: str, view: str = "mirror") -> int:
    return len(column(mirror, f"SELECT 1 FROM {view} WHERE {condition}"))


def found(visit: Visit) -> int:
    """The number of slides that the grid says are as asked."""
    return int(visit.page.inner_text("#count").split()[0].replace(",", ""))


def bar(visit: Visit) -> tuple[float, float, float]:
    """Pixels of the scale bar and of the image, and the µm that the bar says it is long."""
    visit.page.wait_for_selector("#bar")
    bar, image, micrometres = visit.page.evaluate(
        "['bar', 'image'].map((id) => document.getElementById(id).getBoundingClientRect().width)"
        ".concat(Number(document.getElementById('scale').dataset.micrometres))"
    )
    return bar, image, micrometres


def assert_right(visit: Visit, width: int, mpp: float) -> None:
    pixels, shown, micrometres = bar(visit)
    right = micrometres / mpp * shown / width
    assert pixels == pytest.approx(right, abs=0.1)
    assert 1 < pixels <= shown
    words = visit.page.inner_text("#length")
    assert words in (f"{micrometres:g} µm", f"{micrometres / 1000:g} mm")
    assert str(micrometres).rstrip("0.")[:1] in ("1", "2", "5")


def test_the_grid_is_filtered(visit: Visit, mirror: Path) -> None:
    visit.go("index.html")
    assert found(visit) == SLIDES
    for control, name, word in (
        ("project", "project_id", "TCGA-LUAD"),
        ("site", "primary_site", "Brain"),
        ("kind", "kind", "tissue"),
        ("status", "status", "failed"),
    ):
        visit.go("index.html")
        visit.page.select_option(f"#{control}", word)
        wanted = count_of(mirror, f"{name} = '{word}'")
        visit.until(f"document.querySelectorAll('.card').length == {wanted}")
        assert found(visit) == wanted


def test_the_grid_is_filtered_by_a_label(visit: Visit, mirror: Path) -> None:
    visit.go("index.html")
    assert visit.page.is_hidden("#value")
    options = visit.page.locator("#label option").all_inner_texts()
    assert options == [
        *("none", "percent tumor cells", "percent necrosis", "diagnoses"),
        *("ajcc pathologic stage", "race"),
    ]
    visit.page.select_option("#label", "ajcc_pathologic_stage")
    visit.page.wait_for_selector("#value")
    for word, condition in (("Stage IIA", "= 'Stage IIA'"), ("unknown", "IS NULL")):
        visit.page.select_option("#value", word)
        wanted = count_of(mirror, f"ajcc_pathologic_stage {condition}", "labels")
        visit.until(f"document.querySelectorAll('.card').length == {wanted}")
        assert found(visit) == wanted
    visit.page.reload()
    assert visit.page.input_value("#value") == "unknown"
    visit.page.select_option("#label", "percent_tumor_cells")
    visit.until("document.getElementById('value').value == ''")
    numbers = visit.page.locator("#value option").all_inner_texts()
    assert [each.split()[0] for each in numbers[:4]] == ["any", "0", "10", "20"]
    visit.page.select_option("#value", "20")
    wanted = count_of(mirror, "percent_tumor_cells = 20", "labels")
    visit.until(f"document.querySelectorAll('.card').length == {wanted}")
    visit.page.click("#grid li:nth-child(1) a")
    visit.page.wait_for_selector("#facts h2 >> text=Tissue")
    shown = visit.page.inner_text("#facts")
    assert "tumour cells\n20 %" in shown and "necrosis\n2.5 %" in shown
    visit.page.click("#back")
    visit.page.wait_for_selector(".card")
    assert found(visit) == wanted
    visit.page.select_option("#label", "")
    visit.until("document.getElementById('value').parentElement.hidden")
    visit.go("index.html#label=constructor&value=x")
    assert found(visit) == SLIDES


def test_filters_are_combined_and_kept_in_the_address(visit: Visit, mirror: Path) -> None:
    visit.go("index.html")
    visit.page.select_option("#site", "Brain")
    visit.page.select_option("#status", "done")
    visit.page.fill("#text", "tcga-gbm dx1")
    condition = "project_id = 'TCGA-GBM' AND slide_barcode LIKE '%DX1' AND status = 'done'"
    wanted = count_of(mirror, condition)
    visit.until(f"document.querySelectorAll('.card').length == {wanted}")
    visit.page.reload()
    assert found(visit) == wanted
    assert visit.page.input_value("#text") == "tcga-gbm dx1"
    visit.page.click("text=Clear")
    visit.until("location.hash.length < 2")
    assert found(visit) == SLIDES


def test_a_slide_is_opened_and_left(visit: Visit, mirror: Path) -> None:
    visit.go("index.html#status=done&kind=tissue")
    visit.page.click("#grid li:nth-child(2) a")
    visit.page.wait_for_selector("#image:not([hidden])")
    barcode = visit.page.inner_text("#title")
    assert count_of(mirror, f"slide_barcode = '{barcode}' AND kind = 'tissue'") == 1
    facts = visit.page.inner_text("#facts")
    columns = "file_id, sha256, path, mpp_x, fetched_at, case_barcode"
    (row,) = rows(mirror, f"SELECT {columns} FROM mirror WHERE slide_barcode = '{barcode}'")
    assert [value for value in row if str(value) not in facts] == []
    assert f"https://portal.gdc.cancer.gov/files/{row[0]}" in [
        link.get_attribute("href") for link in visit.page.query_selector_all("#facts a")
    ]
    visit.page.click("#after")
    visit.until(f"document.getElementById('title').textContent != '{barcode}'")
    visit.page.click("#back")
    visit.page.wait_for_selector(".card")
    assert found(visit) == count_of(mirror, "status = 'done' AND kind = 'tissue'")


@pytest.mark.parametrize("window", [(1280, 800), (700, 900), (360, 640), (2400, 1300)])
def test_the_scale_bar_at_every_size(
    browser: Browser, mirror: Path, window: tuple[int, int]
) -> None:
    name = name_of(mirror, "mpp_x IS NOT NULL AND status = 'done' AND project_id LIKE 'TCGA%'")
    ((width, mpp),) = rows(mirror, f"SELECT width, mpp_x FROM mirror WHERE file_name = '{name}'")
    with visiting(browser, mirror.as_uri(), window=window) as visit:
        visit.go(f"slide.html#slide={name}")
        assert_right(visit, int(str(width)), float(str(mpp)))
        for zoom in ("1", "2", "4", "fit"):
            visit.page.click(f"[data-zoom='{zoom}']")
            assert_right(visit, int(str(width)), float(str(mpp)))
            if zoom != "fit":
                assert bar(visit)[1] == pytest.approx(int(str(width)) * int(zoom))
        visit.page.emulate_media(media="print")
        assert_right(visit, int(str(width)), float(str(mpp)))
        visit.check()


def test_a_slide_without_an_image_or_a_resolution_says_so(disk: Visit, mirror: Path) -> None:
    name = name_of(mirror, "mpp_x IS NULL AND status = 'done'")
    disk.go(f"slide.html#slide={name}")
    disk.page.wait_for_selector("#image:not([hidden])")
    assert disk.page.is_hidden("#scale")
    assert "the resolution of this slide is unknown" in disk.page.inner_text("#said")
    failed = name_of(mirror, "status = 'failed'")
    (error,) = column(mirror, f"SELECT error FROM mirror WHERE file_name = '{failed}'")
    disk.go(f"slide.html#slide={failed}")
    disk.page.wait_for_selector(f"#said >> text={error}")
    disk.go("slide.html#slide=%3Cscript%3E")
    assert disk.page.inner_text("#title") == "No such slide"


def test_another_image_has_no_scale_bar_and_no_labels_no_filter(
    browser: Browser, tmp_path: Path
) -> None:
    home = crowd(tmp_path / "other", 1)
    for table in ("tissue", "cases"):
        change(home.root, f"DELETE FROM {table}")
    change(home.root, "UPDATE images SET width = width + 1")
    build(home, quiet)
    with visiting(browser, home.root.as_uri()) as visit:
        visit.go(f"slide.html#slide={name_of(home.root, 'width > 0')}")
        visit.page.wait_for_selector("#image:not([hidden])")
        assert visit.page.is_hidden("#scale")
        assert "another size" in visit.page.inner_text("#said")
        visit.go("index.html")
        assert visit.page.is_hidden("#label") and visit.page.is_hidden("#value")
        visit.check()


def test_hostile_texts_are_only_shown(visit: Visit, mirror: Path) -> None:
    name = name_of(mirror, "disease_type LIKE '%onerror%'")
    shown = MARKUP.replace("\u202e\x07", "\ufffd\ufffd")
    visit.go("index.html#text=onerror")
    assert visit.page.text_content(".card .name") == shown
    visit.page.wait_for_selector(".card img:not([hidden])")
    visit.go(f"slide.html#slide={name}")
    visit.page.wait_for_selector("#image:not([hidden])")
    assert visit.page.text_content("#title") == shown
    assert shown in [each.text_content() for each in visit.page.query_selector_all("#facts dd")]
    visit.go("index.html#label=race")
    assert shown in str(visit.page.text_content("#value"))
    visit.go("overview.html")
    assert MARKUP[:20] in str(visit.page.text_content("#main"))
    assert visit.page.query_selector_all("script:not([src]), #main img") == []


def test_keys_are_enough(disk: Visit) -> None:
    page = disk.page
    disk.go("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    page.keyboard.type("tcga-luad done")
    disk.until("/^[0-9]+ of /.test(document.getElementById('count').textContent)")
    for _ in range(8):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "card"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#image:not([hidden])")
    first = page.inner_text("#title")
    page.keyboard.press("ArrowRight")
    disk.until(f"document.getElementById('title').textContent != '{first}'")
    page.keyboard.press("4")
    page.wait_for_selector("[data-zoom='4'][aria-pressed='true']")
    assert page.get_attribute("#pane", "tabindex") == "0"
    page.keyboard.press("0")
    page.keyboard.press("ArrowLeft")
    disk.until(f"document.getElementById('title').textContent == '{first}'")


@pytest.mark.parametrize("name", ["index.html", "slide.html", "overview.html"])
def test_a_screen_reader_finds_its_way(disk: Visit, mirror: Path, name: str) -> None:
    slide = name_of(mirror, "status = 'done'")
    disk.go(f"{name}#slide={slide}" if name == "slide.html" else name)
    disk.page.wait_for_timeout(300)
    lacking = disk.page.evaluate("""() => {
        const all = (selector) => [...document.querySelectorAll(selector)];
        return [
            ...["header", "nav", "main", "h1", "footer"].filter((name) => !all(name).length),
            ...all("input, select").filter((each) => !each.labels.length).map((each) => each.id),
            ...all("img:not([hidden])").filter((each) => !each.alt).map((each) => each.outerHTML),
            ...all("svg").filter((each) => !each.ariaHidden).map(String),
            ...all("button, a[href]").filter((each) => !each.textContent.trim()).map(String),
            ...all("nav").filter((each) => !each.ariaLabel).map((each) => each.outerHTML),
            ...(document.documentElement.lang === "en" ? [] : ["lang"]),
        ];
    }""")
    assert lacking == []


_CONTRAST = """(selectors) => {
    const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = (text) => {
        const [r, g, b] = text.match(/[0-9.]+/g).map((each) => channel(each / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    return selectors.map((selector) => {
        const element = document.querySelector(selector);
        if (!element) return [selector, 0];
        const pair = [getComputedStyle(element).color, ground(element)].map(light);
        return [selector, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)];
    }).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_stand_out(browser: Browser, mirror: Path, dark: bool) -> None:
    look = "dark" if dark else "light"
    with visiting(browser, mirror.as_uri(), dark=dark) as visit:
        page = visit.page
        visit.go("index.html")
        page.wait_for_selector(".card img:not([hidden])")
        brightness = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (int(brightness.split("(")[1].split(",")[0]) < 128) == dark
        texts = [".brand", ".about", ".top a", "label", "#count", ".card .name", ".card .mpp"]
        states = [".status.done", ".status.failed", ".status.pending"]
        assert page.evaluate(_CONTRAST, [*texts, *states, "footer p", ".none"]) == []
        visit.shoot(f"grid-{look}")
        name = name_of(mirror, "status = 'done' AND mpp_x > 0")
        visit.go(f"slide.html#slide={name}")
        page.wait_for_selector("#image:not([hidden])")
        assert page.evaluate(_CONTRAST, ["dt", "dd", "#length", ".out", "h2", "#place"]) == []
        visit.shoot(f"slide-{look}", whole=True)
        visit.go("overview.html")
        assert page.evaluate(_CONTRAST, [".tile dt", ".tile small", "thead th", ".key"]) == []
        visit.shoot(f"overview-{look}", whole=True)
        visit.check()


def test_pages_are_turned_and_thumbnails_come_when_they_are_seen(disk: Visit) -> None:
    page = disk.page
    disk.go("index.html#sort=rank")
    page.wait_for_selector(".card img:not([hidden])")
    assert page.locator(".card").count() == 200
    assert page.locator(".card img:not([hidden])").count() < 100
    disk.settle(".pager.low")
    page.click(".pager.low >> text=Next")
    disk.until("document.querySelector('.here').textContent == '2 of 3'")
    assert page.evaluate("window.scrollY") == 0
    page.click("[aria-label='Last page'] >> nth=0")
    disk.until("document.querySelector('.here').textContent == '3 of 3'")
    assert page.locator(".card").count() == SLIDES - 400
