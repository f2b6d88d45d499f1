"""How a setting is declared: what values it may have, its command-line option and its help text. Free of PyTorch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from smalti.common.checks import check_choice, check_pair, check_real, check_whole
from smalti.common.rules import describe_rules, parse_rule


class Kind(Protocol):
    """The values that a setting may have.

    Attributes:
        type: type of the command-line option.
        allowed: what is allowed, for documentation.
    """

    @property
    def type(self) -> Any:
        """The type of the command-line option."""
        ...

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        ...

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the setting."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        ...


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number of at least `minimum`, or None if `optional`."""

    minimum: int = 0
    optional: bool = False
    type = int

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return f"whole number of at least {self.minimum}"

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the setting."""
        if self.optional and value is None:
            return value
        return check_whole(name, value, self.minimum)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {"type": ["integer", "null"] if self.optional else "integer", "minimum": self.minimum}


@dataclass(frozen=True)
class Real(Kind):
    """A finite number in [low, high], or in (low, high] if `above`."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    type = float

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        start = f"number {'above' if self.above else 'of at least'} {self.low:g}"
        return start + (f" and at most {self.high:g}" if self.high < math.inf else "")

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the setting."""
        return check_real(name, value, self.low, self.high, above=self.above)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        low = {"exclusiveMinimum" if self.above else "minimum": self.low}
        return {"type": "number", **low, **({"maximum": self.high} if self.high < math.inf else {})}


@dataclass(frozen=True)
class Pair(Kind):
    """Two rising numbers from 0 to 1."""

    type = tuple[float, float]
    allowed = "two rising numbers from 0 to 1"

    def check(self, name: str, value: Any) -> Any:
        """Return the value as a tuple, or raise SmaltiError with the name of the setting."""
        return check_pair(name, value)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        number = {"type": "number", "minimum": 0, "maximum": 1}
        return {"type": "array", "items": number, "minItems": 2, "maxItems": 2}


class Choice(Kind):
    """One of some names."""

    type = str

    def __init__(self, *names: str) -> None:
        self.names = names

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return " or ".join(f"`{name}`" for name in self.names)

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the setting."""
        check_choice(name, value, self.names)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {"type": "string", "enum": list(self.names)}


@dataclass(frozen=True)
class Rule(Kind):
    """A rule that is named by a string (`smalti.common.rules`), from a table that is imported when it is needed.

    Attributes:
        table: module and name of the table, such as "smalti.sampling.orders:ORDERS".
    """

    table: str
    type = str
    allowed = "rule"

    def rules(self) -> dict[str, Any]:
        """Return the table: rules by name."""
        module, _, name = self.table.partition(":")
        table: dict[str, Any] = getattr(import_module(module), name)
        return table

    def parse(self, name: str, value: Any) -> Any:
        """Return the rule that a string names, or raise SmaltiError with the name of the setting."""
        return parse_rule(name, value, self.rules())

    def check(self, name: str, value: Any) -> Any:
        """Return the string, or raise SmaltiError with the name of the setting."""
        self.parse(name, value)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values: a rule's name, which parameters may follow."""
        return {"type": "string", "examples": list(self.rules())}

    def describe(self) -> str:
        """Return the rules of the table with their parameters, one below the other."""
        return describe_rules(self.rules())


@dataclass(frozen=True)
class Declaration:
    """What is said of a setting beside its default.

    Attributes:
        kind: the values that it may have.
        help: help text of its option.
        metavar: placeholder of its value in the help.
        option: name of its option, or None for the setting's own name with dashes.
    """

    kind: Kind
    help: str
    metavar: str
    option: str | None

    def option_name(self, name: str) -> str:
        """Return the command-line option of the setting with this name."""
        return self.option or "--" + name.replace("_", "-")


def setting(default: Any, kind: Kind, *, help: str, metavar: str = "RULE", option: str | None = None) -> Any:
    """Declare a setting: a dataclass field with its `Declaration`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     top_p: float = setting(1.0, Real(0, 1, above=True), metavar="P", help="Sample from the fewest tokens.")
        >>> declaration(dataclasses.fields(Settings)[0]).option_name("top_p")
        '--top-p'
    """
    return dataclasses.field(
        default=default, metadata={"declaration": Declaration(kind, help, metavar, option)}
    )


def declaration(field: dataclasses.Field[Any]) -> Declaration:
    """Return what `setting` declared of a field."""
    declared: Declaration = field.metadata["declaration"]
    return declared
