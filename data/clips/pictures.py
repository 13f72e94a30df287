"""Pictures, still or animated, read with Pillow: upright, in RGB with 8 bits, over black, in time.

A frame is uint8 (H,W,3).
"""
import re
import warnings

import numpy as np
from PIL import Image, ImageOps, ImageSequence

STILLS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")        # some can be animated
ANIMATIONS = (".gif", ".apng")
QUICK = 20      # ms: browsers show a frame that asks for less, or for nothing, 100 ms long
USUAL = 100
OURS = re.compile(rb"sora\.py: (\d+) ms a frame")       # the comment in a GIF that we have written
ORIENTATION = 0x0112                                    # the EXIF tag
BITS, PHOTOMETRIC = 258, 262                            # of TIFF

warnings.filterwarnings("ignore", module=r"PIL\.")      # what matters is an error, and is named


def open_picture(path):
    """A Pillow image. PNG has checksums, which are verified here: decoding does not look at them all."""
    with Image.open(path) as image:
        if image.format == "PNG":
            image.verify()
        if image.format == "GIF":
            check_end(path)
    return Image.open(path)                             # anew: after `verify` an image is of no use


def check_end(path):
    """Raises ValueError if a GIF lacks its last byte, a semicolon: Pillow would show what there is."""
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - 1024, 0))
        end = file.read().rstrip(b"\0")
    if not end.endswith(b";"):
        raise ValueError("it is cut off: the end of the file is missing")


def moves(image):
    """Whether a Pillow image is an animation. JPEGs of cameras may hold more pictures (MPO): the first counts."""
    return getattr(image, "is_animated", False) and image.format != "MPO"


def is_animated(path):
    """Whether a picture has several frames. False if it cannot be opened: reading it will say why."""
    try:
        with Image.open(path) as image:
            return moves(image)
    except Exception:  # every format of Pillow fails in a way of its own
        return False


def upright_size(image):
    """(H,W) of an image as it is to be seen."""
    if orientation_of(image) >= 5:                      # a quarter turn
        return image.width, image.height
    return image.height, image.width


def orientation_of(image):
    """1 to 8 as in EXIF; 1: as stored."""
    return image.getexif().get(ORIENTATION, 1)


def to_frame(image, size=None):
    """A Pillow image -> uint8 (H,W,3), upright; fitted to a `size` (H,W) if there is one.

    Bits beyond 8 are dropped, what is transparent is put over black. ValueError if the values have
    no known range, as in pictures of floats.
    """
    kind = image.format, image.mode
    if kind == ("TIFF", "I;16") and (image.tag_v2[BITS], image.tag_v2.get(PHOTOMETRIC)) != ((16,), 1):
        raise ValueError("a grey TIFF of 12 bits, or one in which 0 is white; expected 8 or 16 bits, 0 being black")
    if orientation_of(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or kind == ("PNG", "I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of kind {image.mode!r}, expected 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if size is not None:
        image = fit(image, size)
    return np.array(image.convert("RGB"))


def fit(image, size):
    """Cuts the middle out in the aspect ratio of `size` (H,W), then scales it with antialiasing.

    In this order memory does not grow with what is cut off.
    """
    height, width = size
    scale = min(image.height / height, image.width / width)
    part_height, part_width = height * scale, width * scale
    top = max((image.height - part_height) / 2, 0)
    left = max((image.width - part_width) / 2, 0)
    bottom = min(top + part_height, image.height)
    right = min(left + part_width, image.width)
    box = left, top, right, bottom
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def read_delays(path):
    """For how many ms each frame of an animation is shown.

    An APNG can begin with a picture for those who cannot show animations: 0 ms.
    """
    delays = []
    with open_picture(path) as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()                                # before that, WebP does not tell
            delay = frame.info.get("duration") or 0
            delays.append(USUAL if delay < QUICK else delay)
        if image.info.get("default_image"):
            delays[0] = 0
    return delays


def counts_of(delays, unit):
    """How often each frame is shown at one frame every `unit` ms, rounded so that times add up."""
    ends = np.floor(np.cumsum(delays) / unit + 0.5)
    counts = np.diff(ends, prepend=0).astype(int).tolist()
    return [0 if delay == 0 else max(n, 1) for delay, n in zip(delays, counts)]


def open_animation(path, size=None):
    """Opens a picture that may move: (frames a second or None, (H,W), an iterator of its frames).

    Animations give each frame a time. Frames are repeated so that all have the shortest of these.
    Of GIFs that we have written we know what a frame is, also if all of them were held.
    """
    with open_picture(path) as image:
        shape, kind = upright_size(image), image.format
        pages = image.n_frames if moves(image) else 1
        comment = image.info.get("comment")
    ours = OURS.fullmatch(comment) if isinstance(comment, bytes) else None
    rate, counts = None, [1] * pages
    if kind != "TIFF" and (pages > 1 or ours):          # the pages of a TIFF have no times
        delays = read_delays(path)
        unit = int(ours[1]) if ours else min(delay for delay in delays if delay)
        rate, counts = 1000 / unit, counts_of(delays, unit)
    return rate, shape, animation_frames(path, shape, counts, size)


def animation_frames(path, expected, counts, size):
    """Yields the frames of a picture, each so many times. ValueError if their sizes differ."""
    with open_picture(path) as image:
        for index, count in enumerate(counts):
            image.seek(index)
            if upright_size(image) != expected:
                raise ValueError(f"frame {index} is of another size than the first")
            if count == 0:
                continue
            frame = to_frame(image, size)
            for _ in range(count):
                yield frame


def open_still(path, size=None):
    """One picture of a folder: ((H,W) as it is stored, its frame). ValueError if it moves."""
    with open_picture(path) as image:
        if moves(image):
            raise ValueError("it is animated, expected a still")
        return upright_size(image), to_frame(image, size)
