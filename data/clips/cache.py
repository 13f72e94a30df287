"""The cache of a folder of clips: all are decoded once, and training reads windows of them from disk.

Two files for every size: .raw, the frames of all clips one behind the other, and .json, what is where.
Their name has a checksum of what they were made from, so what a name stands for never changes, and
several runs may write and read the same cache at the same time.
"""
import hashlib
import json
import math
import os
import secrets
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.clips.files import make_folder
from data.clips.find import find_clips
from data.clips.reading import CLIPS, Clip, array_frames, in_time, load_mnist_test, open_clip
from data.clips.reading import to_channels
from data.runtime.writing import cannot_write
from sora import InputError

VERSION = 3
COLOURED = 2    # mean difference of the largest and smallest channel from which a frame has colours


class Decoded(NamedTuple):
    """A clip in the cache."""
    name: str
    caption: str
    first: int                                          # where in the .raw its frames begin
    length: int                                         # how many there are
    aspect: float                                       # width / height in its file
    rate: float                                         # frames a second in its file, or None
    coloured: bool


class Cache(NamedTuple):
    """A folder of clips, decoded."""
    frames: np.ndarray                                  # (frames,H,W,channels) on disk; None: there are none
    clips: list                                         # of Decoded
    skipped: dict                                       # {name of what is no usable clip: why}
    notes: list                                         # lines that the user should read


def read_cache(config):
    """The cache of the folder of a config, made if there is none of its present content.

    Raises InputError if the folder has no clips.
    """
    folder = Path(config.data)
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder")
    place = Path(config.cache) if config.cache else folder / ".cache"
    found = find_clips(folder, place)
    notes = [f"left out of {folder}: {found.left_out()}"] if found.left_out() else []
    if not found.clips:
        raise InputError(nothing_found(folder, found))
    make_folder(place, "--cache")
    shape = f"{config.height}x{config.width}x{config.channels}-every{config.stride}-{config.rate:g}fps"
    shape += f"-{zlib.crc32(os.fsencode(os.path.realpath(folder))):08x}"        # others may share the place
    made_from = json.dumps([VERSION, shape, found.clips])
    path = place / f"{shape}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    table = load_table(path)
    if table is None:
        notes += changes(place, shape, folder, found.clips)
        decode(config, found.clips, path)
        remove_others(place, shape, path)
        table = load_table(path)
    frames = None
    if table["shape"][0]:
        frames = np.memmap(with_ending(path, ".raw"), np.uint8, "r", shape=tuple(table["shape"]))
    clips = [Decoded(*clip) for clip in table["clips"]]
    return Cache(frames, clips, found.skipped | table["skipped"], notes)


def nothing_found(folder, found):
    """What to say of a folder without clips."""
    line = (f"--data {folder}: no clips in it; expected {' '.join(CLIPS)} or folders of pictures, in "
            "folders named by their captions")
    reasons = [f"{name}: {why}" for name, why in found.skipped.items()][:3]
    if found.left_out():
        reasons.append(f"left out: {found.left_out()}")
    return "; ".join([line, *reasons])


def with_ending(path, ending):
    """The path with an ending added: its name may have dots of its own."""
    return path.with_name(path.name + ending)


def load_table(path):
    """What `decode` has written for a path, a dict; None if it is not there, or not whole."""
    try:
        table = json.loads(with_ending(path, ".json").read_text())
        whole = with_ending(path, ".raw").stat().st_size == math.prod(table["shape"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return table if whole and {"found", "clips", "skipped"} <= table.keys() else None


def changes(place, shape, folder, clips):
    """A line on what differs from the folder's content when it was last decoded, in a list."""
    former = [load_table(path.with_suffix("")) for path in sorted(place.glob(f"{shape}-*.json"))]
    former = [table for table in former if table is not None]
    if not former:
        return []
    old = {name: rest for name, *rest in former[-1]["found"]}
    new = {name: rest for name, *rest in clips}
    names = {"new": new.keys() - old.keys(), "gone": old.keys() - new.keys(),
             "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]}}
    parts = [f"{len(some)} {what} ({shortened(sorted(some))})" for what, some in names.items() if some]
    return [f"note: {folder} has changed since it was decoded: {', '.join(parts)}"]


def shortened(names):
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def remove_others(place, shape, path):
    """Removes the caches of former content. Runs that have one of them open keep it."""
    for other in place.glob(f"{shape}-*"):
        if other.stem != path.name and other.suffix in (".json", ".raw"):
            with suppress(OSError):                     # Windows holds files that are in use
                other.unlink()


def decode(config, found, path):
    """Reads every clip that was found and writes the cache. It appears only when it is whole."""
    size = config.height, config.width
    clips, skipped, total = [], {}, 0
    frame_bytes = math.prod(size) * config.channels
    raw = with_ending(path, f".{secrets.token_hex(4)}.tmp")         # of this run alone
    try:
        with raw.open("wb") as file:
            for name, caption, _ in tqdm(found, "decoding", unit="clip"):
                try:
                    for part, clip in clips_of(Path(config.data) / name, size):
                        length, coloured = write_frames(file, clip, config)
                        clips.append(Decoded(name + part, caption, total, length,
                                             clip.width / clip.height, clip.rate, coloured))
                        total += length
                except InputError as error:
                    skipped[name] = str(error)
                    file.seek(total * frame_bytes)      # what was written of it is written over
            file.truncate()
        os.replace(raw, with_ending(path, ".raw"))
        table = {"found": found, "shape": [total, *size, config.channels], "clips": clips, "skipped": skipped}
        raw.write_text(json.dumps(table))
        os.replace(raw, with_ending(path, ".json"))
    except OSError as error:
        raise InputError(f"{cannot_write(raw, error)}; --cache DIR names another place") from None
    finally:
        raw.unlink(missing_ok=True)


def clips_of(path, size):
    """Yields the clips in a file, and what to add to its name: one, but for the Moving MNIST test file."""
    array = load_mnist_test(path)
    if array is None:
        yield "", open_clip(path, size)
        return
    for i in range(array.shape[1]):
        clip = array[:, i]
        yield f"[{i}]", Clip(None, *clip.shape[1:], array_frames(clip, size))


def write_frames(file, clip, config):
    """Appends the frames of a clip: (how many there are, whether the first has colours)."""
    length, coloured = 0, False
    for frame in in_time(clip, config.rate, config.stride):
        if length == 0:
            coloured = bool(np.ptp(frame, axis=2).mean() > COLOURED)
        file.write(to_channels(frame, config.channels).tobytes())
        length += 1
    return length, coloured
