"""The contracts of structures and of allocations: exact numbers of entries, in every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.masking import attach, select
from robustprune.masking.allocations import Allocation
from robustprune.masking.allocations import create as create_allocation
from robustprune.masking.structures import Structure
from robustprune.testing.contract import Contract, expect, joined

STRUCTURES = Contract("reduce", "expand", "select")
ALLOCATIONS = Contract("shares", "__call__")
DENSITIES = (0.05, 0.1, 1 / 3, 0.5, 0.9, 1.0)


def network() -> nn.Sequential:
    """A first layer, plain, grouped and depthwise ones, and an output; 4 divides 8 and 16."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)]
    grouped = [nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 16, 3, groups=16)]
    return nn.Sequential(*convolutions, *grouped, nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 5))


def importances() -> dict[str, Tensor]:
    """Layers of a small network, with whole numbers whose sums are exact in any order."""
    shapes = [(16, 3, 4, 4), (32, 16, 4, 4), (100, 512), (10, 100)]
    draw = torch.Generator().manual_seed(0)
    return {
        f"layer{i}": torch.randint(1, 99, shape, generator=draw).float()
        for i, shape in enumerate(shapes)
    }


@STRUCTURES.promise
def keeps_whole_entries(structure: Structure) -> None:
    """Each layer keeps whole entries, as many as it is given."""
    uniform = create_allocation("uniform")
    kept = [d for d in DENSITIES if not list(structure.problems([d], uniform))]
    expect(kept, f"it takes none of the densities {DENSITIES}")
    for density in kept:
        masked = attach(network(), structure=structure)
        importance = {name: weight.detach().abs() for name, weight in masked.weights.items()}
        masks = select(importance, density, allocation=uniform, structure=structure)
        entries = {name: structure.reduce(tensor) for name, tensor in importance.items()}
        counts = uniform(entries, density, {n: w.shape for n, w in masked.weights.items()})
        for name, mask in masks.items():
            weight = masked.weights[name]
            expect(mask.shape == weight.shape, f"a mask of {tuple(mask.shape)} for {name}")
            chosen = structure.reduce(mask.float())
            full = structure.reduce(torch.ones_like(mask, dtype=torch.float))
            parts = not torch.equal(chosen, torch.where(chosen > 0, full, 0.0))
            expect(not parts, f"parts of entries are kept in {name}")
            number = int((chosen > 0).sum())
            expect(number == counts[name], f"{name} keeps {number} of {counts[name]} entries")
            back = structure.expand(chosen > 0, weight)
            expect(torch.equal(back, mask), f"expand does not undo reduce in {name}")
        masked.set(masks)
        finite = masked.model(torch.rand(2, 3, 10, 10)).isfinite().all()
        expect(finite, f"at density {density:g} the logits are not finite")


@STRUCTURES.promise
def takes_channels_last(structure: Structure) -> None:
    """The memory format makes no difference, to the bit."""
    importance = torch.rand(16, 24, 3, 3, generator=torch.Generator().manual_seed(0))
    turned = importance.contiguous(memory_format=torch.channels_last)
    same = torch.equal(structure.reduce(turned), structure.reduce(importance))
    expect(same, "other sums: use robustprune.masking.selection.summed")


@STRUCTURES.promise
def refuses_nan(structure: Structure) -> None:
    """Importance that is not a number is refused, not selected."""
    importance = torch.ones(8, 8, 3, 3)
    importance[3, 2, 1, 1] = torch.nan
    entries = structure.reduce(importance)
    try:
        structure.select(entries, entries.numel() // 2)
    except UsageError:
        return
    expect(False, "select takes NaN: robustprune.masking.selection.refuse_nan refuses it")


def _counts(allocation: Allocation, density: float) -> dict[str, int] | None:
    try:
        return allocation(importances(), density)
    except UsageError:  # which may ask for a higher density
        return None


@ALLOCATIONS.promise
def comes_to_the_density(allocation: Allocation) -> None:
    """Every layer keeps something, and all of them come to the density."""
    entries = importances()
    total, taken = sum(entry.numel() for entry in entries.values()), 0
    for density in DENSITIES:
        if (counts := _counts(allocation, density)) is None:
            continue
        taken += 1
        expect(list(counts) == list(entries), f"layers {joined(counts)}, not {joined(entries)}")
        kinds = {type(count).__name__ for count in counts.values()}
        expect(kinds == {"int"}, f"numbers of type {joined(kinds)}")
        wrong = [n for n, count in counts.items() if not 1 <= count <= entries[n].numel()]
        expect(not wrong, f"at density {density:g} too few or too many in {joined(wrong)}")
        off = sum(counts.values()) - density * total
        expect(abs(off) <= len(entries), f"at density {density:g} {off:+.0f} entries in all")
    expect(taken, f"it takes none of the densities {DENSITIES}")


@ALLOCATIONS.promise
def keeps_everything_at_one(allocation: Allocation) -> None:
    """Density 1 keeps everything."""
    counts = allocation(importances(), 1.0)
    wrong = [name for name, entry in importances().items() if counts[name] != entry.numel()]
    expect(not wrong, f"not all of {joined(wrong)}")


@ALLOCATIONS.promise
def takes_zeros(allocation: Allocation) -> None:
    """Importance of zeros only is shared out too."""
    zeros = {name: torch.zeros_like(entry) for name, entry in importances().items()}
    counts = allocation(zeros, 0.5)
    expect(all(count >= 1 for count in counts.values()), f"{counts}")


@ALLOCATIONS.promise
def leaves_importance_alone(allocation: Allocation) -> None:
    """The importance is left as it was, and its memory format makes no difference."""
    entries, turned = importances(), importances()
    for name in ("layer0", "layer1"):
        turned[name] = turned[name].contiguous(memory_format=torch.channels_last)
    expect(allocation(turned, 0.9) == allocation(entries, 0.9), "channels-last, other numbers")
    wrong = [name for name, entry in importances().items() if not torch.equal(entry, turned[name])]
    expect(not wrong, f"it changes {joined(wrong)}")
