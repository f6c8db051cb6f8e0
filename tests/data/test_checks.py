"""Training data is checked before the first step: what is bad is named, then refused or skipped."""

from __future__ import annotations

import os
import re
import struct
import zlib
from functools import partial
from pathlib import Path

import pytest
from images_on_disk import (
    encode,
    folder_files,
    noise,
    write_csv,
    write_folder,
    write_jsonl,
    write_tar,
)
from PIL import Image

from glide_core.data.source import DataReport, ImageSource, check, open_source, save_report
from glide_core.errors import GlideError

GOOD = folder_files(2)
JPEG = encode(noise(7), "jpeg")
PNG = encode(noise(1))  # ends with the last data, four bytes of checksum, twelve of end mark


def checked(path: Path | str, **options: object) -> DataReport:
    source = open_source(path, **options)  # type: ignore[arg-type]
    assert isinstance(source, ImageSource)
    return source.report


def forged_png(width: int, height: int) -> bytes:
    """A PNG that claims more pixels than it has."""
    data = encode(Image.new("L", (16, 16)))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BAD: dict[str, tuple[dict[str, bytes | str], str]] = {
    "truncated": ({"x.jpg": JPEG[: len(JPEG) // 2], "x.txt": "x"}, "x.jpg: .*truncated"),
    "text named .png": ({"x.png": "hello", "x.txt": "x"}, "x.png: is not a readable image"),
    "empty": ({"x.png": b"", "x.txt": "x"}, "x.png: is empty"),
    "too small": ({"x.png": encode(noise(1, 15, 80)), "x.txt": "x"}, "x.png: is 15x80: .* 16 pix"),
    "bomb": ({"x.png": forged_png(11_000, 11_000), "x.txt": "x"}, "x.png: .*11000x11000"),
    "bigger bomb": ({"x.png": forged_png(60_000, 60_000), "x.txt": "x"}, "x.png: .*exceeds limit"),
    "checksum": ({"x.png": PNG[:-20] + b"0000" + PNG[-16:], "x.txt": "x"}, "x.png: .*broken data"),
    "no caption": ({"x.png": encode(noise(1))}, "x.png: has no caption: expected a .txt"),
    "empty caption": ({"x.png": encode(noise(1)), "x.txt": " \n\n"}, "x.png: its caption is empty"),
    "not UTF-8": (
        {"x.png": encode(noise(1)), "x.txt": "caf\xe9".encode("latin-1")},
        "x.png: .*UTF-8",
    ),
    "UTF-16": ({"x.png": encode(noise(1)), "x.txt": "cat".encode("utf-16")}, "x.png: .*UTF-8"),
    "phone": ({"x.HEIC": b"\0\0\0\x18ftypheic", "x.txt": "x"}, "x.HEIC: is not a readable image"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_refused(case: str, tmp_path: Path) -> None:
    files, words = BAD[case]
    write_folder(tmp_path, {**GOOD, **files})
    with pytest.raises(GlideError, match=f"(?s)1 of 3 images .*{words}.*or skip them"):
        open_source(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_skipped_where_asked(case: str, tmp_path: Path) -> None:
    files, words = BAD[case]
    write_folder(tmp_path, {**GOOD, **files})
    report = checked(tmp_path, skip_bad=True)
    lines = report.lines()
    assert (report.found, report.used, len(report.skipped)) == (3, 2, 1)
    assert re.match(f"skipped: {words}", lines[0])
    assert lines[-1] == "2 images with 2 different captions"


def test_ten_bad_files_are_named_and_the_others_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{i:02}.png": b"no" for i in range(13)})
    with pytest.raises(GlideError, match="13 of 13") as error:
        open_source(tmp_path)
    text = str(error.value)
    assert "09.png" in text
    assert "10.png" not in text
    assert "and 3 more" in text


def test_skipping_everything_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": b"no", "a.txt": "a"})
    with pytest.raises(GlideError, match="1 of 1 images") as error:
        open_source(tmp_path, skip_bad=True)
    assert "--skip-bad" not in str(error.value)


def test_bad_rows_of_a_list_are_named_with_their_lines(tmp_path: Path) -> None:
    write_folder(tmp_path, GOOD)
    rows = [
        '{"image": "000.png", "text": "good"}',
        "{not json",
        '{"text": "no image"}',
        '{"image": "gone.png", "text": "x"}',
        '{"image": "001.png"}',
        '{"image": "001.png", "text": 7}',
        '{"image": "001.png", "text": null}',
        '{"image": "\\u0000.png", "text": "x"}',
        '"a text"',
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(rows))
    reasons = list(checked(tmp_path / "l.jsonl", skip_bad=True).skipped.values())
    assert reasons == [
        reasons[0],
        "l.jsonl line 3: names no image: expected image, file_name, path",
        "gone.png: cannot be read (No such file or directory)",
        "001.png: has no caption: expected one of text, caption, prompt (l.jsonl line 5)",
        "001.png: its caption is 7: expected a text or a list of texts (l.jsonl line 6)",
        "001.png: its caption is empty (l.jsonl line 7)",
        reasons[6],
        "l.jsonl line 9: is not a row: it is a str. Expected a JSON object.",
    ]
    assert reasons[6].startswith("\0.png: cannot be read (")
    assert reasons[0].startswith("l.jsonl line 2: is not a row: it is not JSON")


def test_an_unquoted_comma_in_a_csv_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, GOOD)
    text = 'image,text\n000.png,"red, blue\nand green"\n001.png,red, blue\n001.png,\n'
    (tmp_path / "l.csv").write_text(text)
    report = checked(tmp_path / "l.csv", skip_bad=True)
    assert list(report.skipped.values()) == [
        "l.csv line 4: is not a row: it has 3 cells where the header has 2. Put text that contains "
        "a separator in double quotes.",
        "001.png: has no caption: expected one of text, caption, prompt (l.csv line 5)",
    ]
    assert report.used == 1


def test_a_cut_off_tar_is_named_and_what_is_whole_in_it_can_be_used(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**GOOD, "zzz.png": encode(noise(9)), "zzz.txt": "z"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"zzz.png") + 600])
    report = checked(path, skip_bad=True)
    assert report.used == 2
    assert [s.split(":")[0] for s in report.skipped.values()] == ["zzz.png", "a.tar"]
    with pytest.raises(GlideError, match=r"a\.tar: is damaged"):
        open_source(path)


def test_garbage_in_a_tar_is_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", GOOD)
    whole = path.read_bytes()
    at = whole.index(b"001.png")
    path.write_bytes(whole[:at] + b"?" * 512 + whole[at + 512 :])
    with pytest.raises(GlideError, match=r"a\.tar: is damaged after 1 samples: invalid data"):
        open_source(path)


def test_a_sample_with_two_images_or_bad_json_is_bad(tmp_path: Path) -> None:
    png = encode(noise(3))
    members = {"a.png": png, "a.left.jpg": JPEG, "a.txt": "a", "b.png": png, "b.json": "[1]"}
    path = write_tar(tmp_path / "a.tar", {**members, "c.png": png, **GOOD})
    reasons = list(checked(path, skip_bad=True).skipped.values())
    assert reasons == [
        "a.png: is one of several images: png, left.jpg",
        "b.png: has no caption: expected one of txt, text, caption, prompt",
        "c.png: has no caption: expected a .txt or .json of the same name",
    ]


def test_usable_but_unusual_data_is_warned_of(tmp_path: Path) -> None:
    files = {"s.png": encode(noise(1, 40, 30)), "l.png": encode(noise(2, 400, 70))}
    write_folder(tmp_path, {**GOOD, **files, "s.txt": "small", "l.txt": "long"})
    write_folder(tmp_path, {"t.png": GOOD["000.png"], "t.txt": "twin", "lost.txt": "no image"})
    report = checked(tmp_path)
    assert report.used == 5
    assert report.warnings == (
        "caption files without an image: lost.txt",
        "smaller than 64 pixels, will be enlarged: s.png (40x30)",
        "more than 3 times as long as wide, cropped to squares: l.png (400x70)",
        "duplicates, used more often: t.png (as 000.png)",
    )


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_folder(tmp_path, {**GOOD, "x.png": b"no"})
    open_source(
        tmp_path,
        skip_bad=True,
        run_check=partial(check, progress=lambda done, total: seen.append((done, total))),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_path_without_training_data_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path / "empty", {"readme.md": "nothing"})
    write_folder(
        tmp_path, {"a.png": GOOD["000.png"], "a.gz": b"\x1f\x8b\x08", "a.bin": b"\xff\xfe"}
    )
    write_folder(tmp_path, {"a.csv": "one,two\n1,2\n", "none.csv": "", "a.json": "[]"})
    write_csv(tmp_path / "rows.csv", [["image", "text"]])
    write_folder(tmp_path / "both", {"a.png": b""})
    write_tar(tmp_path / "both/b.tar", GOOD)
    write_folder(tmp_path / "tars", {"a.tar": "no tar"})
    for name, words in {
        "gone": "was not found",
        "empty": "holds no images",
        "a.png": "is a single image",
        "a.gz": "not UTF-8",
        "a.bin": "not UTF-8",
        "a.csv": "the columns are: one, two",
        "none.csv": "the columns are: none",
        "a.json": "one object per line",
        "rows.csv": "holds no images",
        "both": "images and tars",
        "tars": "damaged after 0 samples: .* not compressed",
        "tars/a.tar": "damaged after 0 samples: .* not compressed",
    }.items():
        with pytest.raises(GlideError, match=words):
            open_source(tmp_path / name)


def test_an_image_that_vanishes_during_training_is_named(tmp_path: Path) -> None:
    import torch

    write_folder(tmp_path, GOOD)
    rows: list[dict[str, object]] = [{"image": "000.png", "text": "x"}]
    source = open_source(write_jsonl(tmp_path / "l.jsonl", rows), memory_mb=0)
    (tmp_path / "000.png").unlink()
    with pytest.raises(GlideError, match=r"000\.png: cannot be read"):
        source.batch(torch.Generator(), 1, side=64)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on Windows")
def test_a_fifo_is_refused_without_blocking(tmp_path: Path) -> None:
    write_folder(tmp_path, {**GOOD, "x.txt": "x"})
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(GlideError, match=r"x\.png: is not a regular file"):
        open_source(tmp_path)


def test_an_image_that_would_start_another_program_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {**GOOD, "x.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"})
    write_folder(tmp_path, {"x.txt": "x"})
    with pytest.raises(GlideError, match=r"x\.png: is not a readable image"):
        open_source(tmp_path)


def test_a_data_check_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    folder, known = write_folder(tmp_path / "data", GOOD), tmp_path / "data.json"
    source = open_source(folder, run_check=partial(check, known=known))
    save_report(source.report, known)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    again = open_source(folder, run_check=partial(check, progress=progress, known=known))
    assert (again.report, seen) == (source.report, [])
    write_folder(folder, {"000.txt": "another caption"})
    open_source(folder, run_check=partial(check, progress=progress, known=known))
    assert len(seen) == 2
    known.write_text("{}")
    open_source(folder, run_check=partial(check, progress=progress, known=known))
    assert len(seen) == 4
