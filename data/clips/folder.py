"""Where training clips come from: moving MNIST, or a folder of videos that was decoded once.

A training clip is a window of frames that starts anywhere in a clip, long clips being drawn more often.
Of several shapes, a clip is shown in those whose aspect ratio is nearest to its own. README.md beside
this file says how a folder is laid out.
"""
import math
import statistics
import zlib
from collections import Counter
from dataclasses import replace

import torch

from data.clips.cache import read_cache
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.runtime.config import ceil_div, check, shapes_of
from data.runtime.machine import moved
from sora import TIME, InputError


def least(frames):
    """The frames that a clip must have to be shown in windows of so many; an image is one of its frames."""
    return frames if frames > TIME else 1


def distance(clip, height, width):
    """How far a clip's aspect ratio is from a shape's: the logarithm of their quotient."""
    return abs(math.log(clip.aspect * height / width))


def fitting(clips, config):
    """The clips whose aspect ratio is nearer to the config's canvas than to those of its other shapes
    that they are long enough for; if there are none, all of them: they are cropped."""
    nearest = []
    for clip in clips:
        own = distance(clip, config.height, config.width)
        others = [distance(clip, height, width) for frames, height, width, _ in shapes_of(config)
                  if clip.length >= least(frames)]
        if own <= min(others, default=own) + 1e-9:
            nearest.append(clip)
    return nearest or clips


def checksum(clip):
    """A number that depends on a clip's name only."""
    return zlib.crc32(clip.name.encode("utf-8", "surrogateescape")), clip.name


