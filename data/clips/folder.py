"""Where training clips come from: moving MNIST, or a folder of videos, decoded once and then read from disk.

    FOLDER/wave one hand/anna.mp4        what ffmpeg reads, .gif, .npy of uint8 (T,H,W) or (T,H,W,3), or
    FOLDER/wave one hand/ben/0001.png    a folder of pictures, in the order of their names

The caption is the name of the folder that the clip lies in, or the text of a .txt beside it (anna.txt). Frames are
scaled until they cover the canvas, and the middle is cut out; every `stride`-th is kept. Of several shapes, a clip is
shown in those whose aspect ratio is nearest to its own. A training clip is a window of frames that starts anywhere in a
clip, long clips being drawn more often. Some whole clips are held out.
"""
import json
import math
import os
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.runtime.config import check
from data.clips.files import PICTURES, make_folder, read_frames, resize, to_float
from data.clips.moving_mnist import MovingMNIST, load_digits
from sora import TIME, InputError

VERSION = 2  # of the cache
VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".gif", ".npy")


def find_clips(folder):
    """Every clip below a folder, by name: a list of (path, caption, size and time of the files)."""
    found = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        pictures = [p for p in path.iterdir() if p.suffix.lower() in PICTURES] if path.is_dir() else []
        if pictures or path.is_file() and path.suffix.lower() in VIDEOS:
            text, named = path.with_suffix(".txt"), path.parent.name if path.parent != folder else ""
            caption = text.read_text("utf-8", "replace") if text.is_file() else named
            stats = [p.stat() for p in sorted(pictures) or [path] if p.exists()]               # a link may lead nowhere
            found.append((str(path.relative_to(folder)), " ".join(caption.lower().split()),
                          [[s.st_size, s.st_mtime_ns] for s in stats]))
    return found


def decode(folder, found, cache, size, channels, stride):
    """Reads every clip and writes its frames one behind the other into cache.raw, uint8 (frames,H,W,channels), and what
    is where into cache.json. Both appear only when they are whole."""
    clips, skipped, total = [], {}, 0
    raw = cache.with_suffix(".raw.tmp")
    with raw.open("wb") as file:
        for name, caption, _ in tqdm(found, "decoding", unit="clip"):
            length = 0
            try:
                for i, frame in enumerate(read_frames(folder / name)):
                    aspect = frame.shape[1] / frame.shape[0]
                    if i % stride == 0:
                        pixels = resize(to_float(frame[None], channels), size)                 # (c,1,H,W)
                        file.write(((pixels[:, 0].movedim(0, -1) + 1) * 127.5).round().byte().numpy().tobytes())
                        length += 1
                clips.append((name, caption, total, length, aspect))
                total += length
            except InputError as error:
                skipped[name] = str(error)
                file.seek(total * size[0] * size[1] * channels)                # what was written of it is written over
        file.truncate()
    os.replace(raw, cache.with_suffix(".raw"))
    table = cache.with_suffix(".json.tmp")
    table.write_text(json.dumps({"version": VERSION, "found": found, "shape": [total, *size, channels], "clips": clips,
                                 "skipped": skipped}))
    os.replace(table, cache.with_suffix(".json"))


