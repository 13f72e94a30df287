"""Faults of a run: two at once, killed, diverged, stopped; and a log that is none. Nothing is lost."""
import os
import signal
import time

import pytest
import torch

import train
from data.runtime.checkpoints import load_checkpoint
from data.runtime.errors import run_script
from data.runtime.writing import only_one
from data.studies import kills
from data.tests.conftest import RUN, assert_same_run, call, complaint
from data.tests.test_faults import names_in
from data.training import start as begins
from data.training.kept import FILES
from data.training.log import HEAD, Log
from sora import InputError


# --- the run -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,value", [
    ("optimizers", None), ("optimizers", []), ("optimizers", [{}, {}]), ("optimizers", ["x", 3]),
    ("sums", 3.5), ("sums", torch.zeros(3)), ("seconds", "long"), ("seconds", None), ("step", True), ("stage", "gan")])
def test_a_run_is_not_resumed_from_what_is_none(trained, tmp_path, capsys, quick, name, value):
    state = load_checkpoint(trained / "sora.pt")
    torch.save(state | {name: value}, tmp_path / "sora.pt")
    before = (tmp_path / "sora.pt").read_bytes()
    said = complaint(capsys, train.main, "--resume", "--steps", 12, "--out", tmp_path, "--device", "cpu")
    assert str(tmp_path / "sora.pt") in said, f"{name} {value!r}: got {said!r}"
    assert (tmp_path / "sora.pt").read_bytes() == before, f"{name} {value!r}: the checkpoint was changed"


def test_one_run_has_a_folder_at_a_time(trained, tmp_path, capsys, quick):
    with only_one(tmp_path):
        said = complaint(capsys, train.main, *RUN, "--out", tmp_path)
    assert f"{tmp_path}: another process is writing here" in said, f"got {said!r}"
    assert names_in(tmp_path) == [], f"it was refused, yet it left {names_in(tmp_path)}"
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 1, "--out", tmp_path)


