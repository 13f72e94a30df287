"""The player: `python3 sample.py --play --prompt 5`. A world in a terminal, steered by the keyboard."""
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from data.clips.files import to_pixels, write_clip
from data.clips.given import parse_size
from data.play.terminal import BEGIN, END, check_terminal, has_colour, keyboard, picture
from data.play.world import World
from data.runtime.config import ceil_div
from data.sampling.prompt import word_ids
from sora import SPACE, TIME, InputError

FPS = 24
PRESS = re.compile("\x1b[\\[O][0-9;]*[A-Za-z~]|[\xe0\x00].|.", re.DOTALL)        # a special key, or a letter
STEER = {"w": "up", "s": "down", "a": "left", "d": "right",                    # letters
         "\x1bA": "up", "\x1bB": "down", "\x1bD": "left", "\x1bC": "right",    # first and last of an arrow
         "\xe0H": "up", "\xe0P": "down", "\xe0K": "left", "\xe0M": "right",    # the same on Windows
         "\x00H": "up", "\x00P": "down", "\x00K": "left", "\x00M": "right"}


def play(models, args, **sampling):
    """Plays until q or Ctrl-C, or for --frames. args: the flags of sample.py; sampling: see World."""
    config, device = models.config, models.vae.mean.device
    if "glide" not in models.words:
        raise InputError(f"--play: {args.ckpt} knows no keys; expected one of the preset `steered`: "
                         "python3 train.py --preset steered --init data/weights/tiny.pt --out out/steered")
    if not args.prompt:
        raise InputError("--play: expected --prompt with what to steer, such as 5")
    size = config.height, config.width
    if args.size:
        size = parse_size(args.size, SPACE * config.patch)
    if args.context:
        sampling["context"] = ceil_div(args.context, TIME)
    check_terminal(*size)

    def caption(key):
        return word_ids(f"{args.prompt} {key}", models.words, 1, device)

    world = World(models, caption("glide"), args.seed, size, **sampling)
    shown, begun = [], time.monotonic()
    try:
        with keyboard() as typed, suppress(KeyboardInterrupt):
            sys.stdout.write(BEGIN)
            show(world, caption, typed, shown, args.frames, args.fps or FPS)
    finally:
        print(END, flush=True)                  # now: what is said next must not go with the other screen
        seconds = time.monotonic() - begun
        if shown and args.out:
            write_clip(args.out, torch.cat(shown, dim=2), args.fps or FPS, args.scale or 4)
            print(f"wrote {args.out}")
    print(f"{TIME * len(shown)} frames, {TIME * len(shown) / seconds:.1f} a second")


def show(world, caption, typed, shown, frames, fps):
    """Draws four frames while the next four are made. shown: a list of what was drawn, to be filled."""
    colour, key, due = has_colour(), "glide", time.monotonic()
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(world.step, caption(key))
        while frames is None or TIME * len(shown) < frames:
            shown.append(coming.result())
            for i, pixels in enumerate(to_pixels(shown[-1][0])):
                if i == 1:                      # now the next four begin: there is time for three frames
                    text = typed()
                    if {"q", "Q", "\x03"} & set(PRESS.findall(text)):      # Ctrl-C, where it is no signal
                        return
                    key = newest_key(text)
                    coming = worker.submit(world.step, caption(key))
                    check_terminal(*pixels.shape[:2])               # it may have become smaller
                due = max(due + 1 / fps, time.monotonic() - TIME / fps)         # who is late catches up
                time.sleep(max(due - time.monotonic(), 0))
                sys.stdout.write(f"\x1b[H{picture(pixels, colour)}{key:6} arrows steer, q ends")
                sys.stdout.flush()


def newest_key(text):
    """The last key of KEYS in what was typed; "glide" if there is none."""
    key = "glide"
    for press in PRESS.findall(text):
        if len(press) == 1:
            press = press.lower()
        else:
            press = press[0] + press[-1]
        key = STEER.get(press, key)
    return key
