"""Python without recipes: the same numbers as recipes give, for what a caller holds."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import robustprune as rp
from robustprune import pruners
from robustprune.pipeline import RunResult
from tests.pipeline import tiny
from tests.pipeline.test_every_method import SETTINGS, label

pytestmark = pytest.mark.slow

STAGES: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "lr": 10,
    "finetune": {"epochs": 2, "optimizer": {"name": "sgd", "lr": 0.05}},
    "device": "cpu",
    "quiet": True,
}
DIGITS = {"name": "digits", "subset": 128}
PGD = tiny.RECIPE["objective"]


@pytest.fixture(scope="module", autouse=True)
def light_collections() -> Iterator[None]:
    """Take the libraries out of the garbage collector's sight: each stage ends with one."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of methods that start from the dense network, the untrained and a fresh one."""
    methods: list[Any] = ["hydra", "snip", {"name": "scratch_e", "mask": "hydra"}]
    # those that train from scratch go by 'pretrain', which is 'epochs' and 'lr' in Python
    changes = {
        "prune": {"methods": methods, "densities": [0.1]},
        "evaluate": [{"name": "pgd", "label": "pgd", "eps": 0.1, "steps": 2, "samples": 50}],
    }
    return tiny.go(tmp_path_factory.mktemp("finished") / "run", changes)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def images() -> TensorDataset:
    pixels = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(pixels, torch.arange(40) % 10)


def quick(method: Any = "hydra", data: Any = None, model: Any = None, **options: Any) -> rp.Pruned:
    """Two steps of each stage."""
    usual: dict[str, Any] = {"epochs": 2, "max_steps": 2, "quiet": True}
    if not isinstance(data, DataLoader):
        usual["batch_size"] = 8
    data = images() if data is None else data
    model = network() if model is None else model
    return rp.prune(model, method, data, "benign", 0.25, **(usual | options))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[n], its[n]) for n in mine)


# -- the same as a recipe --------------------------------------------------------------------------


def test_it_gives_the_network_of_a_recipe_to_the_bit_and_its_numbers(finished: RunResult):
    dense = rp.load_model(finished.folder / "dense/model.safetensors")
    before = copy.deepcopy(dense)
    judged = {"name": "pgd", "label": "pgd", "eps": 0.1, "steps": 2, "samples": 50}
    found = rp.prune(dense, "hydra", DIGITS, PGD, 0.1, **STAGES, evaluate=[judged])
    assert same(found.model, rp.load_model(finished.folder / "hydra-0.1/model.safetensors"))
    assert same(dense, before)
    entry = finished.network("hydra-0.1")
    assert (found.kept, found.prunable, found.turnover) == tuple(
        entry[key] for key in ("kept", "prunable", "turnover")
    )
    assert found.metrics == entry["metrics"]
    assert rp.evaluate(found, DIGITS, judged, quiet=True) == entry["metrics"]


