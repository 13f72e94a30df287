"""What sample.py writes: sizes, prompts, seeds, files that grow, and the lines for a notebook."""
import contextlib
import re
import textwrap
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sample
import sora
from data.clips import files
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.runtime.checkpoints import load_models
from data.tests.conftest import assert_near, call, complaint, spy


@pytest.mark.parametrize("name,flags,shape", [
    ("a.gif", ["--prompt", "3", "--scale", 2], (16, 64, 64, 3)),
    ("a.gif", ["--prompt", "3"], (16, 128, 128, 3)),                # about 128 wide
    ("a.npy", ["--size", "64x96", "--frames", 4], (4, 64, 96, 3)),  # 96: one pixel for one
    ("a.mp4", ["--n", 3, "--frames", 6, "--scale", 1], (6, 66, 66, 3)),         # a grid of four, gaps of 2
    ("a.npy", ["--frames", 50, "--size", "48x40", "--sampler", "ddim", "--scale", 1], (50, 48, 40, 3)),
    ("a.npy", ["--frames", 24, "--no-anchor", "--window", 12, "--context", 4, "--guidance", 2, "--steps", 3,
               "--scale", 1], (24, 32, 32, 3))])
def test_sample_writes_what_was_asked_for(trained, tmp_path, name, flags, shape):
    call(sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / name, *flags)
    path = tmp_path / name
    video = np.load(path) if name == "a.npy" else iio.imread(path, index=None if name == "a.gif" else ...)
    assert video.shape == shape, f"{flags}: expected {shape}, got {video.shape}"
    assert path.with_suffix(".png").exists(), "there is no contact sheet"


def test_scale_repeats_pixels(make):
    small, large = make("--frames", 4), make("--frames", 4, "--scale", 3)
    expected = small.video.repeat(3, axis=1).repeat(3, axis=2)
    assert np.array_equal(large.video, expected), "--scale 3 is not every pixel as 3 x 3"


def test_a_prompt_is_the_ids_of_its_words(make, monkeypatch):
    """Id 1 is the first word, "0", so "3" is 4; in training the clip of a 3 has the same id."""
    asked = spy(monkeypatch, sora, "generate")
    for prompt, n, expected in (("3", 1, [[4]]), ("", 1, [[0]]), ("3 7", 2, [[4, 8]] * 2)):
        make("--prompt", prompt, "--n", n)
        got = asked[-1][0][4].tolist()
        assert got == expected, (
            f"prompt {prompt!r}: expected word ids {expected} (words.index + 1), got {got}")
    assert asked[0][1]["guidance"] == 4 and asked[1][1]["guidance"] == 1, (
        "expected the config's guidance with a prompt, and none without: there is nothing to guide by")
    images, labels = load_digits("train")
    _, caption = MovingMNIST(images[labels == 3], labels[labels == 3], (32, 32), 20, 1).clips(2)
    assert caption.tolist() == [[4], [4]], f"a clip of a 3: expected the caption [4], got {caption.tolist()}"


def test_a_prompt_of_another_length_is_noted(make):
    assert "training clips: 1; in yours: 2" in make("--prompt", "3 7", "--frames", 4).printed, (
        "no note about two words")


def test_the_first_frames_do_not_depend_on_the_length(make):
    short, long = make("--prompt", 5, "--frames", 24), make("--prompt", 5, "--frames", 60)
    assert np.array_equal(short.video, long.video[:24]), (
        "the first 24 frames of 60 are not those of 24: does the noise depend on the length?")


def test_a_clip_does_not_depend_on_its_neighbours(make):
    """--n 2 is seeds 5 and 6, side by side with a gap of two pixels."""
    both = make("--prompt", 3, "--n", 2, "--seed", 5, "--frames", 20).video
    for name, seed, part in (("first", 5, both[:, :, :32]), ("second", 6, both[:, :, 34:])):
        alone = make("--prompt", 3, "--seed", seed, "--frames", 20).video
        assert_near(part, alone, f"the {name} of two clips against seed {seed} alone")
    assert abs(both[:, :, :32] - both[:, :, 34:]).max() > 5, "both clips are the same: have they one seed?"


