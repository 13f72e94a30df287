"""Training in several processes is training in one; a signal or a crash ends them all."""
import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import train
from data.runtime.checkpoints import SHIPPED
from data.runtime.machine import join_processes
from data.tests.conftest import ROOT, SMALL, call
from sora import InputError

ENV = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
MIX = ["--shapes", "8x16x16:4 8x16x24:2 1x16x16:2", "--digit-size", "12"]


def alone(*args):
    """Runs train.py in this process until --until."""
    with pytest.raises(SystemExit) as end:
        call(train.main, *args)
    assert end.value.code == 0


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def background(command, env):
    """A process, started, with both outputs in one pipe."""
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def torchrun(*args):
    """torchrun with two processes, started."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
               f"--master_port={free_port()}", str(ROOT / "train.py"), *map(str, args)]
    return background(command, ENV)


def two_ranks(*args):
    """What torchrun starts, without torchrun: two processes, each with its own output."""
    port, started = str(free_port()), []
    for rank in "01":
        env = dict(ENV, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
        started.append(background([sys.executable, str(ROOT / "train.py"), *map(str, args)], env))
    return started


def ended(process):
    """(exit code, output) of a process that has a minute to end."""
    try:
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    return process.returncode, said


def wait_for_steps(out, processes):
    """Waits until the log of a run has a line of the transformer."""
    until = time.monotonic() + 60
    while not (out / "log.csv").exists() or "dit," not in (out / "log.csv").read_text():
        assert time.monotonic() < until and all(p.poll() is None for p in processes)
        time.sleep(0.1)


def log_of(out):
    """The lines of a log without the seconds, as numbers; 0 for what is empty."""
    with open(out / "log.csv") as file:
        lines = list(csv.reader(file))[1:]
    return [line[:2] for line in lines], torch.tensor([[float(x or 0) for x in line[3:]] for line in lines])


def assert_nearly_same_run(one, two):
    """The same log and the same weights, but for the order in which numbers were added up."""
    (names, numbers), (other_names, other_numbers) = log_of(one), log_of(two)
    assert names == other_names
    torch.testing.assert_close(numbers, other_numbers, rtol=1e-3, atol=1e-5)
    states = [torch.load(out / "sora.pt") for out in (one, two)]
    assert [states[0][name] for name in ("stage", "step")] == [states[1][name] for name in ("stage", "step")]
    torch.testing.assert_close(states[0]["sums"], states[1]["sums"], rtol=1e-3, atol=1e-5)
    for name in ("vae", "dit", "ema"):
        a, b = [torch.cat([x.flatten() for x in state[name].values()]) for state in states]
        assert (a - b).abs().mean() < 1e-4 * a.abs().mean(), name


def test_two_processes_train_as_one_does(tmp_path, capfd):
    """Both stages with two processes, stopped between two lines of the log; then one process goes on."""
    both = torchrun(*SMALL, "--until", 3, "--out", tmp_path / "two")
    alone(*SMALL, "--until", 6, "--out", tmp_path / "one")
    alone(*SMALL, "--until", 6, "--accumulate", 2, "--out", tmp_path / "parts")
    code, said = ended(both)
    assert code == 0 and said.count("stopped at dit step 3") == 1, said
    assert said.count("million parameters") == 2, said
    assert "2 processes" in said and "Warning" not in said, said
    assert_nearly_same_run(tmp_path / "one", tmp_path / "parts")
    alone("--resume", "--until", 6, "--out", tmp_path / "two", "--device", "cpu")
    assert_nearly_same_run(tmp_path / "one", tmp_path / "two")


def test_two_processes_go_on_with_what_one_began(tmp_path):
    """With clips of several shapes; alone in one part, in two parts, and in two processes."""
    alone(*SMALL, *MIX, "--until", 1, "--out", tmp_path / "two")
    both = torchrun("--resume", "--until", 5, "--out", tmp_path / "two", "--device", "cpu")
    alone(*SMALL, *MIX, "--until", 5, "--out", tmp_path / "one")
    alone(*SMALL, *MIX, "--until", 5, "--accumulate", 2, "--out", tmp_path / "parts")
    code, said = ended(both)
    assert code == 0, said
    assert_nearly_same_run(tmp_path / "one", tmp_path / "parts")
    assert_nearly_same_run(tmp_path / "one", tmp_path / "two")


def test_one_signal_stops_all_processes(tmp_path):
    """SIGTERM to one of two: both stop at the same step, with one checkpoint."""
    both = two_ranks(*SMALL, "--steps", 10 ** 6, "--out", tmp_path)
    wait_for_steps(tmp_path, both)
    both[1].send_signal(signal.SIGTERM)
    (code0, said0), (code1, said1) = map(ended, both)
    assert (code0, code1) == (143, 143), said0 + said1
    step = re.search(r"stopped at dit step (\d+) and saved", said0)
    assert step and "stopped" not in said1 and "Traceback" not in said0 + said1
    assert torch.load(tmp_path / "sora.pt")["step"] == int(step[1])
    assert not list(tmp_path.glob("*.tmp"))


def test_a_killed_process_ends_the_others_in_one_line(tmp_path):
    both = two_ranks(*SMALL, "--steps", 10 ** 6, "--out", tmp_path)
    wait_for_steps(tmp_path, both)
    both[1].kill()
    code, said = ended(both[0])
    ended(both[1])
    assert code == 2 and said.rstrip().endswith("--resume goes on from the last checkpoint"), said
    assert "lost contact" in said.splitlines()[-1] and "Traceback" not in said
    assert torch.load(tmp_path / "sora.pt")["stage"] == "dit"


def test_an_error_at_the_start_of_one_process_ends_the_others_in_silence(folder, tmp_path):
    """The first finds that a word of --heldout is wrong; the other, which waits for it, has no traceback."""
    both = two_ranks(*SMALL, "--data", folder, "--heldout", "one too", "--out", tmp_path / "out")
    (code0, said0), (code1, said1) = map(ended, both)
    assert (code0, code1) == (2, 2), said0 + said1
    assert "'too' is in no clip's name" in said0.splitlines()[-1] and "Traceback" not in said0, said0
    assert said1 == "", f"expected nothing more of the other, got {said1}"


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="4 processes, but 2 GPUs: expected --nproc_per_node=2 or less"):
        join_processes("cuda")


def test_the_first_process_has_time_to_decode_a_folder(monkeypatch):
    """The others wait for it: torch would give them up after half an hour, on GPUs after ten minutes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("get_rank", "get_world_size"):
        monkeypatch.setattr(dist, name, lambda: 0)
    asked = {}
    monkeypatch.setattr(dist, "init_process_group", lambda _, **how: asked.update(how))
    join_processes("cpu")
    assert asked["timeout"] >= timedelta(days=1), f"got {asked}"


def test_processes_that_do_not_divide_the_batch_are_refused(tmp_path, monkeypatch):
    """Before they join, in one line; of clips of several shapes, each shape counts."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="batches of 4 and 4 clips: expected multiples of 3 "):
        train.main([*SMALL, "--out", str(tmp_path)])
    with pytest.raises(InputError, match="batches of 4 clips: expected multiples of 3 "):      # the VAE has no steps
        call(train.main, "--init", SHIPPED, "--vae-steps", 0, "--batch", 4, "--device", "cpu", "--out", tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match="multiples of 4 .1 processes x --accumulate 4"):
        train.main([*SMALL, *MIX, "--accumulate", "4", "--out", str(tmp_path)])
    assert not (tmp_path / "sora.pt").exists()
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *SMALL, "--out", str(tmp_path)], text=True,
                          env=dict(ENV, WORLD_SIZE="3", RANK="0", LOCAL_RANK="0"), capture_output=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "3 processes" in done.stderr, done.stderr
