import pytest
import torch

from geoview.config import AugmentConfig
from geoview.data.augment import change_light

torch.set_num_threads(2)

NAMES = ["gamma", "channel_mix", "gain", "saturation", "contrast", "brightness", "noise"]
ERASING = ["erase_share", "grid_dropout_share", "coarse_dropout_share"]
SHARES = ["greyscale_share", "blur_share", *ERASING]
NOTHING = dict.fromkeys(NAMES + SHARES, 0.0)


def pictures(n=4, height=24, width=32, seed=0):
    drawn = torch.randint(0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()
    drawn[:, :, :2, :2], drawn[:, :, :2, -2:] = 0, 255
    return drawn, torch.ones(n, height, width, dtype=torch.bool)


def changed(pixels, valid, seed=0, **strengths):
    return change_light(pixels, valid, AugmentConfig(**NOTHING | strengths), torch.Generator().manual_seed(seed))


def test_zero_strengths_change_nothing():
    pixels, valid = pictures()
    x, seen = changed(pixels, valid)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, pixels.float(), rtol=0, atol=1e-3)
    assert seen.equal(valid)


@pytest.mark.parametrize("name", NAMES + SHARES)
def test_each_strength_changes_something_and_alone(name):
    pixels, valid = pictures()
    x, seen = changed(pixels, valid, **{name: 1.0})
    assert seen.equal(valid) == (name not in ERASING)
    assert torch.allclose(x, pixels.float(), atol=1e-3) == (name in ERASING)


@pytest.mark.parametrize("strength", [0.3, 1.0, 10.0])
def test_stays_in_range(strength):
    pixels, valid = pictures(16)
    x, _ = changed(pixels, valid, **dict.fromkeys(NAMES, strength), **dict.fromkeys(SHARES, 0.5))
    assert x.isfinite().all()
    assert x.min() >= 0
    assert x.max() <= 255
    assert x.shape == pixels.shape


