"""Folders of clips: which clips are read, with which captions, and which of their frames are shown."""
import shutil
from dataclasses import replace
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sora
import train
from data.clips import cache, given
from data.clips.folder import load_data, load_mix
from data.clips.moving_mnist import MovingMNIST
from data.tests.conftest import MINI, counting, spy
from data.tests.test_faults import full_disk
from sora import TIME, InputError, draw_windows


def numbers(video):
    """The numbers of the frames that clips of `counting` show: (n,T)."""
    return ((video[:, 1].mean((2, 3)) + 1) * 127.5 / 2).round().long()


def folder_config(folder, **more):
    """The config of a model of the clips in a folder."""
    return replace(MINI, data=str(folder), **dict(height=32, width=32, frames=8, channels=3) | more)


def test_every_kind_of_clip_is_read_with_its_caption(folder, capsys):
    config = folder_config(folder, heldout="one.mp4")
    training, heldout = load_mix(config, "cpu")[0][0][0], load_data(config, "heldout")
    said, printed = ("8x32x32: 3 clips to train on, 0 of them without a caption; 1 held out, 0 skipped; "
                     "6 words"), capsys.readouterr().out
    assert said in printed, f"expected {said!r}, got {printed!r}"
    words = ["high", "hop", "jump", "sit", "softly", "wave"]
    assert training.words == heldout.words == words, (
        f"expected the words of all captions, sorted, for both splits: {words}, got {training.words}")
    lengths = dict(zip(training.names, training.length.tolist()))
    assert lengths == {"jump high/three.npy": 64, "sit/four": 24, "wave/two.gif": 30}, f"got {lengths}"
    assert heldout.names == ("wave/one.mp4",) and heldout.length.tolist() == [40], (
        f"expected wave/one.mp4 with 40 frames to be held out, got {heldout.names}, {heldout.length}")
    video, caption = training.clips(50, torch.Generator().manual_seed(0))
    assert video.shape == (50, 3, 8, 32, 32) and caption.shape == (50, 2), (
        f"expected 50 clips of 8x32x32 in colour with captions of up to two words, got {video.shape}, "
        f"{caption.shape}")
    spoken = {" ".join(training.words[i - 1] for i in ids if i) for ids in caption.tolist()}
    assert spoken == {"jump high", "sit", "hop softly"}, (
        f"expected the folder's name or the .txt beside the clip as caption, got {spoken}; ids begin at 1")
    left, right = video[..., :12].mean((2, 3, 4)), video[..., -12:].mean((2, 3, 4))
    assert ((left - right)[:, 0] > 1).all(), (
        "the left half is not the red one: are channels or sides swapped?")
    assert ((left - right)[:, 1:].abs() < 0.1).all(), "green and blue should be the same on both sides"
    grey = load_data(folder_config(folder, channels=1), "train").clips(2)[0]
    assert grey.shape == (2, 1, 8, 32, 32), f"expected one channel, got {tuple(grey.shape)}"


def test_windows_are_the_frames_asked_for_and_stay_in_their_clip(folder):
    """Brightness says which frame of the clip is shown; anchors and strides are index arithmetic."""
    config = folder_config(folder, heldout="one.mp4 two.gif four", frames=16)
    data = load_data(config, "train")                               # 64 frames that count themselves
    shown = numbers(data.clips(300, torch.Generator().manual_seed(0))[0])
    assert (shown.diff(dim=1) == 1).all(), "a window does not show one frame after the other"
    assert (shown.min(), shown.max()) == (0, 63), (
        f"300 windows show frames {shown.min()} to {shown.max()}, expected 0 to 63: an end is never shown")
    frames = draw_windows(replace(config, known=1, reach=24), 300, 4)[2]
    shown = numbers(data.clips(300, torch.Generator().manual_seed(0), frames)[0])
    assert torch.equal(shown - shown[:, 4:5], frames - frames[:, 4:5]), (
        "with anchors the frames shown are not as far apart as the frames asked for")
    assert (shown.min(), shown.max()) == (0, 63), (
        f"got frames {shown.min()} to {shown.max()}, expected 0 to 63")
    third = load_data(replace(config, stride=3, frames=8), "train")
    assert third.length.tolist() == [22], f"every 3rd of 64 frames: expected 22, got {third.length.tolist()}"
    steps = numbers(third.clips(9)[0]).diff(dim=1)
    assert (steps == 3).all(), f"--stride 3: expected frames 3 apart, got {steps.unique().tolist()}"


def test_long_clips_are_drawn_more_often(folder):
    """Every place to start is as likely as any other: clips of 64, 30 and 24 frames have 57, 23 and 17."""
    data = load_data(folder_config(folder, heldout="one"), "train")
    _, caption = data.clips(1500, torch.Generator().manual_seed(0))
    first = [data.words[i - 1] for i in caption[:, 0].tolist()]
    shares = [first.count(word) / 1500 for word in ("jump", "hop", "sit")]
    expected = [57 / 97, 23 / 97, 17 / 97]
    assert max(abs(a - b) for a, b in zip(shares, expected)) < 0.06, f"expected {expected}, got {shares}"


