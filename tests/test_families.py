from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from robustprune.errors import UsageError
from robustprune.families import FAMILIES, family
from robustprune.registry import Registry

PARTS = [(name, part) for name in FAMILIES for part in family(name).names()]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_a_registry_with_parts(name: str) -> None:
    registry = family(name)
    assert isinstance(registry, Registry)
    assert registry.family == name
    assert registry.names()


def test_an_unknown_family_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown family 'pruner'\. Did you mean 'pruners'\?"):
        family("pruner")


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_every_part_and_option_is_documented(name: str, part: str) -> None:
    schema = family(name).get(part)
    assert inspect.cleandoc(schema.__doc__ or "").splitlines()[0].endswith((".", ":"))
    undocumented = [key for key, field in schema.model_fields.items() if not field.description]
    assert undocumented == []
    assert schema.registered_name == part
    assert issubclass(schema, family(name).base)


def test_naming_every_part_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom robustprune.families import FAMILIES, family\n"
        "for name in FAMILIES: family(name).names()\n"
        "heavy = {'torch', 'torchvision', 'timm', 'mlflow', 'sklearn', 'pyarrow', 'torchattacks'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
