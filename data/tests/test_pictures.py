"""Arrays and pictures are read for what they are: axes known, upright, in order, in 8 bits of RGB."""
import re

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from data.clips.pictures import STILLS
from data.clips.reading import natural, open_clip
from data.tests.clip_files import read, refusal
from data.tests.conftest import counting


# --- .npy: the axes are known, or it is refused -------------------------------------------------------

@pytest.mark.parametrize("shape,words", [
    ((20, 7, 64, 64), "Moving MNIST test file, 7 clips of 20 frames.*--mnist-test"),
    ((12, 3, 32, 32), r"\(12, 3, 32, 32\), perhaps \(T,c,H,W\): expected uint8.*\(T,H,W,c\)"),
    ((12, 32, 32, 5), "channels"),
    ((12, 32, 32, 2), "channels"),
    ((12, 32, 32, 0), "channels"),
    ((10, 0, 16), "empty"),
    ((0, 16, 16, 3), "empty"),
    ((32, 32, 3), "one picture"),
    ((16, 16), r"\(T,H,W\)"),
    ((2, 3, 4, 5, 6), r"\(T,H,W\)")])
def test_arrays_of_other_axes_are_refused(tmp_path, shape, words):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    said = refusal(tmp_path / "x.npy")
    assert str(tmp_path / "x.npy") in said, f"{shape}: the file is not named in {said!r}"
    assert re.search(words, said), f"{shape}: expected {words!r}, got {said!r}"


def test_arrays_of_other_values_are_refused(tmp_path):
    """Floats may be in [0,1], [-1,1] or [0,255]: nobody can know. Objects would run code."""
    refused = {
        "float64": np.zeros((8, 16, 16)),
        "int64": np.full((8, 16, 16), 300),
        "Python objects": np.array([{}, {}])}
    for words, values in refused.items():
        np.save(tmp_path / "x.npy", values, allow_pickle=True)
        said = refusal(tmp_path / "x.npy")
        assert words in said, f"{values.dtype}: expected {words!r} in the refusal, got {said!r}"


def test_what_is_no_array_is_refused_without_advice_to_load_objects(tmp_path):
    """numpy advises allow_pickle=True, which would run whatever code is in the file."""
    for content in (b"", b"junk" * 99, b"PK\3\4" + bytes(99)):
        (tmp_path / "x.npy").write_bytes(content)
        said = refusal(tmp_path / "x.npy")
        assert "cannot be read as a clip" in said and "allow_pickle" not in said, f"{content[:8]}: got {said!r}"


def test_arrays_are_read_as_they_are(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (5, 8, 12), np.uint8)
    rgb = np.stack([grey] * 3, axis=-1)
    for name, array in (("grey", grey), ("one", grey[..., None]), ("rgb", rgb)):
        np.save(tmp_path / f"{name}.npy", array)
        got = read(tmp_path / f"{name}.npy")
        assert np.array_equal(got, rgb), f"{name}: pixels are not those of the array"
    faint = np.full((1, 8, 12, 4), 200, np.uint8)
    faint[..., 3] = 51
    np.save(tmp_path / "opacity.npy", faint)
    got = np.unique(read(tmp_path / "opacity.npy")).tolist()
    assert got == [40], f"200 at an opacity of 51/255 over black: expected 40, got {got}"


# --- pictures -----------------------------------------------------------------------------------------

