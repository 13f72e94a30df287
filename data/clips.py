"""Reading and writing video files with imageio: gif, mp4 (and what else ffmpeg reads), npy, folders of pictures.

A clip in memory is float (c,T,H,W) in [-1,1], c = 1 grey or 3 RGB; a batch of clips (B,c,T,H,W).
"""
import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from sora import InputError

WRITES = (".gif", ".mp4", ".npy")


def read_clip(path, channels=1):
    """The clip (channels,T,H,W) in a video file, a .npy of uint8 (T,H,W) or (T,H,W,3), or a folder of pictures."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such clip; expected a video file, a .npy or a folder of pictures")
    try:
        if path.is_dir():
            names = [p for p in sorted(path.iterdir()) if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
            frames = np.stack([iio.imread(name) for name in names])
        else:
            every = None if path.suffix == ".gif" else ...                     # imageio's "all frames", by plugin
            frames = np.load(path) if path.suffix == ".npy" else iio.imread(path, index=every)
    except Exception as error:  # every plugin of imageio fails in a way of its own
        raise InputError(f"{path}: cannot be read as a clip ({str(error)[:80].partition(chr(10))[0]})") from None
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise InputError(f"{path}: {frames.dtype} {frames.shape}: expected uint8 frames (T,H,W) or (T,H,W,3)")
    video = torch.from_numpy(frames[..., :3].copy()).movedim(-1, 0).float() / 127.5 - 1
    if video.shape[0] != channels:
        video = video.mean(0, keepdim=True) if channels == 1 else video[:1].expand(3, -1, -1, -1)
    return video


def to_pixels(video, scale=1):
    """Clip (c,T,H,W) in [-1,1] -> uint8 (T,H,W,3), each pixel enlarged to scale x scale."""
    pixels = ((video.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels = pixels.expand(3, -1, -1, -1).movedim(0, -1)
    return pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2).numpy()


def grid(videos, columns=None, gap=2):
    """Clips (B,c,T,H,W) side by side, row by row, with grey gaps -> one clip (c,T,H',W')."""
    B, c, T, H, W = videos.shape
    columns = columns or math.ceil(math.sqrt(B))
    rows = -(-B // columns)
    sheet = videos.new_zeros(c, T, rows * (H + gap) - gap, columns * (W + gap) - gap)
    for i, video in enumerate(videos):
        y, x = i // columns * (H + gap), i % columns * (W + gap)
        sheet[:, :, y:y + H, x:x + W] = video
    return sheet


def contact_sheet(videos, most=20):
    """Clips (B,c,T,H,W) as one still (c,1,H',W'): a row a clip, at most `most` of its frames evenly spread."""
    pick = torch.linspace(0, videos.shape[2] - 1, min(videos.shape[2], most)).round().long()
    frames = videos[:, :, pick].transpose(1, 2)                               # (B,n,c,H,W)
    return grid(frames.flatten(0, 1)[:, :, None], columns=len(pick))


def write_clip(path, videos, fps=12, scale=1, columns=None):
    """Writes clips (B,c,T,H,W) as one .gif, .mp4 or .npy (a grid if B > 1) and a contact sheet .png beside it."""
    path = Path(path)
    pixels = to_pixels(grid(videos, columns), scale)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".gif":
        iio.imwrite(path, pixels, duration=1000 / fps, loop=0)
    else:
        odd = [(0, length % 2) for length in pixels.shape[1:3]]                # h264 wants even sizes
        pixels = np.pad(pixels, ((0, 0), *odd, (0, 0)))
        iio.imwrite(path, pixels, fps=fps, codec="libx264", macro_block_size=1)
    write_still(path.with_suffix(".png"), contact_sheet(videos), scale)


def write_still(path, clip, scale=1):
    """Writes the first frame of a clip (c,T,H,W) as a picture."""
    iio.imwrite(path, to_pixels(clip, scale)[0])


def check_writable(path):
    """Raises InputError now rather than after an hour of work if `path` has an unknown ending or cannot be written."""
    path = Path(path)
    if path.suffix not in WRITES:
        raise InputError(f"{path}: ending {path.suffix!r}: expected one of {', '.join(WRITES)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file")
    make_folder(path.parent)


def make_folder(path):
    """Makes the folder and tries to write into it; InputError if that fails."""
    probe = Path(path) / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place with --out") from None
