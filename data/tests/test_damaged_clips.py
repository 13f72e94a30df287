"""A damaged clip is read or refused in one line; where a file has checksums, never read wrongly."""
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies
from PIL import Image

from data.clips.reading import open_clip
from data.tests.clip_files import encode
from data.tests.conftest import counting
from sora import InputError

KINDS = (".gif", ".apng", ".png", ".jpg", ".webp", ".npy", ".mp4")
CHECKED = (".apng", ".png")                             # have checksums
LONGEST = 20                                            # seconds for eight small frames


@cache
def whole(ending):
    """A clip of each kind: (the bytes of the file, its frames)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{ending}"
        frames = counting(8, 16, 16)
        pictures = [Image.fromarray(frame) for frame in frames]
        if ending == ".npy":
            np.save(path, frames)
        elif ending == ".mp4":
            encode(path, frames)
        elif ending in (".png", ".jpg"):
            pictures[7].save(path)
        else:
            kind = "PNG" if ending == ".apng" else None
            pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], duration=80)
        return path.read_bytes(), np.stack(list(open_clip(path).frames))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(ending=strategies.sampled_from(KINDS), how=strategies.sampled_from(["cut", "flip", "flip"]),
       places=strategies.lists(strategies.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
       bit=strategies.integers(0, 7))
def test_damaged_clips_are_read_or_refused(ending, how, places, bit):
    intact, expected = whole(ending)
    data = bytearray(intact)
    spots = [int(place * len(data)) for place in places]
    if how == "cut":
        del data[spots[0]:]
    else:
        for spot in spots:
            data[spot] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path, begin = Path(folder) / f"clip{ending}", time.monotonic()
        path.write_bytes(data)
        try:
            frames = list(open_clip(path, (16, 16)).frames)
        except InputError as error:
            assert str(path) in str(error), f"the file is not named: {error}"
            assert "\n" not in str(error), f"expected one line, got {error}"
            return
        finally:
            seconds = time.monotonic() - begin
            assert seconds < LONGEST, f"{ending}, {how} at {spots}: {seconds:.0f} seconds"
    right = np.array_equal(frames, expected)
    if ending in CHECKED:
        assert right, f"{ending}, {how} at {spots}, bit {bit}: wrong pixels, and nobody said so"
    if how == "cut" and ending != ".mp4":               # which can be read while it grows
        assert right, f"{ending}: cut to {len(data)} of {len(intact)} bytes, and nobody said so"


def test_a_gif_that_is_cut_off_anywhere_is_refused(tmp_path):
    """Also between two frames, where Pillow would show what there is."""
    intact, _ = whole(".gif")
    for length in range(len(intact)):
        (tmp_path / "x.gif").write_bytes(intact[:length])
        try:
            n = len(list(open_clip(tmp_path / "x.gif").frames))
        except InputError:
            continue
        raise AssertionError(f"cut to {length} of {len(intact)} bytes: read as {n} of 8 frames")
