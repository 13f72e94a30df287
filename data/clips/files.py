"""Writing clips: .gif, .mp4, .webm and .npy, with a contact sheet beside them.

A clip in memory is float (c,T,H,W) in [-1,1], c = 1 grey or 3 RGB; a batch of clips (B,c,T,H,W).
"""
import io
import math
import struct
from pathlib import Path
from tempfile import TemporaryFile

import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.clips.videos import count_frames
from data.runtime.errors import undisturbed
from data.runtime.writing import putting_in_place, replacing
from sora import InputError

OURS = "contact sheet of sora.py"                       # a text in the pictures that may be overwritten
CODECS = {                                              # the file can be read while the rest is being made
    ".mp4": {"codec": "libx264", "output_params":
             "-movflags frag_keyframe+empty_moov -g 24 -flush_packets 1".split()},
    ".webm": {"codec": "libvpx-vp9", "quality": None, "output_params":
              "-crf 18 -b:v 0 -deadline realtime -cpu-used 6 -g 24 -cluster_time_limit 1000".split()}}


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


class ArrayFile:
    """A .npy that is whole after every piece: its head says how many frames there are so far."""

    def __init__(self, path, fps):
        self.path, self.frames = path, 0

    def write(self, pixels):
        """Appends frames, uint8 (T,H,W,3). The head is as long for any number of frames."""
        mode = "r+b" if self.frames else "wb"
        self.frames += len(pixels)
        head = {"descr": "|u1", "fortran_order": False, "shape": (self.frames, *pixels.shape[1:])}
        with open(self.path, mode) as file:
            np.lib.format.write_array_header_1_0(file, head)
            file.seek(0, 2)
            file.write(pixels.tobytes())

    def close(self):
        """Nothing is left to do."""


class GifFile:
    """A .gif, kept in memory and written at the end."""

    def __init__(self, path, fps):
        self.path, self.fps, self.parts = path, fps, []

    def write(self, pixels):
        """Appends frames, uint8 (T,H,W,3)."""
        self.parts.append(pixels)

    def close(self):
        """Pillow makes one of equal frames, which is shown longer; the comment says how long one of them
        was, so that reading gets all of them back."""
        delay, gif = gif_delay(self.fps), io.BytesIO()
        first, *rest = [Image.fromarray(frame) for frame in np.concatenate(self.parts)]
        try:
            first.save(gif, "GIF", save_all=True, append_images=rest, duration=delay, loop=0,
                       comment=f"sora.py: {delay} ms a frame".encode())
        except (OverflowError, struct.error):           # times have 16 bits
            raise OSError("a picture stands still for over 655 s, the most in a .gif: choose .mp4") from None
        self.path.write_bytes(gif.getvalue())


def gif_delay(fps):
    """For how many ms a .gif shows a frame: whole hundredths of a second, at least two, because browsers
    slow down what is faster."""
    return max(round(100 / fps), 2) * 10


class VideoFile:
    """A .mp4 or .webm, written by ffmpeg as the frames come."""

    def __init__(self, path, fps):
        self.path, self.frames = path.absolute(), 0     # 12:30.mp4 would be a protocol, ~ a home
        self.out = imageio.get_writer(self.path, fps=fps, macro_block_size=1,
                                      ffmpeg_log_level="quiet", **CODECS[path.suffix])

    def write(self, pixels):
        """Appends frames, uint8 (T,H,W,3)."""
        _, H, W, _ = pixels.shape
        for frame in np.pad(pixels, ((0, 0), (0, H % 2), (0, W % 2), (0, 0))):  # codecs want even sizes
            self.out.append_data(frame)
        self.frames += len(pixels)

    def close(self):
        """Raises OSError unless all frames are in the file: a full disk ends ffmpeg without a word."""
        self.out.close()
        found = count_frames(self.path)
        if found != self.frames:
            raise OSError(f"ffmpeg wrote {found} of {self.frames} frames")


