"""Registries: from a name in a recipe to the part it means.

A family's package *is* its registry: ``robustprune/objectives/__init__.py`` makes one, exposes
its `register`, `create` and `names`, and lists its modules. They are imported when they are first
asked for, so that neither ``--help`` nor a syntax error waits for them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from robustprune.errors import UsageError, nearest
from robustprune.parts import Part, build

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

    @property
    def singular(self) -> str:
        """``objective`` for ``objectives``."""
        return self.family.removesuffix("s")

    def register(self, name: str) -> Callable[[type[Q]], type[Q]]:
        """Decorate a class to make it available to recipes as ``name``.

        Raises:
            UsageError: the name is taken, or the class does not extend the family's base, or has
                an option called ``name``.
        """
        if not isinstance(name, str):
            raise UsageError(
                f"{self.singular}: write @register('a_name') above {name!r}, not @register."
            )
        # not the part's own module: one may register what another defines
        module: str = sys._getframe(1).f_globals.get("__name__", "")

        def add(part: type[Q]) -> type[Q]:
            if part.__module__ not in self._modules:
                self._load()  # or one of ours, loaded later, would find its own name taken
            if not (isinstance(part, type) and issubclass(part, self.base)):
                raise UsageError(
                    f"{self.singular} '{name}': {part.__name__} must extend {self.base.__name__}."
                )
            if "name" in part.model_fields:
                raise UsageError(
                    f"{self.singular} '{name}': give the option 'name' of {part.__name__} another "
                    "name; in a recipe that key names the part itself."
                )
            taken = self._parts.get(name)
            if taken is not None:
                raise UsageError(
                    f"{self.singular} '{name}' is already registered, by {taken.__module__}."
                    f"{taken.__qualname__}. Register {part.__qualname__} under another name."
                )
            if vars(part).get("registered_name", name) != name:
                raise UsageError(
                    f"{self.singular} '{name}': {part.__qualname__} is registered already, as "
                    f"'{part.registered_name}'. Extend it, and register the subclass."
                )
            part.registered_name = name
            self._parts[name], self._modules_of[name] = part, module
            return part  # type: ignore[return-value]  # issubclass narrows it to type[P]

        return add

    def get(self, name: str) -> type[P]:
        """The class registered as ``name``.

        Raises:
            UsageError: nothing is; the message shows what would have worked.
        """
        self._load()
        try:
            return self._parts[name]
        except (KeyError, TypeError):
            hint = nearest(str(name), self._parts)
            raise UsageError(
                f"unknown {self.singular} '{name}'.{hint} "
                "A part of your own must be in a file named under 'imports:'."
            ) from None

    def create(self, name: str, /, **fields: Any) -> P:
        """The part ``name`` with the given options, as a recipe would make it.

        Raises:
            UsageError: unknown name, or an `InvalidError` that names every wrong option.
        """
        return build(self.get(name), fields)

    def registered_by(self, module: str) -> list[str]:
        """The names that a module, or one of a package, has registered, sorted."""
        found = {name: self._modules_of.get(name, "") for name in self._parts}
        return sorted(n for n, by in found.items() if f"{by}.".startswith(f"{module}."))

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._load()
        return sorted(self._parts)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            try:
                for module in self._modules:
                    importlib.import_module(module)
            except BaseException:
                self._loaded = False  # or half a family would be taken for the whole
                raise
