"""What is given on the command line, and what is written beside it."""
import io
import os
import signal
import sys
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import sample
from data.clips import files
from data.clips.given import given_clip
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.clips.reading import open_clip
from data.evaluation.judge import published_clips
from data.evaluation.score import predict
from data.runtime import memory
from data.runtime.checkpoints import load_models
from data.runtime.errors import run_script, undisturbed
from data.sampling import flags as flags_of_sample
from data.tests.clip_files import encode, refusal
from data.tests.conftest import MINI, call, complaint, counting
from sora import InputError


def black_on_white(tmp_path):
    """A picture of a black bar on paper, and the same white on black."""
    pixels = np.full((32, 32), 240, np.uint8)
    pixels[8:24, 14:18] = 0
    Image.fromarray(pixels).save(tmp_path / "paper.png")
    Image.fromarray(255 - pixels).save(tmp_path / "night.png")


def test_a_picture_on_paper_is_inverted_for_a_model_of_digits(tmp_path, capsys):
    black_on_white(tmp_path)
    paper, _ = given_clip(tmp_path / "paper.png", MINI, still=True)
    printed = capsys.readouterr().out
    assert "paper.png is dark on a bright ground" in printed and "inverted" in printed, f"got {printed!r}"
    night, _ = given_clip(tmp_path / "night.png", MINI, still=True)
    assert capsys.readouterr().out == "", "a digit that is white on black is as in training"
    assert torch.allclose(paper, night), "expected the picture to be turned round"
    mine, _ = given_clip(tmp_path / "paper.png", replace(MINI, data="my clips"), still=True)
    assert torch.allclose(mine, -night), "a model of other clips takes pictures as they are"


def test_a_photograph_is_given_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((32, 40), np.uint8)
    pixels[:, :20] = 200                                # bright on the left: upright, at the top
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    clip, _ = given_clip(tmp_path / "photo.jpg", replace(MINI, data="my clips"), still=True)
    assert clip.shape == (1, 1, 4, 40, 32), f"expected a picture of 40x32 four times, got {tuple(clip.shape)}"
    assert clip[..., :16, :].mean() > 0.4 and clip[..., 24:, :].mean() < -0.9, "the bright half is not at the top"


def test_a_large_clip_is_refused_or_resized_at_once(tmp_path):
    np.save(tmp_path / "odd.npy", np.zeros((9, 1, 400_000), np.uint8))
    with pytest.raises(InputError, match="1x400000.*multiples of 8; --resize"):
        given_clip(tmp_path / "odd.npy", MINI)
    clip, _ = given_clip(tmp_path / "odd.npy", MINI, size=(32, 32))
    assert clip.shape == (1, 1, 8, 32, 32), f"got {tuple(clip.shape)}"


@pytest.fixture
def write(trained, tmp_path, capsys):
    """write(name, flags) runs sample.py with the miniature. Returns what it printed."""
    def write(name, *flags):
        call(sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / name, "--device", "cpu", *flags)
        return capsys.readouterr().out
    return write


def test_what_is_given_sets_how_fast_the_file_plays(write, tmp_path):
    """24 frames a second, of which a model with stride 2 has seen 12."""
    encode(tmp_path / "x.mp4", counting(48, 32, 32), 24)
    mine = replace(MINI, data="clips")
    for config, expected in ((mine, 24), (replace(mine, stride=2), 12), (replace(mine, rate=8), 8),
                             (replace(mine, rate=8, stride=2), 4)):
        clip, rate = given_clip(tmp_path / "x.mp4", config)
        assert (rate, clip.shape[2]) == (expected, 2 * expected), (
            f"stride {config.stride}, rate {config.rate}: expected {expected} frames a second, for two "
            f"seconds, got {clip.shape[2]} at {rate}")
    for name, flags, expected in (("longer.mp4", ["--extend", tmp_path / "x.mp4"], 24),
                                  ("slow.mp4", ["--extend", tmp_path / "x.mp4", "--fps", 6], 6),
                                  ("new.mp4", [], 12)):
        write(name, "--frames", 52, *flags)
        got = open_clip(tmp_path / name).rate
        assert got == expected, f"{flags}: expected a file of {expected} frames a second, got {got}"


