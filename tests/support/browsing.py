"""What the browser tests share: Chromium, a page of the studio, and what a person does with it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import FLAGS, find_chromium
from served import RunningServer

PATIENCE = 30_000
"""Milliseconds that a test waits for something to appear; cores are shared."""


@contextmanager
def running_chromium() -> Iterator[Any]:
    """Start Chromium, or skip the test where it or Playwright is missing; see CONTRIBUTING.md."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='the browser tests need Playwright: pip install -e ".[dev]"'
    )
    path = find_chromium()
    if path is None:
        pytest.skip("the browser tests need Chromium: apt-get install chromium, or name it in CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Studio:
    """The studio in a browser, and the server behind it.

    Attributes:
        page: Playwright's page.
        problems: what the page wrote as errors; a test must leave it empty.
    """

    def __init__(self, context: Any, server: RunningServer) -> None:
        self.context, self.server = context, server
        self.problems: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        return page

    def _note(self, message: Any) -> None:
        # A refused request is a line of the browser's own, and what some tests are about.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def open(self, view: str = "draw") -> Any:
        """Open a view, and wait until the page knows the server."""
        self.page.goto(f"{self.server.url}/#{view}")
        self.page.wait_for_selector("#presets input", state="attached")
        return self.page

    def draw(self, prompt: str = "a red circle", page: Any = None, **fields: str) -> None:
        """Draw an image by keyboard and wait for it."""
        page = page or self.page
        before = self.results
        page.fill("#prompt", prompt)
        for name, value in fields.items():
            page.fill(f"#{name}", value)
        page.press("#prompt", "Control+Enter")
        wait(page, lambda: len(self.results) > len(before))
        page.wait_for_selector(".frame-image.in")
        page.wait_for_selector('#stage-draw [data-act="download"], .frames:not([data-count="1"])')

    def edit_first(self) -> None:
        """Open the newest image of the gallery in the editor."""
        self.page.click("#images .thumb >> nth=0")
        self.page.wait_for_selector(".frame-image.in")
        self.page.click('#stage-draw [data-act="edit"]')
        self.page.wait_for_selector(".source-name")

    @property
    def results(self) -> list[dict[str, Any]]:
        """Results on the server, the newest first."""
        return [file.describe() for file in self.server.service.store.images("", 200, None)]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Jobs on the server, the newest first."""
        return self.server.service.describe_all("", 200, None)

    def content(self, result: dict[str, Any]) -> bytes:
        """Return the file of a result."""
        return self.server.service.store.content(result["id"], "")[1]

    def form(self) -> dict[str, Any]:
        """Return what the page keeps of the form."""
        return json.loads(self.page.evaluate("localStorage.getItem('smalti.studio')"))

    def thumbs(self) -> int:
        return self.page.locator("#images .thumb").count()

    def drop(self, content: bytes, name: str = "image.png", kind: str = "image/png") -> None:
        """Drop a file on the page."""
        transfer = self.page.evaluate_handle(
            """([bytes, name, type]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([Uint8Array.from(bytes)], name, {type}));
                return transfer;
            }""",
            [list(content), name, kind],
        )
        self.page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})

    def violations(self) -> list[str]:
        """Return axe's serious and critical findings on the page as it is."""
        sync = pytest.importorskip("axe_playwright_python.sync_playwright")
        # Colours in the middle of a fade are nobody's choice, so fades end at once, also those that begin meanwhile.
        self.page.emulate_media(reduced_motion="reduce")
        self.page.wait_for_timeout(450)
        found = sync.Axe().run(self.page).response["violations"]
        self.page.emulate_media(reduced_motion="no-preference")
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def screenshot(self, name: str) -> None:
        """Write a screenshot into the folder STUDIO_SHOTS, if there is one."""
        if folder := os.environ.get("STUDIO_SHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def wait(page: Any, condition: Any, milliseconds: int = PATIENCE) -> Any:
    """Wait until a condition holds while the page goes on, and return its value."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        if value := condition():
            return value
        page.wait_for_timeout(25)
    raise AssertionError("it did not happen in time")
