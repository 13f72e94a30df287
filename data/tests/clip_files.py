"""Writing clips with other tools than our own, and reading them with ours."""
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest

from data.clips.reading import open_clip
from data.tests.conftest import MINI, counting
from sora import InputError

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video", ".mpeg": "mpeg2video", ".flv": "flv",
          ".ogv": "libtheora", ".wmv": "wmv2"}          # the others: H.264


def encode(path, frames, fps=24, *flags, ending=""):
    """Writes uint8 (T,H,W,3) as a video with ffmpeg itself. Returns the path, with the ending."""
    path = path.with_name(path.name + ending)
    height, width = frames.shape[1:3]
    codec = CODECS.get(path.suffix.lower(), "libx264")
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    made = ["-c:v", codec, "-pix_fmt", "yuv420p", "-q:v", "2", *flags, str(path)]
    command = [FFMPEG, "-v", "error", "-y", *given, *made]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def read(path, size=None):
    """All frames of a clip, (T,H,W,3)."""
    return np.stack(list(open_clip(path, size).frames)).astype(int)


def refusal(path):
    """What is said of a clip that cannot be read."""
    with pytest.raises(InputError) as error:
        read(path)
    return str(error.value)


def numbers(frames):
    """Which frames of `counting` are shown."""
    return (np.median(frames[:, :, 8:, 1], axis=(1, 2)) / 2).round().astype(int).tolist()


def config_of(folder, **more):
    """The config of a model of the clips in a folder."""
    return replace(MINI, data=str(folder), **dict(height=32, width=32, frames=8, channels=3) | more)


def save(path, frames):
    """Writes an array, and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, frames)


@pytest.fixture
def plain(tmp_path):
    """A folder with two classes of two clips each, as arrays."""
    for name in ("wave/a2", "wave/a10", "sit/b1", "sit/b2"):
        save(tmp_path / f"plain/{name}.npy", counting(12))
    return tmp_path / "plain"