def read_cache(folder, size, channels, stride, cache=""):
    """The cache of a folder, made anew if its files have changed: (frames (n,H,W,channels) on disk, clips, skipped)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder")
    found = find_clips(folder)
    if not found:
        raise InputError(f"--data {folder}: no clips in it; expected {', '.join(VIDEOS)} or folders of pictures, in "
                         "folders named by their captions")
    place = Path(cache) if cache else folder / ".cache"
    make_folder(place, "--cache")
    path = place / f"{size[0]}x{size[1]}x{channels}-every{stride}"
    raw, table = path.with_suffix(".raw"), path.with_suffix(".json")
    try:
        cached = json.loads(table.read_text())
        fresh = [cached["version"], cached["found"]] == json.loads(json.dumps([VERSION, found])) and (
            raw.stat().st_size == math.prod(cached["shape"]))
    except (OSError, ValueError, LookupError, TypeError):
        fresh = False
    if not fresh:
        table.unlink(missing_ok=True)                                          # it does not describe the next .raw
        decode(folder, found, path, size, channels, stride)
        cached = json.loads(table.read_text())
    frames = np.memmap(raw, np.uint8, "r", shape=tuple(cached["shape"])) if cached["shape"][0] else None
    return frames, cached["clips"], cached["skipped"]


def least(frames):
    """The frames that a clip must have to be shown in windows of so many; an image is one of its frames."""
    return frames if frames > TIME else 1


def fitting(clips, config):
    """The clips whose aspect ratio is nearer to the config's canvas than to those of its other shapes that they are
    long enough for; if there are none, all of them: they are cropped."""
    distance = lambda clip, height, width: abs(math.log(clip[-1] * height / width))
    shapes = [tuple(map(int, part.partition(":")[0].split("x"))) for part in config.shapes.split()]
    return [clip for clip in clips if all(
        distance(clip, config.height, config.width) <= distance(clip, height, width) + 1e-9
        for frames, height, width in shapes if clip[3] >= least(frames))] or clips


class ClipFolder:
    """Windows of the clips in a folder, with the interface of MovingMNIST. `words`: those of all captions, sorted.

    split "train" or "heldout": held out are the clips whose name has one of the words in `heldout`, or every tenth.
    """

    def __init__(self, config, split, device="cpu"):
        self.frames, self.device, need = config.frames, device, least(config.frames)
        self.pixels, clips, skipped = read_cache(config.data, (config.height, config.width), config.channels,
                                                 config.stride, config.cache)
        self.skipped = skipped | {name: f"{n} frames, expected at least {need}" for name, *_, n, _ in clips if n < need}
        # what is held out, and what a word's number is, must not depend on the length of the windows
        self.words = sorted({word for _, caption, *_ in clips for word in caption.split()})
        parts = config.heldout.split()
        out = [any(part in name for part in parts) if parts else i % 10 == min(9, len(clips) - 1)
               for i, (name, *_) in enumerate(clips)]
        usable = {part: [clip for clip, o in zip(clips, out) if o == (part == "heldout") and clip[3] >= need]
                  for part in ("train", "heldout")}
        if not all(usable.values()):
            raise InputError(f"--data {config.data}: {len(usable['train'])} clips of {need} frames or more to train "
                             f"on, {len(usable['heldout'])} to hold out (--heldout {config.heldout!r}), "
                             f"{len(self.skipped)} skipped; expected some of each")
        self.names, captions, first, length, _ = zip(*fitting(usable[split], config))
        self.first, self.length, self.usual = torch.tensor(first), torch.tensor(length), int(statistics.median(length))
        ids = [[self.words.index(word) + 1 for word in caption.split()] for caption in captions]
        most = max(1, max(map(len, ids)))
        self.captions = torch.tensor([row + [0] * (most - len(row)) for row in ids])           # (clips, words)
        self.summary = (f"{config.frames}x{config.height}x{config.width}: {len(first)} clips to train on, "
                        f"{ids.count([])} of them without a caption; {len(usable['heldout'])} held out, "
                        f"{len(self.skipped)} skipped; {len(self.words)} words")

    def clips(self, n, generator=None, frames=None):
        """As MovingMNIST.clips: video (n,c,T,H,W) in [-1,1], caption (n,words). frames (n,T), if given, count from the
        window's first frame; some clip must have as many as they span."""
        if frames is None:
            frames = (torch.arange(self.frames) % least(self.frames)).expand(n, -1)            # of an image, a still
        low, high = frames.amin(1), frames.amax(1)
        room = (self.length - (high - low)[:, None]).clamp(min=0).double()     # (n,clips): places to start
        which = torch.multinomial(room, 1, generator=generator)                # (n,1)
        start = (torch.rand(n, 1, generator=generator, dtype=torch.float64) * room.gather(1, which)).long()
        index = self.first[which] + start + frames - low[:, None]              # (n,T)
        video = torch.from_numpy(self.pixels[index.numpy()]).to(self.device)   # (n,T,H,W,c)
        return video.movedim(-1, 1).float() / 127.5 - 1, self.captions[which[:, 0]].to(self.device)


def check_words(config, words, known):
    """Raises InputError unless the words of a data set are those of a checkpoint: their ids must mean the same."""
    if words != known:
        raise InputError(f"--data {config.data}: its words are {', '.join(words)}; the checkpoint's are "
                         f"{', '.join(known)}: train anew, with another --out")


def load_data(config, split, device="cpu"):
    """The clips that a config names: split "train", or "heldout", which shares no digit and no clip with it."""
    if config.data:
        return ClipFolder(config, split, device)
    return MovingMNIST(*load_digits(split, config.mnist), (config.height, config.width), config.digit_size,
                       config.digits, config.frames, config.rule, config.channels, device)


def load_mix(config, device, known_words=None):
    """What a training step consists of: (a list of (data, number of clips), one for each shape; the words of captions;
    the config, with the first shape that is no image, and a `reach` for which half of the clips are long enough).

    known_words: those of the checkpoint to go on from; InputError if they are others.
    """
    shapes = [] if config.shapes else [config]
    for part in config.shapes.split():
        try:
            shape, _, n = part.partition(":")
            frames, height, width = map(int, shape.split("x"))
            one = replace(config, frames=-(-frames // TIME) * TIME, height=height, width=width, batch=int(n))
            check(replace(one, frames=max(one.frames, 2 * TIME)) if frames > 0 else one)       # an image is fine here
            shapes.append(one)
        except ValueError as error:
            expected = "FRAMESxHEIGHTxWIDTH:CLIPS, such as 16x32x48:8"
            raise InputError(f"--shapes {part}: {error if isinstance(error, InputError) else expected}") from None
    first = next((one for one in shapes if one.frames > TIME), None)           # the others are images
    if first is None:
        raise InputError(f"--shapes {config.shapes}: only images; expected some shape of more than {TIME} frames")
    mix = [(load_data(one, "train", device), one.batch) for one in shapes]
    if config.data:
        for name, why in {name: why for data, _ in mix for name, why in data.skipped.items()}.items():
            print(f"skipped {name}: {why}")
        print(*(data.summary for data, _ in mix), sep="\n")
    words, room = mix[0][0].words, min(data.usual - data.frames for data, _ in mix if data.frames > TIME)
    check_words(config, words, known_words or words)
    reach = min(config.reach, max(room, 0) // (2 * TIME) * TIME)
    return mix, words, replace(config, reach=reach, frames=first.frames, height=first.height, width=first.width)
