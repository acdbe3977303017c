"""Checkpoints of the reference give the logits that the reference would."""

import pytest
import torch

from robustprune.artifacts.hydra import ARCHITECTURES, read_hydra, reference_mask
from robustprune.errors import UsageError
from robustprune.models.factory import normalisation
from tests.artifacts.checkpoints import Reference
from tests.artifacts.planted import Planted

_MADE: dict[str, Reference] = {}


def reference(arch: str = "cifar_model") -> Reference:
    if arch not in _MADE:
        _MADE[arch] = Reference(arch, {"num_classes": 10, **ARCHITECTURES[arch]})
    return _MADE[arch]


def images(arch: str) -> torch.Tensor:
    size = 64 if arch == "ResNet50" else ARCHITECTURES[arch]["image_size"]
    return torch.rand(2, ARCHITECTURES[arch]["in_chans"], size, size)


def assert_equal_logits(saved, arch: str, density: float) -> None:
    x = images(arch)
    with torch.no_grad():
        found = saved.model(x)
    expected = reference(arch).logits(x, density)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


LARGE = [("vgg16_bn", False), ("wrn_28_4", True), ("resnet18", False), ("ResNet50", True)]
CASES = [("cifar_model", 0.1, scores) for scores in (True, False)]
CASES += [("cifar_model", 0.01, True), ("mnist_model", 0.1, False)]
CASES += [pytest.param(arch, 0.1, scores, marks=pytest.mark.slow) for arch, scores in LARGE]


@pytest.mark.parametrize(("arch", "density", "scores"), CASES)
def test_both_kinds_of_checkpoint_give_the_reference_s_logits(tmp_path, arch, density, scores):
    path = reference(arch).write(tmp_path / "a.pth.tar", density=density, scores=scores)
    saved = read_hydra(path, arch=arch, density=density if scores else None)
    assert_equal_logits(saved, arch, density)
    for name, mask in saved.masks.items():
        expected = reference(arch).mask(name.removeprefix("backbone."), density)
        if not scores:  # a kept weight may be 0 by chance
            expected &= reference(arch).layers[name.removeprefix("backbone.")].weight != 0
        assert torch.equal(mask, expected)
        pruned = saved.model.state_dict()[name][~mask]
        assert not pruned.view(torch.int32).any()  # +0.0, where the reference has -0.0


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_formats_and_wrappers(tmp_path, prefix, zipped, scores):
    path = reference().write(tmp_path / "a.pth.tar", prefix=prefix, zipped=zipped, scores=scores)
    density = 0.1 if scores else None
    assert_equal_logits(read_hydra(path, density=density), "cifar_model", 0.1)


@pytest.mark.parametrize("density", [0.01, 0.07, 0.5, 1.0])
def test_the_reference_s_rule_by_hand(density):
    scores = torch.tensor([[3.0, -1.0, 2.0], [-5.0, 0.5, -0.25]])
    kept = 6 - int((1 - density) * 6)
    ranks = torch.tensor([[2, 4, 3], [1, 5, 6]])  # by |score|, the largest first
    assert torch.equal(reference_mask(scores, density), ranks <= kept)


def test_a_network_that_was_only_trained_has_no_masks(tmp_path):
    for scores in (True, False):
        path = reference().write(tmp_path / "a.pth.tar", density=1.0, scores=scores)
        saved = read_hydra(path, density=1.0 if scores else None)
        assert (saved.masks, saved.metadata["density"]) == ({}, 1.0)
        assert_equal_logits(saved, "cifar_model", 1.0)


def test_zeros_are_taken_as_they_are_without_a_density(tmp_path):
    path = reference().write(tmp_path / "a.pth.tar", density=0.05, scores=False)
    saved = read_hydra(path)
    assert saved.metadata["density"] == pytest.approx(0.05, rel=1e-3)
    assert_equal_logits(saved, "cifar_model", 0.05)


