from __future__ import annotations

import pytest
import torch
from PIL import Image

from robustprune import datasets
from robustprune.errors import InvalidError, UsageError

from .fakes import create


def epoch(source, seed=0):
    batches = list(source.batches(4, generator=torch.Generator().manual_seed(seed)))
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def test_workers_do_not_change_what_is_read(tmp_path):
    alone = create("imagefolder", tmp_path / "a", workers=0).load(seed=0).train
    helped = create("imagefolder", tmp_path / "b", workers=2).load(seed=0).train
    for one, other in zip(epoch(alone), epoch(helped), strict=True):
        assert torch.equal(one, other)


def test_test_images_are_resized_and_cut_out_at_the_centre(tmp_path):
    dataset = create("imagefolder", tmp_path, size=4, resize=8)
    for file in tmp_path.glob("val/*/*.png"):
        image = Image.new("RGB", (32, 16), "black")  # wide: resized to 16×8
        image.paste("white", (12, 0, 20, 16))  # the middle: columns 6 … 9 of 16
        image.save(file)
    images = next(dataset.load(seed=0, train=False).test.ordered(2)).images
    assert images.shape == (2, 3, 4, 4)
    assert images[..., 1:3].min() == 1  # cut out: columns 6 … 9, edges blurred by the resize


def test_the_first_images_are_of_several_classes(tmp_path):
    test = create("imagefolder", tmp_path).load(seed=5, train=False).test
    labels = next(test.ordered(6)).labels
    assert set(labels.tolist()) == {0, 1}
    again = datasets.create("imagefolder", root=tmp_path, classes=2, size=8, resize=10)
    assert torch.equal(again.load(seed=6, train=False).test.labels, test.labels)


def test_each_draw_gives_its_own_cut(tmp_path):
    source = create("imagefolder", tmp_path).load(seed=0).train
    indices, draws = torch.tensor([0, 0, 0]), torch.tensor([[1, 0, 0], [2, 0, 0], [1, 9, 9]])
    first, second, third = source.read(indices, draws).images
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named_in_one_line(tmp_path, workers):
    dataset = create("imagefolder", tmp_path, workers=workers)
    file = tmp_path / "val/class0/0.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError) as error:
        list(dataset.load(seed=0, train=False).test.ordered(4))
    assert str(error.value).startswith(f"{file}: the image is damaged")
    assert "\n" not in str(error.value)


def test_a_wrong_number_of_classes_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"2 classes .* found, 10 expected\. Set 'classes: 2'"):
        create("imagefolder", tmp_path, classes=10).load(seed=0)


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="class folder"):
        datasets.create("imagefolder", root=tmp_path).load(seed=0)


def test_a_cut_larger_than_the_image_is_refused():
    with pytest.raises(InvalidError, match=r"'resize' \(100\) must be at least 'size' \(200\)"):
        datasets.create("imagefolder", size=200, resize=100)


def test_links_in_a_circle_repeat_no_image(tmp_path):
    before = create("imagefolder", tmp_path).load(seed=0, train=False).test
    folder = tmp_path / "val/class0"
    (folder / "deep").mkdir()
    (folder / "deep/up").symlink_to(folder)
    (folder / "self").symlink_to(".")
    (folder / "all").symlink_to(tmp_path / "val")
    dataset = datasets.create("imagefolder", root=tmp_path, size=8, resize=10)
    test = dataset.load(seed=0, train=False).test
    assert test.paths == before.paths
    (tmp_path / "elsewhere").mkdir()
    (folder / "0.png").rename(tmp_path / "elsewhere/0.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert len(dataset.load(seed=0, train=False).test) == len(test)
