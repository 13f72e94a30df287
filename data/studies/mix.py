"""What does each part of the training mix buy? One run without each, and what six uses of the mask are then like.

Beside them: a smaller network, one whose known frames look at the unknown ones too (BothWays), and one that has no
anchors but twice the window, 32 frames with 16 of context (its clips, but for the stretches below, are twice as long).

    python -m data.studies.mix

All share the VAE of --ckpt, the seed and the number of steps. n clips for each number, with 95 % bootstrap intervals
over clips; all but `text` begin with held-out clips and have no caption, so what goes on must be seen in them:
- text: samples from captions, their legibility and Frechet distance;
- picture: the first frame of a clip is given as a still, legibility of the window that follows;
- middle: the first and last latent frame are given, squared error of what is between (see tasks.py);
- backward: legibility of the window before a clip;
- frames 97 to 112, and 985 to 1,000 (with history guidance 3 only): legibility of a clip that goes on, with an anchor
  and one latent frame of context if the model has practised anchors, else with half a window. "No anchor shown" is the
  model of the whole mix, sampled as those are that have not.
What is left out of the mix leaves its share to the rest of it. Training goes on where it was stopped, in out/mix
(delete it to start over, and when --ckpt is another one); the table that is in data/results/mix.csv is added to.
"""
import argparse
import csv
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

import train
from data.runtime import cli
from data.runtime.cli import autocast, load_models, run_script, tune_cpu, window_of
from data.evaluation.long_video import stretches
from data.evaluation.judge import Judge, real_clips
from data.evaluation.score import sample_clips, show
from data.studies.study import trained
from data.evaluation.ends import middles
from sora import TIME, DiT, extend, fill, take

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/mix"), Path("data/studies/tables")
LATE, LENGTH = (96, 984), 16  # where the stretches of long clips begin that are looked at, and how long they are
RUNS = {(WHOLE := "the whole mix"): [],
        (NO_ANCHOR := "the whole mix, no anchor shown"): [],
        "no anchors": ["--anchors", 0],
        "no forcing": ["--forcing", 0],
        "few captions dropped": ["--caption-drop-known", 0.1],
        "no stills": ["--stills", 0],
        "half the width": ["--dim", 96, "--heads", 3],
        "no anchors, 32 frames": ["--anchors", 0, "--frames", 32, "--batch", 16],            # as many tokens a step
        "no known frames": ["--known", 0, "--caption-drop", 0.3],              # as many without a caption in all
        (BOTH_WAYS := "known see unknown"): []}


class BothWays(DiT):
    """The transformer with known frames that look at the unknown ones too: nothing to remember from step to step."""

    def forward_tokens(self, tokens, coords, row, t, caption, known, sizes, memory=None):
        return super().forward_tokens(tokens, coords, row, t, caption, torch.zeros_like(known), sizes)

    def remember(self, known, times):
        return lambda x, t, caption: self(x, t, caption, times.expand(t.shape))


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
    new = fill(dit, process, still, window - 1, still[:, :, :0], nothing, **common())
    table["picture, legibility"] = read(torch.cat([still, new], dim=2), slice(TIME, None))
    table["middle, error"] = middles(models, n, window, seed, dict(steps=steps))["the model"]["error"]
    new = take(extend(dit, process, given, nothing, window, context, anchor, True, **common()), window, True)
    table["backward, legibility"] = read(torch.cat([new, given], dim=2), slice(0, config.frames))
    for scale, late in ((1.0, LATE[:1]), (3.0, LATE)):
        cache, windows = {}, extend(dit, process, given, nothing, window, context, anchor, guidance=scale,
                                    history_guidance=scale, **common())
        parts = (vae.decode(latent, cache).clamp(-1, 1).cpu() for latent in chain([given], windows))
        for start, clip in zip(late, stretches(parts, LENGTH, late)):
            name = f"frames {start + 1} to {start + LENGTH}{', guided' * (scale > 1)}"
            table[name] = judge.measure(clip, caption)["legibility"]
    return table


def main(argv=None):
    """Trains, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="out/sora.pt", help="whose VAE to use (out/sora.pt)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS], metavar="RUN",
                        help=f"some only, added to the table that is there: {', '.join(map(repr, RUNS))} (all)")
    parser.add_argument("--n", type=int, default=64, help="clips for each number (64)")
    parser.add_argument("--train-steps", type=int, default=2600, help="of each run (2600)")
    parser.add_argument("--steps", type=int, default=8, help="when sampling (8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile when training")
    args = parser.parse_args(argv)
    tune_cpu()
    table = RESULTS / "mix.csv"
    rows = list(csv.reader(table.open()))[1:] if table.exists() else []
    for name in args.runs:
        trained_as = WHOLE if name == NO_ANCHOR else name
        folder = OUT / f"{trained_as.replace(' ', '-')}-{args.train_steps}-{args.seed}"
        flags = ["--vae", args.ckpt, "--steps", args.train_steps, "--save-every", 10 ** 6, "--seed", args.seed,
                 "--compile" if args.compile else "--no-compile", *RUNS[name]]
        kind = BothWays if name == BOTH_WAYS else DiT
        with patch.object(train, "DiT", kind), patch.object(cli, "DiT", kind):
            models = load_models(trained(folder, flags, args.train_steps), DEVICE)
            with autocast(DEVICE):
                numbers = uses(models, Judge(models[0]), args.n, args.seed, args.steps, name != NO_ANCHOR)
        label = f"{name}, seed {args.seed}" if args.seed else name
        show(label, {"": numbers})
        rows = [row for row in rows if row[0] != label]
        rows += [[label, use, *(f"{x:.5g}" for x in cell)] for use, cell in numbers.items()]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([["trained with", "use", "value", "low", "high"], *rows])


if __name__ == "__main__":
    run_script(main)
