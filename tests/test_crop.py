"""Inpainting at any size changes what is under the mask, smoothly, and nothing else."""

import pytest
import torch

from glide_core.crop import Region, crop_for_inpainting, stitch
from glide_core.errors import GlideError

SIZES = [(300, 500), (64, 64), (37, 901), (1000, 700)]


def make_image(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(1))


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    return mask


def grey(batch: int = 1, size: int = 256, value: float = 0.0) -> torch.Tensor:
    return torch.full((batch, 3, size, size), value)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_square_holds_the_mask_and_lies_in_the_image_where_it_can(
    height: int, width: int
) -> None:
    mask = box(height, width, height // 3, width // 2, height // 2, width // 2 + 20)
    region = crop_for_inpainting(make_image(height, width), mask).region
    rows, columns = region.inside(height, width)
    assert rows.start <= height // 3 and rows.stop >= height // 2
    assert columns.start <= width // 2 and columns.stop >= width // 2 + 20
    for start, length in ((region.top, height), (region.left, width)):
        if region.side <= length:
            assert start >= 0 and start + region.side <= length


def test_models_get_the_sizes_they_were_made_for() -> None:
    crop = crop_for_inpainting(make_image(300, 500, 2), box(300, 500, 10, 10, 90, 60))
    assert [tuple(x.shape) for x in crop.images] == [(2, 3, 64, 64), (2, 3, 256, 256)]
    assert [tuple(k.shape) for k in crop.keep_masks] == [(2, 1, 64, 64), (2, 1, 256, 256)]
    assert crop.region == Region(0, 0, 256)
    for keep in crop.keep_masks:
        scale = keep.shape[-1] / 256
        assert (1 - keep).sum() / len(keep) == pytest.approx(80 * 50 * scale**2, rel=0.1)


def test_more_context_makes_a_larger_square() -> None:
    mask = box(1000, 1000, 400, 400, 600, 600)
    sides = [
        crop_for_inpainting(make_image(1000, 1000), mask, context=c).region.side
        for c in (0.2, 0.5, 1)
    ]
    assert sides == [280, 400, 600]


def test_pixels_beyond_the_image_are_unknown() -> None:
    crop = crop_for_inpainting(make_image(100, 400), box(100, 400, 0, 0, 100, 400))
    assert crop.region == Region(-150, 0, 400)
    half = crop_for_inpainting(make_image(100, 400), box(100, 400, 0, 0, 50, 400))
    keep = half.keep_masks[1][0, 0]
    assert keep[:90].sum() == 0 and keep[-90:].sum() == 0
    assert keep[130:158].min() == 1


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("feather", [0, 1, 8])
def test_pixels_outside_the_mask_come_back_bit_for_bit(
    height: int, width: int, feather: int
) -> None:
    image = make_image(height, width)
    mask = box(height, width, height // 3, width // 2, height // 2, width // 2 + 20)
    region = crop_for_inpainting(image, mask).region
    result = stitch(image, grey(value=0.9), region, mask, feather)
    outside = mask[..., None].expand_as(image) == 0
    assert torch.equal(result[outside], image[outside])
    assert not torch.equal(result, image)


def test_an_empty_mask_changes_nothing() -> None:
    image, mask = make_image(90, 120), torch.zeros(1, 90, 120)
    region = crop_for_inpainting(image, mask).region
    assert torch.equal(stitch(image, grey(value=1.0), region, mask), image)


def test_a_full_mask_replaces_everything() -> None:
    image, mask = make_image(90, 120), torch.ones(1, 90, 120)
    region = crop_for_inpainting(image, mask).region
    result = stitch(image, grey(value=0.5), region, mask)
    assert torch.allclose(result, torch.full_like(image, 0.75), atol=1e-6)


def test_the_patch_is_blended_in_from_the_border_of_the_mask() -> None:
    image, mask = torch.zeros(1, 256, 256, 3), box(256, 256, 64, 64, 192, 192)
    patch = grey(value=-1.0)
    patch[..., 64:192, 64:192] = 1
    row = stitch(image, patch, Region(0, 0, 256), mask, feather=8)[0, 128, 64:128, 0]
    assert row[0].item() == pytest.approx(1 / 8)
    assert (row.diff() >= 0).all()
    assert (row[8:] == 1).all()


def test_a_stroke_thinner_than_the_feather_is_repainted_too() -> None:
    image, mask = torch.zeros(1, 256, 256, 3), box(256, 256, 100, 20, 103, 200)
    patch = grey(value=-1.0)
    patch[..., 100:103, 20:200] = 1
    result = stitch(image, patch, Region(0, 0, 256), mask, feather=8)
    assert result[0, 100:103, 100, 0].tolist() == [1, 1, 1]


def test_a_patch_of_another_tint_is_moved_to_the_images_colours() -> None:
    image, mask = torch.full((1, 256, 256, 3), 0.5), box(256, 256, 64, 64, 192, 192)
    result = stitch(image, grey(value=0.2), Region(0, 0, 256), mask)
    assert torch.allclose(result, image, atol=1e-6)


def test_every_image_of_a_batch_gets_its_own_patch() -> None:
    image, mask = make_image(256, 256), torch.ones(1, 256, 256)
    patches = torch.cat([grey(value=-1.0), grey(value=1.0)])
    result = stitch(image, patches, Region(0, 0, 256), mask)
    assert [r.mean().item() for r in result] == [0, 1]


def test_alpha_is_carried_through() -> None:
    image = torch.rand(1, 64, 64, 4)
    result = stitch(image, grey(), Region(0, 0, 64), torch.ones(64, 64))
    assert torch.equal(result[..., 3], image[..., 3])


def test_inputs_are_not_modified() -> None:
    image, mask, patch = make_image(64, 64), torch.ones(64, 64), grey()
    before = image.clone(), mask.clone(), patch.clone()
    crop_for_inpainting(image, mask)
    stitch(image, patch, Region(0, 0, 64), mask)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])
    assert torch.equal(patch, before[2])


