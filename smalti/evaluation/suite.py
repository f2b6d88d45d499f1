"""The `Suite` protocol, its parts that most suites share, and the table of suites."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from smalti.common.checks import check_choice, quoted
from smalti.common.rules import describe_rules, parse_rule
from smalti.errors import SmaltiError
from smalti.evaluation.folder import check_text, write_sample
from smalti.evaluation.request import Request

if TYPE_CHECKING:
    from smalti.evaluation.subject import Subject


class Suite(Protocol):
    """A measurement. A suite inherits from this class and is a frozen dataclass; its fields are its options.

    A suite of images needs `prompts`, `score` and `summarize` alone. Its sample is the list of images of a prompt. This
    class generates the images, reads folders and runs controls. A suite of anything else overrides `make` and
    `controls`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Brightness(Suite):
        ...     word: str = "white"
        ...     def prompts(self, count, seed):
        ...         return [{"prompt": f"a {self.word} circle"}] * count
        ...     def score(self, prompt, sample):
        ...         return [image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in sample]
        ...     def summarize(self, rows):
        ...         return {"brightness": sum(map(sum, rows)) / sum(map(len, rows))}
        >>> SUITES["brightness"] = Brightness
        >>> find_suite("brightness:word=black").word
        'black'
    """

    needs: ClassVar[str] = "sampling"
    """The part of a model that `make` needs: "sampling", "model" (without sampling) or "image_tokenizer" (alone)."""

    model: ClassVar[str | None] = None
    """Bundled model that is measured where the command line names none; None is the default one."""

    controls: ClassVar[frozenset[str]] = frozenset({"folder", "images_per_prompt", "save", "shuffled"})
    """Fields of `Request` that the suite supports in addition to the count, the seed and the batch size.

    A suite with ground-truth renderings adds "ground_truth" and "tokenized".
    """

    count: ClassVar[int] = 100
    """Default number of prompts."""

    least: ClassVar[int] = 1
    """Smallest number of prompts."""

    images_per_prompt: ClassVar[int] = 1
    """Number of images of each prompt where the command line names none."""

    first_seed: ClassVar[int] = 0
    """Seed where the command line names none."""

    folder_takes_prompts: ClassVar[bool] = False
    """Whether a file of prompts may be given beside a folder, whose layout has none of its own."""

    def prompts(self, count: int, seed: int) -> list[Any]:
        """Return prompts: metadata, ready for JSON, with the text under "prompt". The seed determines them."""
        ...

    def score(self, prompt: Any, sample: Any) -> Any:
        """Return the row of one prompt and its sample, by default a list of PIL images or uint8 (H, W, 3) arrays."""
        ...

    def survived(self, before: Any, after: Any) -> list[bool]:
        """Return, for each image that is correct before a round trip, whether it is correct after it; by default none.

        Args:
            before: row of ground-truth renderings.
            after: row of the same images after a round trip through an image tokenizer.
        """
        return []

    def summarize(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return the scores of all rows by name, ready for JSON."""
        ...

    def recorded(self) -> bool:
        """Return whether the suite's options name a record of verdicts or answers, so that it needs no images."""
        return False

    def check_prompt(self, prompt: Any) -> None:
        """Raise SmaltiError unless metadata from a folder is a prompt of this suite."""
        check_text(prompt)

    def make(self, subject: Subject, prompts: Sequence[Any], request: Request) -> Iterator[Any]:
        """Yield the sample of each prompt; by default `images_per_prompt` images, image i with `seed` + i."""
        texts = [prompt["prompt"] for prompt in prompts for _ in range(request.images_per_prompt)]
        images = subject.draw(texts, seed=request.seed, batch_size=request.batch_size)
        while group := list(islice(images, request.images_per_prompt)):
            yield group

    def ground_truth(self, prompts: Sequence[Any], request: Request, size: tuple[int, int]) -> Iterator[Any]:
        """Yield the sample of a perfect model for each prompt: `images_per_prompt` renderings, (H, W, 3) uint8.

        Args:
            prompts: prompts of the suite.
            request: number of images of each prompt, and their seed.
            size: (height, width) in pixels.
        """
        raise SmaltiError(
            f"ground_truth must be False: {type(self).__name__} has no ground-truth renderings",
            argument="ground_truth",
        )

    def model_scores(self, subject: Subject, prompts: Sequence[Any]) -> dict[str, Any]:
        """Return further scores of the model that generated the samples; by default none."""
        return {}

    def save(self, folder: Path, index: int, prompt: Any, sample: Any) -> None:
        """Write the sample of prompt number `index`; by default in GenEval's layout."""
        write_sample(folder, index, prompt, sample)

    def table(self, scores: dict[str, Any]) -> str:
        """Return a table of the scores; by default a line for each."""
        return "\n".join(f"{name:>14}  {'-' if value is None else value}" for name, value in scores.items())


