"""A few kills, errors and stops of benchmarks/faults.py, which has hundreds: what comes out is always the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "faults.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks processes, and kills them")
def test_kills_errors_and_stops_change_nothing() -> None:
    """Six kills of each command, half of them during a save; a run killed by accident in its last moment counts too."""
    words = ["--kills", "18", "--stops", "2", "--later", "10", "--shards", "3", "--seed", "3", "--json"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["flipped_bits"]["found"] == 3
    kills = [result[f"killed_{name}"] for name in ("prepare", "pretrain", "finetune")]
    assert sum(found["kills"] for found in kills) == 17, "18 shared out as 4, 7 and 6"
    assert sum(found["during_saves"] for found in kills) == 8
    assert all(found["different"] == 0 for found in kills), result
    assert all(result[f"errors_{name}"]["different"] == 0 for name in ("prepare", "pretrain", "finetune")), result
    assert result["stopped_pretrain"] == {"stops": 2, "different": 0}
    assert result["full_disk"] in ("not possible", "exit codes [0, 0, 0], the same model")
