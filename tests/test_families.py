from __future__ import annotations

import inspect

import pytest

from robustprune.errors import UsageError
from robustprune.families import FAMILIES, family, metric_of
from robustprune.registry import Registry


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_a_registry_whose_parts_and_options_are_documented(name: str) -> None:
    registry = family(name)
    assert isinstance(registry, Registry)
    assert registry.family == name
    assert registry.names()
    for part in registry.names():
        schema = registry.get(part)
        assert inspect.cleandoc(schema.__doc__ or "").splitlines()[0].endswith((".", ":"))
        undocumented = [key for key, field in schema.model_fields.items() if not field.description]
        assert undocumented == []
        assert schema.registered_name == part
        assert issubclass(schema, registry.base)


def test_an_unknown_family_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown family 'pruner'\. Did you mean 'pruners'\?"):
        family("pruner")


def test_the_metric_of_an_evaluator_known_or_not() -> None:
    assert metric_of({"name": "pgd", "label": "weak"}) == "weak"
    assert metric_of({"name": "pgd"}) == metric_of({"name": "pgd", "gone": 1}) == "pgd"
    assert metric_of({"name": "theirs", "label": "x"}) == "x"
