"""Writing clips and pictures: under any name, one process at a time, over what cannot be read."""
import os
import re

import imageio.v3 as iio
import pytest
import torch
from PIL import Image

from data.clips import files, moving_mnist
from data.clips.reading import open_clip
from data.runtime.writing import only_one
from data.tests.conftest import complaint
from data.training import growth
from sora import InputError

VIDEO = torch.rand(1, 1, 12, 16, 16) * 2 - 1


def test_a_script_keeps_what_it_is_given_to_read(tmp_path):
    """`while read line; do python3 sample.py ...; done < prompts`: ffmpeg would take the lines, and end at a q."""
    reading, writing = os.pipe()
    os.write(writing, b"q\nthe next prompt\n")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        files.write_clip(tmp_path / "x.mp4", torch.zeros(1, 1, 2000, 16, 16))   # it looks every now and then
        left = os.read(reading, 99)
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
    assert left == b"q\nthe next prompt\n", f"of the script's input only {left} is left"


@pytest.mark.parametrize("name", ["12:30.mp4", "~/x.webm", "-x %d.mp4"])
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    """To ffmpeg 12: would be a protocol, to imageio ~ a home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    files.write_clip(name, VIDEO)
    frames = len(list(open_clip(tmp_path / name).frames))
    assert frames == 12, f"{name}: expected 12 frames, got {frames}"


def test_a_notebook_hears_of_a_wrong_ending(tmp_path):
    for name in ("x.avi", "x.GIF"):
        with pytest.raises(InputError, match="expected one of .gif, .mp4"):
            files.write_clip(tmp_path / name, VIDEO)


@pytest.mark.parametrize("ending", files.WRITES)
def test_two_processes_write_no_mixture(tmp_path, ending):
    """The second is refused, and leaves the half file of the first alone. That of a killed one is in nobody's way."""
    path = tmp_path / f"x{ending}"
    part = files.part_of(path)
    part.write_bytes(b"half a video")
    with only_one(part), pytest.raises(InputError, match="another process is writing here"):
        files.write_clip(path, VIDEO)
    assert part.read_bytes() == b"half a video", "the file of the first process was changed"
    files.write_clip(path, VIDEO)
    assert len(list(open_clip(path).frames)) == 12 and not part.exists(), "a half file was in the way"


@pytest.mark.filterwarnings("error")                                # such as what is said after the end
@pytest.mark.parametrize("flags,words", [
    ("x.gif --size 20 --digit-size 20 --frames 8200", "x.gif: .*stands still for over 655 s.*choose .mp4"),
    ("x.npy --frames 100000000000", "frames 100000000000 .*would take about"),
    (f"x.npy --n {10 ** 20}", "would take about"), (f"x.npy --scale {10 ** 20}", "would take about")])
def test_sizes_beyond_all_limits_are_refused(tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moving_mnist.py", *flags.split()])
    said = complaint(capsys, lambda _: moving_mnist.main())
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    assert not list(tmp_path.iterdir()), "something was written although it was refused"


@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA", "damaged", "empty"])
def test_growth_goes_on_from_any_picture_or_begins_anew(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~").mkdir()                            # to imageio a home
    path, videos = tmp_path / "~" / "growth.png", torch.zeros(2, 1, 4, 8, 8)
    growth.add_preview("~/growth.png", videos)
    whole = path.read_bytes()
    if kind in ("damaged", "empty"):
        path.write_bytes(whole[:40] if kind == "damaged" else b"")
    else:
        Image.open(path).convert(kind).save(path)
    growth.add_preview("~/growth.png", videos)
    width = 20 if kind in ("RGB", "L", "RGBA") else 10
    assert iio.imread(path).shape == (20, width, 3), f"{kind}: expected a width of {width}"
