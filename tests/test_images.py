"""Ranges, polarity and files: what goes in comes out, and what is wrong is said."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glide_core import images
from glide_core.errors import GlideError
from glide_core.images import (
    cycle,
    from_comfy,
    from_pil,
    keep_mask,
    load_image,
    quantize_8bit,
    read_mask,
    resize,
    to_comfy,
    to_pil,
    to_uint8,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_an_image_converts_from_comfyui_and_back() -> None:
    image = noise(2, 5, 7, 3)
    x = from_comfy(image)
    assert x.shape == (2, 3, 5, 7)
    assert x.min() >= -1 and x.max() <= 1
    assert torch.allclose(to_comfy(x), image, atol=1e-6)


def test_black_is_minus_one_and_white_is_one() -> None:
    image = torch.tensor([0.0, 0.5, 1.0, 7.0]).view(1, 1, 4, 1).expand(1, 1, 4, 3)
    assert from_comfy(image)[0, 0, 0].tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_alpha_become_rgb(channels: int) -> None:
    assert from_comfy(noise(1, 4, 4, channels)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 8, 8, 2), (8, 8), (1, 0, 8, 3)])
def test_wrong_image_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GlideError, match="an image of shape"):
        from_comfy(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)])
def test_masks_of_every_layout_turn_repaint_into_keep(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(4, 6)
    mask[:, 3:] = 1
    keep = keep_mask(mask.view(shape))
    assert keep.shape == (1, 1, 4, 6)
    assert keep[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_of_all_zeros_or_all_ones_works(value: float) -> None:
    keep = keep_mask(torch.full((8, 8), value), (64, 64))
    assert (keep == 1 - value).all()


def test_soft_edges_are_cut_at_one_half_and_reported() -> None:
    mask = torch.tensor([[0.0, 0.49, 0.5, 1.0]])
    assert keep_mask(mask).flatten().tolist() == [1, 1, 0, 0]
    assert images.is_soft(mask) and not images.is_soft(mask.round())


def test_a_mask_of_another_size_is_resized_and_thin_strokes_survive() -> None:
    mask = torch.zeros(512, 512)
    mask[100, 40:400] = 1
    keep = keep_mask(mask, (64, 64))
    assert set(keep.unique().tolist()) == {0, 1}
    assert (keep[0, 0, 12, 5:50] == 0).all()
    assert keep.sum() == 64 * 64 - 45


def test_a_mask_is_enlarged_pixel_by_pixel() -> None:
    mask = (noise(64, 64) > 0.5).float()
    keep = keep_mask(mask, (256, 256))
    nearest = torch.nn.functional.interpolate(1 - mask[None, None], (256, 256), mode="nearest")
    assert torch.equal(keep, nearest)


def test_fewer_or_more_masks_than_images_are_used_in_turn() -> None:
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    assert keep_mask(masks, batch=3)[:, 0, 0, 0].tolist() == [1, 0, 1]
    assert keep_mask(masks, batch=1)[:, 0, 0, 0].tolist() == [1]
    with pytest.raises(GlideError, match="batch size is 0"):
        cycle(masks, 0)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4,), (0, 4, 4)])
def test_wrong_mask_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GlideError, match="a mask of shape"):
        keep_mask(torch.zeros(shape))


def test_incoming_tensors_are_never_written_to() -> None:
    image, mask = noise(1, 8, 8, 3), noise(8, 8)
    before = image.clone(), mask.clone()
    from_comfy(image).zero_()
    to_comfy(image.movedim(-1, 1)).zero_()
    keep_mask(mask).zero_()
    keep_mask(mask.round()).zero_()
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])


def test_every_8_bit_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = from_pil(Image.fromarray(levels[0].movedim(0, -1).numpy()))
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(from_comfy(to_comfy(x))), levels)
    assert torch.equal(torch.from_numpy(np.array(to_pil(x)[0])), levels[0].movedim(0, -1))


def test_the_snap_gives_what_a_saved_file_would_and_leaves_the_outside_unclamped() -> None:
    x = noise(1, 3, 4, 4) * 2 - 1
    snapped = quantize_8bit(x)
    assert torch.allclose(snapped, to_uint8(x).float() / 127.5 - 1)
    assert quantize_8bit(torch.tensor([1.5])).item() > 1


def test_resizing_is_the_references_bicubic_filter() -> None:
    image = Image.fromarray((noise(40, 30, 3) * 255).byte().numpy())
    expected = np.array(image.resize((64, 64), resample=Image.BICUBIC))
    expected_tensor = torch.from_numpy(expected)[None].permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(from_pil(image, (64, 64)), expected_tensor)
    assert torch.equal(resize(from_pil(image), (64, 64)), expected_tensor)


def test_what_is_transparent_is_white_in_an_image_and_a_hole_in_a_mask(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image, mask = load_image(tmp_path / "a.png"), read_mask(tmp_path / "a.png")
    assert image[0, 0, 0].tolist() == [1, 0, 0]
    assert image[0, 1, 1].tolist() == [1, 1, 1]
    assert mask[0].tolist() == [[0, 1], [1, 1]]


def test_white_is_repainted_where_a_mask_has_no_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[[0, 1]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16", "LA"])
def test_every_usual_mode_is_read(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((3, 3), 65535, dtype=np.uint16))
    else:
        image = Image.new("RGB", (3, 3), "white").convert(mode)
    path = tmp_path / "a.tif"
    image.save(path)
    assert load_image(path).shape == (1, 3, 3, 3)
    assert load_image(path).mean().item() == pytest.approx(1, abs=0.01)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (1, 4, 2, 3)


@pytest.mark.parametrize("load", [load_image, read_mask])
def test_unreadable_image_files_are_named(tmp_path: Path, load: object) -> None:
    assert callable(load)
    with pytest.raises(GlideError, match=r"missing\.png cannot be read as PNG, JPEG.*No such file"):
        load(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(GlideError, match=r"text\.png cannot be read as PNG, JPEG"):
        load(tmp_path / "text.png")
    with pytest.raises(GlideError, match="not a regular file"):
        load(tmp_path)
    Image.fromarray((noise(64, 64, 3) * 255).byte().numpy()).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GlideError, match=r"cut\.png cannot be read"):
        load(tmp_path / "cut.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_with_an_opaque_alpha_channel_is_read_by_its_brightness(
    tmp_path: Path, mode: str
) -> None:
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (2, 2, 6, 6))
    mask.convert(mode).save(tmp_path / "mask.png")
    marked = read_mask(tmp_path / "mask.png")
    assert marked.sum() == 16 and marked[0, 3, 3] == 1
    assert torch.equal(read_mask(mask.convert(mode)), marked)


def test_a_format_that_starts_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(GlideError, match="cannot identify image file"):
        load_image(path)


def test_the_pixel_limit_applies_before_decoding_and_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (8000, 8000)).save(path)
    with pytest.raises(GlideError, match="8000x8000 has more than the allowed 50,000,000 pixels"):
        load_image(path)
    with pytest.raises(GlideError, match="pixels"):
        load_image(path, max_pixels=63_999_999)
    assert read_mask(path, max_pixels=64_000_000).shape == (1, 8000, 8000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path(os.devnull)):
        with pytest.raises(GlideError, match="not a regular file"):
            load_image(path)


def test_nan_is_refused() -> None:
    with pytest.raises(GlideError, match="NaN"):
        from_comfy(torch.full((1, 4, 4, 3), torch.nan))
    with pytest.raises(GlideError, match="NaN"):
        keep_mask(torch.full((4, 4), torch.nan))


def test_only_the_first_frame_of_a_gif_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "x.gif")[0, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((8, 8, 3), object),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.complex64),
        np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), 200.0),
        torch.full((3, 8, 8), torch.inf),
        torch.zeros(3, 8, 8, dtype=torch.int32),
        torch.zeros(3, 8, 8, device="meta"),
        torch.zeros(3, 8, 8).to_sparse(),
        [[torch.zeros(3, 8, 8)]],
    ],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', '')}",
)
def test_arrays_that_hold_no_image_are_refused_before_any_use(values: Any) -> None:
    for read in (images.read_image, images.read_mask):
        with pytest.raises(GlideError, match="expected"):
            read(values)


def test_bool_float64_and_big_endian_arrays_are_images_and_masks() -> None:
    for values in (np.ones((8, 8, 3), bool), np.ones((8, 8, 3)), np.ones((8, 8, 3), ">f4")):
        assert torch.equal(images.read_image(values), torch.ones(1, 3, 8, 8))
        assert torch.equal(images.read_mask(values[..., 0]), torch.ones(1, 8, 8))


def test_a_transparency_beyond_the_palette_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    pixels = chunk(b"tRNS", bytes(300)) + chunk(b"IDAT", zlib.compress(bytes(72)))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    with pytest.raises(GlideError, match=r"x\.png"):
        images.load_image(tmp_path / "x.png")


@pytest.mark.parametrize("side", [-1, 4097, 10**12, 0.5, None, "64"])
def test_a_side_out_of_range_is_refused(side: Any) -> None:
    with pytest.raises(GlideError, match="expected 0 to 4096"):
        images.fit(torch.zeros(1, 3, 8, 8), side)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "CMYK", "HSV"])
def test_a_pil_image_of_any_mode_is_read(mode: str) -> None:
    image = Image.new(mode, (4, 2))
    assert images.read_image(image).shape == (1, 3, 2, 4)
    assert read_mask(image).shape == (1, 2, 4)


@pytest.mark.parametrize("transparency", [None, 300, (1,), b"\0\1", "x", 1.5])
def test_wrong_transparency_is_one_error(transparency: object) -> None:
    image = Image.new("P" if transparency == 300 else "RGB", (4, 4))
    image.info["transparency"] = transparency
    for read in (images.read_image, read_mask):
        with pytest.raises(GlideError, match="PIL image of mode"):
            read(image)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.full((4, 4), 0.5, np.float32), 0.5), (np.full((4, 4), 40_000, np.uint16), 0.61)],
    ids=["float", "16 bits"],
)
def test_numbers_of_more_than_8_bits_keep_their_brightness(
    values: np.ndarray[Any, Any], expected: float, tmp_path: Path
) -> None:
    image = Image.fromarray(values)
    image.save(tmp_path / "x.tiff")
    for given in (image, tmp_path / "x.tiff"):
        found = (images.read_image(given) + 1) / 2
        assert float(found.mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_file_with_nan_is_refused(value: float, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(GlideError, match="NaN or infinity"):
        load_image(tmp_path / "x.tiff")
