"""Reading and writing video files with imageio: gif, mp4 (and what else ffmpeg reads), npy, folders of pictures.

A clip in memory is float (c,T,H,W) in [-1,1], c = 1 grey or 3 RGB; a batch of clips (B,c,T,H,W).
"""
import math
from pathlib import Path

import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
import torch

from sora import SPACE, TIME, InputError

WRITES = (".gif", ".mp4", ".npy")
PICTURES = (".png", ".jpg", ".jpeg")


def read_frames(path):
    """Yields the frames, uint8 (H,W) or (H,W,1 to 4), of a video file, a .npy (T,H,W) or (T,H,W,c), or a folder of
    pictures. Raises InputError at the first that cannot be read."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such clip; expected a video file, a .npy or a folder of pictures")
    try:
        if path.is_dir():
            frames = (iio.imread(p) for p in sorted(path.iterdir()) if p.suffix.lower() in PICTURES)
        else:
            frames = np.load(path, mmap_mode="r") if path.suffix == ".npy" else iio.imiter(path)
        frame, shape = None, None
        for frame in frames:
            shape = frame.shape if shape is None else shape
            if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.shape != shape:
                raise ValueError(f"{frame.dtype} frame of shape {frame.shape}, expected uint8, (H,W) or (H,W,3)")
            yield frame
        if frame is None:
            raise ValueError("it is empty")
    except Exception as error:  # every plugin of imageio fails in a way of its own
        raise InputError(f"{path}: cannot be read as a clip ({str(error)[:80].partition(chr(10))[0]})") from None


def to_float(frames, channels):
    """uint8 (T,H,W) or (T,H,W,1 to 4) -> (channels,T,H,W) in [-1,1]. Of two or four the last is opacity: over black."""
    frames = frames[..., None] if frames.ndim == 3 else frames
    if frames.shape[-1] in (2, 4):
        frames = (frames[..., :-1] * (frames[..., -1:] / 255)).round().astype(np.uint8)
    video = torch.from_numpy(frames.copy()).movedim(-1, 0).float() / 127.5 - 1
    if video.shape[0] != channels:
        video = video.mean(0, keepdim=True) if channels == 1 else video[:1].expand(3, -1, -1, -1)
    return video


def read_clip(path, channels=1):
    """The whole clip (channels,T,H,W) in a file or folder that `read_frames` reads."""
    return to_float(np.stack(list(read_frames(path))), channels)


def parse_size(text, grid):
    """HxW -> (H, W) in pixels."""
    try:
        size = height, width = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {text}: expected HxW in pixels, such as 48x80") from None
    for name, value in (("height", height), ("width", width)):
        if value <= 0 or value % grid:
            raise InputError(f"--size {text}: {name} {value} is not a positive multiple of {grid} "
                             f"({SPACE} for the VAE x {grid // SPACE} for the patch)")
    return size


def given_clip(path, config, size=None, still=False, keep_end=False):
    """A clip for the VAE of a config: (1,c,T,H,W), T a multiple of 4; resized if there is a `size` (H,W). Of its
    frames every config.stride-th is kept, as in training.

    still: its first frame four times. Frames that do not fill a latent frame are cut off, at the end or, with
    `keep_end`, at the start. Raises InputError if it is too short or of a size that cannot be.
    """
    clip, grid = read_clip(path, config.channels)[:, ::config.stride], SPACE * config.patch
    clip = resize(clip, size) if size else clip
    clip = clip[:, :1].expand(-1, TIME, -1, -1) if still else clip
    _, T, H, W = clip.shape
    if T < TIME or H % grid or W % grid:
        raise InputError(f"{path}: {T} frames of {H}x{W}: expected at least {TIME} frames, height and width multiples "
                         f"of {grid}; --resize brings it to {config.height}x{config.width} or to --size")
    if (H, W) != (config.height, config.width):
        print(f"note: {path} is {H}x{W}; this model was trained at {config.height}x{config.width}")
    if over := T % TIME:
        print(f"note: {over} frames of {path} are left out: the VAE takes {TIME} at a time")
    return clip[None, :, over:] if keep_end else clip[None, :, :T - over]


def resize(clip, size):
    """Clip (c,T,H,W) -> (c,T,*size): scaled until it covers the size, then the middle is cut out."""
    _, _, H, W = clip.shape
    scale = max(size[0] / H, size[1] / W)
    frames = torch.nn.functional.interpolate(clip.transpose(0, 1), [max(round(H * scale), size[0]),
                                             max(round(W * scale), size[1])], mode="bilinear", antialias=True)
    y, x = (frames.shape[2] - size[0]) // 2, (frames.shape[3] - size[1]) // 2
    return frames[:, :, y:y + size[0], x:x + size[1]].transpose(0, 1)


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


class ClipWriter:
    """Writes clips of `frames` frames piece by piece, as one .gif, .mp4 or .npy (a grid if there are several), and at
    the end a contact sheet .png beside it.

    .mp4 is fragmented and .npy is mapped from disk: what is written can be read while the rest is still being made,
    and memory does not grow with the length. .gif is kept in memory and written at the end.
    """
    still = 20  # frames of a contact sheet

    def __init__(self, path, frames, fps=12, scale=1, columns=None):
        self.path, self.frames, self.fps, self.scale, self.columns = Path(path), frames, fps, scale, columns
        self.at, self.sheet, self.out = 0, [], None
        self.pick = set(torch.linspace(0, frames - 1, min(frames, self.still)).round().long().tolist())

    def write(self, videos):
        """The next frames (B,c,T,H,W) of all clips; what is beyond the last frame is left out."""
        videos = videos[:, :, :self.frames - self.at].float().cpu()
        pixels = to_pixels(grid(videos, self.columns), self.scale)
        T, H, W, _ = pixels.shape
        self.sheet += [videos[:, :, t:t + 1] for t in range(T) if self.at + t in self.pick]
        if self.path.suffix == ".npy":
            if self.out is None:
                self.out = np.lib.format.open_memmap(self.path, "w+", np.uint8, (self.frames, H, W, 3))
            self.out[self.at:self.at + T] = pixels
            self.out.flush()
        elif self.path.suffix == ".gif":
            self.out = [*(self.out or []), pixels]
        else:
            self.out = self.out or imageio.get_writer(
                self.path, fps=self.fps, codec="libx264", macro_block_size=1,
                output_params=["-movflags", "frag_keyframe+empty_moov", "-g", "24", "-flush_packets", "1"])
            for frame in np.pad(pixels, ((0, 0), (0, H % 2), (0, W % 2), (0, 0))):             # h264 wants even sizes
                self.out.append_data(frame)
        self.at += T

    def close(self):
        """Finishes the file and writes the contact sheet: a row a clip, its frames evenly spread."""
        if not self.at:
            return
        if self.path.suffix == ".gif":
            iio.imwrite(self.path, np.concatenate(self.out), duration=1000 / self.fps, loop=0)
        elif self.path.suffix == ".mp4":
            self.out.close()
        frames = torch.cat(self.sheet, dim=2).transpose(1, 2)                  # (B,n,c,H,W)
        sheet = grid(frames.flatten(0, 1)[:, :, None], columns=frames.shape[1])
        write_still(self.path.with_suffix(".png"), sheet, self.scale)


def write_clip(path, videos, fps=12, scale=1, columns=None):
    """Writes clips (B,c,T,H,W) that are all there already; see ClipWriter."""
    writer = ClipWriter(path, videos.shape[2], fps, scale, columns)
    writer.write(videos)
    writer.close()


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


def make_folder(path, flag="--out"):
    """Makes the folder and tries to write into it; InputError if that fails. flag: what says where it is."""
    probe = Path(path) / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place with {flag}") from None
