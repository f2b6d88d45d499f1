"""The words of training captions."""

from __future__ import annotations

from smalti.model.words import caption_words, unknown_words


def test_words_are_lower_case_distinct_and_sorted() -> None:
    captions = ["A red circle, two blue stars", "a RED one", "the dog’s 3 bones; half-moon_shape"]
    assert caption_words(captions) == [
        *(
            "a",
            "blue",
            "bones",
            "circle",
            "dog's",
            "half",
            "moon",
            "one",
            "red",
            "shape",
            "stars",
            "the",
            "two",
        ),
    ]
    assert caption_words([]) == caption_words(["", "12 !"]) == []


def test_unknown_words_come_once_in_the_order_of_the_prompt() -> None:
    words = caption_words(["a red circle"])
    assert unknown_words("A teal circle above a Red dog, teal as a dog's", words) == [
        "teal",
        "above",
        "dog",
        "as",
        "dog's",
    ]
    assert unknown_words("", words) == unknown_words("a red circle", words) == []
