"""Which clips of a folder are trained on, what is left out, and that every bit of it is said."""
import os
import sys

import numpy as np
import pytest
from PIL import Image

from data.clips.find import find_clips
from data.clips.folder import ClipFolder, load_data, load_mix
from data.tests.clip_files import config_of, encode, plain, save  # noqa: F401  a fixture
from data.tests.conftest import counting
from sora import InputError


def names_in(folder, **where):
    """The names of the clips that are found."""
    return [name for name, *_ in find_clips(folder, **where).clips]


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs pipes, or names that are any bytes")


def test_clips_are_in_natural_order(plain):
    assert names_in(plain) == ["sit/b1.npy", "sit/b2.npy", "wave/a2.npy", "wave/a10.npy"], names_in(plain)


def test_hidden_names_are_left_out_and_counted(plain):
    save(plain / ".hidden" / "c.npy", counting(12))
    (plain / "wave" / "._a2.npy").write_bytes(b"litter")
    (plain / "wave" / ".DS_Store").write_bytes(b"litter")
    (plain / "wave" / "notes.pdf").write_bytes(b"not a clip")
    (plain / "wave" / "a2.txt").write_text("a caption")
    (plain / "wave" / "alone.txt").write_text("a caption of nothing")
    found = find_clips(plain)
    assert len(found.clips) == 4, f"expected the four clips, got {found.clips}"
    assert found.left_out() == "1 .pdf, 1 .txt, 3 hidden", f"got {found.left_out()!r}"


def test_a_caption_may_be_called_in_capitals(plain):
    (plain / "wave" / "a2.TXT").write_text("a caption")
    found = find_clips(plain)
    words = [words for name, words, _ in found.clips if name == "wave/a2.npy"]
    assert words == ["a caption"] and not found.left_out(), f"got {words}, left out {found.left_out()!r}"


def test_links_are_followed_but_for_circles(plain, tmp_path):
    save(tmp_path / "elsewhere" / "c.npy", counting(12))
    os.symlink(tmp_path / "elsewhere", plain / "jump")
    os.symlink(plain, plain / "wave" / "round")
    os.symlink(plain / "nowhere.mp4", plain / "sit" / "gone.mp4")
    os.symlink(plain / "wave" / "a2.npy", plain / "sit" / "b3.npy")
    found = find_clips(plain)
    names = [name for name, *_ in found.clips]
    assert names == ["jump/c.npy", "sit/b1.npy", "sit/b2.npy", "sit/b3.npy", "wave/a2.npy", "wave/a10.npy"], (
        f"expected linked folders and files to be read, got {names}")
    assert found.clips[0][1] == "jump", f"a linked class is called by its link, got {found.clips[0][1]!r}"
    assert set(found.skipped) == {"wave/round", "sit/gone.mp4"}, f"expected both to be named, got {found.skipped}"


@LINUX
def test_pipes_are_skipped_and_named(plain):
    os.mkfifo(plain / "wave" / "pipe.mp4")
    os.mkfifo(plain / "wave" / "pipe.png")
    data = ClipFolder(config_of(plain), "train")
    assert {"wave/pipe.mp4", "wave/pipe.png"} <= set(data.skipped), f"expected both pipes, got {data.skipped}"
    assert len(data.names) == 3, f"expected the clips beside them, got {data.names}"


def test_what_runs_write_is_no_clip(plain):
    """--out inside --data, and a cache that is not hidden."""
    save(plain / "out" / "mine" / "preview.npy", counting(12))
    (plain / "out" / "mine" / "sora.pt").write_bytes(b"")
    save(plain / "decoded" / "x.npy", counting(12))
    found = find_clips(plain, plain / "decoded")
    assert len(found.clips) == 4, f"expected the four clips alone, got {[name for name, *_ in found.clips]}"
    assert "out/mine" in found.skipped, "a folder that is left out should be named"
    save(plain / "samples.npy", counting(12))
    assert len(names_in(plain)) == 6, "expected samples.npy, and decoded/x.npy, which is no cache here"
    (plain / "sora.pt").write_bytes(b"")
    assert names_in(plain, cache=plain / "decoded") == [name for name, *_ in found.clips], (
        "a run has written here: expected the clips in folders alone")


def test_animated_pictures_are_clips_and_stills_are_frames(tmp_path):
    pictures = [Image.fromarray(frame) for frame in counting(9)]
    for folder in ("wave/moving", "sit/still"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.webp", "b.png"):
        pictures[0].save(tmp_path / "wave" / name, save_all=True, append_images=pictures[1:], duration=80)
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / "sit" / "still" / f"{i}.webp")
    (tmp_path / "sit" / "still.txt").write_text("stay")
    found = [clip[:2] for clip in find_clips(tmp_path).clips]
    assert found == [["sit/still", "stay"], ["wave/a.webp", "wave"], ["wave/b.png", "wave"]], f"got {found}"


