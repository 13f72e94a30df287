"""What becomes of long clips: legibility, handwriting and distances against the frame number.

    python3 -m data.evaluation.long_video --ckpt out/sora.pt

makes 128 clips of 1,000 frames twice: with the caption throughout, and with the caption for the
first window only, so that what a clip shows has to be remembered. A second run puts clips beside
them that are made by a plain sliding window, without an anchor:

    python3 -m data.evaluation.long_video --ckpt out/sora.pt --no-anchor --label "no anchor, " --append

Each stretch of a training clip's length is measured as a clip of its own. Writes a table (.csv) and
a plot of it (.png). README.md beside this file says what the numbers mean.
"""
import argparse
import csv
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from tqdm import tqdm

from data.clips.files import make_folder
from data.clips.places import digits_of, then_none
from data.evaluation import plots
from data.evaluation.judge import Judge, cells, check_measurable, grey, real_clips
from data.evaluation.metrics import distance, motion
from data.evaluation.score import blank_latent, noise_of, through_vae
from data.evaluation.tables import show
from data.runtime.arguments import Parser
from data.runtime.checkpoints import default_ckpt, load_models
from data.runtime.config import window_of
from data.runtime.errors import run_script
from data.runtime.machine import autocast, default_device, use_device
from sora import InputError, extend

ARMS = {"throughout": "caption throughout", "first": "caption for the first window"}
COLUMNS = ["clips", "first_frame", "metric", "value", "low", "high"]


# --- making long clips --------------------------------------------------------------------------------

@torch.no_grad()
def long_clips(models, caption, seed, window, context, anchor, arm, sampling):
    """Yields the next frames of a clip for each caption (B,words), without end: (B,channels,T',H,W)
    on the CPU. The first window is the same in both arms."""
    config, vae, dit, process, _ = models
    B, device, cache = len(caption), caption.device, {}
    sampling = dict(sampling, randn=noise_of(seed, B, device))
    empty = blank_latent(config, B, 0, device)
    first = next(extend(dit, process, empty, then_none(caption), window, context, **sampling))
    caption = digits_of(caption, config.digits)                     # without places, if they had any
    if arm == "first":                                              # no caption, nothing to guide to
        caption, sampling = torch.zeros_like(caption), dict(sampling, guidance=1.0)
    later = extend(dit, process, first, caption, window, context, anchor, **sampling)
    for latent in chain([first], later):
        yield vae.decode(latent, cache).cpu()                       # the decoder goes on where it was


def starts(frames, length):
    """The frames, from 0, at which stretches of a length begin: one behind the other, but the last
    one ends with the clip."""
    return sorted({*range(0, frames - length + 1, length), frames - length})


def stretches(parts, length, starts):
    """Cuts stretches of a length out of a stream of pieces (B,channels,T',H,W)."""
    video, at = next(parts), 0                                      # at: the number of its first frame
    for start in starts:
        while at + video.shape[2] < start + length:
            video = torch.cat([video, next(parts)], dim=2)
        video, at = video[:, :, start - at:], start
        yield video[:, :, :length]


# --- measuring them -----------------------------------------------------------------------------------

@cache
def usual_range(config):
    """{metric of motion: (low, high)}, between which the middle 95 % of training clips are."""
    video, _ = real_clips(config, "train", 1024, seed=2 ** 21)
    real = motion(grey(video))
    return {name: real[name].quantile(torch.tensor([0.025, 0.975])) for name in ("speed", "wobble")}


def usual_motion(config, video):
    """1 for clips whose speed and wobble are both in the usual range, else 0: (B,)."""
    moves, usual = motion(grey(video)), torch.ones(len(video), dtype=torch.bool)
    for name, (low, high) in usual_range(config).items():
        usual &= (low <= moves[name]) & (moves[name] <= high)
    return usual.float()


def partner(caption):
    """For each clip the next one with the same caption (n,words), itself if there is none: (n,)."""
    n = len(caption)
    same = (caption[:, None] == caption).all(-1).cpu()              # (n,n)
    index = torch.arange(n)
    ahead = (index - index[:, None] - 1) % n                        # clips between, in a circle
    return ahead.masked_fill(~same, n).argmin(dim=1)