def test_what_is_drawn_depends_on_the_generator_alone():
    pixels, valid = pictures()
    config = AugmentConfig()
    torch.manual_seed(1)
    one = change_light(pixels, valid, config, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    same = change_light(pixels, valid, config, torch.Generator().manual_seed(5))
    other = change_light(pixels, valid, config, torch.Generator().manual_seed(6))
    assert one[0].equal(same[0])
    assert one[1].equal(same[1])
    assert not one[0].equal(other[0])


def test_the_input_is_left_as_it_is():
    pixels, valid = pictures()
    before = pixels.clone(), valid.clone()
    changed(pixels, valid, **dict.fromkeys(NAMES + SHARES, 1.0))
    assert pixels.equal(before[0])
    assert valid.equal(before[1])


@pytest.mark.parametrize("name", [*NAMES, "erase_share", "coarse_dropout_share"])
def test_each_picture_is_drawn_on_its_own(name):
    one, valid = pictures(1)
    pixels, valid = one.repeat(6, 1, 1, 1), valid.repeat(6, 1, 1)
    x, seen = changed(pixels, valid, **{name: 0.5 if name in NAMES else 1.0})
    drawn = seen if name in ERASING else x
    assert all(not drawn[i].equal(drawn[j]) for i in range(6) for j in range(i))


@pytest.mark.parametrize("name", SHARES)
def test_a_share_of_the_pictures(name):
    one, valid = pictures(1, 8, 8)
    pixels, valid = one.repeat(800, 1, 1, 1), valid.repeat(800, 1, 1)
    x, seen = changed(pixels, valid, **{name: 0.25})
    touched = (~seen).any(dim=(1, 2)) if name in ERASING else (x - pixels).abs().amax(dim=(1, 2, 3)) > 0.5
    # An erased rectangle may be too small to cover the centre of one of the few pixels; a blur too weak to show.
    assert 0.1 < touched.float().mean() < 0.31


def test_erasing_takes_one_rectangle_and_gives_nothing_back():
    pixels, valid = pictures(64)
    valid[:, :, :10] = False
    _, seen = changed(pixels, valid, erase_share=1.0)
    assert not (seen & ~valid).any()
    erased = valid & ~seen
    assert erased.any(dim=(1, 2)).float().mean() > 0.5
    for picture in erased:
        rows, columns = picture.any(dim=1), picture.any(dim=0)
        assert picture.equal(rows[:, None] & columns[None, :])
        assert rows.sum() <= 0.5 * len(rows) + 1
        assert columns.sum() <= 0.5 * len(columns) + 1


def test_greyscale_takes_the_colour_and_keeps_the_light():
    pixels, valid = pictures()
    x, _ = changed(pixels, valid, greyscale_share=1.0)
    torch.testing.assert_close(x, pixels.float().mean(dim=1, keepdim=True).expand_as(x), rtol=0, atol=1e-3)


def test_gamma_keeps_black_and_white():
    pixels, valid = pictures()
    x, _ = changed(pixels, valid, gamma=0.5)
    assert x[pixels == 0].max() == 0
    assert x[pixels == 255].min() > 254.99
    middle = (pixels > 50) & (pixels < 200)
    assert (x - pixels)[middle].abs().max() > 10


def test_contrast_keeps_the_mean_and_brightness_moves_it():
    pixels = torch.randint(100, 150, (4, 3, 16, 16)).byte()
    valid = torch.ones(4, 16, 16, dtype=torch.bool)
    means = pixels.float().mean(dim=(2, 3))
    x, _ = changed(pixels, valid, contrast=0.3)
    torch.testing.assert_close(x.mean(dim=(2, 3)), means, rtol=0, atol=0.01)
    assert ((x.std(dim=(2, 3)) / pixels.float().std(dim=(2, 3))) - 1).abs().min() > 0.01
    x, _ = changed(pixels, valid, brightness=0.1)
    moved = (x - pixels).flatten(1)
    torch.testing.assert_close(moved.amin(dim=1), moved.amax(dim=1), rtol=0, atol=0.01)
    assert moved.abs().amin() > 0.1


def test_blur_lowers_the_detail_and_keeps_the_mean():
    pixels, valid = pictures()
    x, _ = changed(pixels, valid, blur_share=1.0)
    assert (x.std(dim=(1, 2, 3)) < pixels.float().std(dim=(1, 2, 3))).all()
    torch.testing.assert_close(x.mean(dim=(1, 2, 3)), pixels.float().mean(dim=(1, 2, 3)), rtol=0.02, atol=0)


def test_a_grid_loses_squares_of_even_spacing():
    pixels, valid = pictures(16, 40, 100)
    _, seen = changed(pixels, valid, grid_dropout_share=1.0)
    for lost in ~seen:
        rows, columns = lost.any(dim=1), lost.any(dim=0)
        assert lost.equal(rows[:, None] & columns[None, :])
        # Four pixels of every ten.
        assert (rows.sum(), columns.sum()) == (16, 40)
        assert columns.equal(columns.roll(10))
    assert len({tuple(torch.nonzero(lost)[0].tolist()) for lost in ~seen}) > 8


def test_coarse_dropout_loses_scattered_rectangles_of_a_size():
    valid = torch.ones(64, 100, 400, dtype=torch.bool)
    _, seen = changed(torch.zeros(64, 3, 100, 400, dtype=torch.uint8), valid, coarse_dropout_share=1.0)
    lost = (~seen).float().mean(dim=(1, 2))
    # 10 to 25 of a hundredth to a twenty-fifth of a square as high as the picture, some of them over another.
    assert lost.min() > 10 * 0.0225 / 4 / 3
    assert lost.max() < 25 * 0.04 / 4
    assert 0.06 < lost.mean() < 0.1
    widest = max(len(run) for row in (~seen)[0] for run in "".join("x" if p else " " for p in row.tolist()).split())
    assert widest >= 10


@pytest.mark.parametrize("shape", [(16, 16), (3, 40), (140, 20)])
def test_dropout_of_any_shape_keeps_a_part(shape):
    valid = torch.ones(8, *shape, dtype=torch.bool)
    _, seen = changed(torch.zeros(8, 3, *shape, dtype=torch.uint8), valid, grid_dropout_share=1.0)
    assert seen.any(dim=(1, 2)).all()
    assert not seen.all(dim=2).all(dim=1).any()


def test_dropout_that_is_off_leaves_all_that_is_drawn_as_it_was():
    pixels, valid = pictures()
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    one = change_light(pixels, valid, AugmentConfig(), generators[0])
    two = change_light(pixels, valid, AugmentConfig(grid_dropout_share=1.0), generators[1])
    assert one[0].equal(two[0])
    assert torch.rand(1, generator=generators[0]) != torch.rand(1, generator=generators[1])
