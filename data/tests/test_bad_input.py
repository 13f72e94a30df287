"""Bad input ends in one clear line and exit code 2, and nothing is lost."""
import re
import subprocess
import sys

import numpy as np
import pytest

import sample
import train
from data.tests.conftest import ROOT, complaint, counting


@pytest.mark.parametrize("name", ["train.py", "sample.py"])
def test_a_complaint_is_one_line_without_traceback(tmp_path, name):
    """As a user meets it: in a process of its own."""
    command = [sys.executable, ROOT / name, "--device", "abacus", "--out", tmp_path / "x.gif"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2, f"expected exit code 2, got {done.returncode}: {done.stderr}"
    assert done.stdout + done.stderr == done.stderr and len(done.stderr.splitlines()) == 1, (
        f"expected one line, got {done.stdout}{done.stderr}")
    assert done.stderr.startswith(f"{name}: --device abacus"), f"got {done.stderr!r}"


@pytest.mark.parametrize("flags,words", [
    ("--height 60", "height 60 .*multiple of 8"),
    ("--patch 2 --width 40", "width 40 .*multiple of 16.*8 for the VAE x 2"),
    ("--heads 0", "heads 0: expected 1 or more"), ("--frames 10", "frames 10 .*multiple of 4"),
    ("--frames 0", "frames 0: expected 8 or more"), ("--frames 4", "frames 4: expected 8 or more"),
    ("--process gan", "'gan'.*ddpm"), ("--prediction y", "'y'.*x0"), ("--batch 0", "batch 0: expected 1 or"),
    ("--digit-size 40", "40.*32"), ("--heads 7", "dim 192 .*14"), ("--heads 32", "dim 192 with 32 heads"),
    ("--channels 2", "channels 2: expected one of 1, 3"), ("--reach 6", "reach 6 .*multiple of 4"),
    ("--rule odd", "'odd'.*official"), ("--mnist no/such", "no/such"),
    ("--data no/such", "no/such: no such folder"),
    ("--resume", "sora.pt: no such checkpoint"), ("--vae no.pt", "no.pt"), ("--init no.pt", "no.pt"),
    ("--caption-drop 2", "caption_drop 2.0: expected 0 to 1"), ("--known -1", "known -1"),
    ("--level-shift 11", "level_shift 11.0: expected -10 to 10"), ("--level-shift -11", "level_shift -11"),
    ("--level-shift nan", "level_shift nan: expected -10 to 10"),
    ("--ema 1.5", "ema 1.5"), ("--save-every 0", "save_every 0"), ("--log-every 0", "log_every 0"),
    ("--steps 0", "steps 0"), ("--seed -1", "seed -1"), (f"--seed {2 ** 63}", "seed 9223372036854775808"),
    ("--lr nan", "lr nan"), ("--lr inf", "lr inf"), ("--muon -1", "muon -1"), ("--stride 0", "stride 0"),
    ("--noise-steps 0", "noise_steps 0"), ("--vae-steps 0", "vae-steps 0"),
    ("--device abacus", "device abacus"), ("--guidance nan", "guidance nan: expected a finite number"),
    ("--until 0", "until 0: expected 1 or more"), ("--resume --overwrite", "leave one of them out"),
    ("--accumulate 3", "batches of 8 and 32 clips: expected multiples of 3"),
    ("--accumulate 0", "accumulate 0"), ("--accumulate -1", "accumulate -1"),
    ("--shapes 16x32:3", "FRAMESxHEIGHTxWIDTH"), ("--shapes 16x30x32:3", "not a multiple of 8"),
    ("--shapes 0x32x32:2", "frames 0"), ("--shapes 1x32x32:2", "only images"),
    ("--dim 1000000000", "dim 1000000000: expected 1 to 1e\\+08"), ("--rate 1e9", "rate .*expected 0"),
    ("--digits 1000000", "digits 1000000: expected 1 to 100"),
    ("--shapes 16x32x32:1000000000", "batch 1000000000 of 16x32x32: that would take about"),
    ("--shapes 8x32x32:0", "batch 0"), ("--shapes 8x32x32:3 --accumulate 2", "multiples of 2"),
    ("--shapes 8x32x32:2 --accumulate 2 --digit-size 99", "digit size 99")])
def test_train_refuses(tmp_path, quick, capsys, flags, words):
    short = ["--vae-steps", 1, "--steps", 1]                        # in case it is not refused
    said = complaint(capsys, train.main, "--out", tmp_path / "out", *short, *flags.split())
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    left = [p.name for p in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert not left, f"{flags} was refused, yet it left {left}"


@pytest.mark.parametrize("flags,words", [
    ("--prompt 3,x", "'x'.*0, 1, 2"),
    ("--prompt ?!", "'\\?!': no word in it; expected some of 0, 1"), ("--prompt 10", "'10' is not known"),
    ("--frames 0", "frames 0: expected more than 0"), ("--frames -3", "frames -3"), ("--n 0", "n 0"),
    ("--size 30x32", "height 30"), ("--size big", "big.*HxW"), ("--size 0x32", "height 0"),
    ("--size 32x32x3", "HxW"), ("--steps 0", "steps 0"), ("--sampler euler", "euler.*ddpm.*ancestral, ddim"),
    ("--context 16", "--context 16"), ("--window -4", "window -4"), ("--seed -1", "seed -1"),
    ("--guidance nan", "guidance nan"), ("--extend no.gif", "no.gif: no such clip"),
    ("--extend-backward no.gif", "no.gif"), ("--connect a.npy b.npy", "a.npy"), ("--edit no.gif", "no.gif"),
    ("--out x.avi", "'.avi'.*gif"), ("--scale 0", "scale 0"), ("--fps 0", "fps 0"), ("--fps nan", "fps nan"),
    ("--edit a.npy --strength 0", "strength 0"), ("--edit a.npy --strength 1.1", "strength 1.1"),
    ("--strength 0.5", "strength 0.5.*--edit"), ("--loop --frames 8", "frames 8.*8 frames"),
    ("--image a.png --size 32x32", "size 32x32.*--resize"), ("--image a.png", "a.png"),
    ("--loop --window 8 --context 4", "window 8.*at least 12"), ("--resize", "resize"),
    ("--extend b.npy --out b.npy", "written over b.npy"), ("--image b.png --out b.gif", "written over b.png"),
    ("--device abacus", "device abacus")])
def test_sample_refuses(trained, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", "x.gif", *flags.split())
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    left = [p.name for p in tmp_path.iterdir()]
    assert not left, f"{flags} was refused, yet it left {left}"


def test_a_prompt_that_changes_too_late_is_refused(trained, tmp_path, capsys, monkeypatch):
    """It would make twice as many frames: that is estimated before the first."""
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", "x.gif",
                     "--prompt", "3, 8 at 9999999")
    assert re.search("20000000.*would take about", said), f"expected the frames and what they take, got {said!r}"


@pytest.mark.filterwarnings("ignore")                               # imageio tries even deprecated plugins
def test_sample_refuses_clips_that_do_not_fit(trained, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "short.npy", counting(3, 32, 32))
    np.save(tmp_path / "odd.npy", counting(8, 30, 32))
    np.save(tmp_path / "wide.npy", counting(8, 32, 40))
    np.save(tmp_path / "float.npy", np.zeros((8, 32, 32)))
    (tmp_path / "text.gif").write_text("not a clip")
    (tmp_path / "none").mkdir()
    for flags, words in (
            (["--extend", "short.npy"], "short.npy: 3 frames of 32x32: expected at least 4"),
            (["--extend", "odd.npy"], "odd.npy: frames of 30x32: .*multiples of 8; --resize"),
            (["--extend", "float.npy"], "float.npy: cannot be read as a clip .*uint8"),
            (["--extend", "text.gif"], "text.gif: cannot be read as a clip"),
            (["--extend", "none"], "none: cannot be read as a clip .it is empty"),
            (["--extend", "clip.npy", "--frames", 20], "frames 20: 20 frames are given; ask for more"),
            (["--extend-backward", "clip.npy", "--frames", 12], "frames 12: 20 frames are given"),
            (["--connect", "clip.npy", "clip.npy", "--frames", 40], "frames 40: 40 frames are given"),
            (["--connect", "clip.npy", "wide.npy"], "differ in size; --resize"),
            (["--connect", "clip.npy", "clip.npy", "--window", 8], "window 8: expected at least 12")):
        said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", "x.gif", *flags)
        assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    assert not (tmp_path / "x.gif").exists(), "something was written although all was refused"


def test_data_that_cannot_be_trained_on_is_refused(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for flags, words in ((["--data", tmp_path / "empty"], "no clips in it"),
                         (["--data", folder, "--frames", 60], "clips of 60 .* to hold out.*sit/four: 24 frames")):
        said = complaint(capsys, train.main, *flags, "--out", tmp_path / "out")
        assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    said = complaint(capsys, train.main, "--data", folder, "--out", folder)
    assert "is the folder of clips" in said, f"--out DATA: got {said!r}"


def test_scripts_refuse_places_that_cannot_be_written(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    said = complaint(capsys, train.main, "--out", tmp_path / "file")
    assert "cannot be written" in said, f"train.py --out FILE: got {said!r}"
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "file" / "x.gif")
    assert "cannot be written" in said, f"sample.py --out FILE/x.gif: got {said!r}"
    (tmp_path / "x.gif").mkdir()
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "x.gif")
    assert "is a folder" in said, f"sample.py --out FOLDER: got {said!r}"
    assert (tmp_path / "file").read_text() == "in the way", "what was in the way is lost"
