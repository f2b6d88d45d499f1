"""Rules named by strings: `"history"`, `"history:window=8,temperature=0.5"`, `"shift:20"`.

A rule is a frozen dataclass. The rules of a kind stand in one table, and a rule's parameters are its fields:

    ORDERS = {"halton": HaltonOrder, "history": HistoryOrder}
    parse_rule("order", "history:window=8", ORDERS)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_type_hints

from smalti.common.checks import check_choice, quoted
from smalti.errors import SmaltiError

R = TypeVar("R")


def parse_rule(kind: str, text: Any, table: Mapping[str, type[R]]) -> R:
    """Build a rule from its name and parameters.

    Args:
        kind: name of the argument that holds the text, for errors.
        text: NAME, or NAME:FIELD=VALUE with commas between several. A lone VALUE is that of the first field.
        table: rules of this kind by name.

    Raises:
        SmaltiError: an unknown name or field, or a value that the field cannot have.

    Example:
        >>> from smalti.sampling.budgets import BUDGETS
        >>> parse_rule("budget", "shift:shift=20", BUDGETS)
        ShiftBudget(shift=20.0)
    """
    if not isinstance(text, str):
        raise SmaltiError(
            f"{kind} must be a rule such as {next(iter(table))!r}, not {quoted(text)}", argument=kind
        )
    name, _, parameters = text.strip().partition(":")
    check_choice(kind, name, table)
    rule = table[name]
    known = {
        field.name: get_type_hints(rule)[field.name]
        for field in dataclasses.fields(cast(Any, rule))
        if field.init
    }
    values: dict[str, Any] = {}
    for number, part in enumerate(parameters.split(",") if parameters else []):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and number == 0 and known:
            key, value = next(iter(known)), key
        if key not in known or key in values or not value:
            allowed = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
            raise SmaltiError(f"{kind} {name!r} cannot have {quoted(part.strip())}; {allowed}", argument=kind)
        values[key] = _read(kind, key, value, known[key])
    try:
        return rule(**values)
    except (TypeError, ValueError) as error:  # SmaltiError is a ValueError
        raise SmaltiError(f"{kind} {name!r}: {error}", argument=kind) from error


def describe_rules(table: Mapping[str, type[Any]]) -> str:
    """Return one line a rule: its name, its parameters with their defaults, and what it does."""
    lines = []
    for name, rule in table.items():
        fields = [
            field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default}"
            for field in dataclasses.fields(rule)
            if field.init
        ]
        summary = (inspect.getdoc(rule) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"{name}{':' if fields else ''}{','.join(fields)}\n    {summary}")
    return "\n".join(lines)


def _read(kind: str, key: str, text: str, hint: Any) -> Any:
    """Return the value that a parameter's text stands for, by the type of its field."""
    if hint not in (int, float, bool, str):
        raise SmaltiError(
            f"{kind}'s {key} must have the type int, float, bool or str to be read from text", argument=kind
        )
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text) if hint in (int, float) else text
    except (KeyError, ValueError, OverflowError):
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        raise SmaltiError(
            f"{kind}'s {key} must be {words[hint]}, not {quoted(text)}", argument=kind
        ) from None
