"""Settings: what is declared once is what checks, options and the documentation say."""

from __future__ import annotations

import dataclasses
import inspect
import runpy
from pathlib import Path

import pytest

from smalti.cli.edit import edit
from smalti.cli.generate import generate
from smalti.common.rules import describe_rules, parse_rule
from smalti.errors import SmaltiError
from smalti.generation.declaration import Rule, declaration
from smalti.generation.settings import GenerationSettings

ROOT = Path(__file__).parents[2]
FIELDS = dataclasses.fields(GenerationSettings)


def test_the_page_of_settings_is_what_the_declarations_say():
    page = runpy.run_path(str(ROOT / "tools" / "settings_table.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("command", [generate, edit])
def test_every_setting_is_an_option(command):
    assert {field.name for field in FIELDS} <= set(inspect.signature(command).parameters)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_defaults_are_allowed(field):
    declared = declaration(field)
    assert declared.kind.check(field.name, field.default) == field.default
    assert declared.help.endswith(".") and declared.kind.allowed


RULES = [
    (field.name, name)
    for field in FIELDS
    if isinstance(declaration(field).kind, Rule)
    for name in declaration(field).kind.rules()
]


@pytest.mark.parametrize(("setting", "name"), RULES)
def test_a_rule_is_its_name_and_its_fields(setting, name):
    kind = next(declaration(field).kind for field in FIELDS if field.name == setting)
    rule = kind.parse(setting, name)
    fields = dataclasses.fields(rule)
    assert dataclasses.is_dataclass(rule) and type(rule).__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in fields)
    spelled = ",".join(f"{field.name}={getattr(rule, field.name)}" for field in fields)
    assert kind.parse(setting, f"{name}:{spelled}") == rule
    assert name in describe_rules({name: type(rule)})
    with pytest.raises(SmaltiError, match=rf"{setting} '{name}' cannot have 'colour=1'") as caught:
        kind.parse(setting, f"{name}:colour=1")
    assert caught.value.argument == setting


def test_rules_from_outside(monkeypatch):
    from smalti.sampling.orders import ORDERS, Order

    @dataclasses.dataclass(frozen=True)
    class EntropyOrder(Order):
        """Reveal the least uncertain positions first."""

        sign: int = -1

        def priority(self, view):
            return self.sign * view.entropy

    with pytest.raises(SmaltiError, match="order must be 'confidence' or .* not 'entropy'"):
        GenerationSettings(order="entropy")
    monkeypatch.setitem(ORDERS, "entropy", EntropyOrder)
    assert GenerationSettings(order="entropy:1").order == "entropy:1"
    assert parse_rule("order", "entropy:sign=1", ORDERS) == EntropyOrder(1)


@pytest.mark.parametrize(
    "text", ["shift:2,3", "shift:shift=2,shift=3", "shift:=2", "shift:shift=", "shift:,"]
)
def test_broken_rules_say_what_they_may_have(text):
    with pytest.raises(SmaltiError, match="budget 'shift' cannot have .*; its parameters are shift"):
        GenerationSettings(budget=text)


def test_changes_that_are_no_settings():
    with pytest.raises(
        SmaltiError, match="unknown setting 'shift'; there are num_inference_steps, "
    ) as caught:
        GenerationSettings().replaced(shift=3)
    assert caught.value.argument == "shift"


def test_a_rule_from_outside_that_is_wrong_is_one_line():
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        """Ask for what a string cannot say."""

        must: int
        window: int | None = None

        def __post_init__(self) -> None:
            if self.must < 0:
                raise ValueError("must is below 0")

    table = {"wrong": Wrong}
    for text, message in (
        ("wrong", "order 'wrong': .* 'must'"),
        ("wrong:-1", "order 'wrong': must is below 0"),
        ("wrong:must=1,window=2", "order's window must have the type int, float, bool or str"),
    ):
        with pytest.raises(SmaltiError, match=message):
            parse_rule("order", text, table)
    assert describe_rules(table).startswith("wrong:must,window=None\n")