@pytest.mark.parametrize("ending", files.WRITES)
def test_what_is_written_can_be_read(tmp_path, ending):
    video = torch.from_numpy(counting(20, 33, 40)).movedim(-1, 0)[None].float() / 127.5 - 1
    files.write_clip(tmp_path / f"x{ending}", video, fps=20)
    clip = open_clip(tmp_path / f"x{ending}")
    frames = np.stack(list(clip.frames))[:, :33].astype(int)
    assert len(frames) == 20 and clip.rate in (None, 20), f"{ending}: got {len(frames)} frames at {clip.rate}"
    off = abs(frames - counting(20, 33, 40)).mean()
    assert off < 8, f"{ending}: pixels came back off by {off:.1f} on average"


def test_a_contact_sheet_is_twenty_frames_evenly_spread(tmp_path):
    video = torch.linspace(-1, 1, 39)[None, None, :, None, None].expand(1, 1, 39, 8, 8)
    files.write_clip(tmp_path / "x.npy", video)
    row = iio.imread(tmp_path / "x.png")[4, 4::10, 0]   # the middle of each cell: 8 pixels, 2 of gap
    expected = np.linspace(0, 255, 20)
    assert len(row) == 20 and abs(row - expected).max() <= 1, f"expected frames 0 2 4 ... 38, got {row}"


def test_a_contact_sheet_overwrites_only_contact_sheets(write, tmp_path):
    Image.new("RGB", (5, 5), "red").save(tmp_path / "holiday.png")
    mine = (tmp_path / "holiday.png").read_bytes()
    for name in ("holiday.sheet1.png", "holiday.sheet1.png"):       # the second time over our own
        printed = write("holiday.gif", "--frames", 4)
        assert (tmp_path / "holiday.png").read_bytes() == mine, "a picture that is not ours is lost"
        assert f"{tmp_path / name}:" in printed, f"expected to be told of {name}, got {printed}"
    assert sorted(p.name for p in tmp_path.glob("holiday*")) == ["holiday.gif", "holiday.png", "holiday.sheet1.png"]
    for frames in (4, 8):
        write("new.gif", "--frames", frames)
    assert not (tmp_path / "new.sheet1.png").exists(), "our own sheet is replaced"


