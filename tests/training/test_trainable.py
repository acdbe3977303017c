"""What each stage moves, and what it leaves as its method began with it."""

import pytest
import torch

from robustprune.training import optimizers
from tests.training import toys
from tests.training.toys import BENIGN, MASKS, SCORES, prepared, state_file, trainer, weights

WEIGHTS = {"0.parametrizations.weight.original", "5.parametrizations.weight.original"}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
AFFINE = {"1.weight", "1.bias"}
FAST = {"optimizer": optimizers.create("sgd", lr=5)}


def moved(tmp_path, kind, **options) -> set[str]:
    before = toys.begun(prepared(kind, **options)[1], state_file(tmp_path, "begun"))
    model, setting = prepared(kind, **options)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    after = weights(model)
    assert after.keys() == before.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_pruning_moves_scores_masks_and_norm_layers(tmp_path):
    assert moved(tmp_path, "prune", **FAST) == SCORES | MASKS | STATISTICS | AFFINE


def test_norm_layers_can_be_kept_as_they_are(tmp_path):
    assert moved(tmp_path, "prune", pruner={"train_norms": False}, **FAST) == SCORES | MASKS


def test_finetuning_moves_everything_but_masks(tmp_path):
    assert moved(tmp_path, "finetune") == WEIGHTS | STATISTICS | AFFINE | {"0.bias", "5.bias"}


def test_a_dense_network_is_trained_whole(tmp_path):
    found = moved(tmp_path, "pretrain")
    assert found == {"0.weight", "0.bias", "5.weight", "5.bias"} | STATISTICS | AFFINE


def test_weights_that_are_pruned_do_not_move_in_finetuning(tmp_path):
    _, setting = prepared("finetune")
    before = {name: weight.detach().clone() for name, weight in setting.masked.weights.items()}
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    for name, weight in setting.masked.weights.items():
        mask = setting.masked.masks[name]
        assert torch.equal(weight[~mask], before[name][~mask])
        assert not torch.equal(weight[mask], before[name][mask])


@pytest.mark.parametrize("rate", [None, 0.01])
def test_turnover_is_noted_each_epoch(tmp_path, rate):
    _, setting = prepared("prune", pruner={"norm_lr": rate}, **FAST)
    history = toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    assert all(0 < entry["turnover"] <= 1 for entry in history)
    assert history[-1]["turnover"] == setting.masked.turnover


def test_finetuning_after_pruning_keeps_the_mask_and_has_no_scores_left(tmp_path):
    _, setting = prepared("prune", **FAST)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    found = {name: mask.clone() for name, mask in setting.masked.masks.items()}
    turnover = setting.masked.turnover
    stage = toys.Stage("finetune", toys.options())
    history = toys.train(trainer(BENIGN), setting._replace(stage=stage), state_file(tmp_path, "f"))
    assert not setting.masked.scores
    assert all(torch.equal(setting.masked.masks[name], mask) for name, mask in found.items())
    assert setting.masked.turnover == turnover > 0
    assert not any("turnover" in entry for entry in history)


def test_the_mask_at_a_stage_s_end_is_that_of_the_scores(tmp_path):
    _, setting = prepared("prune", **FAST)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    for name, score in setting.masked.scores.items():
        size, mask = score.detach().abs(), setting.masked.masks[name]
        assert size[mask].min() > size[~mask].max()
        assert int(mask.sum()) == round(0.3 * mask.numel())
