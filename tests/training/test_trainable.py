import torch

from robustprune.training import optimizers
from tests.training.toys import (
    BENIGN,
    MASKS,
    SCORES,
    prepared,
    state_file,
    trainer,
    weights,
)


def moved(before, model) -> set[str]:
    return {
        name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])
    }


WEIGHTS = {"0.parametrizations.weight.original", "5.parametrizations.weight.original"}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
AFFINE = {"1.weight", "1.bias"}


def test_the_prune_phase_moves_scores_masks_and_norm_layers(tmp_path):
    model, phase = prepared("prune", optimizer=optimizers.create("sgd", lr=5))
    before = weights(model)
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert moved(before, model) == SCORES | MASKS | STATISTICS | AFFINE


def test_norm_layers_can_be_kept_as_they_are(tmp_path):
    model, phase = prepared("prune", norms=False, optimizer=optimizers.create("sgd", lr=5))
    before = weights(model)
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert moved(before, model) == SCORES | MASKS
    assert not model[1].training
    assert model[3].training


def test_finetuning_moves_everything_but_scores_and_masks(tmp_path):
    model, phase = prepared("finetune")
    before = weights(model)
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert moved(before, model) == WEIGHTS | STATISTICS | AFFINE | {"0.bias", "5.bias"}


def test_weights_that_are_pruned_do_not_move_in_finetuning(tmp_path):
    model, phase = prepared("finetune")
    original = model[5].parametrizations.weight.original
    mask = model[5].parametrizations.weight[0].mask
    before = original.detach().clone()
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert torch.equal(original[~mask], before[~mask])
    assert not torch.equal(original[mask], before[mask])


def test_turnover_is_noted_each_epoch(tmp_path):
    model, phase = prepared("prune", optimizer=optimizers.create("sgd", lr=5))
    history = trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert all(0 < entry["turnover"] <= 1 for entry in history)


def test_finetuning_keeps_the_mask_though_its_scores_say_otherwise(tmp_path):
    model, phase = prepared("finetune")
    with torch.no_grad():
        for name in SCORES:
            model.get_parameter(name).reciprocal_()
    before = weights(model)
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert not moved(before, model) & (SCORES | MASKS)
    assert not any(model.get_parameter(name).requires_grad for name in SCORES)