SUITES: dict[str, str | type[Suite]] = {
    "scenes": "smalti.evaluation.suites.scenes.suite:Scenes",
    "objects": "smalti.evaluation.suites.objects.suite:Objects",
    "edits": "smalti.evaluation.suites.edits:Edits",
    "distance": "smalti.evaluation.suites.distance:Distance",
    "contrast": "smalti.evaluation.suites.contrast:Contrast",
    "tokenizer": "smalti.evaluation.suites.tokenizer:Tokenizer",
    "geneval": "smalti.evaluation.suites.geneval.suite:GenEval",
    "dpg": "smalti.evaluation.suites.dpg.suite:Dpg",
    "hpsv3": "smalti.evaluation.suites.preference.hpsv3:HpsV3",
    "hpsv2": "smalti.evaluation.suites.preference.clip_scores:HpsV2",
    "pickscore": "smalti.evaluation.suites.preference.clip_scores:PickScore",
    "imagereward": "smalti.evaluation.suites.preference.imagereward:ImageReward",
    "clip-score": "smalti.evaluation.suites.preference.clip_scores:ClipScore",
    "fid": "smalti.evaluation.suites.fid.suite:Fid",
}
"""Every suite by name: a class, or "MODULE:CLASS", which is imported when a caller asks for it."""


def find_suite(text: str, options: Sequence[str] = ()) -> Suite:
    """Return the suite that a text names.

    Args:
        text: "NAME" or "NAME:OPTION=VALUE,...", as `smalti.common.rules.parse_rule` reads it.
        options: further options, "OPTION=VALUE" each.

    Raises:
        SmaltiError: there is no such suite or option, a value is wrong, or a package is missing.

    Example:
        >>> find_suite("scenes", ["lattice=8"])
        Scenes(lattice=8)
    """
    name = text.partition(":")[0].strip()
    check_choice("suite", name, SUITES)
    for option in options:
        if "=" not in option:
            raise SmaltiError(f"--set must be NAME=VALUE, not {quoted(option)}", argument="--set")
        text += ("," if ":" in text else ":") + option
    return parse_rule("suite", text, {name: _load(name)})


def suite_name(suite: Suite) -> str:
    """Return the name of a suite in `SUITES`, or the name of its class if it is not there."""
    kind = type(suite)
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, entry in SUITES.items() if entry in (kind, path)), kind.__name__)


def describe_suites() -> str:
    """Return the name, the options and the summary of every suite, or why a suite cannot be imported."""
    parts = []
    for name in SUITES:
        try:
            parts.append(describe_rules({name: _load(name)}))
        except SmaltiError as error:
            parts.append(f"{name}\n    {error}")
    return "\n".join(parts)


def _load(name: str) -> type[Suite]:
    """Return the class of a suite, imported if necessary."""
    entry = SUITES[name]
    if inspect.isclass(entry):
        return entry
    module, _, attribute = str(entry).partition(":")
    return getattr(import_module(module), attribute)