def test_a_killed_process_holds_nothing(tmp_path):
    """A file with a process number in it would still be there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with only_one(tmp_path):
                os.write(writing, b"held")
                time.sleep(60)
        finally:
            os._exit(0)                                             # not on with the other tests
    assert os.read(reading, 4) == b"held"
    with pytest.raises(InputError, match="another process"), only_one(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with only_one(tmp_path):
        pass


def test_overwrite_killed_before_its_first_save(trained, tmp_path, capsys, quick, monkeypatch):
    """--resume must not take the old run for the new one; the old one is still there, under another name."""
    for name in ("sora.pt", "log.csv"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())

    def killed(*args):                                              # what is on disk at a SIGKILL now
        found.append(names_in(tmp_path))
        raise MemoryError
    found = []
    monkeypatch.setattr("data.training.start.load_mix", killed)
    with pytest.raises(MemoryError):
        call(train.main, *RUN, "--overwrite", "--out", tmp_path)
    assert found == [["log.csv.old", "sora.pt.old"]], f"before the first save: {found}"
    assert names_in(tmp_path) == ["log.csv", "sora.pt"], (
        f"a start that failed by itself: expected the old run back, got {names_in(tmp_path)}")
    for name in ("sora.pt", "log.csv"):
        os.rename(tmp_path / name, tmp_path / f"{name}.old")        # and this is what a kill leaves
    said = complaint(capsys, train.main, "--resume", "--out", tmp_path)
    assert "run before, take .old off the names of sora.pt.old, log.csv.old in" in said, f"got {said!r}"
    monkeypatch.undo()


def test_overwrite_loses_the_old_run_only_then(trained, tmp_path, quick):
    for name in ("sora.pt", "log.csv"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    call(train.main, *RUN, "--init", tmp_path / "sora.pt", "--vae-steps", 0, "--steps", 1, "--overwrite",
         "--out", tmp_path)                                         # from the very run that it overwrites
    assert names_in(tmp_path) == ["log.csv", "sora.pt"], f"got {names_in(tmp_path)}"
    assert load_checkpoint(tmp_path / "sora.pt")["step"] == 1, "expected the new run"


@pytest.mark.parametrize("flags,saved", [
    (["--vae-lr", 1e14, "--vae-muon", 1e14, "--save-every", 1], "vae step 0"),
    (["--vae-lr", 1e14, "--vae-muon", 1e14, "--log-every", 100], "vae step 0"),
    (["--vae-steps", 3, "--lr", 1e14, "--muon", 1e14, "--save-every", 2], "dit step 0")])
def test_a_diverged_state_is_not_saved(tmp_path, capsys, quick, flags, saved):
    """The loss of a step is that of the weights before it: what the last step made is looked at, too."""
    said = complaint(capsys, train.main, *RUN, *flags, "--out", tmp_path)
    assert "no longer a number" in said and f"sora.pt has {saved}" in said, f"{flags}: got {said!r}"
    state = load_checkpoint(tmp_path / "sora.pt")
    assert f"{state['stage']} step {state['step']}" == saved, (
        f"{flags}: the message promises {saved}, on disk is {state['stage']} {state['step']}")


def test_a_run_that_diverges_at_once_says_that_nothing_is_saved(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr(train, "probe", lambda run: torch.tensor(float("inf")))
    said = complaint(capsys, train.main, *RUN, "--out", tmp_path)
    assert "vae step 0" in said and "Nothing is on disk" in said, f"got {said!r}"
    assert not (tmp_path / "sora.pt").exists(), "it said that nothing is on disk"


def test_looking_at_a_state_does_not_change_the_run(trained, tmp_path, quick):
    """More saves, and so more looks, give the same weights and the same log."""
    call(train.main, *RUN, "--save-every", 1, "--out", tmp_path)
    one, two = load_checkpoint(trained / "sora.pt"), load_checkpoint(tmp_path / "sora.pt")
    one["config"]["save_every"] = two["config"]["save_every"]
    torch.save(one, tmp_path / "other.pt")
    (tmp_path / "a").mkdir()
    os.rename(tmp_path / "other.pt", tmp_path / "a" / "sora.pt")
    (tmp_path / "a" / "log.csv").write_bytes((trained / "log.csv").read_bytes())
    assert_same_run(tmp_path / "a", tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_lost_terminal_saves(tmp_path, quick, monkeypatch):
    def update(run, *args, real=train.update):
        real(run, *args)
        if (run.stage, run.step) == ("vae", 2):
            os.kill(os.getpid(), signal.SIGHUP)
    monkeypatch.setattr(train, "update", update)
    with pytest.raises(SystemExit) as ended:
        call(train.main, *RUN, "--out", tmp_path)
    step = load_checkpoint(tmp_path / "sora.pt")["step"]
    assert ended.value.code == 128 + signal.SIGHUP and step == 3, (
        f"expected exit code {128 + signal.SIGHUP} and step 3, got {ended.value.code}, {step}")


def test_ctrl_c_in_the_final_pictures_is_obeyed(trained, tmp_path, capsys, quick, monkeypatch):
    def pictures(*args, **keywords):
        os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(train.score, "pictures", pictures)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 1,
                                "--out", tmp_path))
    said = capsys.readouterr()
    assert ended.value.code == 130 and "stopped" in said.err, f"got {ended.value.code}, {said.err!r}"
    assert f"{tmp_path / 'sora.pt'} is complete" in said.out, f"got {said.out!r}"


# --- the log -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", [b"name,age\nanna,7\n", bytes(range(256)), b"a\0b\n", None],
                         ids=["table", "binary", "zero", "folder"])
def test_what_is_no_log_is_left_alone(trained, tmp_path, capsys, quick, content):
    path = tmp_path / "log.csv"
    path.mkdir() if content is None else path.write_bytes(content)
    for flags, words in ((RUN, f"{path} exists: choose another"), (["--resume"], f"{path}: not a log of train.py; move it away")):
        if flags != RUN:
            (tmp_path / "sora.pt").write_bytes((trained / "sora.pt").read_bytes())
        said = complaint(capsys, train.main, *flags, "--out", tmp_path)
        assert words in said, f"{content!r}: got {said!r}"
    assert content is None or path.read_bytes() == content, "what was no log of ours was overwritten"


def test_foreign_lines_are_left_out_and_said(tmp_path, capsys):
    log = Log(tmp_path / "log.csv", "cpu")
    ours = ["dit", "4", "1.0", *["0.5"] * (len(HEAD) - 3)]
    foreign = [["note"], ["dit", "\u00b2", *ours[2:]], ["dit", "5", "x", *ours[3:]],
               ["dit", "6", "nan", *ours[3:]]]
    (tmp_path / "log.csv").write_text("\n".join(",".join(line) for line in [HEAD, *foreign, ours]) + "\n")
    log.cut_back("dit", 9)
    assert log.lines() == [ours], f"expected our line only, got {log.lines()}"
    assert f"4 lines of {log.path} are not from train.py" in capsys.readouterr().out


def test_the_log_is_cut_back_at_once(tmp_path, monkeypatch):
    """Killed while it is rewritten, it is still the old one."""
    log = Log(tmp_path / "log.csv", "cpu")
    log.cut_back("vae", 0)
    log.add(1, loss=torch.tensor(1.0))
    log.write("vae", 1, 0.0)
    before = log.path.read_bytes()

    def crash(*args):
        raise MemoryError
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(MemoryError):
        log.cut_back("vae", 0)
    assert log.path.read_bytes() == before, "a crash while the log is cut back loses it"


# --- killed, for a short while -------------------------------------------------------------------------

def test_a_run_that_is_killed(tmp_path, quick, monkeypatch):
    """As `python3 -m data.studies.kills` does at length: within a checkpoint; then the run ends as one that
    was never killed."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.setattr(kills, "FLAGS", [*kills.FLAGS, "--vae-steps", "20", "--steps", "30"])
    code = kills.ended(kills.started(tmp_path / "cut", "within a checkpoint", 4))
    assert code == -signal.SIGKILL, f"expected a kill, got exit code {code}"
    assert load_checkpoint(tmp_path / "cut" / "sora.pt")["step"] > 0, "no whole checkpoint"
    call(train.main, "--resume", "--out", tmp_path / "cut", "--device", "cpu")
    call(train.main, *kills.FLAGS, "--out", tmp_path / "whole")
    found = kills.differences(tmp_path / "whole", tmp_path / "cut")
    assert not found, f"not as in a run that was never killed: {found}"