WRITES = {".gif": GifFile, ".mp4": VideoFile, ".webm": VideoFile, ".npy": ArrayFile}


class ClipWriter:
    """Writes clips of `frames` frames piece by piece, as one file (a grid if there are several clips), and
    at the end a contact sheet, `sheet_path`, beside it.

    All goes to the file `part` (x.part.mp4), which has to be given its name in the end:
    `putting_in_place`. But for .gif, what is there can be read while the rest is still being made, and
    memory does not grow with the length.
    """
    still = 20                                          # frames of a contact sheet

    def __init__(self, path, frames, fps=12, scale=1, columns=None):
        self.path, self.frames = Path(path), frames
        self.fps, self.scale, self.columns = fps, scale, columns
        self.part = part_of(self.path)
        self.sheet_path = free_for_sheet(self.path)
        self.at, self.sheet, self.file = 0, [], None
        shown = torch.linspace(0, frames - 1, min(frames, self.still)).round().long()
        self.pick = set(shown.tolist())

    def write(self, videos):
        """The next frames (B,c,T,H,W) of all clips; what is beyond the last frame is left out."""
        videos = videos[:, :, :self.frames - self.at].float().cpu()
        with undisturbed():                             # else the file has other frames than we know of
            if self.file is None:
                self.file = WRITES[self.path.suffix](self.part, self.fps)
            self.file.write(to_pixels(grid(videos, self.columns), self.scale))
            for t in range(videos.shape[2]):
                if self.at + t in self.pick:
                    self.sheet.append(videos[:, :, t:t + 1])
            self.at += videos.shape[2]

    def close(self):
        """Finishes the file and writes the contact sheet: a row a clip, its frames evenly spread."""
        self.file.close()
        frames = torch.cat(self.sheet, dim=2).transpose(1, 2)       # (B,n,c,H,W)
        sheet = grid(frames.flatten(0, 1)[:, :, None], columns=frames.shape[1])
        write_still(self.sheet_path, sheet, self.scale)


def part_of(path):
    """What a file is called while it is being written: it may be read already."""
    return path.with_suffix(".part" + path.suffix)


def free_for_sheet(path):
    """Where the contact sheet of a clip goes: beside it, as .png, but never over a picture of others."""
    sheet, n = path.with_suffix(".png"), 1
    while sheet.exists() and not is_ours(sheet):
        sheet = path.with_suffix(f".sheet{n}.png")
        n += 1
    return sheet


def is_ours(path):
    """Whether a picture is one that `write_still` has written."""
    try:
        with open(path, "rb") as file:                  # Pillow would refuse very large ones
            return b"Software\0" + OURS.encode() in file.read(4096)
    except OSError:
        return False


def write_clip(path, videos, fps=12, scale=1, columns=None):
    """Writes clips (B,c,T,H,W) that are all there already; see ClipWriter."""
    check_writable(path)
    writer = ClipWriter(path, videos.shape[2], fps, scale, columns)
    with putting_in_place(writer.part, path):
        for piece in videos.split(64, dim=2):                       # enlarged, all at once may be too much
            writer.write(piece)
        writer.close()


def write_still(path, clip, scale=1):
    """Writes the first frame of a clip (c,T,H,W) as a .png that says it is ours."""
    mark = PngInfo()
    mark.add_text("Software", OURS)
    with replacing(path) as file:
        file.write(iio.imwrite("<bytes>", to_pixels(clip, scale)[0], extension=".png", pnginfo=mark))


def check_writable(path):
    """Raises InputError now, rather than after an hour of work, if `path` has an unknown ending or cannot
    be written."""
    path = Path(path)
    if path.suffix not in WRITES:
        raise InputError(f"{path}: ending {path.suffix!r}: expected one of {', '.join(WRITES)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file")
    make_folder(path.parent)


def make_folder(path, flag="--out"):
    """Makes the folder and tries to write into it; InputError if that fails. flag: what says where it is."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()                             # a name of its own, gone at once
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place with "
                         f"{flag}") from None
