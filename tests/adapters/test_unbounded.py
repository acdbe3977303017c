import pytest
import torch
from torch import nn

import robustprune as rp
from robustprune.adapters.bounds import METHODS, Bounds
from robustprune.adapters.lirpa_library import lirpa
from robustprune.adapters.unbounded import is_memory, named
from robustprune.errors import UsageError

from .tiny import images, labels, network

MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
]


def model(*layers, features):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 2, 2), *layers, nn.Flatten(), nn.Linear(features, 3)).eval()


def margins(graph, network, method):
    return graph.margins(network, images(), labels(), eps=0.1, method=method)


@pytest.mark.parametrize("method", ["crown_ibp", "crown", "alpha_crown"])
def test_a_pooling_that_only_intervals_take_is_named_with_the_remedy(method):
    net = model(nn.ReLU(), nn.MaxPool2d(2, stride=1), nn.Identity(), features=2)
    graph = Bounds(net, images())
    expected = r"no CROWN\S* bound for layer '2 \(MaxPool2d\)'.*Use the bound 'ibp', .*smoothing"
    with pytest.raises(UsageError, match=expected):
        margins(graph, net, method)
    assert margins(graph, net, "ibp").shape == (3, 2)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("layer", [nn.ELU(), nn.GELU(), nn.Hardtanh(), nn.GroupNorm(2, 2)])
def test_a_layer_that_nothing_takes_is_named_at_once(layer):
    net = model(nn.ReLU(), nn.Sequential(nn.Identity(), layer), features=8)
    with pytest.raises(UsageError) as error:
        Bounds(net, images())
    text = str(error.value)
    assert f"no IBP bound for layer '2.1 ({type(layer).__name__})'" in text
    assert "'ibp'" not in text
    assert "smoothing" in text


def test_the_first_of_several_layers_is_named():
    net = model(nn.ReLU(), nn.GELU(), nn.ReLU(), nn.ELU(), features=8)
    with pytest.raises(UsageError, match=r"layer '2 \(GELU\)'"):
        Bounds(net, images())


def test_what_is_no_layer_is_said_to_be_none():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network("mlp")

        def forward(self, x):
            return self.net(torch.erf(x))

    with pytest.raises(
        UsageError, match=r"bound for a function of this network \(it cannot take Erf"
    ):
        Bounds(Functional(), images())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ONNX Preprocess")
def test_networks_of_timm():
    resnet, x = rp.create_model("resnet18", num_classes=3).eval(), torch.rand(2, 3, 8, 8)
    graph, y = Bounds(resnet, x), torch.tensor([0, 2])
    low = graph.margins(resnet, x, y, eps=1e-6, method="ibp")
    torch.testing.assert_close(graph.forward(resnet, x), resnet(x), rtol=1e-4, atol=1e-4)
    logits = resnet(x)
    assert (low[0] <= (logits[0, 0] - logits[0, 1:]) + 1e-4).all()
    with pytest.raises(UsageError, match=r"layer 'backbone\.maxpool \(MaxPool2d\)'"):
        graph.margins(resnet, x, y, eps=1e-6, method="crown_ibp")
    x = torch.rand(2, 3, 32, 32)
    with pytest.raises(UsageError, match=r"layer 'backbone\.stages\.0\.blocks\.0\.mlp\.act \(GELU"):
        Bounds(rp.create_model("convnext_atto", num_classes=3).eval(), x)


def test_a_refused_bound_leaves_the_others():
    net = model(nn.BatchNorm2d(2), nn.Softplus(), features=8)
    graph, expected = Bounds(net, images()), margins(Bounds(net, images()), net, "ibp")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"layer '2 \(Softplus\)'.*bounds of Softplus are not"):
            margins(graph, net, "crown")
    torch.testing.assert_close(margins(graph, net, "ibp"), expected)
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("error", MEMORY)
def test_running_out_of_memory_stays_what_it_was(error, monkeypatch):
    graph, net = Bounds(network("mlp"), images()), network("mlp")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(lirpa().BoundedModule, "compute_bounds", fail)
    monkeypatch.setattr(lirpa().BoundedModule, "init_slope", fail)
    for method in METHODS:
        with pytest.raises(type(error)) as raised:
            margins(graph, net, method)
        assert raised.value is error


@pytest.mark.parametrize("error", MEMORY)
def test_memory_is_told_from_other_errors(error):
    assert is_memory(error)
    assert not is_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_memory(ValueError("cannot allocate memory"))


def test_an_interruption_passes_through():
    def interrupted():
        with named(network("mlp"), bound="IBP"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_nothing_is_printed(capfd):
    net = network("conv_norm")
    graph = Bounds(net, images())
    for method in METHODS:
        margins(graph, net, method)
    with pytest.raises(UsageError):
        Bounds(model(nn.ELU(), features=8), images())
    with named(net, bound="IBP"):
        print("advice for the library's own users")
    assert capfd.readouterr() == ("", "")
