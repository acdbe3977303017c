"""Checkpoints as the field writes them are read exactly, by every reader, or refused."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from robustprune.artifacts.hydra import ARCHITECTURES as REFERENCES
from robustprune.artifacts.hydra import read_hydra
from robustprune.artifacts.reading import load_model, read_model
from robustprune.errors import UsageError
from robustprune.models import create_model
from tests.artifacts.checkpoints import Reference
from tests.artifacts.nets import ARCHITECTURES
from tests.masks import pruned

BN = ARCHITECTURES["cnn_small_bn"]
NORMALISED = ARCHITECTURES["normalised"]
RESNET = {"name": "resnet18_cifar", "num_classes": 10, "in_chans": 3}
WIDE = {"name": "wrn_28_4", "num_classes": 10, "in_chans": 3}
_MADE: dict[str, nn.Module] = {}


def network(architecture=BN) -> nn.Module:
    """One with statistics of its own, made once."""
    name = architecture["name"] + str(architecture.get("mean"))
    if name not in _MADE:
        torch.manual_seed(0)
        model = _MADE[name] = create_model(**architecture).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
    return copy.deepcopy(_MADE[name])


def written(folder, content, name="net.pt"):
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in content.items()}, folder / name)
    else:
        torch.save(content, folder / name)
    return folder / name


def same(model: nn.Module, expected: nn.Module, architecture=BN) -> None:
    """Both compute the same, to the last bit but where a weight was computed."""
    size = architecture.get("image_size", 32)
    images = torch.rand(2, architecture["in_chans"], size, size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected.eval()(images), rtol=1e-5, atol=1e-6)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


# Wrappers and containers

PREFIXES = ["", "module.", "backbone.", "module._orig_mod.", "a.b.c.d.e.", "1."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("architecture", [BN, NORMALISED], ids=lambda a: a["name"])
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_any_prefix_is_seen_through(tmp_path, prefix, architecture, name):
    model = network(architecture)
    inner = model.backbone if architecture is NORMALISED else model
    path = written(tmp_path, prefixed(inner.state_dict(), prefix), name)
    same(load_model(path, **architecture), model, architecture)


def contained(state):
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "net": {"net": state, "acc": 90.0, "epoch": 3},
        "model_state": {"model_state": state, "optimizer": optimizer},
        "nested": {"model": {"state_dict": state}},
        "twice": {"checkpoint": {"model": state, "optimizer_state": optimizer}},
        "an unknown key": {"student": state, "optim": optimizer, "scheduler": {"t": 3}},
        "an average beside it": {"state_dict": state, "state_dict_ema": other},
        "an average first": {"ema": prefixed(other, "module."), "model": state},
        "an average alone": {"model_ema": state, "optimizer": optimizer, "epoch": 3},
        "an average of an average": {"ema": {"decay": 0.999, "shadow": state}},
        "an average within": {**prefixed(state, "model."), **prefixed(other, "model_ema.")},
        "a number beside it": {**state, "epoch": 3, "args": {"lr": 0.1}, "note": None},
        "a tensor beside it": {"state_dict": state, "best": torch.tensor(3.0)},
        "Lightning's": {"state_dict": prefixed(state, "model."), "callbacks": {}, "loops": {}},
        "a copy for attacks": {
            "model": {
                **prefixed(state, "module.model."),
                **prefixed(state, "module.attacker.model."),
            }
        },
    }


@pytest.mark.parametrize("kind", contained({}))
def test_containers_are_seen_through(tmp_path, kind):
    path = written(tmp_path, contained(network().state_dict())[kind])
    same(load_model(path, **BN), network())


def test_an_averaged_model_and_data_parallel_are_read(tmp_path):
    averaged = AveragedModel(nn.DataParallel(network()))
    path = written(tmp_path, {"model": averaged.state_dict()})
    same(load_model(path, **BN), network())


def test_two_networks_in_one_file_are_not_guessed_at(tmp_path):
    one, other = network().state_dict(), create_model(**BN).state_dict()
    both = {**prefixed(one, "student."), **prefixed(other, "teacher.")}
    with pytest.raises(UsageError, match=r"is not of this architecture"):
        load_model(written(tmp_path, both), **BN)


# Duplicates and aliases


@pytest.mark.slow
def test_a_stage_that_trades_never_uses_is_left_out(tmp_path):
    state = network(WIDE).state_dict()
    twice = {n.replace("block1", "sub_block1"): t for n, t in state.items() if "block1" in n}
    path = written(tmp_path, prefixed({**state, **twice}, "module."))
    same(read_model(path, WIDE).model, network(WIDE), WIDE)


def torchvisions(state):
    aliases = {"shortcut": "downsample", "linear": "fc"}
    return {".".join(aliases.get(p, p) for p in name.split(".")): t for name, t in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module.", "model.0."])
def test_torchvisions_names_of_a_resnet_are_ours(tmp_path, prefix):
    path = written(tmp_path, prefixed(torchvisions(network(RESNET).state_dict()), prefix))
    same(load_model(path, **RESNET), network(RESNET), RESNET)


@pytest.mark.slow
def test_the_names_of_cifar_code_are_torchvisions_and_timms(tmp_path):
    timms = {
        "name": "resnet18",
        "num_classes": 10,
        "in_chans": 3,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    torch.manual_seed(0)
    model = create_model(**timms).eval()
    renamed = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in model.state_dict().items()
    }
    same(load_model(written(tmp_path, renamed), **timms), model, timms)


@pytest.mark.slow
def test_torchvisions_own_resnets_and_vggs_are_timms(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    identity = {"mean": [0.0] * 3, "std": [1.0] * 3, "num_classes": 10, "in_chans": 3}
    for name in ("resnet18", "resnet50"):
        made = getattr(torchvision.models, name)(num_classes=10)
        path = written(tmp_path, made.state_dict())
        same(load_model(path, name=name, **identity), made, identity)


@pytest.mark.slow
def test_a_stem_of_another_shape_is_refused(tmp_path):
    timms = create_model("resnet18", num_classes=10).backbone.state_dict()
    with pytest.raises(UsageError, match=r"conv1\.weight has shape \(64, 3, 7, 7\)"):
        load_model(written(tmp_path, timms), **RESNET)


# Weights that are computed


def test_pruned_weights_are_read_as_products_with_their_masks(tmp_path):
    model = network()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured([(m, "weight") for m in layers], prune.L1Unstructured, amount=0.8)
    prune.l1_unstructured(layers[0], "bias", amount=0.5)
    for prefix in ("", "module.model."):
        saved = read_model(written(tmp_path, prefixed(model.state_dict(), prefix)), BN)
        same(saved.model, model)
        for name, mask in saved.masks.items():
            layer = model.get_submodule(name.removesuffix(".weight"))
            assert torch.equal(mask, layer.weight_mask.bool())
            assert torch.equal(saved.model.get_parameter(name), layer.weight)
        assert len(saved.masks) == len(layers)


def test_the_masks_of_a_normalising_network_have_its_names(tmp_path):
    model = network(NORMALISED)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[:2]:
        prune.random_unstructured(layer, "weight", amount=0.5)
    prune.random_unstructured(layers[2], "weight", amount=0.0)  # a mask of nothing
    saved = read_model(written(tmp_path, model.backbone.state_dict()), NORMALISED)
    same(saved.model, model, NORMALISED)
    names = {n for n, m in saved.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert saved.masks.keys() < {f"{name}.weight" for name in names}
    assert len(saved.masks) == 2


def test_masks_beside_weights_are_applied(tmp_path):
    state = network().state_dict()
    mask = (torch.arange(state["0.weight"].numel()) % 3 == 0).view_as(state["0.weight"])
    saved = read_model(written(tmp_path, {**state, "0.weight_mask": mask.float()}), BN)
    assert torch.equal(saved.masks["0.weight"], mask)
    found = saved.model.get_parameter("0.weight")
    assert torch.equal(found, torch.where(mask, state["0.weight"], 0.0))
    assert not found[~mask].view(torch.int32).any()  # no -0.0


def test_our_own_masks_are_read_before_they_are_baked(tmp_path):
    model = network()
    masked = pruned(model, 0.1)
    path = written(tmp_path, {"model": model.state_dict()})
    saved = read_model(path, BN)
    same(saved.model, model)
    baked = masked.bake()
    assert saved.masks.keys() == baked.keys()
    assert all(torch.equal(saved.masks[name], mask) for name, mask in baked.items())


@pytest.mark.parametrize(
    "normalise",
    [
        lambda layer: nn.utils.weight_norm(layer),
        lambda layer: nn.utils.weight_norm(layer, dim=None),
        lambda layer: nn.utils.weight_norm(layer, dim=1),
        lambda layer: nn.utils.spectral_norm(layer),
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: parametrizations.weight_norm(layer, dim=1),
        lambda layer: parametrizations.spectral_norm(layer),
    ],
    ids=[
        "weight",
        "weight, whole",
        "weight, inputs",
        "spectral",
        "new weight",
        "new",
        "new spectral",
    ],
)
def test_weight_and_spectral_normalisation_are_computed(tmp_path, normalise):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
            normalise(layer)
            with torch.no_grad():
                next(layer.parameters()).mul_(1.5)
    model.train()(torch.rand(2, 3, 32, 32))  # power iterations
    for prefix in ("", "module."):
        path = written(tmp_path, prefixed(model.state_dict(), prefix))
        same(load_model(path, **BN), model.eval())


@pytest.mark.parametrize("part", ["weight_g", "weight_v"])
@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t[None], lambda t: t * 1j])
def test_parts_of_a_weight_that_do_not_fit_each_other_are_refused(tmp_path, part, change):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[-1])
    state = model.state_dict()
    state[f"9.{part}"] = change(state[f"9.{part}"]).contiguous()
    with pytest.raises(UsageError, match="does not fit model"):
        load_model(written(tmp_path, state), **BN)


def test_a_parametrization_that_the_file_does_not_describe_is_refused(tmp_path):
    model = network()
    parametrizations.orthogonal(model[-1])
    with pytest.raises(UsageError, match=r"is computed in a way .*remove_parametrizations"):
        load_model(written(tmp_path, model.state_dict()), **BN)


# How images are normalised

NAMES = [
    *(("mean", "std"), ("mu", "sigma"), ("normalize.mean", "normalize.std")),
    *(("module.normalizer.new_mean", "module.normalizer.new_std"), ("0.mean", "0.std")),
    ("norm_mean", "norm_std"),
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)], ids=str)
def test_statistics_under_any_name_are_held_against_the_models(tmp_path, names, shape):
    mean, std = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
    said = {n: torch.tensor(v).view(shape) for n, v in zip(names, (mean, std), strict=True)}
    path = written(tmp_path, {"state_dict": {**said, **prefixed(network().state_dict(), "1.")}})
    found = load_model(path, **BN, mean=mean, std=std)
    assert torch.equal(
        found.backbone.get_parameter("0.weight"), network().get_parameter("0.weight")
    )
    with pytest.raises(
        UsageError, match=r"'mean' \[0\.4914, 0\.4822, 0\.4465\] and 'std' \[0\.2471"
    ):
        load_model(path, **BN)
    with pytest.raises(UsageError, match=r"name the model's 'mean'"):
        load_model(path, **BN, mean=mean, std=[1.0] * 3)


def test_statistics_that_change_nothing_are_those_of_a_bare_network(tmp_path):
    said = {"mu": torch.zeros(3, 1, 1), "sigma": torch.ones(3, 1, 1)}
    same(load_model(written(tmp_path, network().state_dict() | said), **BN), network())


# What remains


def test_what_remains_is_refused_with_prefix_and_nearest_names(tmp_path):
    state = network().state_dict()
    state["head.weigth"] = state.pop("9.weight")
    with pytest.raises(UsageError) as caught:
        load_model(written(tmp_path, prefixed(state, "module.")), **BN)
    text = str(caught.value)
    assert "9.weight is missing; module.head.weigth is not of this architecture" in text
    assert "Nearest to what is missing: 9.weight (module.head.weigth)." in text


# The same for the reference's importer


@pytest.mark.parametrize("prefix", ["model.", "net._orig_mod."])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("arch", ["cifar_model", pytest.param("wrn_28_4", marks=pytest.mark.slow)])
def test_the_importer_of_hydra_sees_through_the_same(tmp_path, prefix, scores, arch):
    made = Reference(arch, {"num_classes": 10, **REFERENCES[arch]})
    state = prefixed(made.state(scores=scores, density=0.1), prefix)
    path = tmp_path / "a.pth.tar"
    torch.save({"arch": arch, "model_state": state}, path)
    saved = read_hydra(path, density=0.1 if scores else None)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        found = saved.model(images)
    torch.testing.assert_close(found, made.logits(images, 0.1), rtol=1e-5, atol=1e-5)


def test_the_importer_of_hydra_takes_statistics_under_other_names(tmp_path):
    made = Reference("cifar_model", {"num_classes": 10, "name": "cnn_small", "in_chans": 3})
    state = made.state(scores=False, density=0.1)
    path = made.write(tmp_path / "a.pth.tar", state_dict=state | {"mu": torch.zeros(3)})
    assert read_hydra(path).masks
    path = made.write(tmp_path / "a.pth.tar", state_dict=state | {"mu": torch.ones(3)})
    with pytest.raises(UsageError, match="normalises by mu"):
        read_hydra(path)
