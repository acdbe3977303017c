"""Folders for the Hugging Face hub, by huggingface_hub's own mixin."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard, hub_mixin

from robustprune.artifacts.hub import HubModel, card_data
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from tests.artifacts.nets import saved
from tests.artifacts.test_timm import APART

MEASURED = {
    "recipe": "tiny",
    "network": "hydra-0.1",
    "data": {"name": "digits"},
    "evaluate": [{"name": "clean"}, {"name": "pgd", "eps": 0.1, "steps": 20}],
    "metrics": {
        "clean": 0.9,
        "clean_n": 360,
        "clean_interval": [0.8, 0.95],
        "pgd-20": 0.7,
        "pgd-20_n": 360,
        "pgd-20_interval": [0.6, 0.8],
    },
}


@pytest.fixture
def network() -> SavedModel:
    made = saved()
    return SavedModel(made.model, made.masks, made.metadata | MEASURED)


def test_a_folder_is_written_and_read_again(tmp_path: Path, network: SavedModel):
    HubModel(network).save_pretrained(tmp_path / "hub")
    names = sorted(path.name for path in (tmp_path / "hub").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "hub/config.json").read_text())["density"] == 0.1
    again = HubModel.from_pretrained(str(tmp_path / "hub"))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(images), network.model(images))
    assert again.saved.metadata == network.metadata


def test_the_card_says_what_was_measured_and_how(tmp_path: Path, network: SavedModel):
    HubModel(network).save_pretrained(tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.model_name) == ("robustprune", "tiny: hydra-0.1")
    assert data.density == pytest.approx(0.1, abs=1e-3)
    clean, robust = data.eval_results
    assert (clean.metric_name, clean.metric_value) == ("clean", 0.9)
    assert (robust.metric_name, robust.metric_value) == ("pgd-20", 0.7)
    assert robust.metric_args == {"name": "pgd", "eps": 0.1, "steps": 20, "images": 360}
    assert robust.dataset_type == "digits"
    refuted = SavedModel(network.model, network.masks, network.metadata | {"alarms": [{}]})
    HubModel(refuted).save_pretrained(tmp_path / "refuted")
    assert ModelCard.load(tmp_path / "refuted/README.md").data.eval_results is None


def test_timm_loads_a_folder_of_its_format(tmp_path: Path):
    network = saved(APART)
    HubModel(network, format="timm").save_pretrained(tmp_path)
    assert "normalised by whoever runs it" in (tmp_path / "README.md").read_text()
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    mean, std = (torch.tensor(APART[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.model(images)
        torch.testing.assert_close(theirs((images - mean) / std), expected)
    assert list(theirs.pretrained_cfg["mean"]) == APART["mean"]


def test_it_is_pushed_by_the_hubs_own_client(network: SavedModel, monkeypatch: pytest.MonkeyPatch):
    pushed = {}

    class Api:
        def __init__(self, **options: object) -> None:
            self.options = options

        def create_repo(self, repo_id: str, **options: object) -> object:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path: Path, repo_id: str, **options: object) -> str:
            pushed[repo_id] = {path.name for path in Path(folder_path).iterdir()}
            return "done"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    assert HubModel(network).push_to_hub("me/small", token="x") == "done"
    assert pushed == {"me/small": {"README.md", "config.json", "model.safetensors"}}


def test_only_files_without_code_are_offered(network: SavedModel):
    with pytest.raises(UsageError, match=r"'pt2' is none .*packed, dense, timm"):
        HubModel(network, format="pt2")


@pytest.mark.parametrize("text", ["{", "[]", "1", "[" * 100_000], ids=["open", "list", "1", "deep"])
def test_a_damaged_config_is_told(tmp_path: Path, network: SavedModel, text: str):
    HubModel(network).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"^config\.json is damaged"):
        HubModel.from_pretrained(str(tmp_path))


def test_numbers_of_a_network_before_rounding_are_not_its_own(network: SavedModel):
    rounded = SavedModel(network.model, network.masks, network.metadata | {"values": "fp16"})
    assert not card_data(rounded).eval_results