def test_what_an_older_run_left_aside_never_takes_the_place_of_a_newer(tmp_path, capsys):
    """--overwrite was killed once; the next run was begun anew; then --overwrite fails at once."""
    (tmp_path / "sora.pt.old").write_text("older")
    (tmp_path / "sora.pt").write_text("newer")
    for flags, words in ((["--until", 0], "--until 0"), (["--dim", 7], "dim 7")):
        said = complaint(capsys, train.main, "--out", tmp_path, "--overwrite", *flags)
        assert words in said and (tmp_path / "sora.pt").read_text() == "newer", "the newer run is lost"
        assert (tmp_path / "sora.pt.old").read_text() == "older", "a command that was refused has removed something"


@pytest.mark.parametrize("name", FILES)
def test_a_new_run_writes_over_nothing_that_is_there(tmp_path, capsys, name):
    """As where sora.pt was moved away. What sample.py writes is in nobody's way."""
    (tmp_path / name).write_text("mine")
    said = complaint(capsys, train.main, *RUN, "--out", tmp_path)
    assert f"{tmp_path / name} exists: " in said and ("--resume" in said) == (name == "sora.pt"), f"got {said!r}"
    assert names_in(tmp_path) == [name] and (tmp_path / name).read_text() == "mine", "it was lost all the same"


@pytest.mark.parametrize("save", [True, False], ids=["after its first save", "before its first save"])
def test_a_first_run_that_is_killed_can_be_gone_on_with_or_begun_again(tmp_path, quick, monkeypatch, save):
    """Of a run without a checkpoint no log is left: it would be taken for that of another run."""
    for name in ("sample.gif", "tiny.score.json"):
        (tmp_path / name).write_text("mine")

    def killed(*args):
        raise MemoryError
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        owner, name = (Log, "cut_back") if save else (begins, "save")
        patch.setattr(owner, name, killed)
        call(train.main, *RUN, "--out", tmp_path)
    assert names_in(tmp_path) == ["sample.gif", *["sora.pt"] * save, "tiny.score.json"], f"got {names_in(tmp_path)}"
    call(train.main, *(["--resume"] if save else [*RUN, "--vae-steps", 1, "--steps", 1]), "--out", tmp_path, "--device", "cpu")
    assert (tmp_path / "log.csv").read_text().startswith(",".join(HEAD)), "the log has no head"


def test_a_run_that_ends_before_its_first_kill_is_followed_by_another(tmp_path, monkeypatch):
    """With the same draws in the same folder it would end so again, for ever."""
    hunted = []

    def hunt(out, kills_, span, draw):
        hunted.append((out, draw.random()))
        return ["at a random time"] * (len(hunted) > 1)
    for name, value in (("hunt", hunt), ("ended", lambda process: 0), ("started", lambda *_: None),
                        ("differences", lambda *_: [])):
        monkeypatch.setattr(kills, name, value)
    assert len(kills.run(tmp_path, 1)) == 1
    assert len(set(hunted)) == len(hunted) == 2, f"expected another folder and other draws, got {hunted}"
