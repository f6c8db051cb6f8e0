"""Files of statistics (.npz) from elsewhere: whatever is in them, the error is one sentence."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glide_core.errors import GlideError
from glide_core.evaluation import image_set
from glide_core.evaluation.image_set import FeatureSet

IDENTITY = np.eye(3)
STATISTICS: dict[str, dict[str, Any]] = {
    "mu and sigma of different sizes": {"sigma": np.eye(4)},
    "no vector": {"mu": np.zeros((3, 1))},
    "no numbers at all": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    "a single number": {"mu": np.array(1.0)},
    "objects": {"mu": np.array([1, None, 2], dtype=object)},
    "text": {"mu": np.array(["a", "b", "c"])},
    "complex": {"mu": np.zeros(3, complex)},
    "NaN": {"mu": np.full(3, np.nan)},
    "too large for its square": {"mu": np.full(3, 1e200)},
    "several counts": {"n": np.zeros(3)},
    "a negative count": {"n": np.array(-1)},
    "features of another size": {"n": np.array(2), "features": np.zeros((2, 4))},
    "features too large": {"n": np.array(2), "features": np.full((2, 3), 1e300)},
    "about as a list": {"about": np.array("[1]")},
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_of_another_form_are_refused(case: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"mu": np.zeros(3), "sigma": IDENTITY, **STATISTICS[case]})
    with pytest.raises(GlideError, match=r"x\.npz holds no statistics"):
        FeatureSet.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("case", "shapes"),
    [
        ("mu and sigma of different sizes", r"\[\(3,\), \(3, 3\)\]"),
        ("features of another size", r"\[\(3,\), \(3, 3\), \(2, 3\)\]"),
    ],
)
def test_the_shapes_that_statistics_must_have_are_named(
    case: str, shapes: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **{"mu": np.zeros(3), "sigma": IDENTITY, **STATISTICS[case]})
    with pytest.raises(GlideError, match=f"the shapes are not {shapes}"):
        FeatureSet.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "shape",
    ["(10000000000000,)", "(-3,)", f"({10**400},)", "(" * 5000, "(f(),)", "(3,)" + " " * 10**7],
    ids=["huge", "negative", "overflow", "deep", "code", "long"],
)
def test_the_header_of_an_array_may_say_anything(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    array = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + bytes(24)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("mu.npy", array)
    with pytest.raises(GlideError, match=r"x\.npz holds no statistics"):
        FeatureSet.load(tmp_path / "x.npz")


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_set, "_MOST_UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "x.npz", mu=np.zeros(3), sigma=IDENTITY, n=np.zeros(1 << 20))
    monkeypatch.setattr(np, "load", None)  # not reached
    with pytest.raises(GlideError, match=r"x\.npz holds no statistics.*unpacks to 8,\d+,\d+ bytes"):
        FeatureSet.load(tmp_path / "x.npz")
