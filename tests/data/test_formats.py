"""Training data formats: detected by content, with equal results in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from images_on_disk import (
    encode,
    folder_files,
    noise,
    write_csv,
    write_folder,
    write_jsonl,
    write_tar,
)

from glide_core.data.listing import expand
from glide_core.data.source import Batch, ImageSource, open_source
from glide_core.errors import GlideError

FILES = folder_files(6)
PNGS = {k: v for k, v in FILES.items() if k.endswith("png")}
NAMES = sorted(PNGS)
CAPTIONS = [f"image number {i}" for i in range(6)]


def opened(path: Path | str, **options: object) -> ImageSource:
    source = open_source(path, **options)  # type: ignore[arg-type]
    assert isinstance(source, ImageSource)
    return source


def sample_batch(path: Path | str) -> Batch:
    return opened(path).batch(torch.Generator().manual_seed(5), 16, side=64)


def jsonl(root: Path) -> Path:
    write_folder(root / "pics", PNGS)
    rows = [{"image": f"pics/{n}", "text": c} for n, c in zip(NAMES, CAPTIONS, strict=True)]
    return write_jsonl(root / "list.jsonl", rows)  # type: ignore[arg-type]


def csv_list(root: Path) -> Path:
    write_folder(root, PNGS)
    rows = [[c, n] for n, c in zip(NAMES, CAPTIONS, strict=True)]
    return write_csv(root / "list.csv", [["prompt", "path"], *rows])


def semicolons(root: Path) -> Path:
    write_folder(root, PNGS)
    rows = [[n, c] for n, c in zip(NAMES, CAPTIONS, strict=True)]
    return write_csv(root / "list.txt", [["File_Name", " Caption"], *rows], ";")


def parquet(root: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    write_folder(root, PNGS)
    import pyarrow.parquet

    table = pa.table({"file_name": NAMES, "text": CAPTIONS})
    pyarrow.parquet.write_table(table, root / "metadata.parquet")
    return root


def hugging_face_folder(root: Path) -> Path:
    write_folder(root, PNGS)
    rows = [{"file_name": n, "caption": c} for n, c in zip(NAMES, CAPTIONS, strict=True)]
    write_jsonl(root / "metadata.jsonl", rows)  # type: ignore[arg-type]
    return root


def one_tar(root: Path) -> Path:
    return write_tar(root / "all.tar", FILES)


def tar_under_another_name(root: Path) -> Path:
    return write_tar(root / "all.data", FILES)


def folder_of_tars(root: Path) -> Path:
    write_tar(root / "a.tar", dict(list(FILES.items())[:4]))
    write_tar(root / "b.tar", dict(list(FILES.items())[4:]))
    return root


def brace_pattern(root: Path) -> str:
    write_tar(root / "s-0009.tar", dict(list(FILES.items())[:4]))
    write_tar(root / "s-0010.tar", dict(list(FILES.items())[4:]))
    return str(root / "s-{0009..0010}.tar")


def tar_with_json(root: Path) -> Path:
    members: dict[str, bytes | str] = {}
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        members[name] = PNGS[name]
        members[name.replace("png", "json")] = f'{{"width": 80, "caption": "{caption}"}}'
    return write_tar(root / "json.tar", members)


@pytest.mark.parametrize(
    "form",
    [
        jsonl,
        csv_list,
        semicolons,
        parquet,
        hugging_face_folder,
        one_tar,
        tar_under_another_name,
        folder_of_tars,
        brace_pattern,
        tar_with_json,
    ],
)
def test_every_form_gives_the_batch_that_a_folder_gives(
    form: Callable[[Path], Path | str], tmp_path: Path
) -> None:
    folder = sample_batch(write_folder(tmp_path / "folder", FILES))
    (tmp_path / "form").mkdir()
    other = sample_batch(form(tmp_path / "form"))
    assert other.captions == folder.captions
    assert torch.equal(other.images, folder.images)


def test_a_folder_is_read_with_its_subfolders_in_the_order_of_names(tmp_path: Path) -> None:
    files = {"z.JPG": encode(noise(1), "jpeg"), "z.txt": "z", "b/a.webp": encode(noise(2), "webp")}
    write_folder(tmp_path, {**files, "b/a.txt": "a", "b-c.png": encode(noise(3)), "b-c.txt": "c"})
    write_folder(tmp_path, {".hidden/x.png": b"no", "._z.jpg": b"no", "notes.md": "no"})
    assert [e.name for e in opened(tmp_path).entries] == ["b-c.png", "b/a.webp", "z.JPG"]


def test_caption_files_may_have_another_ending(tmp_path: Path) -> None:
    files = {"a.png": encode(noise(1)), "a.caption": "this", "a.txt": "not this"}
    source = opened(write_folder(tmp_path, files), caption_key="caption")
    assert source.entries[0].captions == ("this",)


def test_a_list_may_have_another_column_for_its_captions(tmp_path: Path) -> None:
    write_folder(tmp_path, PNGS)
    path = write_csv(
        tmp_path / "l.csv", [["image", "text", "Deutsch"], ["000.png", "cat", "Katze"]]
    )
    assert opened(path, caption_key="Deutsch").entries[0].captions == ("Katze",)
    rows: list[dict[str, object]] = [{"image": "000.png", "text": "cat", "fr": "chat"}]
    path = write_jsonl(tmp_path / "l.jsonl", rows)
    assert opened(path, caption_key="fr").entries[0].captions == ("chat",)


def test_rows_of_one_image_are_its_captions_to_choose_from(tmp_path: Path) -> None:
    write_folder(tmp_path, PNGS)
    rows: list[dict[str, object]] = [
        {"image": "000.png", "text": "a cat"},
        {"image": "001.png", "text": ["a dog", "a  hound\n"]},
        {"image": "./000.png", "text": "a pet"},
    ]
    source = opened(write_jsonl(tmp_path / "list.jsonl", rows))
    assert [e.captions for e in source.entries] == [("a cat", "a pet"), ("a dog", "a hound")]


def test_absolute_paths_in_a_list_are_taken_as_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path / "far", PNGS)
    (tmp_path / "near").mkdir()
    rows: list[dict[str, object]] = [{"path": str(tmp_path / "far/000.png"), "prompt": "a cat"}]
    assert len(opened(write_jsonl(tmp_path / "near/list.jsonl", rows))) == 1


def test_the_key_of_a_sample_ends_at_the_first_dot_of_its_file_name(tmp_path: Path) -> None:
    files = {
        "v1.0/a.image.png": encode(noise(1)),
        "v1.0/a.txt": "in a folder with a dot",
        "v1.0/a.cls": "3",
        "./b.png": encode(noise(2)),
        "./b.txt": "with a leading dot",
        "info.json": "{}",
    }
    source = opened(write_tar(tmp_path / "a.tar", files))
    assert [e.name for e in source.entries] == ["v1.0/a.image.png", "b.png"]
    assert source.entries[0].captions == ("in a folder with a dot",)
    assert source.report.warnings == ("members without an image: info.json",)


def test_shards_of_the_webdataset_package_are_read_as_it_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    with webdataset.ShardWriter(str(tmp_path / "s-%02d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            jpeg = encode(noise(i), "jpeg")
            writer.write({"__key__": f"{i:03}", "jpg": jpeg, "txt": f"caption {i}"})
    pattern = str(tmp_path / "s-{00..02}.tar")
    theirs = [
        (s["__key__"], s["jpg"], s["txt"].decode())
        for s in webdataset.WebDataset(pattern, shardshuffle=False)
    ]
    ours = [(Path(e.name).stem, e.image.read(), e.captions[0]) for e in opened(pattern).entries]
    assert ours == theirs


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s-{8..10}.tar", ["s-8.tar", "s-9.tar", "s-10.tar"]),
        ("s-{08..10}.tar", ["s-08.tar", "s-09.tar", "s-10.tar"]),
        ("s-{0..1}.tar", ["s-0.tar", "s-1.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
    ],
)
def test_brace_patterns_count_as_a_shell_does(
    pattern: str, names: list[str], tmp_path: Path
) -> None:
    write_folder(tmp_path, dict.fromkeys(names, b""))
    assert [p.name for p in expand(str(tmp_path / pattern))] == names


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("s-{0..3}.tar", "2 of 4 shards .* do not exist: .*s-2.tar, .*s-3.tar"),
        ("s-{0...3}.tar", r"as in \{0000\.\.0003\}"),
        ("s-{3..0}.tar", "from small to large"),
        ("s-{0..999999999}.tar", "at most 100000 shards"),
        ("{0..9999}{0..9999}.tar", "at most 100000"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, words: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {"s-0.tar": b"", "s-1.tar": b""})
    with pytest.raises(GlideError, match=words):
        open_source(tmp_path / pattern)
