"""Files of reports."""

from __future__ import annotations

from pathlib import Path

from smalti.common.files import write_json_atomic, write_text_atomic
from smalti.evaluation.markdown import report_page
from smalti.evaluation.outcome import Evaluation
from smalti.evaluation.suite import Suite


def write_report(path: Path, suite: Suite, found: Evaluation) -> None:
    """Write the outcome of a run: Markdown into a file that ends with .md, else JSON.

    Args:
        path: file, ending with .json or .md.
        suite: suite of the run, which makes the table.
        found: outcome of the run.

    Raises:
        SmaltiError: the file cannot be written.

    Example:
        >>> from smalti.evaluation.suite import find_suite
        >>> outcome = Evaluation({"mean": 1.0}, {"suite": "scenes", "seed": 0})
        >>> write_report(Path("report.md"), find_suite("scenes"), outcome)
    """
    if path.suffix == ".md":
        write_text_atomic(path, report_page(found.scores, found.metadata, suite.table(found.scores)))
    else:
        write_json_atomic(path, {**found.scores, **found.metadata})
