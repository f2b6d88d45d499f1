"""The suite `edits`: edits of scenes with known results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smalti.common.checks import check_choice
from smalti.common.files import make_folder, write_json_atomic
from smalti.common.images import save_image, to_pil
from smalti.editing.blending import draw_map
from smalti.editing.canvas import fit
from smalti.errors import SmaltiError
from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.edit_pairs import KINDS, EditPair, edit_pairs
from smalti.evaluation.suites.scenes.edit_score import score_edit, summarize_edits
from smalti.evaluation.suites.scenes.edit_selections import SELECTIONS, Edited, edit_by, true_edit

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Edits(Suite):
    """Score edits with known results: recolour, replace a shape, remove, add, change the background.

    "success" is the fraction of edits in which the detector finds the objects of the new prompt. "kept" is the fraction
    of untouched objects that are still in their place. The PSNR leaves out tokens that truly change. The IoU compares
    the selected tokens with those that truly change.

    Attributes:
        selections: names of selections, joined by +. automatic: tokens whose likelihood drops. true_mask: tokens that
            truly change. redraw_all: all tokens. random_share: as many tokens as automatic, at random.
        lattice: number of positions a side at which boxes are placed; 0 means any position.
    """

    selections: str = "+".join(SELECTIONS)
    lattice: int = 8
    model: ClassVar[str | None] = "scenes"
    controls: ClassVar[frozenset[str]] = frozenset({"ground_truth", "save"})
    count: ClassVar[int] = 200
    least: ClassVar[int] = len(KINDS)

    def __post_init__(self) -> None:
        lattice_places(self.lattice)
        names = self._names()
        for name in names:
            check_choice("selections", name, SELECTIONS)
        if "random_share" in names and "automatic" not in names[: names.index("random_share")]:
            raise SmaltiError(
                "selections must have automatic before random_share, which selects as many tokens",
                argument="selections",
            )

    def prompts(self, count: int, seed: int) -> list[EditPair]:
        """Return edits, one of each kind in turn."""
        return list(edit_pairs(count, seed=seed, lattice=lattice_places(self.lattice)))

    def make(
        self, subject: Subject, prompts: Sequence[EditPair], request: Request
    ) -> Iterator[dict[str, Edited]]:
        """Yield the edits of each pair by the name of their selection; pair i has the seed `seed` + i."""
        height, width = subject.size
        if height != width:
            raise SmaltiError(
                f"height and width must be the same, not {height} and {width}", argument="height"
            )
        for index, pair in enumerate(prompts):
            yield dict(
                edit_by(
                    subject.components,
                    pair,
                    subject.sampling,
                    seed=request.seed + index,
                    size=height,
                    selections=self._names(),
                )
            )

    def ground_truth(
        self, prompts: Sequence[EditPair], request: Request, size: tuple[int, int]
    ) -> Iterator[dict[str, Edited]]:
        """Yield the true edit of each pair."""
        for pair in prompts:
            yield {"ground_truth": true_edit(pair, size[0])}

    def score(self, prompt: EditPair, sample: dict[str, Edited]) -> dict[str, tuple[str, Numbers]]:
        """Return the kind and the numbers of each edit by the name of its selection."""
        size = len(next(iter(sample.values())).pixels)
        seen = detect(prompt.images(size)[0])
        return {name: (prompt.kind, score_edit(prompt, edited, seen)) for name, edited in sample.items()}

    def summarize(self, rows: Sequence[dict[str, tuple[str, Numbers]]]) -> dict[str, Any]:
        """Return the means of each selection: over the kinds, and by kind."""
        return {name: summarize_edits(row[name] for row in rows) for name in rows[0]}

    def save(self, folder: Path, index: int, prompt: EditPair, sample: dict[str, Edited]) -> None:
        """Write before.png, truth.png, edit.json, and NAME.png and NAME-chosen.png of each selection."""
        place = folder / f"{index:05d}"
        make_folder(place)
        for name, edited in sample.items():
            size = len(edited.pixels)
            before, after = prompt.images(size)
            canvas = fit((size, size), (size, size))
            images = {
                "before": to_pil(before),
                "truth": to_pil(after),
                name: to_pil(edited.pixels),
                f"{name}-chosen": draw_map(before, canvas, edited.region, size // len(edited.region)),
            }
            for title, image in images.items():
                save_image(image, place / f"{title}.png")
        texts = {"kind": prompt.kind, "source_prompt": prompt.source_prompt, "prompt": prompt.prompt}
        write_json_atomic(place / "edit.json", texts)

    def table(self, scores: dict[str, Any]) -> str:
        """Return a line with the means of each selection, followed by a line for each kind."""
        found = {name: means for name, means in scores.items() if isinstance(means, dict)}
        numbers = [name for name in next(iter(found.values())) if name != "by_kind"]
        lines = [_line("", {name: name for name in numbers})]
        for name, means in found.items():
            for kind, row in {name: means, **means["by_kind"]}.items():
                cells = {number: "-" if row[number] is None else f"{row[number]:.2f}" for number in numbers}
                lines.append(_line(kind if kind == name else f"  {kind}", cells))
        return "\n".join(lines)

    def _names(self) -> list[str]:
        """Return the names of the selections."""
        return [name.strip() for name in self.selections.split("+")]


def _line(first: str, cells: dict[str, str]) -> str:
    """Return a line of the table, with columns as wide as the names of their numbers."""
    return f"{first:<24}" + "".join(f"  {cell:>{max(len(name), 7)}}" for name, cell in cells.items())
