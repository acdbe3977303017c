from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.inference.graph import graph_of, known_at
from robustprune.inference.segment import Segment, put_segments, runs
from robustprune.kernels import Unsupported
from tests.inference.networks import Call, far, gradient, images, prepared, residual
from tests.kernels.reference import ReferenceProgram


def found(network: nn.Module, x: Tensor, dense: Iterable[str] = ()) -> list[list[str]]:
    """The layers or calls in each run."""
    graph = graph_of(network, x)
    parts = runs(graph, lambda known: known.layer not in dense)
    return [[known.layer for node in run if (known := known_at(node))] for run in parts]


def cut(network: nn.Module, x: Tensor, dense: Iterable[str] = (), program: Any = None) -> Any:
    graph = graph_of(network, x)
    put_segments(graph, lambda known: known.layer not in dense, program or ReferenceProgram)
    return graph


def chain(*middle: nn.Module) -> nn.Module:
    return prepared(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *middle, nn.Conv2d(4, 5, 1)), 0.5
    )


def test_a_network_that_is_known_is_one_run() -> None:
    assert found(chain(), torch.rand(1, 3, 8, 8)) == [["0", "1", "2"]]


def test_what_is_unknown_and_what_is_dense_cuts() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert found(chain(nn.GELU()), x) == [["0", "1"], ["3"]]
    assert found(chain(nn.Conv2d(4, 4, 1), nn.ReLU()), x, ["2"]) == [["0", "1"], ["3", "4"]]


def test_a_run_without_a_layer_is_none() -> None:
    assert found(chain(nn.GELU(), nn.ReLU(), nn.GELU()), torch.rand(1, 3, 8, 8))[1:] == [["5"]]


def test_a_run_ends_before_a_second_value_is_read_or_left() -> None:
    network, x = prepared(residual()), images(2, 3, 8, 8)
    whole = found(network, x)
    assert len(whole) == 1
    parts = found(network, x, ["2.conv2"])
    # up to what the block reads, its first half, and behind its sum, which reads two values
    assert parts[0] == ["0", "1"]
    assert parts[1][0] == "2.conv1"
    assert "3.conv1" in parts[2]
    assert not any("2.conv2" in part for part in parts)
    assert far(cut(network, x, ["2.conv2"])(x), network(x)) < 1e-6


def test_the_kernels_pad_with_zeros_only_where_these_are_no_maximum() -> None:
    x = torch.rand(1, 3, 8, 8)
    pool = nn.MaxPool2d(3, 2, 1)
    assert found(chain(pool), x) == [["0", "1", "2", "3"]]
    assert found(chain(nn.BatchNorm2d(4), pool), x) == [["0", "1", "2"], ["4"]]
    average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    assert found(chain(average), x) == [["0", "1"], ["3"]]


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("middle", [(), (nn.GELU(),), (nn.MaxPool2d(2), nn.Tanh())])
def test_logits_and_gradients_are_the_network_s(count: int, middle: tuple[nn.Module, ...]) -> None:
    network = chain(*middle, nn.AdaptiveAvgPool2d(1))
    network.append(nn.Flatten())
    graph = cut(network, images(2, 3, 8, 8))
    assert any(isinstance(part, Segment) for part in graph.modules())
    x = images(count, 3, 8, 8)
    assert graph(x).shape == network(x).shape == (count, 5)
    assert torch.allclose(graph(x), network(x), atol=1e-6)
    assert gradient(graph, x).shape == x.shape
    assert torch.allclose(gradient(graph, x), gradient(network, x), atol=1e-6)


def test_the_gradient_may_be_taken_twice_but_has_none_itself() -> None:
    segment, x = cut(chain(), images(2, 3, 8, 8)), images(2, 3, 8, 8).requires_grad_()
    loss = segment(x).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError):
        second.sum().backward()


def test_images_in_another_layout_or_precision() -> None:
    network, x = chain(), images(2, 3, 8, 8)
    graph = cut(network, x)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(graph(last), graph(x))
    assert torch.equal(graph(x.double()), graph(x))
    assert torch.equal(gradient(graph, last), gradient(graph, x))


def test_images_of_another_size_are_refused() -> None:
    graph = cut(chain(), torch.rand(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"\(n, 3, 8, 8\) on the CPU; got \(2, 3, 9, 8\)"):
        graph(torch.rand(2, 3, 9, 8))


def test_copies_share_the_program() -> None:
    graph = cut(chain(), torch.rand(1, 3, 8, 8))
    (first,), (second,) = (
        [part for part in one.modules() if isinstance(part, Segment)]
        for one in (graph, copy.deepcopy(graph))
    )
    assert first is not second
    assert first.program is second.program


def test_what_the_kernels_refuse_stays_torch_s() -> None:
    def program(operations: Any, shape: tuple[int, ...]) -> ReferenceProgram:
        if shape == (3, 8, 8):
            raise Unsupported("this")
        return ReferenceProgram(operations, shape)

    network, x = chain(nn.GELU()), images(3, 3, 8, 8)
    graph = cut(network, x, program=program)
    assert [part.before for part in graph.modules() if isinstance(part, Segment)] == [(4, 8, 8)]
    assert far(graph(x), network(x)) < 1e-6


def test_a_dead_end_does_no_harm() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        m.conv(y.relu())  # that nothing reads
        return y.relu()

    network, x = prepared(Call(function, conv=nn.Conv2d(3, 3, 1))), images(2, 3, 8, 8)
    assert far(cut(network, x)(x), network(x)) < 1e-6
