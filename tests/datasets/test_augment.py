from __future__ import annotations

import torch

from robustprune.datasets.small_images import CropFlip

IMAGE = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8)


def test_crop_by_hand_alike_in_every_channel():
    images = torch.stack([IMAGE, IMAGE + 10])[None].repeat(3, 1, 1, 1)
    draws = torch.tensor([[1, 1, 0], [3, 0, 0], [5, 4, 1]])  # modulo 3: rows and columns of the cut
    found = CropFlip(padding=1, flip=False)(images, draws)
    expected = [
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[0, 0, 0], [0, 1, 2], [0, 4, 5]],
        [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
    ]
    assert found[:, 0].tolist() == expected
    assert found[2, 1].tolist() == [[14, 15, 16], [17, 18, 19], [0, 0, 0]]
    assert found.dtype == torch.uint8


def test_flip_mirrors_left_and_right_where_the_draw_is_odd():
    images = torch.stack([IMAGE, IMAGE])[:, None]
    draws = torch.tensor([[0, 0, 2], [0, 0, 3]])
    found = CropFlip(padding=0)(images, draws)
    assert found[0, 0].tolist() == IMAGE.tolist()
    assert found[1, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert torch.equal(CropFlip(padding=0, flip=False)(images, draws), images)


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
