import torch

from robustprune.evaluators import create

from .toys import batch, linear


def test_top_one_and_no_top_five_for_ten_classes():
    model = linear(10)
    images, labels = batch(model, 8, wrong=3)
    results = create("clean").judge(model, images, labels, seed=0)
    assert {name: values.tolist() for name, values in results.items()} == {
        "clean": [False] * 3 + [True] * 5
    }


def test_top_five_for_more_than_ten():
    model = linear(11)
    images, _ = batch(model, 1)
    with torch.no_grad():
        ranks = model(images).argsort(dim=1, descending=True)[0]
    results = create("clean").judge(model, images.expand(11, -1, -1, -1), ranks, seed=0)
    assert results["clean"].tolist() == [True] + [False] * 10
    assert results["clean_top5"].tolist() == [True] * 5 + [False] * 6


def test_the_label_names_both():
    model = linear(11)
    images, labels = batch(model, 2)
    results = create("clean", label="plain").judge(model, images, labels, seed=0)
    assert set(results) == {"plain", "plain_top5"}