def test_a_mix_has_the_shapes_asked_for(folder):
    shapes = "16x32x32:3 8x32x48:2 8x48x32:2 24x16x16:1 20x24x40:1 1x32x32:4"
    mix, words, config = load_mix(replace(MINI, shapes=shapes, digit_size=14), "cpu")
    got = [tuple(data.clips(n)[0].shape) for data, n in mix]
    expected = [(3, 1, 16, 32, 32), (2, 1, 8, 32, 48), (2, 1, 8, 48, 32), (1, 1, 24, 16, 16),
                (1, 1, 20, 24, 40), (4, 1, 4, 32, 32)]              # an image is a latent frame, 4 frames
    assert got == expected, f"--shapes {shapes}: expected {expected}, got {got}"
    assert words == MovingMNIST.words and config.reach == 96, f"got words {words}, reach {config.reach}"
    assert (config.frames, config.height, config.width) == (16, 32, 32), (
        "the config is that of the first shape")
    config = folder_config(folder, shapes="1x32x32:2 8x32x32:2 16x16x48:1", heldout="one")
    mix, words, config = load_mix(config, "cpu")
    got = [tuple(data.clips(n)[0].shape) for data, n in mix]
    assert got == [(2, 3, 4, 32, 32), (2, 3, 8, 32, 32), (1, 3, 16, 16, 48)], f"of a folder: got {got}"
    assert (config.frames, config.height, config.width) == (8, 32, 32), (
        "expected the config of the first shape that is no image")
    assert config.reach == 4, (
        f"clips of 30 frames in windows of 16 leave 7 on either side: expected reach 4, got {config.reach}")
    assert all(data.words == words for data, _ in mix), (
        "shapes differ in their words: ids would mean two things")
    with pytest.raises(InputError, match="the checkpoint's are up, down"):
        load_mix(folder_config(folder, heldout="one"), "cpu", ["up", "down"])


def test_a_clip_is_shown_in_the_shapes_nearest_to_its_own(folder):
    """All clips of the fixture are 40x32; beside them a tall one. Where none fits, all are cropped."""
    np.save(folder / "sit" / "tall.npy", counting(30, height=48, width=24))
    shapes = "8x32x40:1 16x48x24:1 8x64x32:1 8x16x16:1 8x8x64:1"
    mix, _, _ = load_mix(folder_config(folder, shapes=shapes, heldout="one"), "cpu")
    wide, tall = {"jump high/three.npy", "sit/four", "wave/two.gif"}, {"sit/tall.npy"}
    for (data, _), shape, expected in zip(mix, shapes.split(), [wide, tall, tall, wide | tall, wide | tall]):
        assert set(data.names) == expected, f"{shape}: expected {expected}, got {set(data.names)}"


def test_a_given_clip_has_the_frame_rate_of_training(folder):
    config = replace(MINI, channels=3, stride=3, data=str(folder))
    clip = given.given_clip(folder / "jump high" / "three.npy", config)[0]         # 64 frames
    got = numbers(clip)[0].tolist()
    assert got == list(range(0, 60, 3)), f"expected every 3rd frame, 22 cut to 20, the first ones, got {got}"
    clip = given.given_clip(folder / "jump high" / "three.npy", config, keep_end=True)[0]
    got = numbers(clip)[0].tolist()
    assert got == list(range(6, 64, 3)), f"keep_end: expected the last 20 of 22, got {got}"


def test_a_single_picture_is_an_image_to_train_on(folder):
    (folder / "sit" / "photo").mkdir()
    iio.imwrite(folder / "sit" / "photo" / "one.png", counting(100)[99])
    mix, _, config = load_mix(folder_config(folder, shapes="8x32x32:2 1x32x32:3", heldout="one.mp4"), "cpu")
    got = [("sit/photo" in data.names) for data, _ in mix]
    assert got == [False, True], f"a picture should be shown as an image only, got {got} for clips and images"
    run = SimpleNamespace(config=config, stage="dit", mix=[(data, 600) for data, _ in mix], device="cpu",
                          process=sora.DDPM())
    images = {"the data": mix[1][0].clips(600, torch.Generator().manual_seed(0))[0],
              "a training step": train.draw_group(run, 0, 1)[0]}
    for whose, video in images.items():
        assert video.shape[2] == TIME and (video.diff(dim=2) == 0).all(), (
            f"{whose}: an image should be one frame, four times, got {video.shape[2]} frames that differ")
        assert (video[:, 1, 0, 0, 0] > 0.5).any(), (
            f"{whose}: the picture is never among 600 images; expected it about once in 119")


