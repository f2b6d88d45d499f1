"""Chromium once for each file of browser tests, and a studio with a server of its own for each."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from browsing import Studio, running_chromium
from chromium import DESKTOP
from folders import write_tiny_model
from served import running_server

import smalti


@pytest.fixture(scope="module")
def browser():
    # Playwright's event loop counts as running in this thread until it stops; other tests start loops of their own.
    with running_chromium() as running:
        yield running


@pytest.fixture(scope="session")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def make_studio(browser, pipe):
    """Return a function that starts a server and opens a page; the page must not have written an error."""
    with ExitStack() as stack:
        made = []

        def make(size=DESKTOP, context=None, **options):
            server = stack.enter_context(running_server(pipe, **options))
            opened = browser.new_context(viewport=size, accept_downloads=True, **(context or {}))
            stack.callback(opened.close)
            made.append(Studio(opened, server))
            return made[-1]

        yield make
    assert [studio.problems for studio in made] == [[] for _ in made]


@pytest.fixture
def studio(make_studio):
    return make_studio()
