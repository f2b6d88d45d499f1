"""The documents' prose: short sentences, the field's words, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

MOST_WORDS = 30
MOST_README_LINES = 100

# The field's word for each is in the glossary of docs/architecture.md. Compounds such as "layout" are other words.
HOUSE_WORDS = [
    r"lays?|laid|laying",
    r"anew",
    r"(take|takes|taken|taking|took) back",
    r"rulers?",
    r"right drawings?",
    r"sights?",
    r"glimpses?|glimpsed",
    r"blind|blindly",
    r"beliefs?|disbelief|believes?|believed",
    r"kept tokens",
    r"tails?",
    r"the release",
    r"ways? of loading",
    r"code networks?",
    r"drafts?|drafted",
    r"there and back",
    r"facts?",
    r"tries",
    r"pictures?",
]

_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs and list items of a Markdown text, without front matter, code, tables, headings, HTML."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^( *)(```|~~~).*?^\1\2 *$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$", "\n", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "\n", text, flags=re.DOTALL)
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts_item = re.match(r"\s*([-*+]|\d+\.)\s+", line)
        skipped = (
            not line.strip() or re.match(r"\s*(\||#|<)", line) or (not block and line.startswith("    "))
        )
        if block and (skipped or starts_item):
            yield " ".join(block)
            block = []
        if not skipped:
            block.append(line[starts_item.end() :] if starts_item else line.strip())


def plain(block: str) -> str:
    """Return a block as it is read: links as their text, code and formulas as one word each."""
    block = re.sub(r"(`+).+?\1", "CODE", block)
    block = re.sub(r"\$[^$\s][^$]*\$", "FORMULA", block)
    while _LINK.search(block):
        block = _LINK.sub(r"\1", block)
    return re.sub(r"\*\*|(?<!\w)[*_]|[*_](?!\w)", "", block)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a Markdown text's prose."""
    for block in blocks(text):
        found = re.split(r"(?<=[.!?])[)\"”']*\s+(?=[\"“'(]*[A-Z0-9])", plain(block))
        yield from (sentence for sentence in found if sentence.strip())


def words(sentence: str) -> list[str]:
    """Return the words and numbers of a sentence; signs between them are none."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def test_sentences_are_told_apart() -> None:
    text = "# No\n\nOne two. Three `a b c` [four](x.md)!\n\n| no | no |\n\n- Five\n  six.\n- Seven.\n\n```sh\nno\n```\n"
    assert [len(words(sentence)) for sentence in sentences(text)] == [2, 3, 2, 1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_sentences_are_short(path: Path) -> None:
    long = [one for one in sentences(path.read_text(encoding="utf-8")) if len(words(one)) > MOST_WORDS]
    assert not long, "\n".join(f"{len(words(one))} words: {one}" for one in long)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_words_are_the_fields(path: Path) -> None:
    house = re.compile(rf"\b({'|'.join(HOUSE_WORDS)})\b", re.IGNORECASE)
    found = [
        f"{match[0]!r} in: {one}"
        for one in sentences(path.read_text(encoding="utf-8"))
        for match in house.finditer(one)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_sentences_begin_with_their_subject(path: Path) -> None:
    """ "Of several GPUs each has one" is the order of words of another language."""
    found = [one for one in sentences(path.read_text(encoding="utf-8")) if re.match(r"Of (?!course\b)", one)]
    assert not found, "\n".join(found)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_README_LINES


def anchors(path: Path) -> set[str]:
    """Return the names by which links reach the headings of a document, as GitHub makes them."""
    found = re.findall(r"^#+ +(.+?) *$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(
        r"^( *)```.*?^\1``` *$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for _, target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        leads_to = (path.parent / place).resolve() if place else path
        assert leads_to.exists(), f"{target} leads nowhere"
        if heading:
            assert heading in anchors(leads_to), f"{target}: there is no such heading"
