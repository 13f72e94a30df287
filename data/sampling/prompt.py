"""Prompts: the words of a caption, which may change on the way: "3, 8 at 60"; and where things begin."""
import math
import re
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as nnf

from data.clips.captions import words_in
from data.clips.folder import load_data
from data.clips.moving_mnist import with_places
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
    latent frame as far as they change; the last one holds for all that follow. unseen: how many video frames
    of the first latent frame are not shown."""
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
    """The ids of the words in a text; [0] if it is empty."""
    ids = []
    for word in words_in(text):
        if word not in words:
            hint = '; a prompt that changes is written "3, 8 at 60"' if word in ("at", "from") else ""
            raise InputError(f"prompt word {word!r} is not known; this checkpoint knows {', '.join(words)}{hint}")
        ids.append(words.index(word) + 1)
    if text.strip() and not ids:
        raise InputError(f"--prompt {text!r}: no word in it; expected some of {', '.join(words)}")
    return ids or [0]


def says_places(config, size):
    """Whether a model was trained on captions that say where things are, and digits have room in this size."""
    return config.placed > 0 and not config.data and min(size) >= config.digit_size


def detailed(caption, config, size, frames, seeds, places=""):
    """A caption (n,words), or (n,F,words), that also says where its digits are, as those of training clips do:
    (n,F',words), with places in the first `frames` latent frames. (So Sora, which was trained on detailed
    captions, has a language model make a detailed caption of a short prompt.)

    places: see `read_places`; left out: paths as in training clips, drawn by the seed of each video."""
    caption = caption if caption.ndim == 3 else caption[:, None]
    n, F, words = caption.shape
    longer = caption[:, -1:].expand(-1, max(frames + 1 - F, 0), -1)  # the last one, without places, holds from then on
    caption = torch.cat([caption, longer], dim=1)
    if places:
        middles = read_places(places, int((caption[0, 0] > 0).sum()), frames, size)             # (frames,words',2)
        middles = nnf.pad(middles, (0, 0, 0, words - middles.shape[1]), value=math.nan).expand(n, -1, -1, -1)
    else:
        like = replace(config, height=size[0], width=size[1], digits=words, frames=frames * TIME)
        clips = load_data(like, "train")
        paths = [clips.paths(1, torch.Generator().manual_seed(2 ** 62 + seed)) for seed in seeds]
        middles = clips.middles(torch.cat(paths))                   # (n,frames,words,2)
    middles, told = middles.to(caption.device), caption[:, :frames]
    has_place = (told > 0) & ~middles[..., 0].isnan()
    placed = torch.where(has_place, with_places(told, middles.nan_to_num()), told)
    return torch.cat([placed, caption[:, frames:]], dim=1)


def read_places(text, n, frames, size):
    """From a text such as "16,16 8,50>50,8", a path for each of n words: (frames,n,2), y and x in pixels.

    A path runs evenly from point to point, in all frames; of a single point only the first has it, others nan."""
    y_x = r"\d{1,4},\d{1,4}"
    parts = text.split()
    if len(parts) != n or not all(re.fullmatch(f"{y_x}(>{y_x})*", part, re.ASCII) for part in parts):
        raise InputError(f'--places {text!r}: expected y,x in pixels for each of {n} words, or a path: "16,16 8,50>50,8"')
    paths = torch.full((frames, n, 2), math.nan)
    for i, part in enumerate(parts):
        points = np.array([point.split(",") for point in part.split(">")], dtype=float)         # (points,2)
        if (points >= size).any():
            raise InputError(f"--places {text!r}: expected points within {size[0]}x{size[1]}")
        at = np.linspace(0, len(points) - 1, frames)
        path = np.stack([np.interp(at, range(len(points)), axis) for axis in points.T], axis=-1)
        shown = 1 if len(points) == 1 else frames
        paths[:shown, i] = torch.from_numpy(path[:shown]).float()
    return paths


def latent_frame(text, frame, unseen):
    """The latent frame that begins nearest to a video frame, with a note if it does not begin there."""
    start = (frame + unseen + TIME // 2) // TIME
    if start * TIME != frame + unseen:
        print(f"note: {text} begins at {start * TIME - unseen}, not {frame}: a caption is for {TIME} frames")
    return start


def changes_at(caption, unseen=0):
    """The video frame at which the last caption (n,F,words) begins; 0 for one caption (n,words)."""
    return (caption.shape[1] - 1) * TIME - unseen if caption.ndim == 3 else 0