def test_methods_that_start_from_other_networks_give_those_of_a_recipe(finished: RunResult):
    from robustprune.pipeline.initial_network import initial_network

    recipe = tiny.recipe()
    untrained = initial_network(recipe, recipe.data.load(seed=0))
    pretrained = STAGES | {"lr": 0.1}
    snip = rp.prune(untrained, "snip", DIGITS, PGD, 0.1, **pretrained)
    assert same(snip.model, rp.load_model(finished.folder / "snip-0.1/model.safetensors"))
    hydra = rp.load_model(finished.folder / "hydra-0.1/model.safetensors")
    masks = {n: hydra.get_parameter(n) != 0 for n in snip.masks}
    scratch = {"name": "scratch_e", "mask": "hydra"}
    given = {"mask:hydra": masks}
    found = rp.prune(untrained, scratch, DIGITS, PGD, 0.1, **pretrained, checkpoints=given)
    assert same(found.model, rp.load_model(finished.folder / "scratch_e-0.1/model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_every_pruner_prunes_a_network_of_ones_own(setting: dict[str, Any]):
    options = dict(setting)
    part = pruners.create(options.pop("name"), **options)
    given: dict[str, Any] = {}
    for need in part.needs():
        if need.startswith("mask:"):
            given[need] = quick("magnitude", finetune=0)
        elif need.startswith("pretrain"):
            given[need] = network().state_dict()
    found = quick(setting, checkpoints=given, validation=images())
    assert found.kept == pytest.approx(0.25 * found.prunable, abs=2)
    weights = found.model.state_dict()
    assert all(not weights[name][~mask].any() for name, mask in found.masks.items())
    assert weights.keys() == network().state_dict().keys()


# -- what the caller holds -------------------------------------------------------------------------


def test_it_leaves_all_as_it_was_and_gives_it_back_so():
    model = network()
    model[1].eval()
    before, drawn = copy.deepcopy(model), torch.get_rng_state()
    loader = DataLoader(images(), batch_size=8, shuffle=True)
    found = quick(data=loader, model=model)
    assert same(model, before)
    assert torch.equal(torch.get_rng_state(), drawn)
    modes = [module.training for module in model.modules()]
    assert [module.training for module in found.model.modules()] == modes
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert type(found.model) is nn.Sequential
    assert [*found.masks] == ["0.weight", "3.weight", "6.weight"]
    assert not same(found.model, before)
    quick(data=loader, model=model, inplace=True)
    assert same(model, found.model)


class Seen(Dataset[Any]):
    """The images, with noise of a transform, and a note of what was asked for."""

    def __init__(self) -> None:
        self.base, self.asked = images(), list[int]()

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.asked.append(index)
        image, label = self.base[index]
        return (image * torch.rand(())).numpy(), int(label)


def test_a_loader_is_used_as_it_is_and_the_seed_decides_its_order_and_transforms():
    seen, batches = Seen(), []

    def collate(items: list[Any]) -> tuple[Any, Any]:
        batches.append(len(items))
        return torch.utils.data.default_collate(items)

    loader = DataLoader(seen, batch_size=10, shuffle=True, collate_fn=collate)
    one = quick("magnitude", loader, max_steps=None, finetune=1)
    order = seen.asked[-40:]
    assert sorted(order) == list(range(40))
    assert order != list(range(40))
    assert batches[-4:] == [10] * 4
    again = quick("magnitude", loader, max_steps=None, finetune=1)
    assert seen.asked[-40:] == order
    assert same(one.model, again.model)
    other = quick("magnitude", loader, max_steps=None, finetune=1, seed=1)
    assert seen.asked[-40:] != order
    assert not same(one.model, other.model)


def test_a_last_batch_of_one_image_is_left_out_as_batchnorm_cannot_learn_from_it():
    loader = DataLoader(images(), batch_size=13)
    found = quick("magnitude", loader, max_steps=None, finetune=1)
    assert len(found.history) == 1


class Stream(IterableDataset[Any]):
    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Any:
        return iter(images())


def test_streams_datasets_and_tensors_of_the_same_images_teach_and_judge_alike():
    pixels, labels = images().tensors
    dataset, tensors = (quick("snip", data=data) for data in (images(), (pixels, labels)))
    assert same(dataset.model, tensors.model)
    in_order = quick("snip", DataLoader(images(), batch_size=8))
    streamed = quick("snip", DataLoader(Stream(), batch_size=8))
    assert same(in_order.model, streamed.model)
    kinds = (images(), (pixels, labels), DataLoader(Stream(), batch_size=7))
    shuffled = DataLoader(images(), batch_size=16, shuffle=True)
    results = [rp.evaluate(dataset, data, "pgd", quiet=True) for data in (*kinds, shuffled)]
    assert all(one == results[0] for one in results)
    assert all(torch.equal(one.images["pgd"], results[0].images["pgd"]) for one in results)
    assert torch.equal(results[0].images["label"], labels)


class Tied(nn.Module):
    """Two layers that share a weight, of a class that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(images.flatten(1)).relu()).relu())


def test_a_weight_that_layers_share_stays_shared():
    torch.manual_seed(0)
    found = quick(model=Tied())
    assert [*found.masks] == ["first.weight", "head.weight"]
    assert found.model.first.weight is found.model.second.weight
    assert found.kept == round(0.25 * 64 * 64) + round(0.25 * 640)


def test_normalised_networks_take_images_in_0_1_and_come_back_bare():
    plain, own = {"name": "hydra", "exclude": ["6"]}, {"mean": [0.5], "std": [0.25]}
    found = quick(plain, **own)
    assert [*found.masks] == ["0.weight", "3.weight"]
    moved = [(images().tensors[0] - 0.5) / 0.25, images().tensors[1]]
    with pytest.raises(rp.UsageError, match=r"floats in \[0, 1\] or bytes; got .* from -2 to"):
        quick(data=moved)
    shown = rp.evaluate(found.model, images(), "clean", quiet=True, **own)
    assert shown == rp.evaluate(found, images(), "clean", quiet=True)
    with torch.no_grad():
        right = found.model.eval()(moved[0]).argmax(1) == moved[1]
    assert torch.equal(shown.images["clean"], right)


# -- refusals --------------------------------------------------------------------------------------


class Strange(nn.Module):
    """A network with tensors that nothing says how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.shift = network(), nn.Parameter(torch.zeros(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images) + self.shift


def frozen() -> nn.Module:
    model = network()
    model[0].requires_grad_(False)
    return model


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown method": ({"method": "hydre"}, "method.*'hydre'.*Did you mean 'hydra'"),
    "its option": ({"method": {"name": "hydra", "score": 1}}, "method.*unknown key 'score'"),
    "an option of a stage": (
        {"batchsize": 8},
        r"unknown key 'batchsize'\. Did you mean 'batch_size'",
    ),
    "a density in percent": ({"density": 90}, "density: .*less than or equal to 1|density.*1"),
    "a learning rate": ({"lr": -1}, "optimizer.lr"),
    "an objective": ({"objective": "trade"}, "objective.*Did you mean 'trades'"),
    "no network": ({"model": "resnet18"}, "model: expected a torch.nn.Module; got str"),
    "frozen tensors": ({"model": frozen()}, r"0\.weight, 0\.bias want no gradient"),
    "a network of other images": ({"model": nn.Linear(3, 10)}, "does not take the images of data"),
    "too few logits": ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 5))}, "0 to 4"),
    "no data": ({"data": 3}, "data: expected a torch.utils.data.DataLoader.*; got int"),
    "an unknown dataset": ({"data": "digit"}, "Did you mean 'digits'"),
    "images without labels": ({"data": DataLoader(torch.rand(9, 1, 8, 8))}, "collate_fn"),
    "pictures": ({"data": DataLoader([(object(), 0)])}, "make no batch .*ToTensor"),  # type: ignore[arg-type,list-item]
    "a masked network": ({"model": rp.masking.attach(network())}, r"Call bake\(\) first"),
    "a loader and a batch size": (
        {"data": DataLoader(images(), batch_size=8), "batch_size": 9},
        "the loader's batches have 8 images, and 9",
    ),
    "a loader and a share": (
        {"data": DataLoader(images(), batch_size=8), "validation": 0.1, "batch_size": None},
        "validation=another_loader",
    ),
    "no validation": ({"method": "flyingbird_plus"}, "validation split: set validation"),
    "no finetuning": ({"method": "admm", "finetune": 0}, "finetune.epochs is missing.*finetune=10"),
    "no earlier network": ({"method": "lottery"}, r"needs 'init'.*checkpoints=\{'init': …\}"),
    "no masks": (
        {"method": {"name": "scratch_e", "mask": "hydra"}},
        "needs 'mask:hydra', the masks",
    ),
    "a need that is none": (
        {"checkpoints": {"init": {}}},
        "does not need 'init'. It needs: 'dense'",
    ),
    "a checkpoint of another": (
        {"method": "lottery", "checkpoints": {"init": {"a": torch.zeros(1)}}},
        "'init' is of another network: .*0.bias is missing",
    ),
    "no fresh network": (
        {"method": {"name": "snip", "fresh": True}, "model": Strange()},
        "none has reset_parameters",
    ),
    "a device": ({"device": "tpu"}, "device: tpu is not there. Choices: auto, cpu"),
    "two learning rates": (
        {"lr": 1, "optimizer": rp.optimizers.create("sgd", lr=2)},
        "lr: 1, and the optimizer has lr 2",
    ),
    "nothing to judge by": ({"evaluate": ["clean"]}, "evaluate: by which images"),
    "no steps": ({"max_steps": 0}, "max_steps: 0 leaves nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_told_before_training(name: str):
    options, said = REFUSED[name]
    usual = {"model": network(), "method": "hydra", "data": images(), "objective": "benign"}
    options = {**usual, "density": 0.25, "quiet": True} | options
    arguments = [options.pop(n) for n in ("model", "method", "data", "objective", "density")]
    with pytest.raises(rp.UsageError, match=f"(?s){said}"):
        rp.prune(*arguments, **options)


def test_a_loss_that_diverges_says_so_in_words_of_python():
    with pytest.raises(rp.UsageError, match=r"the loss of finetune .*\. Try a lower lr"):
        quick("magnitude", finetune={"epochs": 5, "optimizer": {"lr": 1e30}}, max_steps=None)


# -- judging, saving, exporting --------------------------------------------------------------------


def test_certificates_are_those_of_the_evaluators():
    found = quick()
    assert rp.certify(found, images(), eps=0.01, quiet=True)["verified_n"] == 40
    both = rp.certify(
        found, images(), eps=0.01, bounds="ibp", sigma=0.25, n=100, quiet=True, samples=4
    )
    assert {"ibp", "smoothing", "smoothing_interval"} <= both.keys()
    document = {"name": "smoothing", "sigma": 0.25, "n": 100, "samples": 4}
    assert rp.evaluate(found, images(), document, quiet=True).items() <= both.items()
    with pytest.raises(rp.UsageError, match="within what"):
        rp.certify(found, images())


def test_results_are_shown_as_tables():
    found = quick()
    assert repr(found).splitlines()[0].startswith("hydra-0.25: 85 of 340 weights kept, turnover ")
    shown = repr(rp.evaluate(found, images(), "clean", quiet=True)).splitlines()
    assert shown[0].split()[0] == "metric"
    assert shown[1].split()[:2] == ["clean", "%"]


def test_a_network_of_create_model_is_saved_and_read_with_its_masks(tmp_path: Path):
    torch.manual_seed(0)
    model = rp.create_model("cnn_digits", in_chans=1, image_size=8)
    found = quick(model=model)
    rp.save_model(found, tmp_path / "net.safetensors", classes=[*"0123456789"])
    assert same(rp.load_model(tmp_path / "net.safetensors"), found.model)
    read = rp.evaluate(tmp_path / "net.safetensors", images(), "clean", quiet=True)
    assert read == rp.evaluate(found, images(), "clean", quiet=True)
    rp.export(found, tmp_path / "small.packed.safetensors")
    assert same(rp.load_model(tmp_path / "small.packed.safetensors"), found.model)
    rp.save_model(
        network_like(model), tmp_path / "named.safetensors", architecture=model.created_with
    )
    assert same(rp.load_model(tmp_path / "named.safetensors"), model)


def network_like(model: nn.Module) -> nn.Module:
    """The same network, that has forgotten where it comes from."""
    other = copy.deepcopy(model)
    del other.created_with
    return other


def test_normalisation_stands_in_the_file(tmp_path: Path):
    own = {"mean": [0.5], "std": [0.25]}
    model = rp.create_model("cnn_digits", in_chans=1, image_size=8)
    rp.save_model(quick(model=model, **own), tmp_path / "net.safetensors")
    loaded = rp.load_model(tmp_path / "net.safetensors")
    assert loaded.normalize.mean.item() == 0.5


@pytest.mark.slow
def test_a_network_of_ones_own_class_is_exported_as_onnx(tmp_path: Path):
    found = quick()
    notes = rp.export(found, tmp_path / "net.onnx", images=images().tensors[0])
    assert any("logits differ" in note or "images" in note for note in notes)
    assert (tmp_path / "net.onnx.md").exists()


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    found = quick()
    for refused in (
        lambda: rp.save_model(found, tmp_path / "net.safetensors"),
        lambda: rp.export(found, tmp_path / "net.onnx"),
        lambda: rp.export(found, tmp_path / "net.pt", images=images().tensors[0]),
    ):
        with pytest.raises(rp.UsageError, match="Sequential cannot be built again from a file"):
            refused()
    model = rp.create_model("cnn_digits", in_chans=1, image_size=8)
    with pytest.raises(rp.UsageError, match="its logits are others"):
        rp.save_model(twisted(model), tmp_path / "net.safetensors")
    with pytest.raises(rp.UsageError, match="the network is another than it says"):
        rp.save_model(network(), tmp_path / "x.safetensors", architecture=model.created_with)
    with pytest.raises(rp.UsageError, match=r"net\.bin must end in \.safetensors"):
        rp.save_model(model, tmp_path / "net.bin")
    with pytest.raises(rp.UsageError, match="several formats' files end so"):
        rp.export(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))


def twisted(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    plain = other.forward
    other.forward = lambda images: plain(1 - images)  # type: ignore[method-assign]
    return other
