import itertools

import pytest
import torch
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.masking import allocations, attach, select, structures
from robustprune.masking.allocations import round_count
from robustprune.models import create_model
from robustprune.testing.masks import STRUCTURES as CONTRACT
from robustprune.testing.masks import network

OPTIONS = {"block": {"rows": 3, "columns": 5}}
STRUCTURES = [structures.create(name, **OPTIONS.get(name, {})) for name in structures.names()]
NAMES = [structure.registered_name for structure in STRUCTURES]
DENSITIES = (0.01, 0.5, 1.0)


def importances(*shapes: tuple[int, ...], highest: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Whole numbers, whose sums are exact in any order, with many ties."""
    draw = torch.Generator().manual_seed(seed)
    return {
        f"l{i}": torch.randint(highest + 1, shape, generator=draw).float()
        for i, shape in enumerate(shapes)
    }


def picked(values: list, *shape: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).view(shape)


def fits(structure: structures.Structure, density: float, allocation: str) -> bool:
    return not list(structure.problems([density], allocations.create(allocation)))


CASES = [
    (structure, name, density)
    for structure in STRUCTURES
    for name in allocations.names()
    for density in DENSITIES
    if fits(structure, density, name)
    and (name != "uniform_plus" or density > 0.3)  # its dense ends alone are more
]


@pytest.mark.parametrize(
    ("structure", "allocation", "density"),
    CASES,
    ids=[f"{s.registered_name}-{name}-{density}" for s, name, density in CASES],
)
def test_each_layer_keeps_whole_entries_as_many_as_it_is_given(structure, allocation, density):
    torch.manual_seed(0)
    masked = attach(network(), structure=structure)
    importance = {name: weight.detach().abs() for name, weight in masked.weights.items()}
    part = allocations.create(allocation)
    masks = select(importance, density, allocation=part, structure=structure)
    entries = {name: structure.reduce(tensor) for name, tensor in importance.items()}
    counts = part(entries, density, {name: w.shape for name, w in masked.weights.items()})
    sizes = {name: entry.numel() for name, entry in entries.items()}
    for name, mask in masks.items():
        assert mask.shape == masked.weights[name].shape
        chosen = structure.reduce(mask.float())
        full = structure.reduce(torch.ones_like(mask, dtype=torch.float))
        assert torch.equal(chosen, torch.where(chosen > 0, full, 0.0))  # whole entries only
        assert int((chosen > 0).sum()) == counts[name] >= 1
        assert torch.equal(structure.expand(chosen > 0, masked.weights[name]), mask)
    total = sum(counts.values())
    if allocation == "uniform":
        assert counts == {name: round_count(density, size) for name, size in sizes.items()}
    elif allocation == "global":
        assert total == max(round(density * sum(sizes.values())), len(sizes))
    else:
        assert abs(total - density * sum(sizes.values())) <= len(sizes)
    masked.set(masks)
    assert masked.kept == sum(report.kept for report in masked.report())
    assert bool(masked.model(torch.rand(2, 3, 10, 10)).isfinite().all())


@pytest.mark.parametrize("structure", STRUCTURES, ids=NAMES)
@pytest.mark.parametrize("highest", [0, 2, 9])
def test_the_memory_format_does_not_matter(structure, highest):
    importance = importances((6, 8, 3, 3), (4, 12, 1, 1), highest=highest)
    importance["l2"] = torch.rand(12, 8, 3, 3)
    turned = {n: t.contiguous(memory_format=torch.channels_last) for n, t in importance.items()}
    assert not turned["l0"].is_contiguous()
    part = allocations.create("uniform")
    masks, others = (
        select(given, 0.5, allocation=part, structure=structure) for given in (importance, turned)
    )
    for name, mask in masks.items():
        assert torch.equal(mask, others[name])


@pytest.mark.parametrize("promise", CONTRACT.promises, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("structure", STRUCTURES, ids=NAMES)
def test_it_keeps_its_promises(structure, promise):
    promise(structure)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["filter", "channel"])
def test_sums_in_half_precision_are_neither_rounded_nor_infinite(name, dtype):
    importance = torch.full((3, 3, 64, 64), 60.0, dtype=dtype)
    importance[1, 1, 0, 0] += 1
    structure = structures.create(name)
    mask = structure.select(structure.reduce(importance), 1)
    assert mask.tolist() == [False, True, False]


# by hand


def test_a_filter_is_a_row():
    weight = torch.tensor([[1.0, 1, 1], [0, 2, 2], [3, 0, 0], [0, 0, 0]]).view(4, 3, 1, 1)
    structure = structures.create("filter")
    entries = structure.reduce(weight)
    assert entries.tolist() == [3, 4, 3, 0]
    chosen = structure.select(entries, 2)
    assert chosen.tolist() == [True, True, False, False]  # of equal ones the first
    mask = structure.expand(chosen, weight)
    assert torch.equal(mask, picked([1] * 6 + [0] * 6, 4, 3, 1, 1))


def test_a_channel_is_a_column_of_kernels():
    weight = torch.tensor([[[1.0, 0], [0, 5]], [[0, 0], [1, 0]]]).view(2, 2, 1, 2)
    structure = structures.create("channel")
    entries = structure.reduce(weight)
    assert entries.tolist() == [1, 6]
    mask = structure.expand(structure.select(entries, 1), weight)
    assert torch.equal(mask, picked([0, 0, 1, 1, 0, 0, 1, 1], 2, 2, 1, 2))


def test_a_channel_of_a_grouped_convolution_is_the_one_at_its_place_in_every_group():
    layer = nn.Conv2d(4, 4, 1, groups=2)  # channels 0, 1 and 2, 3
    masked = attach(nn.Sequential(nn.Conv2d(1, 4, 1), layer), structure="channel")
    values = torch.tensor([[1.0, 3], [1, 3], [5, 0], [5, 0]]).view(4, 2, 1, 1)
    masked.set(
        select(
            {"1.weight": values},
            0.5,
            allocation=allocations.create("uniform"),
            structure=masked.structure,
        )
    )
    images = torch.rand(1, 4, 1, 1, requires_grad=True)
    layer(images).sum().backward()
    assert images.grad.flatten().bool().tolist() == [True, False, True, False]  # 12 against 6


def test_a_block_is_a_rectangle_of_the_matrix_and_the_last_ones_are_smaller():
    weight = torch.tensor([[1.0, 1, 1, 0, 9], [1, 1, 1, 1, 0], [4, 1, 0, 0, 3]])
    structure = structures.create("block", rows=2, columns=2)
    entries = structure.reduce(weight)
    assert entries.tolist() == [[4, 3, 9], [5, 0, 3]]
    mask = structure.expand(structure.select(entries, 2), weight)
    assert torch.equal(mask, picked([0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0], 3, 5))


def test_the_matrix_of_a_convolution_has_kernel_positions_before_channels():
    weight = torch.zeros(1, 2, 2, 2)
    weight[0, 0, 1, 1], weight[0, 1, 0, 0] = 1, 2  # columns 3 and 4
    entries = structures.create("block", rows=1, columns=4).reduce(weight)
    assert entries.tolist() == [[1, 2]]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (3, 2), (7, 9)])
def test_blocks_agree_with_brute_force(rows, columns):
    structure = structures.create("block", rows=rows, columns=columns)
    (weight,) = importances((5, 2, 2, 2)).values()
    matrix = weight.reshape(5, 8)
    corners = [(i, j) for i in range(0, 5, rows) for j in range(0, 8, columns)]
    sums = [float(matrix[i : i + rows, j : j + columns].sum()) for i, j in corners]
    entries = structure.reduce(weight)
    assert entries.flatten().tolist() == sums
    for kept in range(1, len(corners) + 1):
        best = sorted(range(len(sums)), key=lambda k: (-sums[k], k))[:kept]
        expected = torch.zeros(5, 8, dtype=torch.bool)
        for i, j in (corners[k] for k in best):
            expected[i : i + rows, j : j + columns] = True
        mask = structure.expand(structure.select(entries, kept), weight)
        assert torch.equal(mask, expected.view(weight.shape))


def test_two_of_four_run_along_input_channels():
    channels = torch.tensor([[3.0, 1, 2, 0, 5, 5, 5, 5], [0, 9, 0, 0, 1, 2, 3, 4]])
    structure = structures.create("n_m")
    expected = picked([1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1], 2, 8)
    assert torch.equal(structure.select(channels, 8), expected)
    images = torch.stack([channels, channels.flip(1)], dim=2).view(2, 8, 1, 2)
    mask = structure.select(images, 16)
    assert torch.equal(mask[..., 0, 0], expected)
    assert int(mask[..., 0, 1].sum()) == 8


@pytest.mark.parametrize(("n", "m"), [(1, 2), (3, 4), (5, 8)])
@pytest.mark.parametrize("kernel", [(), (1, 1), (2, 3)])
def test_n_of_every_m_agree_with_brute_force(n, m, kernel):
    structure = structures.create("n_m", n=n, m=m)
    (weight,) = importances((3, 2 * m, *kernel), highest=3).values()
    mask = structure.select(weight, weight.numel() * n // m)
    expected = torch.zeros_like(mask)
    for place in itertools.product(*map(range, (3, *kernel))):
        out, where = place[0], place[1:]
        for start in (0, m):
            group = [(float(weight[(out, start + i, *where)]), -i) for i in range(m)]
            for _, i in sorted(group, reverse=True)[:n]:
                expected[(out, start - i, *where)] = True
    assert torch.equal(mask, expected)


# what stays dense


def test_layers_out_of_reach_stay_dense_and_are_named_in_the_networks_order():
    expected = {
        "weight": (),
        "filter": ("7",),
        "channel": ("0", "4"),  # the first, and the depthwise one
        "block": (),
        "n_m": ("0", "4"),  # 3 and 1 channels
    }
    for structure in STRUCTURES:
        masked = attach(network(), structure=structure)
        assert masked.dense == expected[structure.registered_name]
        names = {report.name for report in masked.report()} | set(masked.dense)
        assert names == {"0", "1", "3", "4", "6", "7"}


def test_what_is_excluded_does_not_move_the_networks_ends():
    assert attach(network(), exclude=["7"], structure="filter").dense == ()
    assert attach(network(), exclude=["0"], structure="channel").dense == ("4",)


def test_layers_of_one_entry_stay_dense():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 9, 3), nn.Linear(9, 4), nn.Linear(4, 2))
    assert attach(model, structure="filter").dense == ("0", "3")
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 9, 3), nn.Linear(9, 4), nn.Linear(4, 2))
    block = structures.create("block", rows=4, columns=9)
    assert attach(model, structure=block).dense == ("0", "2", "3")


def test_ends_are_those_that_timm_names():
    model = create_model("test_resnet", num_classes=4, in_chans=3, mean=[0.5] * 3, std=[0.5] * 3)
    assert attach(model, structure="filter").dense == ("backbone.fc",)

    class TwoHeads(nn.Module):
        pretrained_cfg = {"first_conv": ("left", "right"), "classifier": ("head", "other")}

        def __init__(self) -> None:
            super().__init__()
            self.head, self.other = nn.Linear(4, 2), nn.Linear(4, 2)
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.body = nn.Conv2d(4, 4, 1)

    assert attach(TwoHeads(), structure="filter").dense == ("head", "other")
    assert attach(TwoHeads(), structure="channel").dense == ("left", "right")


def test_a_structure_that_leaves_nothing_to_prune_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match="'n_m' leaves every layer of Sequential dense: 0, 2"):
        attach(model, structure="n_m")


# allocations


def test_erk_goes_by_the_shape_of_the_weight_whatever_its_entries_are():
    importance = {"a": torch.rand(4, 2, 1, 1), "b": torch.rand(20, 10, 3, 3)}
    structure = structures.create("filter")
    entries = {name: structure.reduce(tensor) for name, tensor in importance.items()}
    shapes = {name: tensor.shape for name, tensor in importance.items()}
    # 1 and 0.02 of a filter's share: a has 8/8 · 4 = 4, b 36/1800 · 20 = 0.4; budget 9.6
    assert allocations.create("erk")(entries, 0.4, shapes) == {"a": 4, "b": 6}
    assert allocations.create("erk")(entries, 0.4) == {"a": 2, "b": 8}


def test_global_compares_the_sums():
    importance = {"a": torch.tensor([[1.0, 1], [2, 2]]), "b": torch.tensor([[3.0], [5], [0]])}
    masks = select(
        importance,
        0.6,
        allocation=allocations.create("global"),
        structure=structures.create("filter"),
    )
    assert {name: mask[:, 0].tolist() for name, mask in masks.items()} == {
        "a": [False, True],
        "b": [True, True, False],
    }


@pytest.mark.parametrize("density", [0.1, 0.49, 0.500001, 1.0])
def test_another_density_than_n_of_m_is_refused(density):
    structure, uniform = structures.create("n_m"), allocations.create("uniform")
    (problem,) = structure.problems([0.5, density], uniform)
    assert problem.startswith("structure 'n_m' keeps 2 of every 4 weights: its density is 0.5, not")
    assert problem.endswith("Ask for density 2/4, or choose other n and m.")
    with pytest.raises(UsageError, match="Ask for density 2/4"):
        select({"a": torch.rand(1000, 1000)}, density, allocation=uniform, structure=structure)


def test_a_third_is_a_density_of_one_of_three():
    structure = structures.create("n_m", n=1, m=3)
    assert not list(structure.problems([1 / 3], allocations.create("uniform")))


@pytest.mark.parametrize("name", ["global", "erk"])
def test_n_of_m_takes_no_allocation_by_which_layers_differ(name):
    (problem,) = structures.create("n_m").problems([0.5], allocations.create(name))
    assert f"allocation '{name}' does not. Use allocation: uniform." in problem


def test_n_of_m_must_prune_something():
    with pytest.raises(UsageError, match="4 of every 4 prunes nothing"):
        structures.create("n_m", n=4)