def test_what_cannot_be_used_is_named_and_skipped(folder, capsys):
    (folder / "wave" / "broken.mp4").write_bytes(b"no video" * 99)
    (folder / "wave" / "cut.mp4").write_bytes((folder / "wave" / "one.mp4").read_bytes()[:300])
    np.save(folder / "wave" / "empty.npy", counting(0))
    np.save(folder / "wave" / "float.npy", np.zeros((20, 32, 32)))
    np.save(folder / "sit" / "short.npy", counting(5))
    data = load_mix(folder_config(folder, heldout="one"), "cpu")[0][0][0]
    printed = capsys.readouterr().out
    for name in ("broken.mp4", "cut.mp4", "empty.npy", "float.npy",
                 "short.npy: 5 frames, expected at least 8"):
        assert name in printed, f"{name} is not named among what was skipped: {printed}"
    assert "1 held out, 5 skipped" in printed, f"expected 5 skipped, got {printed}"
    assert len(data.names) == 3, f"expected the 3 good clips, got {data.names}"
    shown = (data.clips(200)[0][:, 1].mean((2, 3)) + 1) * 127.5 / 2
    assert ((shown.diff(dim=1) - 1).abs() < 0.6).all(), (
        "windows do not count up: frames after a skipped clip are at the wrong place in the cache")


def test_the_cache_is_used_until_a_file_changes(folder, monkeypatch):
    decoded, config = spy(monkeypatch, cache, "decode"), folder_config(folder, heldout="one")
    for _ in range(3):
        load_data(config, "train")
    assert len(decoded) == 1, f"nothing changed: expected one decoding, got {len(decoded)}"
    (folder / "wave" / "two.txt").write_text("run")
    assert "run" in load_data(config, "train").words, "a caption changed and the old one is still used"
    np.save(folder / "jump high" / "three.npy", counting(32))
    assert 32 in load_data(config, "train").length, "a clip changed and the old one is still used"
    elsewhere = folder.parent / "elsewhere"
    load_data(replace(config, channels=1, cache=str(elsewhere)), "train")
    assert len(decoded) == 4, f"expected a decoding for each change, 4, got {len(decoded)}"
    assert len(list(elsewhere.iterdir())) == 2, (
        f"expected two files in --cache, got {list(elsewhere.iterdir())}")
    raw = next((folder / ".cache").glob("*.raw"))
    raw.write_bytes(raw.read_bytes()[:-1])
    load_data(config, "train")
    assert len(decoded) == 5, "a cache that is too short was used"


def test_an_interrupted_decode_leaves_no_cache(folder, monkeypatch):
    def stop(path, size, real=cache.open_clip):
        if path.name == "two.gif":
            raise KeyboardInterrupt
        return real(path, size)
    monkeypatch.setattr(cache, "open_clip", stop)
    with pytest.raises(KeyboardInterrupt):
        load_data(folder_config(folder), "train")
    left = [p.name for p in (folder / ".cache").iterdir()]
    assert not left, f"decoding was interrupted and left {left}: it would be taken for a whole cache"
    monkeypatch.undo()
    names = load_data(folder_config(folder, heldout="one"), "train").names
    assert len(names) == 3, f"expected 3 clips after decoding again, got {names}"


def test_what_is_held_out_does_not_depend_on_the_windows(folder):
    data = {frames: load_data(folder_config(folder, heldout="one four", frames=frames), "heldout")
            for frames in (8, 32)}
    assert data[8].names == ("sit/four", "wave/one.mp4"), f"got {data[8].names}"
    assert data[32].names == ("wave/one.mp4",), (
        f"sit/four has 24 frames, expected it left out, got {data[32].names}")
    assert data[8].words == data[32].words, "the words depend on the window's length: ids would change"
    for wrong, counts in (("wave jump sit", "0 clips .* to train on, 4 .*expected some of each$"),
                          ("nobody", "to train on, 0 to hold out.*: name others to hold out with --heldout")):
        with pytest.raises(InputError, match=counts):
            load_data(folder_config(folder, heldout=wrong), "train")
    with pytest.raises(InputError, match="'too' is in no clip's name, such as jump high/three.npy"):
        load_mix(folder_config(folder, heldout="one too"), "cpu")       # it should be two


def test_a_disk_that_is_full_is_named_with_another_place(folder):
    with full_disk(100_000), pytest.raises(InputError, match="my clips/.cache/.*tmp: cannot be .*; --cache DIR names"):
        load_data(folder_config(folder), "train")
    assert not list((folder / ".cache").iterdir()), "half a cache was left"


def test_two_folders_may_share_a_cache(folder, tmp_path, capsys):
    """Each finds its own, and nothing is said to have changed."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for data in (folder, other, folder, other):
        config = replace(folder_config(data), cache=str(tmp_path / "shared"))
        notes = cache.read_cache(config).notes
        assert not any("has changed" in note for note in notes), f"{data}: got {notes}"
    assert len(list((tmp_path / "shared").glob("*.raw"))) == 2, "expected a cache for each of the two"
