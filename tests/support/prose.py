"""Prose as the tests read it: sentences of Markdown and docstrings, and the words that they avoid."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_WORDS = 30
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

LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


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
    while LINK.search(block):
        block = LINK.sub(r"\1", block)
    return re.sub(r"\*\*|(?<!\w)[*_]|[*_](?!\w)", "", block)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a Markdown text's prose."""
    for block in blocks(text):
        found = re.split(r"(?<=[.!?])[)\"”']*\s+(?=[\"“'(]*[A-Z0-9]|[\"“])", plain(block))
        yield from (sentence for sentence in found if sentence.strip())


def words(sentence: str) -> list[str]:
    """Return the words and numbers of a sentence; signs between them are none."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def house_words(text: str) -> list[str]:
    """Return what a text says in house words, with the sentence around each."""
    house = re.compile(rf"\b({'|'.join(HOUSE_WORDS)})\b", re.IGNORECASE)
    return [f"{match[0]!r} in: {one}" for one in sentences(text) for match in house.finditer(one)]


def long_sentences(text: str) -> list[str]:
    """Return the sentences of a text that are too long, with their numbers of words."""
    return [f"{len(words(one))} words: {one}" for one in sentences(text) if len(words(one)) > MOST_WORDS]


def inverted_sentences(text: str) -> list[str]:
    """Return the sentences that begin with "Of ...", which is the order of words of another language."""
    return [one for one in sentences(text) if re.match(r"Of (?!course\b)", one)]
