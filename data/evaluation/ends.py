"""Are the ends met? Numbers for loops, for middles of clips, for extension backward and forward.

    python3 -m data.evaluation.ends --ckpt out/sora.pt

README.md beside this file says what the three tables mean.
"""
import argparse
from dataclasses import replace

import torch

from data.clips.places import digits_of, then_none
from data.evaluation.intervals import interval
from data.evaluation.judge import Judge, check_measurable, real_clips
from data.evaluation.metrics import motion, squared_error
from data.evaluation.score import blank_latent, noise_of
from data.evaluation.tables import show
from data.runtime.arguments import Parser
from data.runtime.checkpoints import default_ckpt, load_models
from data.runtime.config import window_of
from data.runtime.errors import run_script
from data.runtime.machine import autocast, default_device, use_device
from sora import TIME, InputError, extend, generate, loop, take


# --- loops --------------------------------------------------------------------------------------------

def seam(video, at):
    """How much clips (B,1,T,H,W), played in a circle, jump at the frames `at` (B,): {name: (B,)}.

    seam: the change into that frame, absolute difference averaged over pixels
    seam, velocity: how much that change differs from the ones before and after, the larger of both
    largest: the largest change into any frame but the first
    All are divided by their median over the clip's other frames, those not next to `at`."""
    T = video.shape[2]
    change = video - video.roll(1, dims=2)                          # [t]: from frame t - 1 to t
    turn = (change.roll(-1, dims=2) - change).abs().mean((1, 3, 4))     # [t]: of the changes around t
    measured = {"seam": change.abs().mean((1, 3, 4)),               # (B,T)
                "seam, velocity": torch.maximum(turn, turn.roll(1, dims=1))}
    steps = (torch.arange(T) - at[:, None]) % T                     # (B,T): how far behind `at`
    other = (steps > 1) & (steps < T - 1)                           # neither `at` nor next to it
    table = {}
    for name, values in measured.items():
        usual = values.masked_fill(~other, float("nan")).nanmedian(dim=1).values
        table[name] = values.gather(1, at[:, None])[:, 0] / usual
        if name == "seam":
            table["largest"] = values[:, 1:].amax(1) / usual
    return table


@torch.no_grad()
def loops(models, n, frames, window, context, anchor, seed, sampling):
    """n loops as sample.py makes them: (n,channels,frames,H,W) on the CPU."""
    config, vae, dit, process, _ = models
    device = vae.mean.device
    caption = real_clips(config, "train", n, seed + 1)[1].to(device)
    empty = blank_latent(config, n, 0, device)
    circle = loop(dit, process, empty, frames // TIME, then_none(caption), window, context, anchor,
                  randn=noise_of(seed, n, device), **sampling)
    twice = vae.decode(torch.cat([circle, circle], dim=2))          # the decoder has seen the end
    return twice[:, :, frames:].cpu()