def test_an_image_can_be_a_window_of_its_own(make, clip, capsys, trained, tmp_path, monkeypatch):
    """--window 4: one latent frame is denoised by itself, as images are in training; else a whole window."""
    windows = spy(monkeypatch, sora, "generate")
    for flags, expected in (([], 4), (["--window", 4], 1)):
        made = make("--frames", 1, *flags)
        got = windows[-1][0][2].shape[2]
        assert got == expected, (
            f"--frames 1 {flags}: expected a window of {expected} latent frames, got {got}")
        assert made.video.shape == (1, 32, 32, 3), f"expected one frame, got {made.video.shape}"
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--window", 4, "--extend", clip,
                     "--out", tmp_path / "a.npy")
    assert "expected at least 8" in said, (
        f"a window of one frame has no room for a clip and more: got {said!r}")


@pytest.mark.parametrize("ending", ["npy", "mp4"])
def test_a_video_can_be_read_while_it_grows(tmp_path, ending):
    video, path = torch.rand(1, 1, 96, 32, 32).round() * 2 - 1, tmp_path / f"x.{ending}"
    writer = files.ClipWriter(path, 96, scale=4)
    path = writer.part                                              # it gets its name when it is whole
    for part in video[:, :, :72].split(8, dim=2):
        writer.write(part)
    if ending == "npy":
        half = np.load(path)
        assert len(half) == 72 and half[71].std() > 0, f"expected the 72 frames written, got {len(half)}"
    else:
        deadline, read = time.monotonic() + 20, 0
        while not read and time.monotonic() < deadline:             # the encoder is a process of its own
            with contextlib.suppress(Exception):
                read = len(iio.imread(path))
            time.sleep(0.05)
        assert 8 <= read <= 72, f"expected to read some of 72 frames while the rest is made, got {read}"
    writer.write(video[:, :, 72:])
    writer.close()
    whole = np.load(path) if ending == "npy" else iio.imread(path)
    assert len(whole) == 96, f"expected 96 frames in the end, got {len(whole)}"


def test_what_there_is_stays_after_ctrl_c(trained, tmp_path, monkeypatch, capsys):
    """Interrupted in the third window of a long video: the frames so far are in a file that can be read."""
    real, calls = sora.generate, []

    def interrupted(*args, **keywords):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **keywords)
    monkeypatch.setattr(sora, "generate", interrupted)
    with pytest.raises(SystemExit) as ended:
        call(sample.main, "--ckpt", trained / "sora.pt", "--frames", 200, "--out", tmp_path / "x.gif")
    read = len(iio.imread(tmp_path / "x.gif", index=None))
    assert 16 < read < 200, f"expected the frames of two windows, got {read}"
    said = capsys.readouterr().out
    assert ended.value.code == 130 and f"stopped; {tmp_path / 'x.gif'} has {read} of 200 frames" in said, (
        f"expected exit code 130 and how many frames there are, got {ended.value.code}, {said!r}")


def test_the_lines_for_a_notebook_work(trained, tmp_path, monkeypatch, capsys):
    """Those of sample.py's docstring, as they stand there, in a folder with out/sora.pt."""
    lines = sample.__doc__.partition("In a notebook:")[2]
    assert "text_to_video" in lines, "sample.py's docstring has no lines for a notebook"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sora.pt").write_bytes((trained / "sora.pt").read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(lines), names)
    video, pixels = names["video"], iio.imread("five.gif", index=None)
    shape = re.search(r"# \(([\d,]+)\)", lines)
    assert str(tuple(video.shape)).replace(" ", "") == f"({shape[1]})", (
        f"the docstring promises ({shape[1]}), got {tuple(video.shape)}")
    assert video.min() >= -1 and video.max() <= 1 and video.std() > 0, "expected pixels in [-1,1]"
    assert pixels.shape == (16, 2 * 34 * 4 - 8, 2 * 34 * 4 - 8, 3), f"five.gif: got {pixels.shape}"
    longer = sample.text_to_video(load_models(), "5", n=1, frames=21, seed=2, steps=1)
    assert longer.shape == (1, 1, 21, 32, 32), f"text_to_video(frames=21): got {tuple(longer.shape)}"


def test_the_command_line_and_the_notebook_agree(make, trained):
    made = make("--prompt", 5, "--frames", 20, "--seed", 3)
    video = sample.text_to_video(load_models(trained / "sora.pt"), "5", frames=20, seed=3)
    assert_near(made.video, files.to_pixels(video[0]).astype(int), "sample.py against text_to_video")
