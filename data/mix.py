"""What does each part of the training mix buy? One run without each, and what six uses of the mask are then like.

Beside them, a smaller network, and one whose known frames do not look at the unknown ones (KNOWN_ONLY): while they stay
as they are, their keys and values are the same at every denoising step and could be kept.

    python -m data.mix

All share the VAE of --ckpt, the seed and the number of steps. n clips for each number, with 95 % bootstrap intervals
over clips; all but `text` begin with held-out clips and have no caption, so what goes on must be seen in them:
- text: samples from captions, their legibility and Frechet distance;
- picture: the first frame of a clip is given as a still, legibility of the window that follows;
- middle: the first and last latent frame are given, squared error of what is between (see tasks.py);
- backward: legibility of the window before a clip;
- frames 97 to 112: legibility of a clip that goes on, with an anchor and one latent frame of context if the model has
  practised anchors, else with two of context; without and with history guidance 3. "No anchor shown" is the model
  of the whole mix, sampled as those are that have not.
What is left out of the mix leaves its share to the rest of it. Training goes on where it was stopped, in out/mix
(delete it to start over, and when --ckpt is another one); the table goes to data/results/mix.csv.
"""
import argparse
import csv
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as nnf

import sora
import train
from data import score
from data.cli import autocast, load_models, run_script, tune_cpu, window_of
from data.judge import Judge, real_clips
from data.score import sample_clips, show
from data.study import trained
from data.tasks import middles
from sora import TIME, extend, fill, take

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/mix"), Path("data/results")
RUNS = {(WHOLE := "the whole mix"): [],
        (NO_ANCHOR := "the whole mix, no anchor shown"): [],
        "no anchors": ["--anchors", 0],
        "no forcing": ["--forcing", 0],
        "few captions dropped": ["--caption-drop-known", 0.1],
        "no stills": ["--stills", 0],
        "half the width": ["--dim", 96, "--heads", 3],
        "no known frames": ["--known", 0, "--caption-drop", 0.3],              # as many without a caption in all
        (KNOWN_ONLY := "known see known only"): []}


def known_only():
    """In a `with` of this, tokens of known frames attend to those of known frames only (clips of one shape)."""
    now, attention = {}, nnf.scaled_dot_product_attention

    def draw_windows(config, B, F, generator=None):
        known, *rest = sora.draw_windows(config, B, F, generator)
        now["known"] = known
        return known, *rest

    def generate(model, process, latent, known, *args, real=sora.generate, **sampling):
        now["known"] = known.expand(len(latent), latent.shape[2])
        return real(model, process, latent, known, *args, **sampling)

    def masked(q, k, v):  # (B,heads,l,head_dim) each, B a multiple of the clips: guidance asks several times at once
        known = now["known"].to(q.device)
        known = known.repeat(len(q) // len(known), 1).repeat_interleave(q.shape[2] // known.shape[1], dim=1)   # (B,l)
        return attention(q, k, v, attn_mask=known[:, None, None] | ~known[:, None, :, None])
    stack = ExitStack()
    for place, name, new in ((train, "draw_windows", draw_windows), (score, "generate", generate),
                             (sora, "generate", generate), (nnf, "scaled_dot_product_attention", masked)):
        stack.enter_context(patch.object(place, name, new))
    return stack


@torch.no_grad()
def uses(models, judge, n, seed, steps, anchor=True):
    """{use: (value, low, high)} of one model."""
    config, vae, dit, process, _ = models
    window, context, anchor = window_of(SimpleNamespace(window=None, context=None, anchor=anchor), config)
    caption = real_clips(config, "train", n, seed + 1)[1]
    text = judge.measure(sample_clips(dit, vae, process, config, caption.to(DEVICE), seed, steps=steps), caption)
    table = {"text, legibility": text["legibility"], "text, frechet": text["frechet"]}
    video, caption = real_clips(config, "heldout", n, seed)
    given, nothing = vae.encode(video.to(DEVICE)), torch.zeros_like(caption).to(DEVICE)
    still = vae.encode(video[:, :, :1].expand(-1, -1, TIME, -1, -1).to(DEVICE))
    common = lambda: dict(steps=steps, generator=torch.Generator(DEVICE).manual_seed(seed))
    read = lambda latent, frames: judge.measure(vae.decode(latent).clamp(-1, 1)[:, :, frames], caption)["legibility"]
    new = fill(dit, process, still, torch.zeros_like(given[:, :, 1:]), still[:, :, :0], nothing, **common())
    table["picture, legibility"] = read(torch.cat([still, new], dim=2), slice(TIME, None))
    table["middle, error"] = middles(models, n, window, seed, dict(steps=steps))["the model"]["error"]
    new = take(extend(dit, process, given, nothing, window, context, anchor, True, **common()), window, True)
    table["backward, legibility"] = read(torch.cat([new, given], dim=2), slice(0, config.frames))
    for scale in (1.0, 3.0):
        windows = extend(dit, process, given, nothing, window, context, anchor, guidance=scale, history_guidance=scale,
                         **common())
        new = take(windows, 6 * window)
        table[f"frames 97 to 112{', guided' * (scale > 1)}"] = read(torch.cat([given, new], dim=2), slice(96, 112))
    return table


def main(argv=None):
    """Trains, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="out/sora.pt", help="whose VAE to use (out/sora.pt)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS], metavar="RUN",
                        help=f"some only, added to the table that is there: {', '.join(map(repr, RUNS))} (all)")
    parser.add_argument("--n", type=int, default=64, help="clips for each number (64)")
    parser.add_argument("--train-steps", type=int, default=2600, help="of each run (2600)")
    parser.add_argument("--steps", type=int, default=16, help="when sampling (16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help=f"torch.compile all but {KNOWN_ONLY!r}, which it undoes")
    args = parser.parse_args(argv)
    tune_cpu()
    table = RESULTS / "mix.csv"
    rows = list(csv.reader(table.open()))[1:] if table.exists() else []
    for name in args.runs:
        trained_as = WHOLE if name == NO_ANCHOR else name
        folder = OUT / f"{trained_as.replace(' ', '-')}-{args.train_steps}-{args.seed}"
        flags = ["--vae", args.ckpt, "--steps", args.train_steps, "--save-every", 10 ** 6, "--seed", args.seed,
                 "--compile" if args.compile and name != KNOWN_ONLY else "--no-compile", *RUNS[name]]
        with known_only() if name == KNOWN_ONLY else ExitStack():
            models = load_models(trained(folder, flags, args.train_steps), DEVICE)
            with autocast(DEVICE):
                numbers = uses(models, Judge(models[0]), args.n, args.seed, args.steps, name != NO_ANCHOR)
        show(name, {"": numbers})
        rows = [row for row in rows if row[0] != name]
        rows += [[name, use, *(f"{x:.5g}" for x in cell)] for use, cell in numbers.items()]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([["trained with", "use", "value", "low", "high"], *rows])


if __name__ == "__main__":
    run_script(main)
