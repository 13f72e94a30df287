"""A folder of clips changes, or several runs share it: each keeps what it has begun with."""
import re
import shutil

import numpy as np
import pytest

import sample
import train
from data.clips import cache, folder as folders
from data.clips.folder import load_data, load_mix
from data.tests.clip_files import config_of, plain, save  # noqa: F401  a fixture
from data.tests.conftest import NETS, call, counting, start
from data.training import report
from sora import InputError


def test_two_runs_may_decode_the_same_folder_at_the_same_time(plain, monkeypatch):
    """The second begins and ends while the first is in the middle of it."""
    config, real, inner = config_of(plain), cache.open_clip, []

    def interrupted(path, size):
        if not inner:
            inner.append(None)
            inner[0] = load_data(config, "train")
        return real(path, size)
    monkeypatch.setattr(cache, "open_clip", interrupted)
    outer = load_data(config, "train")
    for data in (outer, inner[0]):
        shown = (data.clips(20)[0][:, 1].mean((2, 3)) + 1) * 127.5 / 2
        assert ((shown.diff(dim=1) - 1).abs() < 0.6).all(), "a run reads frames that another has written over"
    left = sorted(path.suffix for path in (plain / ".cache").iterdir())
    assert left == [".json", ".raw"], f"expected one cache and nothing else, got {left}"


def test_a_run_keeps_its_frames_when_another_finds_a_changed_folder(plain):
    config = config_of(plain)
    before = load_data(config, "train")
    for name in ("wave/a2", "sit/b1"):
        np.save(plain / f"{name}.npy", np.zeros((30, 32, 32, 3), np.uint8))
    load_data(config, "train")
    shown = before.clips(50)[0]
    assert (shown.diff(dim=2)[:, 1] > 0).all(), "the frames of a run have changed under its feet"


def test_a_changed_folder_is_said_in_one_line(plain, capsys):
    words = load_mix(config_of(plain), "cpu")[1]
    assert "has changed" not in capsys.readouterr().out, "nothing has changed yet"
    save(plain / "jump" / "c.npy", counting(12))
    (plain / "sit" / "b2.npy").unlink()
    np.save(plain / "sit" / "b1.npy", counting(15))
    mix, known, _ = load_mix(config_of(plain), "cpu", words)
    printed = capsys.readouterr().out
    expected = "has changed since it was decoded: 1 new (jump/c.npy), 1 gone (sit/b2.npy), 1 changed (sit/b1.npy)"
    assert printed.count("has changed") == 1 and expected in printed, f"expected {expected!r}, got {printed}"
    said = "New, and left out of captions: jump; gone: none"
    assert said in printed, f"expected {said!r}, got {printed}"
    assert known == mix[0][0].words == ["sit", "wave"], f"a run goes on with its own words, got {known}"
    ids = mix[0][0].captions.unique().tolist()
    assert set(ids) <= {0, 1, 2}, f"expected ids of the run's two words, got {ids}"
    left = sorted(path.suffix for path in (plain / ".cache").iterdir())
    assert left == [".json", ".raw"], f"expected the cache of the former content to be gone, got {left}"
    with pytest.raises(InputError, match="its words are jump, sit, wave; the checkpoint's are up"):
        load_mix(config_of(plain), "cpu", ["up"])


def test_a_run_ends_well_in_a_folder_that_has_changed(plain, tmp_path, capsys, monkeypatch):
    """A class is added while it rests, and one while it trains; the score comes later still."""
    monkeypatch.setattr(report, "begin", lambda run: None)
    flags = "--vae-steps 2 --steps 4 --save-every 2 --batch 4 --sample-steps 2 --frames 8".split()
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        call(train.main, *NETS, *flags, "--data", plain, "--out", out, "--until", 2)
    save(plain / "a new class" / "c.npy", counting(12))
    for _ in range(2):                                  # the second time nothing is left to do
        capsys.readouterr()
        call(train.main, "--resume", "--out", out)
        captions = re.search("^captions: (.*)", capsys.readouterr().out, re.M)[1]
        assert set(captions.split(", ")) <= {"", "sit", "wave"}, f"expected the run's own words, got {captions}"
    run = start("--resume", "--out", out)
    shutil.rmtree(plain / "wave")
    video, caption = run.sources["train"].clips(50)
    assert caption.max() == 2 and len(video) == 50, "what a run shows should not change under its feet"
    save(plain / "jump" / "d.npy", counting(12))
    call(sample.main, "--ckpt", out / "sora.pt", "--score", "--n", 4, "--steps", 1)
    assert "jump" in capsys.readouterr().out, "the score should say that the folder has changed"


def test_new_clips_hardly_move_what_is_held_out():
    """Ten more than a hundred, first in the order of names."""
    clips = [cache.Decoded(f"wave/{i}.npy", "wave", 0, 9, 1.0, None, False) for i in range(110)]
    before, after = folders.held_out(clips[10:], []), folders.held_out(clips, [])
    assert len(before) == 10 and len(after) == 11, f"expected a tenth, got {len(before)} and {len(after)}"
    moved = before - after
    assert len(moved) <= 2, f"clips that were held out are trained on now: {moved}"