def test_a_density_beside_zeros_would_be_of_no_effect(tmp_path):
    path = reference().write(tmp_path / "a.pth.tar", density=0.1, scores=False)
    with pytest.raises(UsageError, match=r"its zeros say .* Leave --density out"):
        read_hydra(path, density=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(tmp_path, value):
    state = reference().state(scores=True, density=0.1)
    state["0.popup_scores"] = state["0.popup_scores"].clone()
    state["0.popup_scores"][0, 0, 0, 0] = value
    path = reference().write(tmp_path / "a.pth.tar", state_dict=state)
    with pytest.raises(UsageError, match=r"scores that do not fit .*0\.weight is not finite"):
        read_hydra(path, density=0.1)


@pytest.mark.parametrize(
    "change", [lambda s: s > 0, lambda s: s.to(torch.complex64), lambda s: s.to_sparse()]
)
def test_scores_of_other_types_are_refused(tmp_path, change):
    state = reference().state(scores=True, density=0.1)
    state["0.popup_scores"] = change(state["0.popup_scores"])
    path = reference().write(tmp_path / "a.pth.tar", state_dict=state)
    with pytest.raises(UsageError, match=r"0\.weight is of type|no plain tensors"):
        read_hydra(path, density=0.1)


@pytest.mark.parametrize("best", [float("nan"), torch.tensor(51.0), [1]])
def test_what_is_no_number_is_not_repeated(tmp_path, best):
    path = reference().write(tmp_path / "a.pth.tar", best_prec1=best)
    imported = read_hydra(path, density=0.1).metadata["imported"]
    assert "best_prec1" not in imported
    assert imported["epoch"] == 100


def test_what_the_checkpoint_says_of_itself_is_kept_as_its_own_word(tmp_path):
    saved = read_hydra(reference().write(tmp_path / "best.pth.tar"), density=0.1)
    assert saved.metadata == {
        "model": {"num_classes": 10, **ARCHITECTURES["cifar_model"]},
        "density": 0.1,
        "turnover": None,
        "pruner": None,
        "imported": {
            "format": "hydra",
            "file": "best.pth.tar",
            "arch": "cifar_model",
            "epoch": 100,
            "best_prec1": 51.25,
        },
    }


def test_classes_are_counted(tmp_path):
    made = Reference("cifar_model", {**ARCHITECTURES["cifar_model"], "num_classes": 7})
    saved = read_hydra(made.write(tmp_path / "a.pth.tar"), density=0.1)
    assert saved.model(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def test_imagenet_s_statistics_are_the_usual_ones():
    mean, std = normalisation("resnet50", 3)
    assert (ARCHITECTURES["ResNet50"]["mean"], ARCHITECTURES["ResNet50"]["std"]) == (mean, std)


def test_names_are_the_reference_s_or_ours(tmp_path):
    path = reference().write(tmp_path / "a.pth.tar")
    for arch in ("cnn_small", "cifar_model"):
        assert (
            read_hydra(path, arch=arch, density=0.1).metadata["imported"]["arch"] == "cifar_model"
        )
    with pytest.raises(UsageError, match=r"--arch wrn_28_3 cannot be imported. Did you mean 'wrn_"):
        read_hydra(path, arch="wrn_28_3", density=0.1)


def without(name):
    def change(state):
        del state[name]

    return change


def shape_of_scores(state):
    state["0.popup_scores"] = state["0.popup_scores"][:1]


def scores_of_nothing(state):
    state["1.popup_scores"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("0.weight"), "0.weight is missing"),
        (without("0.popup_scores"), "scores that do not fit its layers: 0.weight is missing"),
        (shape_of_scores, "scores that do not fit its layers: 0.weight has shape"),
        (scores_of_nothing, "scores that do not fit .*1.weight is not of this architecture"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(tmp_path, change, message):
    state = reference().state(scores=True, density=0.1)
    change(state)
    path = reference().write(tmp_path / "a.pth.tar", state_dict=state)
    with pytest.raises(UsageError, match=message):
        read_hydra(path, density=0.1)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {}, "holds scores.*--density 0.1, or 1"),
        ({}, {"density": 0}, r"--density 0 is not in \(0, 1\]"),
        ({}, {"density": 10}, "For 99 % sparsity write 0.01"),
        ({}, {"density": 0.1, "arch": "vgg16_bn"}, "holds 'cifar_model' by its own words"),
        ({"arch": None}, {"density": 0.1}, "name it with --arch"),
        ({"arch": torch.ones(1)}, {"density": 0.1}, "name it with --arch"),
        ({"arch": "vgg11"}, {"density": 0.1}, "--arch vgg11 cannot be imported"),
        ({"arch": "vgg16_bn"}, {"density": 0.1}, "does not fit model 'vgg16_bn_cifar'"),
        ({"state_dict": {"0.weight": torch.ones(2)}}, {"density": 0.1}, "holds no linear layer"),
    ],
    ids=str,
)
def test_mistakes_are_told(tmp_path, changes, options, message):
    path = reference().write(tmp_path / "a.pth.tar", **changes)
    with pytest.raises(UsageError, match=message):
        read_hydra(path, **options)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    target = tmp_path / "planted"
    path = reference().write(tmp_path / "a.pth.tar", optimizer=Planted(target))
    with pytest.raises(UsageError, match="refused, because it asks to call"):
        read_hydra(path, density=0.1)
    assert not target.exists()
