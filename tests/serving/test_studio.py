"""The studio's files as the server sends them, without a browser."""

from __future__ import annotations

import re

import httpx2
import pytest
from folders import write_tiny_model
from served import running_server

import smalti
from smalti.serving.site import EXAMPLES, STUDIO, examples

SCRIPTS = sorted(STUDIO.rglob("*.js"))
STYLES = sorted(STUDIO.rglob("*.css"))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    pipe = smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    with running_server(pipe) as server, httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


def test_every_file_is_served_with_its_type(client):
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    for path in STUDIO.rglob("*.*"):
        answer = client.get("/" + path.relative_to(STUDIO).as_posix())
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kinds[path.suffix])
        assert answer.content == path.read_bytes()
    assert client.get("/").content == (STUDIO / "index.html").read_bytes()


@pytest.mark.parametrize(
    "name", ["../site.py", "..%2fsite.py", "scripts", "scripts/../../site.py", "nothing.js"]
)
def test_nothing_else_is(client, name):
    assert client.get(f"/{name}").status_code == 404


def test_imports_lead_to_files_and_only_here():
    for path in SCRIPTS:
        for name in re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8")):
            assert (path.parent / name).resolve() in SCRIPTS, f"{path.name} imports {name}"


def test_the_page_needs_no_inline_code_and_nothing_from_elsewhere():
    page = (STUDIO / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page)
    for path in (STUDIO / "index.html", *SCRIPTS, *STYLES):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(^|\s)//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL), path.name
        assert "innerHTML" not in text, path.name


def test_scripts_are_short_and_say_what_they_are():
    for path in SCRIPTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 350, path.name
        assert lines[0].startswith("//"), path.name


def test_examples_are_prompts_that_the_model_knows(client):
    assert client.get("/api/info").json()["models"][0]["examples"] == list(EXAMPLES[:4])
    components = smalti.load("scenes").components
    found = examples(components)
    assert len(found) == 4
    assert components.unknown_words(found) == []
