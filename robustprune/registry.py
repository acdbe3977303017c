"""Registries: from a name in a recipe to the part it means.

A family's package *is* its registry: ``robustprune/objectives/__init__.py`` makes one, exposes
its `register`, `create` and `names`, and lists its modules, which are imported when they are first
asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from robustprune.components import Part, build
from robustprune.errors import UsageError, nearest

P = TypeVar("P", bound=Part)
Q = TypeVar("Q", bound=Part)


class Registry(Generic[P]):
    """The parts of one family by name.

    Args:
        family: plural, as in `robustprune.families`.
        base: the class every part of the family extends.
        modules: the family's own modules, full names; each registers its parts when imported.
    """

    def __init__(self, family: str, *, base: type[P], modules: Sequence[str]) -> None:
        self.family = family
        self.base = base
        self._modules = modules
        self._loaded = False
        self._parts: dict[str, type[P]] = {}
        self._modules_of: dict[str, str] = {}

    def register(self, name: str) -> Callable[[type[Q]], type[Q]]:
        """Decorate a class to make it available to recipes as ``name``.

        Raises:
            UsageError: the name is taken, or the class does not extend the family's base, or has
                an option called ``name``.
        """
        singular = self.family.removesuffix("s")
        if not isinstance(name, str):
            raise UsageError(f"{singular}: write @register('a_name') above {_called(name)}.")
        # not the part's own module: one may register what another defines
        module: str = sys._getframe(1).f_globals.get("__name__", "")

        def add(part: type[Q]) -> type[Q]:
            if part.__module__ not in self._modules:
                self._load()  # or one of ours, loaded later, would find its own name taken
            if fault := self._fault(name, part):
                raise UsageError(f"{singular} '{name}'{fault}")
            part.registered_name = name
            self._parts[name], self._modules_of[name] = part, module  # type: ignore[assignment]
            return part

        return add

    def get(self, name: str) -> type[P]:
        """The class registered as ``name``.

        Raises:
            UsageError: nothing is; the message shows what would have worked.
        """
        self._load()
        if not isinstance(name, str) or name not in self._parts:
            unknown = f"unknown {self.family.removesuffix('s')} '{name}'."
            remedy = "A part of your own must be in a file named under 'imports:'."
            if forgotten := self._unregistered():
                named = f"@rp.{self.family}.register('{name}')"
                remedy += f" {forgotten} is not registered: write {named} above it."
            raise UsageError(f"{unknown}{nearest(str(name), self._parts)} {remedy}")
        return self._parts[name]

    def _unregistered(self) -> str:
        """The names of the user's own classes that extend the base and have no name."""
        known: list[type] = [self.base]
        for part in known:  # which grows
            known.extend(set(type.__subclasses__(part)).difference(known))
        found = [
            part.__name__
            for part in known
            if part.__module__ in sys.modules
            and not part.__module__.startswith("robustprune.")
            and not ("registered_name" in vars(part) or part.__subclasses__())
            and "<locals>" not in part.__qualname__
        ]
        return " or ".join(found[:3])

    def create(self, name: str, /, **fields: Any) -> P:
        """The part ``name`` with the given options, as a recipe would make it.

        Raises:
            UsageError: unknown name, or an `InvalidError` that names every wrong option.
        """
        return build(self.get(name), fields)

    def registered_by(self, module: str) -> list[str]:
        """The names that a module, or one of a package, has registered, sorted."""
        origins = self._modules_of.items()
        return sorted(name for name, by in origins if f"{by}.".startswith(f"{module}."))

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._load()
        return sorted(self._parts)

    def _fault(self, name: str, part: Any) -> str:
        """Why ``part`` cannot be registered as ``name``; empty if it can."""
        if not (isinstance(part, type) and issubclass(part, self.base)):
            return f": {part.__name__} must extend {self.base.__name__}."
        if "name" in part.model_fields:
            return f": give the option 'name' of {part.__name__} another name: this one is taken."
        if (taken := self._parts.get(name)) is not None:
            owner = f"{taken.__module__}.{taken.__qualname__}"
            remedy = f"Register {part.__qualname__} under another name."
            return f" is already registered, by {owner}. {remedy}"
        if vars(part).get("registered_name", name) != name:
            known = f"{part.__qualname__} is registered already, as '{part.registered_name}'."
            return f": {known} Extend it, and register the subclass."
        return ""

    def _load(self) -> None:
        if not self._loaded:
            for module in self._modules:
                importlib.import_module(module)
            self._loaded = True  # only now, or half a family would be taken for the whole


def _called(thing: Any) -> str:
    return str(getattr(thing, "__name__", repr(thing)))
