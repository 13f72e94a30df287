"""Faults of the machine: one line, exit code 2, and nothing lost."""
import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

import sample
import sora
import train
from data.clips import files
from data.runtime.errors import run_script
from data.runtime.writing import replacing
from data.tests.conftest import ROOT, RUN, call, complaint
from data.training.log import Log
from sora import InputError


@contextmanager
def full_disk(n):
    """In this block no file can grow beyond n bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:                                                        # pytest writes files, too
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names_in(folder):
    """The names of the files in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


# --- writing -------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings("error")                                # such as what is said after the end
@pytest.mark.parametrize("ending", ["npy", "gif", "mp4"])
def test_a_full_disk_loses_no_video(trained, tmp_path, capsys, ending):
    """The old file stands, whole, and no half one is left beside it. A mapped .npy would die by SIGBUS."""
    path = tmp_path / f"x.{ending}"
    path.write_bytes(b"what was there")
    with full_disk(3000):
        said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", path, "--frames", 40)
    assert f"{path}: cannot be written" in said and "GB are free on its disk" in said, f"got {said!r}"
    assert path.read_bytes() == b"what was there", "the old file is gone, and there is no new one"
    assert names_in(tmp_path) == [path.name], f"expected nothing beside it, got {names_in(tmp_path)}"
    gc.collect()                                                    # nobody tries to write it once more


def test_a_full_disk_loses_no_checkpoint(trained, tmp_path, capsys, quick):
    """Found out at a save in the middle of training."""
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 2, "--out", tmp_path)
    before = (tmp_path / "sora.pt").read_bytes()
    with full_disk(20000):
        said = complaint(capsys, train.main, "--resume", "--steps", 5, "--out", tmp_path, "--device", "cpu")
    assert "sora.pt: cannot be written (File too large" in said, f"got {said!r}"
    assert (tmp_path / "sora.pt").read_bytes() == before, "the old checkpoint is lost"
    assert names_in(tmp_path) == ["log.csv", "sora.pt"], f"got {names_in(tmp_path)}"


def test_a_full_disk_at_a_line_of_the_log(tmp_path):
    log = Log(tmp_path / "log.csv", "cpu")
    log.cut_back("vae", 0)
    log.add(1, loss=torch.tensor(1.0))
    size = (tmp_path / "log.csv").stat().st_size
    with full_disk(size), pytest.raises(InputError, match="log.csv: cannot be written"):
        log.write("vae", 1, 0.0)


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "x"
    for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug"), KeyboardInterrupt()):
        path.write_text("old")
        expected = InputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected), replacing(path, "w") as file:
            file.write("half of the n")
            raise error
        assert path.read_text() == "old" and names_in(tmp_path) == ["x"], f"{error!r}: {names_in(tmp_path)}"
    with replacing(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new" and names_in(tmp_path) == ["x"], "the new file did not take its place"


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """fsync, then the renaming: the other way round a power cut may leave an empty checkpoint."""
    done, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), rename(*names)))
    with replacing(tmp_path / "x") as file:
        file.write(b"x")
    assert done == ["fsync", "replace"], f"expected fsync, then the renaming; got {done}"


def test_a_size_beyond_the_disk_destroys_nothing(trained, tmp_path, capsys):
    np.save(tmp_path / "good.npy", np.ones((4, 8, 8), np.uint8))
    before = (tmp_path / "good.npy").read_bytes()
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "good.npy",
                     "--frames", 10 ** 12)
    assert "of the disk" in said and "GB are free" in said, f"got {said!r}"
    assert (tmp_path / "good.npy").read_bytes() == before, "a good file was destroyed for one that cannot be"


def test_a_file_of_the_user_is_no_probe(tmp_path):
    (tmp_path / ".writable").write_text("mine")
    files.make_folder(tmp_path)
    assert (tmp_path / ".writable").read_text() == "mine", "a user's file named .writable is gone"
    assert names_in(tmp_path) == [".writable"], f"the probe is left: {names_in(tmp_path)}"


# --- what is no video ----------------------------------------------------------------------------------

@pytest.mark.parametrize("value,words", [(float("nan"), "not finite"), (-1.0, "grey level 0 of 255"),
                                         (0.2, "grey level 153 of 255")])
