"""A headless Chromium that looks at pages, where there is one; it reaches no other machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mirrors import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

SCREENSHOTS = Path(__file__).parents[2] / ".build" / "screenshots"
WINDOW = (1280, 800)

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def why_not() -> str:
    """Why no page can be looked at here; empty if one can."""
    if chromium() is None:
        return "there is no chromium (Debian: apt-get install chromium)"
    if find_spec("playwright") is None:
        return "there is no playwright (pip install -e '.[browser]')"
    return ""


needs_browser = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a browser")


@contextmanager
def started() -> Iterator[Browser]:
    """A browser with a profile of its own, which is thrown away."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, and what it did. base: the address all its requests have to begin with."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, name: str) -> None:
        """Opens a page of the gallery, and makes sure that it is loaded anew."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/gallery/{name}")

    def until(self, expression: str) -> None:
        """Waits for what JavaScript says; asked from here, because the pages evaluate no text."""
        until(lambda: self.page.evaluate(expression))

    def settle(self, selector: str) -> None:
        """Scrolls to an element, and waits until what comes into sight moves it no more."""
        element = self.page.locator(selector)
        places: list[object] = [None]
        while places[-1] is None or places[-1] != places[-2]:
            assert len(places) < 50, f"{selector} does not come to rest"
            element.scroll_into_view_if_needed()
            self.page.wait_for_timeout(200)
            places.append(element.bounding_box())

    def shoot(self, name: str, *, whole: bool = False) -> None:
        """Keeps a picture of the page, to be looked at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)

    def check(self) -> None:
        """Fails if the page complained, or asked anyone else for anything."""
        assert not self.complaints
        own = (f"{self.base}/", "data:", "about:blank")
        assert not [address for address in self.requests if not address.startswith(own)]


@contextmanager
def visiting(
    browser: Browser, base: str, *, dark: bool = False, window: tuple[int, int] = WINDOW
) -> Iterator[Visit]:
    """A new window without history on the mirror at the address `base`."""
    context = browser.new_context(
        color_scheme="dark" if dark else "light",
        viewport={"width": window[0], "height": window[1]},
    )
    visit = Visit(context.new_page(), base)

    def asked(request: Request) -> None:
        visit.requests.append(request.url)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.complaints.append(message.text)

    visit.page.on("request", asked)
    visit.page.on("console", said)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("dialog", lambda dialog: visit.complaints.append(f"dialog: {dialog.message}"))
    visit.page.set_default_timeout(60_000)
    try:
        yield visit
    finally:
        context.close()
