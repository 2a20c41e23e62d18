"""The examples: scripts that a shell and Kubernetes can read, and a command line that gpt1 takes."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gpt1.cli import arguments
from gpt1.config import Pretrain

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SLURM, KUBERNETES = EXAMPLES / "pretrain.slurm", EXAMPLES / "pretrain.kubernetes.yaml"


def check(words: list[str]) -> None:
    """Whether the words after `-m gpt1 pretrain` are settings of that command."""
    at = words.index("gpt1")
    assert words[at - 1 : at + 2] == ["-m", "gpt1", "pretrain"]
    given = arguments.parse(Pretrain, ("data",), words[at + 2 :]).given
    assert {"data", "out", "preset", "batch"} <= given.keys()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_slurm() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True, timeout=60)
    command = SLURM.read_text(encoding="utf-8").partition("srun torchrun")[2].replace("\\\n", " ")
    check(shlex.split(command))


def test_kubernetes() -> None:
    service, job = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    check(container["command"])