def held_out(clips, parts):
    """The names of clips to hold out: those that contain one of `parts`, or, if there are none, a tenth.

    That tenth is chosen by a checksum of the names, so that a new clip hardly moves others.
    """
    if parts:
        return {clip.name for clip in clips if any(part in clip.name for part in parts)}
    n = max(len(clips) // 10, 1)
    return {clip.name for clip in sorted(clips, key=checksum)[:n]}


class ClipFolder:
    """Windows of the clips in a folder, with the interface of MovingMNIST.

    split: "train" or "heldout", see `held_out`. words: what the ids of captions mean; left out, the
    words of all captions, sorted. Captions leave out other words.
    """

    def __init__(self, config, split, device="cpu", words=None):
        self.frames, self.device = config.frames, device
        self.cache, need = read_cache(config), least(config.frames)
        self.pixels, clips = self.cache.frames, self.cache.clips
        short = {clip.name: f"{clip.length} frames, expected at least {need}"
                 for clip in clips if clip.length < need}
        self.skipped = self.cache.skipped | short
        # what is held out, and what a word's number is, must not depend on the length of the windows
        self.found_words = sorted({word for clip in clips for word in clip.caption.split()})
        self.words = self.found_words if words is None else words
        out = held_out(clips, config.heldout.split())
        usable = {"train": [], "heldout": []}
        for clip in clips:
            if clip.length >= need:
                usable["heldout" if clip.name in out else "train"].append(clip)
        if not all(usable.values()):
            raise InputError(self.too_few(config, usable, need))
        self.shown = fitting(usable[split], config)
        self.names = tuple(clip.name for clip in self.shown)
        self.first = torch.tensor([clip.first for clip in self.shown])
        self.length = torch.tensor([clip.length for clip in self.shown])
        self.usual = int(statistics.median(self.length.tolist()))
        self.captions = self.caption_ids()
        silent = int((self.captions == 0).all(dim=1).sum())
        self.summary = (f"{config.frames}x{config.height}x{config.width}: {len(self.shown)} clips to "
                        f"train on, {silent} of them without a caption; {len(usable['heldout'])} held "
                        f"out, {len(self.skipped)} skipped; {len(self.words)} words")

    def too_few(self, config, usable, need):
        """What to say if there is nothing to train on, or nothing to hold out."""
        line = (f"--data {config.data}: {len(usable['train'])} clips of {need} frames or more to train "
                f"on, {len(usable['heldout'])} to hold out (--heldout {config.heldout!r}), "
                f"{len(self.skipped)} skipped; expected some of each")
        if usable["train"]:
            line += ": name others to hold out with --heldout"
        reasons = [f"{name}: {why}" for name, why in self.skipped.items()]
        return "; ".join([line, *reasons[:3]])

    def caption_ids(self):
        """The ids of the words of the captions (clips,words), from 1; 0 is no word."""
        numbers = {word: i + 1 for i, word in enumerate(self.words)}
        ids = [[numbers[word] for word in clip.caption.split() if word in numbers] for clip in self.shown]
        most = max(1, max(map(len, ids)))
        return torch.tensor([row + [0] * (most - len(row)) for row in ids])

    def clips(self, n, generator=None, frames=None):
        """As MovingMNIST.clips: video (n,c,T,H,W) in [-1,1], caption (n,words).

        frames (n,T), if given, count from the window's first frame; some clip must have as many as
        they span."""
        if frames is None:
            frames = torch.arange(self.frames) % least(self.frames)             # of an image, a still
            frames = frames.expand(n, -1)
        low, high = frames.amin(1), frames.amax(1)
        room = (self.length - (high - low)[:, None]).clamp(min=0).double()      # (n,clips): places to start
        which = torch.multinomial(room, 1, generator=generator)                 # (n,1)
        start = torch.rand(n, 1, generator=generator, dtype=torch.float64) * room.gather(1, which)
        index = self.first[which] + start.long() + frames - low[:, None]        # (n,T)
        video = moved(torch.from_numpy(self.pixels[index.numpy()]), self.device)    # (n,T,H,W,c)
        video = video.movedim(-1, 1).float() / 127.5 - 1
        return video, moved(self.captions[which[:, 0]], self.device)

    def notes(self, config):
        """Lines on what training on these clips may get wrong."""
        lines = list(self.cache.notes)
        rates = Counter(round(clip.rate, 2) for clip in self.shown if clip.rate)
        if rates and max(rates) > 1.1 * min(rates) and not config.rate:
            found, (usual, _) = ", ".join(f"{rate:g}" for rate in sorted(rates)[:6]), rates.most_common(1)[0]
            lines.append(f"note: the clips have {found} frames a second and are taken frame by frame; "
                         f"--rate {usual:g}, which most have, makes motion equally fast in all")
        coloured = sum(clip.coloured for clip in self.shown)
        if coloured and config.channels == 1:
            lines.append(f"note: {coloured} of {len(self.shown)} clips have colours and are trained on in "
                         "grey; --channels 3 keeps the colours")
        return lines


def check_words(config, data, known):
    """Raises InputError if a data set has none of the words of a checkpoint: then it is another one.

    A folder may have changed since; that is said in a line, and captions leave out what is new."""
    words = data.found_words if config.data else data.words
    new = [word for word in words if word not in known]
    gone = [word for word in known if word not in words]
    if known and len(gone) == len(known):
        raise InputError(f"--data {config.data}: its words are {', '.join(words)}; the checkpoint's are "
                         f"{', '.join(known)}: train anew, with another --out")
    if new or gone:
        print(f"note: the words of --data {config.data} are no longer the checkpoint's. New, and left out of "
              f"captions: {', '.join(new) or 'none'}; gone: {', '.join(gone) or 'none'}")


def check_heldout(config, clips):
    """Raises InputError for a word of --heldout in no clip's name: what it means would be trained on."""
    for part in config.heldout.split():
        if not any(part in clip.name for clip in clips):
            raise InputError(f"--heldout {config.heldout}: {part!r} is in no clip's name, such as {clips[0].name}; "
                             "correct it, or leave it out")


def load_data(config, split, device="cpu", words=None):
    """The clips that a config names: split "train", or "heldout", which shares no digit and no clip with it.

    words: those of a checkpoint, if captions are to have its ids; they matter for a folder only."""
    if config.data:
        return ClipFolder(config, split, device, words)
    return MovingMNIST(*load_digits(split, config.mnist), (config.height, config.width), config.digit_size,
                       config.digits, config.frames, config.rule, config.channels, device, config.placed > 0)


def load_sources(config, words):
    """Both splits of a config's data on the CPU, {split: data}, with the words of a run. They stay what
    they are, also if the folder changes meanwhile."""
    return {split: load_data(config, split, words=words) for split in ("train", "heldout")}


def split_shapes(config):
    """A config for each of its shapes, `batch` being the clips in a step. InputError names a wrong one."""
    if not config.shapes:
        return [config]
    shapes = []
    for part, (frames, height, width, n) in zip(config.shapes.split(), shapes_of(config)):
        one = replace(config, frames=ceil_div(frames, TIME) * TIME, height=height, width=width, batch=n)
        checked = one
        if frames > 0:                                  # an image is fine here
            checked = replace(one, frames=max(one.frames, 2 * TIME))
        try:
            check(checked)
        except InputError as error:
            raise InputError(f"--shapes {part}: {error}") from None
        shapes.append(one)
    if all(one.frames <= TIME for one in shapes):
        raise InputError(f"--shapes {config.shapes}: only images; expected some shape of more than {TIME} "
                         "frames")
    return shapes


def load_mix(config, device, known_words=None):
    """What a training step consists of: (a list of (data, number of clips), one for each shape; the words
    of captions; the config, with the first shape that is no image, and a `reach` for which half of the
    clips are long enough).

    known_words: those of the checkpoint to go on from, which stay; InputError if the folder has none.
    """
    shapes = split_shapes(config)
    mix = [(load_data(one, "train", device, known_words), one.batch) for one in shapes]
    words = mix[0][0].words
    if config.data:
        say_what_was_found(config, [data for data, _ in mix])
        check_heldout(config, mix[0][0].cache.clips)
    check_words(config, mix[0][0], words if known_words is None else known_words)
    first = next(one for one in shapes if one.frames > TIME)
    room = min(data.usual - data.frames for data, _ in mix if data.frames > TIME)
    reach = min(config.reach, max(room, 0) // (2 * TIME) * TIME)
    return mix, words, replace(config, reach=reach, frames=first.frames, height=first.height, width=first.width)


def say_what_was_found(config, sources):
    """Prints what was skipped in a folder, what to know about it, and what each shape has."""
    skipped = {}
    for data in sources:
        skipped |= data.skipped
    notes = [note for data in sources for note in data.notes(config)]
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")
    for note in dict.fromkeys(notes):                   # several shapes have most of them in common
        print(note)
    for data in sources:
        print(data.summary)
