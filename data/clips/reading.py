"""Reading clips: video files with ffmpeg, pictures with Pillow, .npy with numpy, frame by frame.

A frame is uint8 (H,W,3); a clip in memory is float (c,T,H,W) in [-1,1], c = 1 grey or 3 RGB.
"""
import itertools
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import numpy as np
import torch
from PIL import Image

from data.clips.pictures import ANIMATIONS, STILLS, open_animation, open_picture, open_still
from data.clips.pictures import to_frame, upright_size
from data.clips.videos import VIDEOS, open_video
from sora import InputError

CLIPS = (*VIDEOS, *ANIMATIONS, ".npy")                  # and folders of stills, see find.py
MNIST_TEST = 20, 64, 64                                 # frames, height and width of that file's clips
CHANNELS = 1, 3, 4                                      # grey, RGB, RGB with opacity


class Clip(NamedTuple):
    """A clip that is open: its frames are read one by one, uint8 (H,W,3) each."""
    rate: Optional[float]                               # frames a second; None: not known
    height: int                                         # as in the file, upright, with square pixels
    width: int
    frames: Iterator[np.ndarray]


def open_clip(path, size=None):
    """Opens a clip of any kind; its frames are fitted to `size` (H,W), if there is one.

    Raises InputError, now or at the first frame that cannot be read.
    """
    path = Path(path)
    with named(path):
        if not path.exists():
            raise InputError(f"{path}: no such clip; expected a video file, a .npy or a folder of pictures")
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{path}: neither a file nor a folder, so it is not read")
        ending = path.suffix.lower()
        if path.is_dir():
            clip = open_folder(path, size)
        elif ending == ".npy":
            clip = open_array(load_array(path), size)
        elif ending in (*ANIMATIONS, *STILLS):
            rate, shape, frames = open_animation(path, size)
            clip = Clip(rate, *shape, frames)
        elif ending in VIDEOS:
            rate, shape, frames = open_video(path, size)
            clip = Clip(rate, *shape, frames)
        else:
            raise InputError(f"{path}: ending {path.suffix!r}; expected a folder of pictures or one of "
                             f"{' '.join((*CLIPS, *STILLS))}")
    return clip._replace(frames=at_least_one(path, clip.frames))


@contextmanager
def named(path):
    """Turns what the libraries raise, each format in a way of its own, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        lines = [line for line in said if not line.startswith(("frame=", "Error opening output"))]     # no reasons
        lines = lines or said or [type(error).__name__]
        raise InputError(f"{path}: cannot be read as a clip ({lines[-1][:300]})") from None


def at_least_one(path, frames):
    """The frames, with errors that name the file; no frame at all is one, too."""
    empty = True
    with named(path):
        for frame in frames:
            empty = False
            yield frame
        if empty:
            raise ValueError("it has no frames")


def natural(name):
    """A key to sort names by in which 2 comes before 10."""
    parts = re.split("([0-9]+)", str(name))
    parts[1::2] = [int(part) for part in parts[1::2]]   # every other one is a number
    return parts, str(name)                             # 01 and 1 are two names


def stills_in(folder):
    """The pictures of a folder, in the natural order of their names, without hidden ones."""
    stills = [path for path in folder.iterdir()
              if path.suffix.lower() in STILLS and not path.name.startswith(".") and path.is_file()]
    return sorted(stills, key=natural)


def open_folder(path, size):
    """A folder of pictures of one size, a frame each."""
    stills = stills_in(path)
    if not stills:
        raise ValueError("it is empty: no pictures lie in it")
    with named(stills[0]), open_picture(stills[0]) as first:
        shape = upright_size(first)
    return Clip(None, *shape, folder_frames(stills, shape, size))


def folder_frames(stills, expected, size):
    """Yields the pictures. InputError names the one that cannot be read or has another size."""
    for path in stills:
        with named(path):
            shape, frame = open_still(path, size)
            if shape != expected:
                raise ValueError(f"{shape[0]}x{shape[1]}, but {stills[0].name} is {expected[0]}x{expected[1]}; "
                                 "the pictures of a folder are the frames of one clip")
        yield frame


def load_array(path):
    """The array of a .npy, mapped from disk."""
    return np.lib.format.open_memmap(path, mode="r")


def is_mnist_test(array):
    """Whether an array is laid out as the Moving MNIST test file: uint8 (20,N,64,64), N clips."""
    frames, *canvas = MNIST_TEST
    return (array.dtype == np.uint8 and array.ndim == 4 and array.shape[0] == frames
            and list(array.shape[2:]) == canvas and array.shape[1] > 4)


def load_mnist_test(path):
    """The clips of the Moving MNIST test file, uint8 (20,N,64,64); None if it is any other file."""
    if path.suffix.lower() != ".npy" or not path.is_file():
        return None
    try:
        array = load_array(path)
    except Exception:  # open_clip will say what is wrong
        return None
    return array if is_mnist_test(array) else None


def open_array(array, size):
    """A clip of uint8 (T,H,W) or (T,H,W,c), c 1, 3 or 4. ValueError names the axes of another."""
    expected = "expected uint8, 0 to 255, of shape (T,H,W) or (T,H,W,c) with 1, 3 or 4 channels c"
    found = f"{array.dtype} of shape {array.shape}"
    if is_mnist_test(array):
        raise ValueError(f"{found}: the Moving MNIST test file, {array.shape[1]} clips of 20 frames. Save "
                         "one, np.save('clip.npy', array[:, 0]), or use it with --data or --mnist-test")
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ValueError(f"{found}: {expected}")
    if array.ndim == 4 and array.shape[3] not in CHANNELS:
        hint = ", perhaps (T,c,H,W)" if array.shape[1] in CHANNELS else ""
        raise ValueError(f"{found}{hint}: {expected}")
    if 0 in array.shape:
        raise ValueError(f"it is empty: {found}")
    if array.ndim == 3 and array.shape[2] in CHANNELS:
        raise ValueError(f"{found}: one picture (H,W,c)? np.save('clip.npy', array[None]) makes it a clip of "
                         f"one frame; {expected}")
    return Clip(None, *array.shape[1:3], array_frames(array, size))


def array_frames(array, size):
    """Yields the frames of an array."""
    for pixels in array:
        if pixels.shape[-1] == 1 and pixels.ndim == 3:
            pixels = pixels[..., 0]
        yield to_frame(Image.fromarray(np.ascontiguousarray(pixels)), size)


def in_time(clip, rate=0, stride=1):
    """The frames of a clip as training sees them: at `rate` frames a second, of these every stride-th.

    rate 0, or a clip whose own rate is not known: the frames as they are.
    """
    frames = clip.frames
    if rate and clip.rate and rate != clip.rate:
        frames = resample(frames, clip.rate, rate)
    return itertools.islice(frames, 0, None, stride)


def resample(frames, rate, wanted):
    """Frames at `rate` a second -> at `wanted` a second: each is the one on screen at its time."""
    shown = 0
    for i, frame in enumerate(frames):
        while shown * rate < (i + 1) * wanted:          # shown / wanted comes before the next frame
            yield frame
            shown += 1


def to_channels(frame, channels):
    """uint8 (H,W,3) -> (H,W,channels): grey is the mean of red, green and blue."""
    if channels == 3:
        return frame
    return frame.mean(axis=2, keepdims=True, dtype=np.float32).round().astype(np.uint8)


def to_float(frames):
    """uint8 (T,H,W,c) -> a clip (c,T,H,W) in [-1,1]."""
    return torch.from_numpy(frames).movedim(-1, 0).float() / 127.5 - 1
