"""Finding the clips below a folder, with their captions, and saying what is left out.

One rule for all: names that begin with a dot are left out; links are followed, but for circles.
"""
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data.clips.captions import check_words_in, read_caption
from data.clips.pictures import STILLS, is_animated
from data.clips.reading import CLIPS, natural
from sora import InputError

RUN = "what train.py has written (it has a sora.pt)"


class Found(NamedTuple):
    """What lies below a folder."""
    clips: list                                         # [name, caption, [[size, time] a file]] each
    skipped: dict                                       # {name of what cannot be used: why}
    others: Counter                                     # {"hidden" or an ending: how many of them}

    def left_out(self):
        """What is no clip, in words; empty if there is nothing."""
        return ", ".join(f"{n} {kind}" for kind, n in sorted(self.others.items()))


def find_clips(folder, cache=None):
    """Every clip below a folder, in the natural order of names: a `Found`.

    Left out are the cache, and folders that train.py writes into: they have a sora.pt.
    """
    folder, found = Path(folder), Found([], {}, Counter())
    cache = os.path.realpath(cache) if cache else None

    def unreadable(error):
        found.skipped[name_of(Path(error.filename), folder)] = f"cannot be read ({error.strerror})"

    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        place = Path(place)
        if place == folder and is_run(folder):          # its pictures are no clips, but folders may be
            found.skipped["."] = RUN
            names = []
        # os.walk enters those that are left in the list
        folders[:] = [name for name in folders if enters(place / name, folder, cache, found)]
        find_in(place, names, folder, found)
    found.clips.sort(key=clip_order)
    return found


def clip_order(clip):
    """Clips are sorted by their names."""
    return natural(clip[0])


def name_of(path, folder):
    """How a clip is called: its path below the folder, with / on every system."""
    return path.relative_to(folder).as_posix()


def is_run(folder):
    """Whether train.py writes into a folder. It saves a checkpoint before it makes pictures."""
    return os.path.exists(folder / "sora.pt")


def enters(path, folder, cache, found):
    """Whether clips are looked for in a folder below; if not, says why in `found`."""
    real = os.path.realpath(path)
    if real == cache:
        return False
    if path.name.startswith("."):
        found.others["hidden"] += 1
        return False
    above = [os.path.realpath(parent) for parent in path.parents if parent.is_relative_to(folder)]
    reason = None
    if real in above:
        reason = "a link in a circle"
    elif is_run(path):
        reason = RUN
    if reason:
        found.skipped[name_of(path, folder)] = reason
    return reason is None


def find_in(place, names, folder, found):
    """Adds the clips that lie in one folder, or the one that the folder is, to `found`."""
    clips, stills, captions = [], [], {}                # captions: {name without the ending: path}
    for name in sorted(names, key=natural):
        path, ending = place / name, Path(name).suffix.lower()
        if name.startswith("."):
            found.others["hidden"] += 1
        elif not os.path.isfile(path):                  # opening a pipe would wait for ever
            found.skipped[name_of(path, folder)] = "a broken link, or no regular file"
        elif ending in STILLS:
            stills.append(path)
        elif ending in CLIPS:
            clips.append(path)
        elif ending == ".txt":
            captions[path.stem] = path
        else:
            found.others[ending or "without an ending"] += 1
    if stills and is_animated(stills[0]):
        clips += stills
        stills = []
    for path in clips:
        add(path, captions.get(path.stem, path.with_suffix(".txt")), [path], folder, found)
    for path in clips:                                  # one text may belong to several
        captions.pop(path.stem, None)
    if stills:
        add(place, place.with_name(f"{place.name}.txt"), stills, folder, found)
    lone = [path for path in captions.values() if not path.with_suffix("").is_dir()]
    if lone:
        found.others[".txt"] += len(lone)


def add(path, text, files, folder, found):
    """Adds a clip, a file or a folder of files, with its caption: a text, else the folder's name."""
    name = name_of(path, folder)
    try:
        if path != folder and text.is_file():
            words = read_caption(text)
        elif path.parent == folder or path == folder:
            words = []
        else:
            words = words_of_folder(path.parent.name)
        stats = [file.stat() for file in files]
    except (InputError, OSError) as error:              # it may be gone by now
        found.skipped[name] = str(error)
        return
    stamps = [[stat.st_size, stat.st_mtime_ns, os.access(file, os.R_OK)] for file, stat in zip(files, stats)]
    found.clips.append([name, " ".join(words), stamps])


def words_of_folder(name):
    """The words in a folder's name. InputError if it is not Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError:                          # Python keeps such bytes as surrogates
        raise InputError(f"{name}: its name is not UTF-8, so it is no caption; rename it") from None
    return check_words_in(name, name)