def loop_table(models, n, frames, window, context, anchor, seed, sampling):
    """{clips: {metric: cell}}: loops at their seam, loops and real clips at some frame inside."""
    circle = loops(models, n, frames, window, context, anchor, seed, sampling)
    real, _ = real_clips(replace(models.config, frames=frames), "heldout", n, seed)
    back = window - 2 * max(context // 2, 1)                        # latent frames that lead back
    start, inside = torch.zeros(n, dtype=torch.long), torch.arange(n) % (frames - 8) + 4
    table = {}
    for name, clip, at in (("at the seam", circle, start), ("inside", circle, inside),
                           ("held out, inside", real, inside)):
        clip = clip.mean(1, keepdim=True)
        values = seam(clip, at)
        values["speed"] = motion(clip)["speed"]
        values["way back"] = motion(clip[:, :, -back * TIME:])["speed"]
        table[name] = {metric: interval(each) for metric, each in values.items()}
    return table


# --- the middle, and both directions ------------------------------------------------------------------

@torch.no_grad()
def middles(models, n, window, seed, sampling):
    """{what fills the middle: {metric: interval}}: the model, the ends blended, the VAE alone."""
    config, vae, dit, process, _ = models
    config, device = replace(config, frames=window * TIME), vae.mean.device
    video, caption = real_clips(config, "heldout", n, seed)
    latent = vae.encode(video.to(device))                           # (n,C,window,h,w)
    known = torch.zeros(window, dtype=torch.bool, device=device)
    known[0] = known[-1] = True
    nothing = torch.zeros(n, 1, dtype=torch.long, device=device)
    filled = generate(dit, process, latent, known, nothing, randn=noise_of(seed, n, device),
                      **sampling | dict(guidance=1.0))
    middle = slice(TIME, video.shape[2] - TIME)
    weight = torch.linspace(0, 1, video.shape[2] - 2 * TIME + 2)[1:-1].view(-1, 1, 1)
    before, after = video[:, :, TIME - 1:TIME], video[:, :, -TIME:1 - TIME]     # (n,channels,1,H,W)
    made = {"the model": vae.decode(filled).cpu()[:, :, middle],
            "blended ends": (1 - weight) * before + weight * after,
            "the VAE alone": vae.decode(latent).cpu()[:, :, middle]}
    pixels, judge, table = video[0, :, 0].numel(), Judge(config), {}
    for name, clip in made.items():
        table[name] = {"error": interval(squared_error(video[:, :, middle], clip) * pixels),
                       "legibility": judge.measure(clip, caption)["legibility"]}
    return table


@torch.no_grad()
def extensions(models, n, window, context, anchor, seed, sampling):
    """{direction: {metric: interval}} of the new frames, a window of them."""
    config, vae, dit, process, _ = models
    config, half, device = replace(config, frames=window * TIME), max(window // 2, 1), vae.mean.device
    video, caption = real_clips(replace(config, frames=half * TIME), "heldout", n, seed)
    given, judge, table = vae.encode(video.to(device)), Judge(config), {}
    words = digits_of(caption, config.digits).to(device)
    for name in ("forward", "backward"):
        windows = extend(dit, process, given, words, window, context, anchor,
                         backward=name == "backward", randn=noise_of(seed, n, device), **sampling)
        new = take(windows, window)                                 # (n,C,window,h,w)
        if name == "forward":
            clip = vae.decode(torch.cat([given, new], dim=2))[:, :, half * TIME:]
        else:                                                       # the newest is what comes first
            clip = vae.decode(torch.cat([new.flip(2), given], dim=2))[:, :, :window * TIME]
        table[name] = judge.measure(clip.cpu(), caption)
    table["held out"] = judge.measure(*real_clips(config, "heldout", n, seed))
    return table


def main(argv=None):
    """All three tables."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", help="checkpoint (out/sora.pt, else the weights shipped)")
    add("--n", type=int, default=128, help="clips (128)")
    add("--frames", type=int, default=48, help="video frames of a loop (48)")
    add("--seed", type=int, default=0, help="of clips, captions and noise (0)")
    add("--steps", type=int, help="denoising steps (left out: as in the config)")
    add("--window", type=int, help="video frames sampled jointly (left out: as in training)")
    add("--context", type=int, help="past video frames that a window sees (left out: up to half of it)")
    add("--anchor", action=argparse.BooleanOptionalAction, default=True,
        help="windows keep the first 4 frames (yes)")
    add("--device", default=default_device(), help="cuda or cpu")
    args = parser.parse_args(argv)
    args.ckpt = args.ckpt or default_ckpt()
    use_device(args.device)
    models = load_models(args.ckpt, args.device)
    config = models.config
    window, context, anchor = window_of(config, args.window, args.context, args.anchor)
    check_measurable(args.ckpt, config)
    if args.n < 2 or args.steps is not None and args.steps < 1:
        raise InputError(f"--n {args.n} --steps {args.steps}: expected at least 2 clips and 1 step")
    if window < 3 or window <= 2 * max(context // 2, 1):
        raise InputError(f"--window {window * TIME} --context {context * TIME}: expected a window of at "
                         f"least {3 * TIME} frames, longer than its context")
    if args.frames % TIME or args.frames <= window * TIME:
        raise InputError(f"--frames {args.frames}: expected a multiple of {TIME}, above the window's "
                         f"{window * TIME}")
    sampling = dict(steps=args.steps or config.sample_steps, guidance=config.guidance)
    with autocast(args.device):
        table = loop_table(models, args.n, args.frames, window, context, anchor, args.seed, sampling)
        show(f"{args.n} loops", table)
        show("middles", middles(models, args.n, window, args.seed, sampling))
        show("new frames", extensions(models, args.n, window, context, anchor, args.seed, sampling))


if __name__ == "__main__":
    run_script(main)
