"""Prompts: the words of a caption, which may change on the way: "3, 8 at 60"; and where things begin."""
import re

import numpy as np
import torch
import torch.nn.functional as nnf

from data.clips.captions import words_in
from data.clips.moving_mnist import MovingMNIST
from data.clips.places import with_places
from sora import TIME, InputError

# A comma divides only if a time follows it: a caption may have commas of its own.
CHANGE = re.compile(r",(?=[^,]*\bat\s+\d+\s*(?:,|$))", re.IGNORECASE)
TIMED = re.compile(r"(.*\S)\s+at\s+(\d+)\s*", re.DOTALL | re.IGNORECASE)


def parts_of(prompt):
    """The captions of a prompt, all but the first without their times: a list of texts."""
    first, *changes = CHANGE.split(prompt)
    return [first] + [timed(prompt, change)[0] for change in changes]


def timed(prompt, change):
    """The text and the video frame, in digits, of a change such as " 8 at 60"."""
    match = TIMED.fullmatch(change)
    if match is None:
        raise InputError(f"--prompt {prompt!r}: {change.strip()!r}: expected words and then a time, such as 8 at 60")
    return match.groups()


def word_ids(prompt, words, n, device, unseen=0):
    """The prompt's words as ids (n,words): 1 for the first word of the vocabulary; no prompt: 0.

    "3, 8 at 60" is 3 before the video frame 60, and 8 from then on: ids (n,F,words), one caption for each
    latent frame as far as they change; the last one holds for all that follow. "any" is no caption, unless it
    is a word of the vocabulary. unseen: how many video frames of the first latent frame are not shown."""
    prompt = "" if prompt is None else str(prompt)                  # in a notebook 3 is "3"
    first, *changes = CHANGE.split(prompt)
    captions = [ids_of(first, words)]
    for change in changes:
        text, frame = timed(prompt, change)
        if len(frame) > 7:
            raise InputError(f"--prompt {prompt!r}: at {frame}: expected a video frame below 10,000,000")
        start = latent_frame(text.strip(), int(frame), unseen)
        if start < len(captions):
            raise InputError(f"--prompt {prompt!r}: expected times that rise, at least {TIME} frames apart, "
                             f"the first of them {TIME} or later")
        captions += [captions[-1]] * (start - len(captions))
        captions.append(ids_of(text, words))
    most = max(map(len, captions))
    ids = torch.tensor([each + [0] * (most - len(each)) for each in captions], device=device)      # (F,words)
    if not changes:
        return ids.expand(n, -1)
    return ids.expand(n, -1, -1)


def ids_of(text, words):
    """The ids of the words in a text, of "any" none if it is no word of the vocabulary; [0] if there are none."""
    ids, named = [], words_in(text)
    for word in named:
        if word == "any" and word not in words:
            continue
        if word not in words:
            hint = '; a prompt that changes is written "3, 8 at 60"' if word in ("at", "from") else ""
            raise InputError(f"prompt word {word!r} is not known; this checkpoint knows {', '.join(words)}{hint}")
        ids.append(words.index(word) + 1)
    if text.strip() and not named:
        raise InputError(f"--prompt {text!r}: no word in it; expected some of {', '.join(words)}")
    return ids or [0]


def told_where(job):
    """The caption of a job (see sample.py) whose video begins with nothing; in its first window it says where
    things are, if the captions of training clips did."""
    caption = job.caption if job.places is None or job.caption.ndim == 2 else job.caption[:, 0]
    why_not = why_no_places(job.config, job.size) if (caption > 0).any() else "the prompt begins with no word"
    if why_not and job.places is not None:
        raise InputError(f"--places {job.places}: {why_not}; leave it out")
    if why_not:
        return job.caption
    return detailed(job.caption, job.config, job.size, job.windows[0], job.seeds, job.places)


def why_no_places(config, size):
    """Why captions are not to say where things are, for a clip of a size (H,W) in pixels; "" if they are."""
    if config.placed == 0 or config.data:
        return "the captions of this model's training clips say no places"
    if not config.digit_size <= min(size) <= max(size) <= 1000:
        return f"{size[0]}x{size[1]} is not of {config.digit_size} to 1,000 pixels"
    return ""


