"""On a real GPU, if there is one: train.py with torch.compile, --resume, sample.py, and samples as on the CPU."""
import csv
import os
import shutil
import subprocess
import sys

import pytest
import torch

from data.tests import VISIBLE
from data.tests.conftest import ROOT, RUN


def has_gpu():
    """Whether there is an NVIDIA GPU that pytest was allowed to see, and a torch that can use it."""
    if VISIBLE in ("", "-1") or not torch.version.cuda or not shutil.which("nvidia-smi"):
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_gpu(), reason="no NVIDIA GPU here")
CUDA = [*(x for x in RUN if x not in ("--device", "cpu")), "--device", "cuda"]
SAME = """
import torch
from sample import load_models
from sora import generate

drawn = []
for device in ("cpu", "cuda"):
    torch.backends.cudnn.allow_tf32 = False
    models = load_models("data/weights/tiny.pt", device)
    generator = torch.Generator().manual_seed(0)                    # of the CPU: the same noise on both
    randn = lambda x: torch.randn(x.shape, generator=generator).to(x.device)
    latent, known = torch.zeros(2, 8, 4, 4, 4, device=device), torch.zeros(4, dtype=torch.bool, device=device)
    words = torch.tensor([[4], [6]], device=device)
    with torch.no_grad():
        latent = generate(models.dit, models.process, latent, known, words, steps=10, guidance=2.0, randn=randn)
        drawn.append(models.vae.decode(latent).cpu())
error = (drawn[0] - drawn[1]).abs().mean().item()
assert error < 0.01, f"samples on the GPU differ by {error} in the mean from those on the CPU, of pixels in [-1,1]"
print("alike")
"""


def run(*command):
    """A program that sees the GPU, which pytest does not. Returns what it printed."""
    env = dict(os.environ, CUDA_VISIBLE_DEVICES=VISIBLE)
    if VISIBLE == "all":
        del env["CUDA_VISIBLE_DEVICES"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True)
    said = done.stdout[-2000:] + done.stderr[-4000:]
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {said}"
    return done.stdout


def test_a_run_on_a_gpu(tmp_path):
    """Trained with torch.compile, stopped, resumed; then a sample."""
    out = tmp_path / "run"
    said = run("train.py", *CUDA, "--vae-shift", 0.5, "--until", 5, "--out", out)
    assert "cuda" in said and "stopped at dit step 5" in said, f"got {said}"
    assert "no C++ compiler" not in said, f"expected networks to be compiled, got {said}"
    run("train.py", *CUDA, "--vae-shift", 0.5, "--resume", "--out", out)
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("vae", str(step)) for step in (4, 8, 12, 16, 20)), *(("dit", step) for step in "489")]
    losses = [float(row["loss"]) for row in rows if row["stage"] == "vae"]
    assert losses[-1] < losses[0], f"the VAE's loss should fall, got {losses}"
    run("sample.py", "--ckpt", out / "sora.pt", "--prompt", "3", "--steps", 2, "--out", tmp_path / "three.gif")
    assert (tmp_path / "three.gif").stat().st_size > 100


def test_samples_on_a_gpu_are_those_of_the_cpu():
    assert run("-c", SAME) == "alike\n"