def test_a_mask_of_another_size_and_with_soft_edges_is_fitted() -> None:
    crop = crop_for_inpainting(make_image(100, 100), torch.rand(50, 50))
    assert set(crop.keep_masks[0].unique().tolist()) <= {0.0, 1.0}


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(GlideError, match=r"context is 1e\+308"):
        crop_for_inpainting(torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8), context=1e308)
    with pytest.raises(GlideError, match="context is -1"):
        crop_for_inpainting(make_image(64, 64), torch.ones(64, 64), context=-1)
    with pytest.raises(GlideError, match="feather is -1"):
        stitch(make_image(64, 64), grey(), Region(0, 0, 64), torch.ones(64, 64), feather=-1)


def test_any_feather_is_quick() -> None:
    mask = torch.zeros(1, 90, 70)
    mask[:, 20:60, 10:50] = 1
    region = Region(0, 0, 70)
    wide, wider = (
        stitch(make_image(90, 70), grey(), region, mask, feather=f) for f in (256, 10**6)
    )
    assert torch.equal(wide, wider)


def test_a_mask_too_wide_for_memory_is_refused() -> None:
    with pytest.raises(GlideError, match="covers 20000 pixels"):
        crop_for_inpainting(torch.zeros(1, 1, 20000, 3), torch.ones(1, 1, 20000))


def test_a_colour_shift_at_the_border_is_corrected() -> None:
    """The known pixels of a patch are the image's own: only what is inside can be off."""
    image, mask = torch.full((1, 256, 256, 3), 0.5), box(256, 256, 64, 64, 192, 192)
    patch = grey(value=0.0)
    patch[..., 64:192, 64:192] = 0.05
    row = stitch(image, patch, Region(0, 0, 256), mask, feather=0)[0, 128, :, 0]
    assert (row[64:66] - 0.5).abs().max() < 0.01  # of a step of 0.025
    assert row[128] > 0.51  # the middle of the patch is unchanged


def test_a_real_edge_at_the_border_keeps_its_colour() -> None:
    image, mask = torch.full((1, 256, 256, 3), 0.5), box(256, 256, 64, 64, 192, 192)
    patch = grey(value=0.0)
    patch[..., 64:192, 64:192] = 1.0
    result = stitch(image, patch, Region(0, 0, 256), mask, feather=0)
    assert (result[0, 64:192, 64:192] > 0.995).all()
