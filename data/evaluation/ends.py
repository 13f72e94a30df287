"""Are the ends met? Numbers for loops, for the middle of a clip, and for extension backward against forward.

    python -m data.evaluation.ends --ckpt out/sora.pt

- loops: how much the last frame differs from the first, absolute difference averaged over pixels (`seam`), and how much
  that change differs from the changes before and after it (`seam, velocity`), each divided by the median of the same
  between the clip's other frames. Beside it, in the columns `inside`, the same for some frame inside the clip, of
  loops and of real clips: how far from 1 a single frame is without a seam. `largest`: the largest change of a clip but
  for the seam, relative to its median; `way back`: speed of the centre over the last frames, which lead to the first;
- middle: of held-out clips as long as a window the first and last latent frame are given, without a caption; squared
  error a frame and legibility of what is generated between them, against blending the two ends;
- extension: held-out clips of half a window are extended by a window, with the caption, forward and backward, and
  what is new is judged (score.py says what the numbers mean).
All of them with 95 % bootstrap intervals over clips.
"""
import argparse
from dataclasses import replace

import torch

from data.runtime.cli import autocast, default_ckpt, load_models, run_script, use_device, window_of
from data.evaluation.judge import Judge, readable, real_clips
from data.evaluation.metrics import interval, motion, squared_error
from data.evaluation.score import show
from sora import SPACE, TIME, InputError, extend, fill, loop, take


def seam(video, at):
    """Of clips (B,1,T,H,W), seen as a circle: the change into frame `at` (B,), and the change of the changes on either
    side of it, each divided by its median over frames that are not next to it: {name: (B,)}."""
    change = video - video.roll(1, dims=2)                                     # [t]: from t - 1 to t
    turn = change.roll(-1, dims=2) - change                                    # [t]: between the changes around t
    of = {"seam": change.abs().mean((1, 3, 4)), "seam, velocity": torch.maximum(
        turn.abs().mean((1, 3, 4)), turn.roll(1, dims=2).abs().mean((1, 3, 4)))}               # (B,T) each
    inside = ~torch.nn.functional.one_hot(at, video.shape[2]).bool()
    inside &= inside.roll(1, dims=1) & inside.roll(-1, dims=1)
    middle = {name: x.where(inside, x.new_tensor(float("nan"))).nanmedian(1).values for name, x in of.items()}
    table = {name: x.gather(1, at[:, None])[:, 0] / middle[name] for name, x in of.items()}
    return table | {"largest": of["seam"][:, 1:].amax(1) / middle["seam"]}    # the seam itself aside


@torch.no_grad()
def loops(models, n, frames, window, context, anchor, seed, sampling):
    """Loops as sample.py makes them: (B,c,frames,H,W) on the CPU."""
    config, vae, dit, process, _ = models
    caption = real_clips(config, "train", n, seed + 1)[1].to(vae.mean.device)
    blank = torch.zeros(n, config.latent_channels, 0, config.height // SPACE, config.width // SPACE,
                        device=caption.device)
    circle = loop(dit, process, blank, frames // TIME, caption, window, context, anchor,
                  generator=torch.Generator(caption.device).manual_seed(seed), **sampling)
    return vae.decode(torch.cat([circle, circle], dim=2))[:, :, frames:].clamp(-1, 1).cpu()    # the decoder warmed up


@torch.no_grad()
def middles(models, n, window, seed, sampling):
    """{what: {metric: interval}}: the model, blending, the VAE alone."""
    config, vae, dit, process, _ = models
    config = replace(config, frames=window * TIME)
    video, caption = real_clips(config, "heldout", n, seed)
    latent, nothing = vae.encode(video.to(vae.mean.device)), torch.zeros_like(caption).to(vae.mean.device)
    rng = torch.Generator(vae.mean.device).manual_seed(seed)
    filled = fill(dit, process, latent[:, :, :1], window - 2, latent[:, :, -1:], nothing,
                  generator=rng, **sampling | dict(guidance=1.0))
    copies = [vae.decode(torch.cat([latent[:, :, :1], z, latent[:, :, -1:]], dim=2)).clamp(-1, 1).cpu()
              for z in (filled, latent[:, :, 1:-1])]
    share = torch.linspace(0, 1, video.shape[2] - 2 * TIME + 2)[1:-1].view(-1, 1, 1)
    blend = video.clone()
    blend[:, :, TIME:-TIME] = (1 - share) * video[:, :, TIME - 1:TIME] + share * video[:, :, -TIME:1 - TIME]
    size, judge, table = video[0, :, 0].numel(), Judge(config), {}
    for name, clip in (("the model", copies[0]), ("blended ends", blend), ("the VAE alone", copies[1])):
        true, made = video[:, :, TIME:-TIME], clip[:, :, TIME:-TIME]
        table[name] = {"error": interval(squared_error(true, made) * size),
                       "legibility": judge.measure(made, caption)["legibility"]}
    return table


