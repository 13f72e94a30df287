"""Prompts: the words of a caption, which may change on the way: "3, 8 at 60"."""
import re

import torch

from data.clips.captions import words_in
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


def latent_frame(text, frame, unseen):
    """The latent frame that begins nearest to a video frame, with a note if it does not begin there."""
    start = (frame + unseen + TIME // 2) // TIME
    if start * TIME != frame + unseen:
        print(f"note: {text} begins at {start * TIME - unseen}, not {frame}: a caption is for {TIME} frames")
    return start


def changes_at(caption, unseen=0):
    """The video frame at which the last caption (n,F,words) begins; 0 for one caption (n,words)."""
    return (caption.shape[1] - 1) * TIME - unseen if caption.ndim == 3 else 0
