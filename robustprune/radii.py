"""Radii of balls, the steps that attacks take in them, and noise: all in the [0, 1] pixel range.

Declare the fields of a part with these types, and a value that is meant in steps of 1/255, or that
an attack cannot reach the ball with, is refused where it is written.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

LARGEST = {"linf": 1.0, "l2": 10.0}
"""The largest radius by norm. In ℓ∞ it is all of [0, 1]. In ℓ2 it is what nobody means who does not
forget to divide by 255: the field's largest are 3 to 5, on ImageNet, and 16/255 is 0.06."""


def check_radius(radius: float, norm: str = "linf") -> float:
    """Return a radius, or a length in the same unit, if it is one in the [0, 1] pixel range.

    Raises:
        ValueError: it is not; of ``8`` it asks ``8/255?``.
    """
    largest = LARGEST[norm]
    if not 0 <= radius <= largest:
        meant = f" ({radius:g}/255?)" if largest < radius <= 255 * largest else ""
        raise ValueError(
            f"expected a length from 0 to {largest:g} in {norm}, with pixels in [0, 1]; "
            f"got {radius:g}{meant}"
        )
    return radius


@cache  # asked at every step of a training
def default_step(eps: float, steps: int) -> float:
    """The length of an attack's step where none is given: a quarter of the ball's radius.

    In fewer than five steps it is 1.25·eps/steps, so that the whole ball is in reach. With ten
    steps this is the field's usual 2/255 at 8/255, with one that of Wong, Rice, Kolter 2020.
    """
    return eps * max(0.25, 1.25 / max(steps, 1))


def check_reach(step_size: float, *, eps: float, steps: int) -> float:
    """Return the length of a step, if so many of them lead from the middle of a ball to its edge.

    Raises:
        ValueError: they do not: what the attack leaves would not be what withstands in the ball.
    """
    if steps * step_size < eps * (1 - 1e-6):
        raise ValueError(
            f"{steps} × {step_size:.4g} = {steps * step_size:.4g} does not reach eps = {eps:.4g}, "
            f"so that most of the ball is never searched. Take {eps / max(steps, 1):.4g} at "
            "least, or leave it out"
        )
    return step_size


def _in_norm(value: float, info: ValidationInfo) -> float:
    norm = info.data.get("norm")
    return check_radius(value, norm if norm in LARGEST else "linf")


def _reaching(value: float, info: ValidationInfo) -> float:
    _in_norm(value, info)
    if (eps := info.data.get("eps")) is None:  # it is at fault itself
        return value
    return check_reach(value, eps=eps, steps=info.data.get("steps", 1))


Radius = Annotated[float, AfterValidator(_in_norm)]
"""A length in the norm of the part's ``norm``, a field that stands before this one; else in ℓ∞."""
L2Radius = Annotated[float, AfterValidator(partial(check_radius, norm="l2"))]
"""A length in ℓ2."""
Sigma = Annotated[float, AfterValidator(check_radius)]
"""A standard deviation of noise on pixels."""
StepSize = Annotated[float, Field(gt=0), AfterValidator(_reaching)]
"""The length of an attack's step: ``steps`` of them reach ``eps``. Both fields stand before it."""