def test_pictures_of_every_mode_have_their_brightness(tmp_path):
    """One grey of 200 in all of Pillow's modes. Opacity is 128 of 255, over black."""
    plain = Image.new("L", (16, 16), 200)
    deep = Image.fromarray(np.full((16, 16), 200 * 257, np.uint16))
    palette = plain.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    half = plain.convert("RGBA")
    half.putalpha(128)
    cmyk = plain.convert("CMYK")
    for name, image, expected in (
            ("l.png", plain, 200),
            ("l.bmp", plain, 200),
            ("rgb.png", plain.convert("RGB"), 200),
            ("deep.png", deep, 200),
            ("deep.tif", deep, 200),
            ("p.png", palette, 200),
            ("cmyk.jpg", cmyk, 200),
            ("cmyk.tif", cmyk, 200),
            ("rgba.png", half, 100),
            ("la.png", half.convert("LA"), 100),
            ("rgba.webp", half, 100),
            ("white.png", Image.new("1", (16, 16), 1), 255)):
        image.save(tmp_path / name)
        got = np.unique(read(tmp_path / name))
        assert abs(got - expected).max() <= 2, f"{name}, mode {image.mode}: expected {expected}, got {got}"
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert "expected 8 or 16 bits" in refusal(tmp_path / "float.tif"), "floats have no known range"
    entry, whole = b"\1\3\0\1\0\0\0", (tmp_path / "deep.tif").read_bytes()
    for name, tag, old, new in (("12 bits", b"\2", 16, 12), ("0 is white", b"\6", 1, 0)):
        said = tag + entry + bytes([old]), tag + entry + bytes([new])
        assert whole.count(said[0]) == 1
        (tmp_path / "deep.tif").write_bytes(whole.replace(*said))
        assert name in refusal(tmp_path / "deep.tif"), "Pillow hands on such values as they are"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_photographs_are_turned_upright(tmp_path, mode):
    """A picture with a bright top left quarter, stored in each of the eight ways of EXIF."""
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :24] = 255
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1)}
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(tmp_path / "x.jpg", exif=exif)
        clip = open_clip(tmp_path / "x.jpg")
        frame = next(clip.frames).mean(2)
        assert (clip.height, clip.width) == frame.shape == (32, 48), (
            f"{mode}, orientation {orientation}: expected 32x48, got {clip[1:3]}, {frame.shape}")
        assert abs(frame - upright).mean() < 5, f"{mode}, orientation {orientation}: it is not upright"


def test_numbered_pictures_are_in_natural_order(tmp_path):
    for i, frame in enumerate(counting(24)):
        iio.imwrite(tmp_path / f"frame{i}.png", frame)
    shown = (read(tmp_path)[:, 0, 0, 1] // 2).tolist()
    assert shown == list(range(24)), f"expected frame2 before frame10, got {shown}"
    names = ["a10", "a9b", "a9", "A1", "b", "7", "07", "\N{SUPERSCRIPT TWO}"]
    got = sorted(names, key=natural)
    assert got == ["07", "7", "A1", "a9", "a9b", "a10", "b", "\N{SUPERSCRIPT TWO}"], f"got {got}"


def test_folders_of_pictures_may_mix_modes_and_the_odd_one_is_named(tmp_path):
    for i, mode in enumerate(("RGB", "L", "RGBA", "P", "1", "LA")):
        Image.new("L", (16, 8), 255).convert(mode).save(tmp_path / f"{i}.png")
    Image.new("RGB", (16, 8), "white").save(tmp_path / "6.jpg")
    (tmp_path / "._0.png").write_bytes(b"litter of another system")
    (tmp_path / "Thumbs.db").write_bytes(b"litter of another system")
    got = read(tmp_path)
    assert got.shape == (7, 8, 16, 3) and got.min() > 250, (
        f"expected 7 white frames, got {got.shape}, {got.min()}")
    Image.new("RGB", (8, 16)).save(tmp_path / "7.png")
    said = refusal(tmp_path)
    assert "7.png" in said and "16x8" in said and "8x16" in said, (
        f"expected the odd picture and both sizes, got {said!r}")
    (tmp_path / "7.png").write_bytes((tmp_path / "0.png").read_bytes()[:-30])
    assert "7.png" in refusal(tmp_path), "a broken picture in a folder should be named"


@pytest.mark.parametrize("ending", STILLS)
def test_every_kind_of_picture_makes_a_folder(tmp_path, ending):
    for i in (0, 1, 10, 9, 3):
        Image.new("RGB", (16, 8), (20 * i, 0, 0)).save(tmp_path / f"{i}{ending.upper()}")
    shown = read(tmp_path)[:, 4, 8, 0].tolist()
    assert np.allclose(shown, [0, 20, 60, 180, 200], atol=4), (
        f"{ending}: expected 0 1 3 9 10 times 20, got {shown}")


def test_of_a_picture_with_several_views_the_first_counts(tmp_path):
    """Stereo and some telephone cameras put more pictures into a JPEG (MPO): it is no animation."""
    first, second = (Image.fromarray(np.full((16, 24), value, np.uint8)) for value in (200, 40))
    for name in ("1.jpg", "2.jpg"):
        first.save(tmp_path / name, format="MPO", save_all=True, append_images=[second.resize((8, 8))])
    for path, frames in ((tmp_path, 2), (tmp_path / "1.jpg", 1)):
        got = read(path)
        assert got.shape[:3] == (frames, 16, 24) and abs(int(got.mean()) - 200) < 3, f"{path}: got {got.shape}"
