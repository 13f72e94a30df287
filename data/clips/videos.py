"""Videos, read with ffmpeg: upright, with square pixels, at a constant rate.

A frame is uint8 (H,W,3).
"""
import logging
import re
import subprocess

import imageio_ffmpeg
from PIL import Image

from data.clips.pictures import to_frame

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
          ".flv", ".ogv", ".wmv", ".3gp")
MOST_PIXELS = 2 ** 27                                   # of a frame
MOST_SECONDS = 10 ** 6                                  # of a video; more is a damaged header
# Pixels that are not square are made so. ffmpeg turns videos upright by itself.
SQUARE = "scale='iw*clip(sar,0.125,8)':ih,setsar=1"

logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)         # it warns of sizes that we change


def open_video(path, size):
    """Opens what ffmpeg reads: (frames a second or None, (H,W), an iterator of its frames).

    ffmpeg repeats and drops frames where that is needed for a constant rate."""
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        raise ValueError("it is empty")
    if start.isascii() and b"\0" not in start:          # ffmpeg also reads lists of other files
        raise ValueError("it is text, not a video")
    mean, finest = rates_of(path)
    filters = SQUARE
    if mean and finest and abs(finest - mean) > 0.02 * mean:        # frames come at uneven times, as of a screen:
        filters += f",fps={mean}"                                   # ffmpeg would give the finest division
    stream = imageio_ffmpeg.read_frames(
        f"file:{path}", output_params=["-vf", filters],  # file: or a colon in the name would be a protocol
        input_params=["-protocol_whitelist", "file", "-max_pixels", str(MOST_PIXELS)])
    about = next(stream)
    width, height = about["size"]
    if width * height > MOST_PIXELS or about["duration"] > MOST_SECONDS:
        raise ValueError(f"{height}x{width}, {about['duration']:.0f} seconds: expected at most "
                         f"{MOST_PIXELS} pixels and {MOST_SECONDS} seconds")
    return about["fps"] or mean or finest, (height, width), video_frames(stream, height, width, size)


def rates_of(path):
    """What ffmpeg says of a video: its mean rate, and that of the finest division of its times. Each may be None:
    Theora's files state no mean."""
    said = said_by_ffmpeg(path)
    return rate_in(said, "fps"), rate_in(said, "tbr")


def count_frames(path):
    """How many frames of a video can be decoded."""
    counts = re.findall(r"frame= *(\d+)", said_by_ffmpeg(path, "-map", "0:v:0", "-f", "null", "-"))
    return int(counts[-1]) if counts else 0             # it counts as it goes


def said_by_ffmpeg(path, *flags):
    """What ffmpeg prints about a video. It gets no keyboard: it would read the terminal of the script."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-protocol_whitelist", "file", "-i", f"file:{path}", *flags]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr.decode(errors="replace")


def rate_in(said, unit):
    """The number before "fps" or "tbr" in what ffmpeg says of the first video stream; None if there is none."""
    stream = re.search(r"Stream.*Video:.*", said)
    found = stream and re.search(rf"([0-9.]+)(k?) {unit}", stream[0])
    return float(found[1]) * (1000 if found[2] else 1) if found else None


def video_frames(stream, height, width, size):
    """Yields the frames that ffmpeg has decoded."""
    for data in stream:
        yield to_frame(Image.frombytes("RGB", (width, height), data), size)