@LINUX
def test_names_that_are_not_unicode_are_no_captions_but_can_be_read(tmp_path):
    save(tmp_path / "wave" / os.fsdecode(b"a\xff.npy"), counting(12))
    save(tmp_path / os.fsdecode(b"h\xf6her") / "b.npy", counting(12))
    found = find_clips(tmp_path)
    assert [clip[:2] for clip in found.clips] == [["wave/a\udcff.npy", "wave"]], f"got {found.clips}"
    assert len(found.skipped) == 1 and "not UTF-8" in str(found.skipped), f"got {found.skipped}"
    save(tmp_path / "wave" / "c.npy", counting(12))
    assert len(load_data(config_of(tmp_path), "train").names) == 1, "such a name should not disturb the cache"


def test_if_all_is_skipped_the_first_reasons_are_given(tmp_path):
    for i in range(5):
        save(tmp_path / "wave" / f"{i}.npy", np.zeros((9, 3, 16, 16), np.uint8))
    (tmp_path / "sit" / "frames").mkdir(parents=True)
    Image.new("L", (32, 32)).save(tmp_path / "sit" / "frames" / "1.png")
    (tmp_path / "sit" / "frames" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="2.png.*perhaps .T,c,H,W") as error:
        load_data(config_of(tmp_path), "train")
    assert "6 skipped" in str(error.value) and "\n" not in str(error.value), f"got {error.value}"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match="no clips in it.*left out: 1 .pdf"):
        load_data(config_of(tmp_path / "none"), "train")


def test_the_moving_mnist_test_file_is_as_many_clips(tmp_path):
    array = np.zeros((20, 6, 64, 64), np.uint8)
    array += np.arange(6, dtype=np.uint8)[:, None, None] * 10 + np.arange(20, dtype=np.uint8)[:, None, None, None]
    save(tmp_path / "digits" / "mnist_test_seq.npy", array)
    data = load_data(config_of(tmp_path, height=64, width=64, channels=1), "train")
    assert len(data.names) == 5 and data.length.tolist() == [20] * 5, f"expected 5 of 6 clips of 20 frames, got {data.names}"
    video = data.clips(40)[0]
    steps = (video.diff(dim=2) * 127.5).round()
    assert (steps == 1).all(), "a frame is brighter by 1 than the one before: are clips and frames swapped?"


def test_frame_rates_that_differ_are_noted_and_rate_makes_them_alike(tmp_path, capsys):
    (tmp_path / "wave").mkdir()
    for name, fps in (("a", 24), ("b", 48), ("c", 24)):
        encode(tmp_path / "wave" / f"{name}.mp4", counting(2 * fps), fps)
    load_mix(config_of(tmp_path, heldout="c.mp4"), "cpu")
    printed = capsys.readouterr().out
    assert "24, 48 frames a second" in printed and "--rate 24" in printed, f"expected a note, got {printed}"
    for name, fps in (("d", 8), ("e", 24)):
        encode(tmp_path / "wave" / f"{name}.mp4", counting(2 * fps), fps)
    load_mix(config_of(tmp_path, heldout="c.mp4"), "cpu")
    printed = capsys.readouterr().out
    assert "8, 24, 48 frames" in printed and "--rate 24, which most have" in printed, (
        f"one slow clip is no reason to slow down all: got {printed}")
    for name in ("d", "e"):
        (tmp_path / "wave" / f"{name}.mp4").unlink()
    data = load_mix(config_of(tmp_path, heldout="c.mp4", rate=12), "cpu")[0][0][0]
    assert data.length.tolist() == [24, 24], f"two seconds at 12 a second: expected 24 frames each, got {data.length}"
    assert "frames a second" not in capsys.readouterr().out, "with --rate there is nothing to note"


def test_colours_that_are_lost_are_noted(plain, capsys):
    load_mix(config_of(plain, channels=1), "cpu")
    assert "--channels 3 keeps the colours" in capsys.readouterr().out, "expected a note and its remedy"
    load_mix(config_of(plain), "cpu")
    assert "have colours" not in capsys.readouterr().out, "in RGB nothing is lost"
    for path in plain.rglob("*.npy"):
        np.save(path, counting(12)[..., 1])
    load_mix(config_of(plain, channels=1), "cpu")
    assert "have colours" not in capsys.readouterr().out, "grey clips lose nothing"
