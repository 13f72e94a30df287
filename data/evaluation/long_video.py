"""What becomes of long clips: legibility, handwriting and Frechet distance as functions of the frame number.

    python -m data.evaluation.long_video --ckpt out/sora.pt

makes 128 clips of 1,000 frames, twice: with the caption throughout, and with the caption for the first window only.
`--arms factors` drops the caption too, once with the settings of the command line and then with one of them changed at
a time (those of ARMS that do change one).

Writes a .csv and, beside it, a plot of it (.png). Each stretch of a training clip's length is measured as a clip of its
own (see score.py), and by its handwriting (one digit): `own` is the distance to the clip's first stretch, `other` that
to the first stretch of another clip with the same caption. `usual motion` is the share of clips whose speed and wobble
are both within the middle 95 % of those of training clips. Beside them stand held-out clips and the VAE's copies of
them; there `own` compares two clips of one digit, `other` two digits of one class.
"""
import argparse
import csv
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from tqdm import tqdm

from data.studies import plots
from data.runtime.cli import autocast, default_ckpt, load_models, run_script, use_device, window_of
from data.clips.files import make_folder
from data.evaluation.metrics import distance, interval, motion
from data.evaluation.judge import Judge, readable, real_clips
from data.evaluation.score import show, through_vae
from sora import SPACE, InputError, extend

ARMS = {"caption throughout": {"captioned": True}, "caption for the first window": {},           # changed settings
        "no anchor": {"anchor": 0}, "context of 8 frames": {"context": 2},
        "history guidance 1": {"history_guidance": 1.0}, "history guidance 2": {"history_guidance": 2.0},
        "history guidance 4": {"history_guidance": 4.0}, "context noise 0.02": {"context_noise": 0.02},
        "context noise 0.1": {"context_noise": 0.1}, "context noise 0.3": {"context_noise": 0.3},
        "16 steps": {"steps": 16}}
FACTORS = list(ARMS)[1:]


def partner(caption):
    """For each clip, the next one with the same caption, itself if there is none: (B,)."""
    same = (caption[:, None] == caption[None]).all(-1)
    n = len(caption)
    order = (torch.arange(n)[None] - torch.arange(n)[:, None] - 1) % n         # how far ahead each other clip is
    return order.masked_fill(~same.cpu(), n).argmin(dim=1)


@torch.no_grad()
def long_clips(config, vae, dit, process, caption, seed, window, context, anchor, captioned=False, **sampling):
    """Yields the next frames of a clip for each caption, without end: (B,c,T',H,W) in [-1,1] on the CPU."""
    rng = torch.Generator(caption.device).manual_seed(seed)
    past = torch.zeros(len(caption), config.latent_channels, 0, config.height // SPACE, config.width // SPACE,
                       device=caption.device)
    first = next(extend(dit, process, past, caption, window, context, generator=rng, **sampling))
    if not captioned:
        caption, sampling = torch.zeros_like(caption), sampling | dict(guidance=sampling["history_guidance"])
    cache = {}
    for latent in chain([first], extend(dit, process, first, caption, window, context, anchor, generator=rng,
                                      **sampling)):
        yield vae.decode(latent, cache).clamp(-1, 1).cpu()


def starts(frames, length):
    """The frames, from 0, at which stretches of a length begin: one behind the other; the last ends with the clip."""
    return sorted({*range(0, frames - length + 1, length), frames - length})


def stretches(parts, length, starts):
    """Cuts pieces of a length out of a stream of frames."""
    video, at = next(parts), 0                                                 # at: which frame the video begins with
    for start in starts:
        while at + video.shape[2] < start + length:
            video = torch.cat([video, next(parts)], dim=2)
        video, at = video[:, :, start - at:], start
        yield video[:, :, :length]


@cache
def usual(config):
    """{metric of motion: the middle 95 % of training clips, (low, high)}."""
    real = motion(real_clips(config, "train", 1024, seed=2 ** 21)[0].mean(1, keepdim=True))
    return {name: real[name].quantile(torch.tensor([0.025, 0.975])) for name in ("speed", "wobble")}


def measure(judge, video, caption, start):
    """The judge's numbers, how usual the motion is, how far the handwriting is from its own start and a partner's."""
    table, moves = judge.measure(video, caption), motion(judge.grey(video))
    inside = [(low <= moves[name]) & (moves[name] <= high) for name, (low, high) in usual(judge.config).items()]
    table["usual motion"] = interval(torch.stack(inside).all(0).float())
    if judge.config.digits == 1:
        now, then = judge.handwriting(judge.grey(video)), judge.handwriting(judge.grey(start))
        who = partner(caption)
        alone = who == torch.arange(len(who))
        table["own"] = interval(distance(now, then))
        table["other"] = interval(distance(now, then[who]).masked_fill(alone, float("nan")))
    return table


