"""The benchmark for GPUs runs on a CPU with tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def test_the_gpu_benchmark_measures_every_contender_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = ["--tiny", "--batches", "1", "2", "--repeats", "1", "--json", str(out)]
    subprocess.run([sys.executable, str(GPU), *words], check=True)
    report = json.loads(out.read_text())
    for model in ("base", "upsampler"):
        assert set(report[model]) == {
            "ours float32, eager",
            "ours float32, compiled",
            "ours float32, eager, contiguous",
        }
        for row in report[model].values():
            assert row.keys() == {"1", "2"}
            assert all(numbers["median_s"] > 0 for numbers in row.values())
    assert report["skipped"] == [] and report["synchronisations_per_step"] is None


def test_what_does_not_fit_the_time_limit_is_listed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = ["--tiny", "--models", "base", "--batches", "1", "--seconds", "0", "--json", str(out)]
    subprocess.run([sys.executable, str(GPU), *words], check=True)
    report = json.loads(out.read_text())
    assert len(report["skipped"]) == 3 and report["base"] == {}
