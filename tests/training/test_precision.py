"""Mixed precision: bf16 trains on a CPU; fp16's scaler, which needs a GPU, is played by a toy."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from robustprune import objectives
from robustprune.adapters import torchattacks
from tests.training import toys
from tests.training.toys import BENIGN, EPOCHS, prepared, state_file, trainer, weights


class Scaler:
    """Keeps a number that each backward pass changes, and lets steps through."""

    def __init__(self) -> None:
        self.scale = 1.0

    def step(self, optimizer: torch.optim.Optimizer, closure: None) -> None:
        optimizer.step(closure)

    def update(self) -> None:
        pass

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def scaled(run, scaler: Scaler):
    """A trainer whose accelerator has the scaler, and counts each step on it."""

    def backward(loss: torch.Tensor) -> None:
        scaler.scale += 1
        loss.backward()

    run.accelerator.scaler = scaler
    run.accelerator.backward = backward
    return run


def test_each_phase_begins_with_a_new_scale_and_a_resumed_one_with_its_own(tmp_path):
    scaler = Scaler()
    for name in ("one", "two"):
        model, phase = prepared("pretrain")
        scaled(trainer(BENIGN), scaler).run(phase, model, state_file(tmp_path, name))
    assert scaler.scale == 1 + toys.STEPS * EPOCHS
    resumed = Scaler()
    resumed.scale = 77.0
    model, phase = prepared("pretrain")
    scaled(trainer(BENIGN), resumed).run(phase, model, state_file(tmp_path, "two"))
    assert resumed.scale == scaler.scale


def test_bf16_trains(tmp_path):
    try:
        model, phase = prepared("prune")
        run = trainer(objectives.create("pgd", steps=1))
        AcceleratorState._reset_state()  # its precision is global to a process
        run.accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        before = weights(model)
        history = run.run(phase, model, state_file(tmp_path))
    finally:
        AcceleratorState._reset_state()
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in history)
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(model).items())


def test_attacks_leave_autocast():
    dtypes = []

    class Net(torch.nn.Linear):
        def forward(self, images):
            logits = super().forward(images.flatten(1))
            dtypes.append(logits.dtype)
            return logits

    net = Net(4, 3)
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torchattacks.perturb("PGD", net, images, labels, eps=0.1, alpha=0.1, steps=1)
        net(images)
    assert set(dtypes[:-1]) == {torch.float32}
    assert dtypes[-1] == torch.bfloat16
