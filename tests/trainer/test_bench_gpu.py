"""`bench/gpu` without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_dry_run_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "bench/gpu", "--shape", "tiny", "--device", "cpu"]
    command += ["--backends", "trl"]
    ended = subprocess.run(
        [*command, "--only", "memory", "nf4", "--folder", str(tmp_path)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (row,) = re.findall(r"^\| `trl` +\|.*$", ended.stdout, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert "GiB" in cells[1], "estimated"
    assert cells[2:5] == ["not measured"] * 3, "peaks are a card's"
    assert all(float(cell) > 0 for cell in cells[5:]), "tokens a second"
    assert ended.stdout.count("not measured") == 3 + 4