def test_a_result_that_shows_nothing_is_refused(trained, tmp_path, capsys, monkeypatch, value, words):
    def nothing(vae, latent, cache=None):
        B, _, F, h, w = latent.shape
        return torch.full((B, 1, 4 * F, 8 * h, 8 * w), value)
    monkeypatch.setattr(sora.VideoVAE, "decode", nothing)
    (tmp_path / "x.npy").write_bytes(b"old")
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "x.npy")
    assert words in said and "nothing is written" in said, f"decoded to {value}: got {said!r}"
    assert (tmp_path / "x.npy").read_bytes() == b"old", "the old file is lost"
    with pytest.raises(InputError, match=words):
        sample.text_to_video(sample.load_models(trained / "sora.pt"), "5")


def test_one_clip_that_shows_something_is_enough(trained, tmp_path, monkeypatch):
    """A clip may be black for a while, or next to others that are not."""
    seen = sample.Range()
    seen.add(torch.tensor([-1.0, -1.0]).view(2, 1, 1, 1, 1))
    seen.add(torch.tensor([-1.0, 0.5]).view(2, 1, 1, 1, 1))
    seen.check()


# --- the guard -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("error,code,words", [
    (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), 2, "a/b: Disk quota exceeded"),
    (MemoryError("cannot allocate 8 EB"), 2, "out of memory (cannot allocate 8 EB)"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"), 2,
     "out of memory"),
    (KeyboardInterrupt(), 130, "stopped")])
def test_the_guard_says_one_line(capsys, error, code, words):
    def main():
        raise error
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    said = capsys.readouterr().err
    assert ended.value.code == code and words in said and said.count("\n") == 1, (
        f"{error!r}: expected exit code {code} and a line with {words!r}, got {ended.value.code}, {said!r}")


def test_a_reader_that_is_gone_ends_the_script_quietly(monkeypatch, capfd):
    """As in `python3 sample.py ... | true`. Else Python finds it out after the end, with a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("sys.stdout", gone)
        run_script(lambda: print("wrote x.gif"))
    assert ended.value.code == 2 and capfd.readouterr().err == "", f"got {ended.value.code}"


def test_an_error_of_one_process_is_said_with_its_number(monkeypatch, capsys):
    """What all have in common is said by the first; what one alone has, by that one."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")

    def main():
        raise MemoryError("cannot allocate 8 EB")
    with pytest.raises(SystemExit):
        run_script(main)
    said = capsys.readouterr().err
    assert "process 3: out of memory" in said and said.count("\n") == 1, f"got {said!r}"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), OSError("of a library")])
def test_a_programming_error_keeps_its_traceback(error):
    def main():
        raise error
    with pytest.raises(type(error)) as kept:
        run_script(main)
    assert kept.value is error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_no_half_file(tmp_path, number):
    """Exit code 143 (129 if the terminal was closed), and what is half written is removed, as after any error."""
    def main():
        with replacing(tmp_path / "x") as file:
            file.write(b"half")
            os.kill(os.getpid(), number)
            time.sleep(10)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            run_script(main)
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number and names_in(tmp_path) == [], (
        f"expected {128 + number} and no file, got {ended.value.code}, {names_in(tmp_path)}")


def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path):
    """What raises before run_script begins; an error keeps its traceback."""
    for error, words, code in (("KeyboardInterrupt", "x.py: stopped\n", -signal.SIGINT), ("ValueError", "Traceback", 1)):
        (tmp_path / "x.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport data\nraise {error}\n")
        ended = subprocess.run([sys.executable, tmp_path / "x.py"], capture_output=True, text=True)
        assert ended.returncode == code and ended.stderr.startswith(words), f"{error}: {ended.returncode}, {ended.stderr!r}"


def test_closed_streams_end_no_script(monkeypatch):
    """Started with `2>&-`, or without a console on Windows, a script has None in their place."""
    with monkeypatch.context() as closed:
        closed.setattr("sys.stdout", None)
        closed.setattr("sys.stderr", None)
        said = []
        run_script(lambda: said.append(tqdm([1], "sampling")) or print("wrote x.gif"))
    assert len(said) == 1, "the script did not come to its end"


def test_links_in_a_circle_are_refused(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for a, b in (("a", "b"), ("b", "a")):
        Path(a).symlink_to(b)
    for flags in (["--extend", "a", "--out", "x.gif"], ["--out", "a/x.gif"], ["--ckpt", "a"]):
        said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", *flags)
        assert said.startswith(("a: ", "--out a/x.gif")) or "a" in said, f"{flags}: got {said!r}"
    complaint(capsys, train.main, *RUN, "--out", "a")
