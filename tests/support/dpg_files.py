"""Question files in DPG-Bench's form, and recorded answers to them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

CATEGORIES = [
    "entity - whole",
    "entity - part",
    "attribute - color",
    "relation - spatial",
    "global -",
    "other - count",
]
HEADER = [
    *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"),
    *("tuple", "question_natural_language"),
]


def write_questions(path: Path, count: int = 40, seed: int = 0, first_is_parent: bool = False) -> Path:
    """Questions depend on earlier ones and sometimes on later ones."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for index in range(count):
            draw = random.Random(f"dpg {seed} {index}")
            number = draw.randint(2, 12)
            for key in range(1, number + 1):
                others = [other for other in range(1, number + 1) if other != key]
                weights = [5 if other < key else 1 for other in others]
                parents = draw.choices([0, *others], [20, *weights], k=draw.choice([1, 1, 2]))
                if index == 0:
                    parents = [1] if first_is_parent and key == 2 else [0]
                category = draw.choice(CATEGORIES)
                writer.writerow(
                    [
                        *(
                            f"item{index}",
                            f'a text, with "marks" {index}',
                            "",
                            key,
                            ", ".join(map(str, parents)),
                        ),
                        *(
                            category.split("-")[0].strip(),
                            "",
                            f"{category} (thing {key})",
                            f"Is thing {key} there?",
                        ),
                    ]
                )
    return path


def answer(name: str, image: int, question: int) -> str:
    return random.Random(f"{name} {image} {question}").choice(["yes", "yes", "yes", "no", "maybe"])


def write_answers(path: Path, prompts: list[dict[str, Any]], images: int = 4) -> Path:
    lines = [
        {
            "item_id": prompt["item_id"],
            "image": image,
            "answers": {key: answer(prompt["item_id"], image, int(key)) for key in prompt["questions"]},
        }
        for prompt in prompts
        for image in range(images)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
