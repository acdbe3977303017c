from __future__ import annotations

import torch

from robustprune.datasets.augment import CropFlip, crop

IMAGE = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8)


def test_crop_by_hand():
    images = torch.stack([IMAGE, IMAGE, IMAGE])[:, None]
    found = crop(images, torch.tensor([[1, 1], [0, 0], [2, 1]]), padding=1)
    expected = [
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[0, 0, 0], [0, 1, 2], [0, 4, 5]],
        [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
    ]
    assert found[:, 0].tolist() == expected
    assert found.dtype == torch.uint8


def test_every_channel_is_cropped_alike():
    images = torch.stack([IMAGE, IMAGE + 10])[None]
    found = crop(images, torch.tensor([[2, 2]]), padding=1)
    assert found[0, 0].tolist() == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]
    assert found[0, 1].tolist() == [[15, 16, 0], [18, 19, 0], [0, 0, 0]]


def test_flip_mirrors_left_and_right_where_the_draw_is_odd():
    images = torch.stack([IMAGE, IMAGE])[:, None]
    draws = torch.tensor([[0, 0, 2], [0, 0, 3]])
    found = CropFlip(padding=0)(images, draws)
    assert found[0, 0].tolist() == IMAGE.tolist()
    assert found[1, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_crop_and_flip_together_follow_the_draws():
    found = CropFlip(padding=1)(IMAGE[None, None], torch.tensor([[3, 5, 1]]))  # offsets 0 and 2
    assert found[0, 0].tolist() == [[0, 0, 0], [0, 3, 2], [0, 6, 5]]


def test_all_offsets_and_both_sides_occur_about_equally_often():
    draws = torch.randint(2**62, (9000, 3), generator=torch.Generator().manual_seed(0))
    images = torch.zeros(9000, 1, 9, 9)
    images[:, :, 4, 4] = 1
    where = CropFlip(padding=4)(images, draws).flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=81).float()
    assert counts.min() > 60  # 111 expected each
    assert counts.max() < 170


def test_without_flip_images_are_only_moved():
    images = IMAGE[None, None].repeat(64, 1, 1, 1)
    draws = torch.randint(2**62, (64, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(CropFlip(padding=0, flip=False)(images, draws), images)