def detailed(caption, config, size, frames, seeds, places=None):
    """A caption (n,words), or (n,F,words), that also says where its digits are, as those of training clips do:
    (n,F',words), with places in the first `frames` latent frames. (In the same way a language model makes detailed
    captions of the short prompts that Sora is given.)

    places: see `read_places`, a path for each word, or a point where it begins; the paths from there, or all if it
    is left out, are those of training clips, drawn by the seed of each video. Digits stay within the picture."""
    caption = caption if caption.ndim == 3 else caption[:, None]
    n, F, words = caption.shape
    half, given = config.digit_size / 2, None
    if places is not None:
        given = read_places(places, int((caption[0, 0] > 0).sum()), frames, size)
        given = nnf.pad(given, (0, 0, 0, words - given.shape[1])).clamp(min=half)
        given = given.minimum(torch.tensor(size) - half)            # (1 or frames,words,2)
    if given is not None and len(given) > 1:
        middles = given.expand(n, -1, -1, -1)
    else:
        start = None if given is None else given[0] - half
        ink = np.zeros((1, 28, 28), np.uint8), [0]                  # only paths are wanted
        clips = MovingMNIST(*ink, size, config.digit_size, words, TIME * frames, config.rule)
        paths = [clips.paths(1, torch.Generator().manual_seed(2 ** 62 + seed), start=start) for seed in seeds]
        middles = clips.middles(torch.cat(paths))                   # (n,frames,words,2)
    more = caption[:, -1:].expand(-1, max(frames + 1 - F, 0), -1)   # the last has no place, and holds on
    told, later = torch.cat([caption, more], dim=1).split([frames, max(F - frames, 1)], dim=1)
    placed = torch.where(told > 0, with_places(told, middles.to(told.device)), told)
    return torch.cat([placed, later], dim=1)


def read_places(text, n, frames, size):
    """From a text such as "16,16 40,48" where the n words that a prompt begins with are in the first latent frame,
    (1,n,2), y and x in pixels; from "16,16>48,16 40,48>40,20" paths, evenly run, in all of them, (frames,n,2)."""
    y_x = r"\d{1,4},\d{1,4}"
    parts, named = str(text).split(), f"--places {str(text)[:80]}"
    if len(parts) != n or not all(re.fullmatch(f"{y_x}(>{y_x})*", part, re.ASCII) for part in parts):
        raise InputError(f'{named}: expected y,x in whole pixels, such as 12,12, or a path, "12,12>20,20", for each '
                         f"word that the prompt begins with ({n})")
    paths = [np.array([point.split(",") for point in part.split(">")], dtype=float) for part in parts]
    if any((points >= size).any() for points in paths):
        raise InputError(f"{named}: expected y from 0 to {size[0] - 1}, x from 0 to {size[1] - 1}")
    if len({len(points) > 1 for points in paths}) > 1:
        raise InputError(f"{named}: expected a point for each word, or a path for each, not both")
    if max(map(len, paths)) > max(frames, 1):
        raise InputError(f"{named}: a path of {max(map(len, paths))} points; expected up to {frames}, one for each 4 "
                         "frames of a window")
    shown = 1 if len(paths[0]) == 1 else frames
    evenly = []
    for points in paths:
        at = np.linspace(0, len(points) - 1, shown)
        evenly.append(np.stack([np.interp(at, range(len(points)), axis) for axis in points.T], axis=-1))
    return torch.from_numpy(np.stack(evenly, axis=1)).float()


def latent_frame(text, frame, unseen):
    """The latent frame that begins nearest to a video frame, with a note if it does not begin there."""
    start = (frame + unseen + TIME // 2) // TIME
    if start * TIME != frame + unseen:
        print(f"note: {text} begins at {start * TIME - unseen}, not {frame}: a caption is for {TIME} frames")
    return start


def changes_at(caption, unseen=0):
    """The video frame at which the last caption (n,F,words) begins; 0 for one caption (n,words)."""
    return (caption.shape[1] - 1) * TIME - unseen if caption.ndim == 3 else 0
