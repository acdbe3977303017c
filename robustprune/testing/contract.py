"""A family's contract: promises, each a function of a part that raises where it is broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from robustprune.errors import first_line
from robustprune.seeding import fork

Promise = Callable[[Any], None]
F = TypeVar("F", bound=Promise)


class BrokenPromiseError(AssertionError):
    """A part does not do what its family promises; the message says what was seen."""


class Finding(NamedTuple):
    """One promise, and the error with which it was broken; None where it holds."""

    promise: str
    error: Exception | None


class Contract:
    """The promises of a family, in the order in which they are looked at.

    Args:
        methods: those that a part defines, the first of which is shown where a promise is broken.
    """

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.promises: list[Promise] = []

    def promise(self, function: F) -> F:
        """Decorate a promise; its docstring says what holds."""
        self.promises.append(function)
        return function

    def findings(self, part: Any) -> list[Finding]:
        """Hold a part against each promise, on random numbers that are the same each time."""
        return [Finding(title(promise), _error(promise, part)) for promise in self.promises]

    def check(self, part: Any) -> None:
        """Hold a part against all promises.

        Raises:
            AssertionError: names each one that it breaks.
        """
        broken = [finding for finding in self.findings(part) if finding.error is not None]
        if broken:
            reasons = [said(one.error) for one in broken]
            lines = [
                f"{one.promise}: {'the same' if reason in reasons[:place] else reason}"
                for place, (one, reason) in enumerate(zip(broken, reasons, strict=True))
            ]
            count = f"{len(broken)} of {len(self.promises)} promises are broken"
            text = "\n  ".join([f"{type(part).__name__}: {count}", *lines])
            raise AssertionError(text) from broken[0].error


def expect(holds: object, found: str) -> None:
    """Raise `BrokenPromiseError` with what was found, unless something holds."""
    if not holds:
        raise BrokenPromiseError(found)


def title(promise: Promise) -> str:
    """What a promise says."""
    return (inspect.getdoc(promise) or promise.__name__).splitlines()[0].rstrip(".")


def said(error: BaseException | None) -> str:
    """An error in a line: what was found, or the kind of the error and its words."""
    assert error is not None
    words = first_line(error)
    return words if isinstance(error, BrokenPromiseError) else f"{type(error).__name__}: {words}"


def changed(part: Any, **options: Any) -> Any:
    """A part of the same options but for some, without the state that it has gathered."""
    return type(part)(**{**dict(part), **options})


def joined(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names) or "none"


def _error(promise: Promise, part: Any) -> Exception | None:
    try:
        with fork(0, promise.__name__):
            promise(part)
    except Exception as error:  # of the part's own, of any kind
        return error
    return None