@torch.no_grad()
def extensions(models, n, window, context, anchor, seed, sampling):
    """{direction: {metric: interval}} of the new frames, a window of them."""
    config, vae, dit, process, _ = models
    config, half = replace(config, frames=window * TIME), max(window // 2, 1)
    video, caption = real_clips(replace(config, frames=half * TIME), "heldout", n, seed)
    given, words, judge, table = vae.encode(video.to(vae.mean.device)), caption.to(vae.mean.device), Judge(config), {}
    for name, backward in (("forward", False), ("backward", True)):
        new = take(extend(dit, process, given, words, window, context, anchor, backward=backward,
                          generator=torch.Generator(words.device).manual_seed(seed), **sampling), window, backward)
        whole = vae.decode(torch.cat([new, given] if backward else [given, new], dim=2)).clamp(-1, 1).cpu()
        fresh = whole[:, :, :window * TIME] if backward else whole[:, :, half * TIME:]
        table[name] = judge.measure(fresh, caption)
    return table | {"held out": judge.measure(*real_clips(config, "heldout", n, seed))}


def main(argv=None):
    """All three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="(out/sora.pt, else the weights shipped)")
    add("--n", type=int, default=128, help="clips (128)")
    add("--frames", type=int, default=48, help="of a loop (48)")
    add("--seed", type=int, default=0)
    add("--steps", type=int)
    add("--window", type=int, help="video frames sampled jointly (as in training)")
    add("--context", type=int, help="video frames of the past that a window sees (as sample.py)")
    add("--anchor", action=argparse.BooleanOptionalAction, default=True, help="windows keep the first 4 frames (yes)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    use_device(args.device)
    models = config, *_ = load_models(args.ckpt, args.device)
    window, context, anchor = window_of(args, config)
    back = window - 2 * max(context // 2, 1)
    if not readable(config):
        raise InputError(f"{args.ckpt}: trained on clips that the referee cannot read; expected one or two digits")
    if args.n < 2 or args.frames % TIME or args.frames <= window * TIME or back < 1 or (args.steps or 1) < 1:
        raise InputError(f"--n {args.n} --frames {args.frames} --window {window * TIME} --steps {args.steps}: expected "
                         f"2 or more clips, a multiple of {TIME} frames above the window's, which is {3 * TIME} or "
                         "more, and at least one step")
    sampling = dict(steps=args.steps or config.sample_steps, guidance=config.guidance)
    with autocast(args.device):
        circle = loops(models, args.n, args.frames, window, context, anchor, args.seed, sampling)
        real = real_clips(replace(config, frames=args.frames), "heldout", args.n, args.seed)[0]
        first, inside = torch.zeros(args.n, dtype=torch.long), torch.arange(args.n) % (args.frames - 8) + 4
        show(f"{args.n} loops", {name: {metric: interval(values) for metric, values in (seam(clip, at) | {
            "speed": motion(clip)["speed"], "way back": motion(clip[:, :, -back * TIME:])["speed"]}).items()}
            for name, clip, at in (("at the seam", circle, first), ("inside", circle, inside),
                                   ("held out, inside", real, inside))})
        show("middles", middles(models, args.n, window, args.seed, sampling))
        show("new frames", extensions(models, args.n, window, context, anchor, args.seed, sampling))


if __name__ == "__main__":
    run_script(main)
