"""The card beside an export: what was measured and how, and what is not claimed."""

from pathlib import Path

from robustprune.artifacts import backends
from robustprune.artifacts.card import card_path, write_card
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from tests.artifacts.nets import DIGITS, cut, pruned, saved


def card_of(
    folder: Path, network: SavedModel, name: str = "net.packed.safetensors", **options: object
) -> str:
    backend = backends.create("packed" if "packed" in name else "dense", **options)
    path = folder / name
    write_card(network, path, backend, backend.export(network, path))
    return card_path(path).read_text()


def test_the_card_says_what_was_measured_and_what_was_not(tmp_path):
    before = saved()
    before.metadata.update(
        recipe="my-recipe",
        network="hydra-0.1",
        seed=3,
        data={"name": "digits", "root": None},
        objective={"name": "trades", "eps": 8 / 255, "beta": 6.0},
        evaluate=[
            {"name": "clean"},
            {"name": "pgd", "eps": 0.1, "steps": 50, "label": None},
            {"name": "autoattack", "eps": 0.1, "steps": 10, "label": None},
            {"name": "torchattacks", "attack": "BIM", "eps": 0.1, "label": None},
        ],
        metrics={"pgd": 0.4375, "pgd_n": 1000, "pgd_interval": [0.407, 0.468]}
        | {"autoattack-10": 0.4, "autoattack-10_n": 100, "autoattack-10_interval": [0.3, 0.5]}
        | {"torchattacks_bim": 0.5, "torchattacks_bim_n": 10},
    )
    text = card_of(tmp_path, before)
    for line in (
        "# my-recipe: hydra-0.1",
        "- Objective: trades, eps 8/255, beta 6",
        "- Data: digits",
        "| pgd | 0.4375 | 0.407 to 0.468 | 1000 | pgd, eps 0.1, steps 50 |",
        "| autoattack-10 | 0.4 | 0.300 to 0.500 | 100 | autoattack, eps 0.1, steps 10 |",
        "| torchattacks_bim | 0.5 |  | 10 | torchattacks, attack BIM, eps 0.1 |",
        "- Attacks bound robust accuracy from above: a stronger one may find more.",
        "- No bound on the network itself was computed: nothing is verified.",
        'model = robustprune.load_model("net.packed.safetensors")',
    ):
        assert line in text.splitlines()
    assert "2,947 of 29,472 prunable ones" in text


def test_the_card_warns_of_what_the_file_knows(tmp_path):
    before = saved()
    before.metadata.update(
        objective={"name": "stability", "sigma": 0.8, "eps": 110 / 255},
        evaluate=[{"name": "smoothing"}],
        metrics={"smoothing": 0.5, "smoothing_n": 10},
        max_steps=3,
        alarms=[{"index": 4}],
        weights={"file": "a.pt", "sha256": "ab"},
    )
    text = card_of(tmp_path, before, values="fp16")
    for line in (
        "- **Training was cut at 3 steps per stage.**",
        "**An attack broke images that a certificate verified: claim nothing.**",
        "- Smoothing certifies what it makes of the network, not the network itself.",
        "- Started from: file a.pt, sha256 ab",
        "- Objective: stability, sigma 0.8, eps 110/255",
        "| smoothing | 0.5 |  | 10 | smoothing |",
    ):
        assert line in text.splitlines()
    assert "rounded to half precision: what was measured" in text
    assert "Attacks bound" not in text


def test_the_card_counts_layers_without_a_mask_as_whole(tmp_path):
    before = saved()
    first = next(iter(before.masks))
    del before.masks[first]
    kept = sum(int(m.sum()) for m in before.masks.values())
    kept += before.model.get_parameter(first).numel()
    assert f"{kept:,} of 29,472 prunable ones" in card_of(tmp_path, before)


def test_the_card_of_a_rounded_network_says_so_whatever_it_is_exported_to(tmp_path):
    card_of(tmp_path, saved(), values="fp16")
    half = read_model(tmp_path / "net.packed.safetensors")
    assert "were rounded to half precision after" in card_of(tmp_path, half, "again.pt")


def test_the_card_tells_of_surgery(tmp_path):
    assert "- Cut for good, after which the rest stands: 0 to 4 outputs, " in card_of(
        tmp_path, cut()
    )


def test_the_card_of_an_unknown_network_claims_nothing(tmp_path):
    before = SavedModel(pruned()[0], {}, {"model": DIGITS})
    text = card_of(tmp_path, before, "net.pt")
    assert "Nothing was measured of this network" in text
    assert "Not known: the file does not say how it was trained." in text
    assert 'torch.load("net.pt", weights_only=True)' in text
    assert "load_model(\"net.pt\", name='cnn_digits', num_classes=10" in text