def test_nothing_is_written_into_a_clip_that_is_given(trained, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(counting(8, 32, 32)):
        iio.imwrite(tmp_path / "frames" / f"{i}.png", frame)
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--extend", tmp_path / "frames",
                     "--out", tmp_path / "frames" / "x.gif")
    assert "lies in the clip" in said and len(list((tmp_path / "frames").iterdir())) == 8, f"got {said!r}"
    (tmp_path / "x.gif").symlink_to(tmp_path / "x.gif")             # a link in a circle lies nowhere else
    args = ["--ckpt", str(trained / "sora.pt"), "--extend", str(tmp_path / "frames"), "--out", str(tmp_path / "x.gif")]
    flags_of_sample.check_flags(flags_of_sample.parse("", args))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_print_can_end_a_run(monkeypatch, encoding):
    """Names that are not UTF-8, and words that the terminal lacks, are printed with backslashes."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)

    def main():
        print("b\udcff.mp4 \u6ce2")
        raise InputError("h\udcf6her")
    with pytest.raises(SystemExit):
        run_script(main)
    said = {}
    for name, stream in streams.items():
        stream.flush()
        said[name] = stream.buffer.getvalue()
    assert said["stdout"].startswith(b"b\\udcff.mp4 "), f"{encoding}: got {said}"
    assert said["stderr"].endswith(b"h\\udcf6her\n"), f"{encoding}: got {said}"


# --- the Moving MNIST test file -------------------------------------------------------------------------

def test_the_published_test_is_the_file_clip_by_clip(tmp_path):
    digits = MovingMNIST(*load_digits("heldout"), (64, 64), 28, 2, 20)
    video, _ = digits.clips(5, torch.Generator().manual_seed(0))    # (5,1,20,64,64)
    pixels = ((video[:, 0] + 1) * 127.5).round().byte()
    np.save(tmp_path / "mnist_test_seq.npy", pixels.transpose(0, 1).numpy())
    assert "Moving MNIST test file, 5 clips" in refusal(tmp_path / "mnist_test_seq.npy"), "it is not one clip"
    config = replace(MINI, height=64, width=64)
    clips, caption = published_clips(tmp_path / "mnist_test_seq.npy", config, 3)
    assert clips.shape == (3, 1, 22, 64, 64) and caption.tolist() == [[0]] * 3, (
        f"expected three clips of 20 frames and the last twice more, got {tuple(clips.shape)}")
    assert torch.allclose(clips[:, :, :20], video[:3], atol=0.005), "they are not the first clips of the file"
    assert torch.equal(clips[:, :, 20], clips[:, :, 19]), "frames 21 and 22 repeat frame 20"


def test_the_score_predicts_the_published_clips(ckpt):
    _, vae, dit, process, _ = load_models(ckpt)
    config = replace(MINI, height=64, width=64)
    clips = torch.rand(2, 1, 22, 64, 64) * 2 - 1, torch.zeros(2, 1, dtype=torch.long)
    truth, guesses, caption = predict(config, vae, dit, process, 99, clips=clips, steps=1)
    assert torch.equal(truth, clips[0][:, :, 10:20]), "the truth is not frames 11 to 20 of the clips given"
    assert guesses["the model"].shape == truth.shape and caption is clips[1], f"got {guesses['the model'].shape}"


def test_a_file_that_is_not_the_published_test_is_refused(trained, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((20, 9, 32, 32), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((20, 9, 64, 64), np.uint8))
    for flags, words in ((["--score", "--mnist-test", tmp_path / "a.npy"], "expected mnist_test_seq.npy"),
                         (["--score", "--mnist-test", tmp_path / "b.npy"], "its clips are 64x64"),
                         (["--mnist-test", tmp_path / "b.npy"], "expected --score beside it")):
        said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "x.gif", *flags)
        assert words in said, f"{flags}: expected {words!r}, got {said!r}"


def test_a_clip_too_long_for_the_memory_is_refused_while_it_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "long.npy", counting(2000, 32, 32))
    monkeypatch.setattr(memory, "available", lambda device: 3e6 / 0.9)
    with pytest.raises(InputError, match="long.npy: .* frames of 32x32 or more.*that would take about 3 MB"):
        given_clip(tmp_path / "long.npy", MINI)
    clip, _ = given_clip(tmp_path / "long.npy", MINI, most=20)
    assert clip.shape[2] == 20, f"expected the first 20 frames, got {clip.shape[2]}"


def test_what_a_model_of_digits_was_told_of_clips_has_no_effect_on_given_ones(tmp_path):
    """--stride and --rate are for folders of clips; without one they are noted as without effect."""
    np.save(tmp_path / "x.npy", counting(16, 32, 32))
    clip, _ = given_clip(tmp_path / "x.npy", replace(MINI, stride=2, rate=3.0))
    assert clip.shape[2] == 16, f"expected all 16 frames, got {clip.shape[2]}"
    clip, _ = given_clip(tmp_path / "x.npy", replace(MINI, stride=2, data="folder"))
    assert clip.shape[2] == 8, f"expected every second frame, as in training, got {clip.shape[2]}"


def test_a_file_that_is_still_being_written_is_not_written_over(write, tmp_path, trained, capsys):
    """What a killed run has left may be given to go on from; --out would write the same name."""
    np.save(tmp_path / "x.part.npy", counting(16, 32, 32))
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--extend", tmp_path / "x.part.npy", "--out",
                     tmp_path / "x.npy")
    assert "would be written over" in said and len(np.load(tmp_path / "x.part.npy")) == 16, f"got {said!r}"


def test_a_game_is_kept_in_the_usual_place_if_that_is_asked_for():
    for flags, expected in ((["--play"], None), (["--play", "--out", "out/sample.gif"], "out/sample.gif"),
                            ([], "out/sample.gif")):
        got = flags_of_sample.parse("", flags).out
        assert got == expected, f"{flags}: expected --out {expected}, got {got}"


def test_a_contact_sheet_of_any_size_is_known_as_ours(tmp_path, monkeypatch):
    files.write_still(tmp_path / "x.png", torch.zeros(1, 1, 8, 8), 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)               # Pillow refuses to open what is far larger
    assert files.is_ours(tmp_path / "x.png"), "our own contact sheet was taken for a picture of the user"


def test_ctrl_c_waits_for_the_frames_that_are_being_written():
    """Else the file would have other frames than are counted, and the whole video would be given up."""
    written = []
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            written.append("the rest")
    assert written, "Ctrl-C was obeyed in the middle"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler of before is not back"