def references(judge, vae, n, seed):
    """Held-out clips twice as long, cut in two, and the VAE's copies: yields (name, first frame, table)."""
    config = replace(judge.config, frames=2 * judge.config.frames)
    video, caption = real_clips(config, "heldout", n, seed)
    for name, clip in (("held out", video), ("held out, VAE's copy", through_vae(vae, video))):
        start, later = clip.split(judge.config.frames, dim=2)
        yield name, "", measure(judge, later, caption, start)


def drift(judge, models, n, frames, seed, arm, settings):
    """Yields (arm, first frame, table) for each stretch of n clips, one stretch after the other."""
    config, vae, dit, process, words = models
    caption = torch.tensor([[1 + (i + j * (i // 10)) % len(words) for j in range(config.digits)] for i in range(n)],
                           device=next(dit.parameters()).device)
    length, first = config.frames, None
    parts = long_clips(config, vae, dit, process, caption, seed, **settings)
    at = starts(frames, length)
    for start, video in zip(at, stretches(parts, length, at)):
        first = video if start == 0 else first
        yield arm, start + 1, measure(judge, video, caption.cpu(), first)


def parse(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="(out/sora.pt, else the weights shipped)")
    add("--out", default="out/drift.csv", help="(out/drift.csv)")
    add("--append", action="store_true", help="add to the table that is there, and plot them together")
    add("--label", default="", help="to put before the names of the arms")
    add("--n", type=int, default=128, help="clips (128)")
    add("--frames", type=int, default=1000, help="frames of each (1000)")
    add("--arms", nargs="+", choices=[*ARMS, "factors"], default=list(ARMS)[:2], help="(the first two)")
    add("--seed", type=int, default=0)
    add("--window", type=int, help="video frames sampled jointly (as in training)")
    add("--context", type=int, help="video frames of the past that a window sees (up to half of it)")
    add("--context-noise", type=float, default=0.0)
    add("--history-guidance", type=float, default=1.0)
    add("--anchor", action=argparse.BooleanOptionalAction, default=True, help="windows keep the first 4 frames (yes)")
    add("--steps", type=int)
    add("--guidance", type=float)
    add("--sampler")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--compile", action="store_true", help="torch.compile the transformer")
    return parser.parse_args(argv)


def main(argv=None):
    """All arms, written row by row."""
    args = parse(argv)
    use_device(args.device)
    plots.need_matplotlib()
    make_folder(Path(args.out).parent)
    models = config, vae, dit, process, words = load_models(args.ckpt, args.device)
    if args.compile:
        dit.packed = torch.compile(dit.packed)
    if not readable(config) or args.n < 2 or args.frames < config.frames:
        raise InputError(f"--n {args.n} --frames {args.frames}, {config.digits} digits: expected at least 2 clips of "
                         f"{config.frames} frames, and one or two digits, which the referee can read")
    if not 0 <= args.context_noise < 1:
        raise InputError(f"--context-noise {args.context_noise}: expected 0 to less than 1")
    if args.sampler not in (None, *process.samplers):
        raise InputError(f"--sampler {args.sampler}: expected one of {', '.join(process.samplers)}")
    window, context, anchor = window_of(args, config)                          # in latent frames
    settings = dict(window=window, context=context, anchor=anchor, steps=args.steps or config.sample_steps,
                    sampler=args.sampler, context_noise=args.context_noise, history_guidance=args.history_guidance,
                    guidance=config.guidance if args.guidance is None else args.guidance)
    changed = [arm for arm in FACTORS if not ARMS[arm] or settings | ARMS[arm] != settings]
    append = args.append and Path(args.out).exists()
    with autocast(args.device), Path(args.out).open("a" if append else "w", newline="") as file:
        judge, writer, last = Judge(config), csv.writer(file), {}
        if not append:
            writer.writerow(["clips", "first_frame", "metric", "value", "low", "high"])
        arms = [drift(judge, models, args.n, args.frames, args.seed, f"{args.label}{arm}", settings | ARMS[arm])
                for name in args.arms for arm in (changed if name == "factors" else [name])]
        total = 2 + len(arms) * len(starts(args.frames, config.frames))
        real = [] if append else references(judge, vae, args.n, args.seed)
        for name, first, table in tqdm(chain(real, *arms), total=total):
            writer.writerows([name, first, metric, *(f"{x:.5g}" for x in cell)] for metric, cell in table.items())
            file.flush()
            last[name] = table
    for name, table in last.items():
        show(name, {f"last {config.frames} frames": table})
    print(f"wrote {args.out}")
    plots.drift(args.out, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
