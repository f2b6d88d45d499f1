"""The documents' prose: short sentences, the field's words, links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prose import LINK, house_words, inverted_sentences, long_sentences, sentences, words

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    ROOT / "smalti" / "models" / "scenes" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MOST_README_LINES = 100


def test_sentences_are_told_apart() -> None:
    text = "# No\n\nOne two. Three `a b c` [four](x.md)!\n\n| no | no |\n\n- Five\n  six.\n- Seven.\n\n```sh\nno\n```\n"
    assert [len(words(sentence)) for sentence in sentences(text)] == [2, 3, 2, 1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
@pytest.mark.parametrize("fault", [long_sentences, house_words, inverted_sentences])
def test_documents(path: Path, fault) -> None:
    found = fault(path.read_text(encoding="utf-8"))
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
    for _, target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        leads_to = (path.parent / place).resolve() if place else path
        assert leads_to.exists(), f"{target} leads nowhere"
        if heading:
            assert heading in anchors(leads_to), f"{target}: there is no such heading"
