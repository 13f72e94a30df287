"""A run that stops or crashes goes on as if it never had."""
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import train
from data.runtime.checkpoints import load_checkpoint
from data.tests.conftest import NETS, ROOT, RUN, assert_same_run, call, complaint


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(stage, i): Ctrl-C comes during the update of step i of a stage."""
    real = train.update

    def stop_at(stage, i):
        def update(run, *args):
            real(run, *args)
            if (run.stage, run.step) == (stage, i):
                os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(train, "update", update)
    yield stop_at


def test_a_resumed_run_is_as_if_never_stopped(trained, tmp_path, quick, stop_at):
    """Stopped with Ctrl-C at many places, at the first and the last step of each stage too."""
    begin = [*RUN, "--out", tmp_path]
    for stage, i in (("vae", 0), ("vae", 6), ("vae", 19), ("dit", 0), ("dit", 5), ("dit", 8)):
        stop_at(stage, i)
        with pytest.raises(SystemExit) as ended:
            call(train.main, *begin)
        assert ended.value.code == 130, f"Ctrl-C: expected exit code 130, got {ended.value.code}"
        state = load_checkpoint(tmp_path / "sora.pt")
        assert (state["stage"], state["step"]) == (stage, i + 1), (
            f"stopped in step {i} of {stage}: expected a checkpoint of {stage} {i + 1}, got "
            f"{state['stage']} {state['step']}")
        begin = ["--resume", "--out", tmp_path, "--device", "cpu"]
    stop_at("never", 0)
    call(train.main, *begin)
    assert_same_run(trained, tmp_path)


def test_ctrl_c_in_the_last_preview_of_a_stage_is_obeyed(trained, tmp_path, quick, monkeypatch):
    """Previews take long, and after that of the last step no step looks at signals; nothing is lost by it."""
    begin = [*RUN, "--out", tmp_path]
    for stage, step in (("vae", 20), ("dit", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(train, "preview", lambda run: (run.stage, run.step) == (stage, step)
                          and os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(SystemExit) as ended:
                call(train.main, *begin)
        state = load_checkpoint(tmp_path / "sora.pt")
        assert (ended.value.code, state["stage"], state["step"]) == (130, stage, step), (
            f"expected exit code 130 and a checkpoint of {stage} {step}, got {ended.value.code}, {state['stage']} "
            f"{state['step']}")
        begin = ["--resume", "--out", tmp_path, "--device", "cpu"]
    call(train.main, *begin)
    assert_same_run(trained, tmp_path)


def test_a_signal_to_the_process_saves_and_the_run_goes_on(tmp_path, quick, capsys):
    """SIGTERM, as batch systems send it: exit code 143, one line, and nothing is lost."""
    flags = [*NETS, *("--steps 40 --batch 2 --vae-steps 2 --vae-batch 2 --log-every 1 "
                      "--save-every 1000").split()]
    command = [sys.executable, ROOT / "train.py", *flags, "--out", tmp_path / "cut"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads())))
    log, deadline = tmp_path / "cut" / "log.csv", time.monotonic() + 100
    try:
        while not (log.exists() and "dit,3," in log.read_text()):
            assert process.poll() is None, f"train.py ended by itself: {process.communicate()}"
            assert time.monotonic() < deadline, "train.py wrote no line of stage 2 in 100 seconds"
            time.sleep(0.01)
        process.terminate()
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, f"SIGTERM: expected exit code 143, got {process.returncode}: {errors}"
    step = load_checkpoint(tmp_path / "cut" / "sora.pt")["step"]
    assert f"stopped at dit step {step} and saved; go on with --resume" in printed, f"got {printed!r}"
    assert "Traceback" not in errors, f"a traceback: {errors}"
    call(train.main, "--resume", "--out", tmp_path / "cut", "--device", "cpu")
    command = load_checkpoint(tmp_path / "cut" / "sora.pt")["command"]
    assert "--vae-steps 2" in command, f"a resumed checkpoint must keep the command that began it, got {command!r}"
    call(train.main, *flags, "--out", tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("place", ["step", "measure"])
def test_a_crash_loses_only_what_came_after_the_checkpoint(trained, tmp_path, quick, monkeypatch, place):
    """Killed in step 8 of stage 2, or between the stages: resumed, the run ends as if never stopped."""
    def crash(*args, real=train.update):
        if place == "measure" or (args[0].stage, args[0].step) == ("dit", 8):
            raise MemoryError
        real(*args)
    name = "measure" if place == "measure" else "update"
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(train, name, crash)
        call(train.main, *RUN, "--out", tmp_path)
    state, lines = load_checkpoint(tmp_path / "sora.pt"), (tmp_path / "log.csv").read_text().splitlines()
    *kept, last = {"step": ("dit", 5, "dit,8,"), "measure": ("vae", 20, "vae,20,")}[place]
    got = [state["stage"], state["step"]]
    assert got == kept, f"expected a checkpoint of {kept}, got {got}"
    assert lines[-1].startswith(last), f"expected the log to end with {last}, got {lines[-1]}"
    with (tmp_path / "log.csv").open("a") as file:
        file.write("dit,9,1.0,0.12")                                # half a line, as a crash may leave it
    call(train.main, "--resume", "--out", tmp_path, "--device", "cpu")
    assert_same_run(trained, tmp_path)


def test_until_stops_there_and_resume_goes_on(trained, tmp_path, quick, capsys):
    with pytest.raises(SystemExit) as ended:
        call(train.main, *RUN, "--out", tmp_path, "--until", 3)
    step = load_checkpoint(tmp_path / "sora.pt")["step"]
    assert ended.value.code == 0 and step == 3, (
        f"expected to end well at step 3, got {ended.value.code}, {step}")
    assert "stopped at dit step 3 and saved; go on with --resume" in capsys.readouterr().out
    call(train.main, "--resume", "--out", tmp_path, "--device", "cpu")
    assert_same_run(trained, tmp_path)


def test_a_run_cannot_be_shorter_than_it_is(trained, tmp_path, quick, capsys):
    with pytest.raises(SystemExit):
        call(train.main, *RUN, "--vae", trained / "sora.pt", "--out", tmp_path, "--until", 3)
    said = complaint(capsys, train.main, "--resume", "--steps", 2, "--out", tmp_path)
    assert "--steps 2" in said and "is at step 3 already" in said, f"got {said!r}"


def test_until_the_last_step_is_a_whole_run(trained, tmp_path, quick, capsys):
    """There is nothing to go on with, so it ends with the pictures and the verdict."""
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 2, "--until", 2, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "\ngot " in said and "--resume" not in said, f"got {said!r}"


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path, quick, capsys, monkeypatch, stage):
    """Step 6 goes wrong, step 8 is when it is noticed, step 5 is what is kept."""
    def broken(run, *args, real=train.update):
        if (run.stage, run.step) == (stage, 6):
            next(run.models[stage].parameters()).grad.mul_(math.nan)
        real(run, *args)
    monkeypatch.setattr(train, "update", broken)
    said = complaint(capsys, train.main, *RUN, "--vae-steps", 9, "--out", tmp_path)
    assert f"{stage} step 8" in said and "no longer a number" in said and "--resume" in said, f"got {said!r}"
    state = load_checkpoint(tmp_path / "sora.pt")
    assert (state["stage"], state["step"]) == (stage, 5), (
        f"got a checkpoint of {state['stage']} {state['step']}")
    for name in ("vae", "dit", "ema"):
        assert all(torch.isfinite(p).all() for p in state[name].values()), (
            f"{name} in the checkpoint is spoilt")


@pytest.mark.parametrize("flag", ["--overwrite", "--vae"])
def test_a_crash_before_the_first_checkpoint_can_be_resumed(trained, tmp_path, quick, monkeypatch, flag):
    """A new run saves at once. Otherwise --resume would find nothing, or go on with the run overwritten."""
    if flag == "--overwrite":
        (tmp_path / "sora.pt").write_bytes((trained / "sora.pt").read_bytes())
    flags = [*RUN, "--seed", 7, "--steps", 3]
    flags += ["--overwrite", "--vae-steps", 3] if flag == "--overwrite" else ["--vae", trained / "sora.pt"]

    def crash(*args):
        raise MemoryError
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(train, "update", crash)
        call(train.main, *flags, "--out", tmp_path)
    assert (tmp_path / "sora.pt").exists(), "a run that crashed in its first step cannot be resumed"
    state = load_checkpoint(tmp_path / "sora.pt")
    got, expected = (state["config"]["seed"], state["step"]), (7, 0)
    assert got == expected, f"expected a checkpoint of the new run, seed and step {expected}, got {got}"
    call(train.main, "--resume", "--out", tmp_path, "--device", "cpu")
    call(train.main, *flags, "--out", tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path)
