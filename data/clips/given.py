"""Clips and pictures that the command line of sample.py gives, ready for the VAE."""
import itertools

import numpy as np
import torch

from data.clips.reading import in_time, open_clip, to_channels, to_float
from data.runtime.memory import check_memory, clip_bytes
from sora import SPACE, TIME, InputError


def parse_size(text, grid):
    """HxW -> (H, W) in pixels."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {text}: expected HxW in pixels, such as 48x80") from None
    for name, value in (("height", height), ("width", width)):
        if value <= 0 or value % grid:
            raise InputError(f"--size {text}: {name} {value} is not a positive multiple of {grid} "
                             f"({SPACE} for the VAE x {grid // SPACE} for the patch)")
    return height, width


def given_clip(path, config, size=None, still=False, keep_end=False, most=None, device="cpu"):
    """A clip for the VAE of a config: (clip (1,c,T,H,W) with T a multiple of 4, frames a second or None).

    Its frames are fitted to `size` (H,W), if there is one, and taken in time as in training: resampled
    to config.rate, and of these every config.stride-th. They are read one by one.
    still: its first frame four times. most: how many frames to read; device: where the clip will go.
    Frames that do not fill a latent frame are cut off, at the end or, with `keep_end`, at the start.
    Raises InputError if it is too short, too long for the memory, or of a size that cannot be.
    """
    opened = open_clip(path, size)
    check_size(path, config, size or (opened.height, opened.width))
    wanted, stride = (config.rate, config.stride) if config.data else (0, 1)
    rate = (wanted or opened.rate) / stride if opened.rate else None
    frames = in_time(opened, wanted, stride)
    kept = []
    for frame in itertools.islice(frames, 1 if still else most):
        kept.append(to_channels(frame, config.channels))
        height, width = frame.shape[:2]
        needed = clip_bytes(config, len(kept), height, width)
        check_memory(f"{path}: {len(kept)} frames of {height}x{width} or more", needed, device)
    clip = to_float(np.stack(kept))
    if still:
        clip = clip.expand(-1, TIME, -1, -1)
    if not config.data:
        clip = white_on_black(path, clip)
    _, T, H, W = clip.shape
    if T < TIME:
        raise InputError(f"{path}: {T} frames of {H}x{W}: expected at least {TIME} frames")
    over = T % TIME
    if over:
        print(f"note: {over} frames of {path} are left out: the VAE takes {TIME} at a time")
    return clip[None, :, over:] if keep_end else clip[None, :, :T - over], rate


def check_size(path, config, size):
    """Raises InputError unless frames of the size (H,W) can be encoded."""
    cell, (height, width) = SPACE * config.patch, size
    if height % cell or width % cell:
        raise InputError(f"{path}: frames of {height}x{width}: expected height and width multiples of {cell}; "
                         f"--resize brings it to {config.height}x{config.width} or to --size")


def white_on_black(path, clip):
    """A clip (c,T,H,W) for a model of moving digits, which are white on black: one whose border is
    bright is turned round, with a note."""
    edges = clip[..., 0, :], clip[..., -1, :], clip[..., :, 0], clip[..., :, -1]
    border = torch.cat([edge.flatten() for edge in edges])
    if border.mean() <= 0:
        return clip
    print(f"note: {path} is dark on a bright ground; this model's digits are white on black, so it is inverted")
    return -clip
