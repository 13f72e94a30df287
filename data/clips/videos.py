"""Videos, read with ffmpeg: upright, with square pixels, at a constant rate.

A frame is uint8 (H,W,3).
"""
import logging
import re
import subprocess

import imageio_ffmpeg
from PIL import Image
from tqdm import tqdm

from data.clips.pictures import to_frame

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
          ".flv", ".ogv", ".wmv", ".3gp")
MOST_PIXELS = 2 ** 27                                   # of a frame
MOST_SECONDS = 10 ** 6                                  # of a video; more is a damaged header
# Pixels that are not square are made so. ffmpeg turns videos upright by itself.
SQUARE = "scale='iw*clip(sar,0.125,8)':ih,setsar=1"
OVER_BLACK = "format=gbrap,premultiply=inplace=1"
SEE_THROUGH = re.compile(r"\b(rgba|bgra|argb|abgr|ya8|ya16|yuva|gbrap)")        # formats of pixels with an opacity
RATES = 0.01, 1000                                      # frames a second; others are no rates, as of a cover of music

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
    said = said_by_ffmpeg(path)
    pictures = video_stream(said)
    if "Stream #0" in said and not pictures:
        raise ValueError("it has no pictures, only sound")
    if "alpha_mode" in said:                            # in WebM, where ffmpeg's own decoder leaves it out
        raise ValueError("it has transparent pixels, and a .webm's are not read; convert it to an animated .webp")
    mean, finest = rate_in(pictures, "fps"), rate_in(pictures, "tbr")
    filters = f"{SQUARE},{OVER_BLACK}" if SEE_THROUGH.search(pictures) else SQUARE
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
    rate = about["fps"] or mean or finest
    if rate and not RATES[0] <= rate <= RATES[1]:
        rate = None
    expected = about["duration"] * (rate or 0)
    return rate, (height, width), video_frames(path, stream, height, width, size, expected)


def count_frames(path):
    """How many frames of a video can be decoded."""
    counts = re.findall(r"frame= *(\d+)", said_by_ffmpeg(path, "-map", "0:v:0", "-f", "null", "-"))
    return int(counts[-1]) if counts else 0             # it counts as it goes


def said_by_ffmpeg(path, *flags):
    """What ffmpeg prints about a video. It gets no keyboard: it would read the terminal of the script."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-protocol_whitelist", "file", "-i", f"file:{path}", *flags]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr.decode(errors="replace")


def video_stream(said):
    """The line that ffmpeg says of the first stream of pictures; "" if there is none."""
    found = re.search(r"Stream.*Video:.*", said)
    return found[0] if found else ""


def rate_in(pictures, unit):
    """The number before "fps", the mean rate, or "tbr", the finest division of times, in the line of a stream. None if
    there is none: Theora's files state no mean."""
    found = re.search(rf"([0-9.]+)(k?) {unit}", pictures)
    return float(found[1]) * (1000 if found[2] else 1) if found else None


def video_frames(path, stream, height, width, size, expected):
    """Yields the frames that ffmpeg has decoded, and says so if these are clearly fewer than expected."""
    n = 0
    for n, data in enumerate(stream, start=1):
        yield to_frame(Image.frombytes("RGB", (width, height), data), size)
    if n < 0.9 * expected - 2:
        tqdm.write(f"note: {path}: {n} frames, its times promise {expected:.0f}: it is cut short or damaged, or its "
                   "sound is longer")