def measure(judge, video, caption, start):
    """{metric: cell} of a stretch of clips. start: the stretch that the clips began with."""
    values = judge.values(video, caption)
    values["usual motion"] = usual_motion(judge.config, video)
    if judge.config.digits == 1:
        now, then = judge.handwriting(grey(video)), judge.handwriting(grey(start))
        other = partner(digits_of(caption, 1))
        alone = other == torch.arange(len(other))
        values["own"] = distance(now, then)
        values["other"] = distance(now, then[other]).masked_fill(alone, float("nan"))
    return cells(values) | judge.together(video, caption)


def references(judge, vae, n, seed):
    """Yields (name, "", table) of held-out clips twice as long, cut in two, and of copies."""
    frames = judge.config.frames
    video, caption = real_clips(replace(judge.config, frames=2 * frames), "heldout", n, seed)
    for name, clip in (("held out", video), ("held out, VAE's copy", through_vae(vae, video))):
        yield name, "", measure(judge, clip[:, :, frames:], caption, clip[:, :, :frames])


def drift(judge, models, n, frames, seed, arm, label, settings):
    """Yields (arm, first frame, table) for each stretch of n clips, one after the other. Captions
    are drawn as the data draws them."""
    length, device = models.config.frames, models.vae.mean.device
    caption = real_clips(models.config, "train", n, seed + 1)[1].to(device)
    parts, at = long_clips(models, caption, seed, arm=arm, **settings), starts(frames, length)
    first = None
    for start, video in zip(at, stretches(parts, length, at)):
        first = video if start == 0 else first
        yield label + ARMS[arm], start + 1, measure(judge, video, caption.cpu(), first)


# --- the command --------------------------------------------------------------------------------------

def parse(argv):
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", help="checkpoint (out/sora.pt, else the weights shipped)")
    add("--out", default="out/drift.csv", metavar="FILE", help="table to write (out/drift.csv)")
    add("--append", action="store_true", help="add to the table that is there, and plot all of it")
    add("--label", default="", help="to put before the names of the arms")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="which of the two (both)")
    add("--n", type=int, default=128, help="clips (128)")
    add("--frames", type=int, default=1000, help="video frames of each (1000)")
    add("--seed", type=int, default=0, help="of captions and noise (0)")
    add("--window", type=int, help="video frames sampled jointly (left out: as in training)")
    add("--context", type=int, help="past video frames that a window sees (left out: up to half of it)")
    add("--anchor", action=argparse.BooleanOptionalAction, default=True,
        help="windows keep the first 4 frames (yes); --no-anchor: a plain window")
    add("--steps", type=int, help="denoising steps (left out: as in the config)")
    add("--guidance", type=float, help="guidance scale while there are captions (as in the config)")
    add("--device", default=default_device(), help="cuda or cpu")
    args = parser.parse_args(argv)
    args.ckpt = args.ckpt or default_ckpt()
    return args


def main(argv=None):
    """Makes and measures the arms, and writes the table row by row."""
    args = parse(argv)
    use_device(args.device)
    plots.need_matplotlib()
    make_folder(Path(args.out).parent)
    models = load_models(args.ckpt, args.device)
    config = models.config
    check_measurable(args.ckpt, config)
    if args.n < 2 or args.frames < config.frames or args.steps is not None and args.steps < 1:
        raise InputError(f"--n {args.n} --frames {args.frames} --steps {args.steps}: expected at least "
                         f"2 clips of {config.frames} frames, and 1 step")
    window, context, anchor = window_of(config, args.window, args.context, args.anchor)
    sampling = dict(steps=args.steps or config.sample_steps,
                    guidance=config.guidance if args.guidance is None else args.guidance)
    settings = dict(window=window, context=context, anchor=anchor, sampling=sampling)
    append = args.append and Path(args.out).exists()
    with autocast(args.device), Path(args.out).open("a" if append else "w", newline="") as file:
        judge, writer, last = Judge(config), csv.writer(file), {}
        if not append:
            writer.writerow(COLUMNS)
        real = [] if append else references(judge, models.vae, args.n, args.seed)
        arms = [drift(judge, models, args.n, args.frames, args.seed, arm, args.label, settings)
                for arm in args.arms]
        total = len(arms) * len(starts(args.frames, config.frames)) + (0 if append else 2)
        for name, first, table in tqdm(chain(real, *arms), total=total):
            for metric, cell in table.items():
                writer.writerow([name, first, metric, *(f"{number:.5g}" for number in cell)])
            file.flush()
            last[name] = table
    for name, table in last.items():
        show(name, {f"last {config.frames} frames": table})
    print(f"wrote {args.out}")
    plots.drift(args.out, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
