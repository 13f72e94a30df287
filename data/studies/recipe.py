"""What does each part of the recipe buy? The preset `tiny`, trained briefly, one thing changed at a time.

    python3 -m data.studies.recipe
    python3 -m data.studies.recipe --only SiT --seeds 0      one change, beside the recipe

How to switch off what has no flag stands here, not in sora.py:

- no gain: queries and keys stay normalised, and heads learn no gain for their queries;
- uniform levels: all noise levels are trained alike, not the middle ones more often;
- no walls: tokens are not told how far away the walls are.
"""
from contextlib import ExitStack
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn as nn

from data.evaluation.intervals import share
from data.evaluation.judge import real_clips
from data.evaluation.long_video import long_clips, stretches
from data.runtime import checkpoints
from data.runtime.config import window_of
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.measure import sample_numbers
from data.studies.study import Study
from data.training import start as starting
from sora import DDPM, TIME, DiT


class NoGain(DiT):
    """A DiT whose queries have gain 1, which is not trained."""

    def initialise(self):
        super().initialise()
        for block in self.blocks:
            nn.init.ones_(block.attention.gain)
            block.attention.gain.requires_grad_(False)


class NoWalls(DiT):
    """A DiT that is not told where the walls are: every token has the same distances."""

    def forward_tokens(self, tokens, positions, walls, *others):
        return super().forward_tokens(tokens, positions, torch.zeros_like(walls), *others)


def uniform_levels(process, shape, generator=None, device=None):
    """Levels in 1..N, all alike: in the place of DDPM.draw_levels."""
    return torch.randint(1, process.N + 1, shape, generator=generator, device=device)


class Change(NamedTuple):
    """flags: of train.py; sampling: options of `generate`; patches: (where, name, what to put there)."""
    flags: list = ()
    sampling: dict = {}
    patches: list = ()


RECIPE = "the recipe"
LATE = "legibility, frames 97-112"
CHANGES = {
    RECIPE: Change(),
    "no gain": Change(patches=[(starting, "DiT", NoGain)]),
    "uniform levels": Change(patches=[(DDPM, "draw_levels", uniform_levels)]),
    "AdamW": Change(["--muon", 0]),
    "AdamW, twice the rate": Change(["--muon", 0, "--lr", 0.004]),
    "SiT": Change(["--process", "sit"]),
    "eps": Change(["--prediction", "eps"]),
    "x0": Change(["--prediction", "x0"]),
    "patch 2": Change(["--patch", 2]),
    "no walls": Change(patches=[(starting, "DiT", NoWalls), (checkpoints, "DiT", NoWalls)]),
    "no anchors": Change(["--anchors", 0]),
    "guidance 1": Change(sampling={"guidance": 1.0}),
    "5 steps": Change(sampling={"steps": 5}),
}


@torch.no_grad()
def late_legibility(models, judge, n):
    """Legibility of frames 97 to 112 of clips whose caption was given for the first window only."""
    config = models.config
    caption = real_clips(config, "train", n, seed=1)[1].to(models.vae.mean.device)
    sampling = dict(steps=8, guidance=config.guidance)
    clips = long_clips(models, caption, 0, *window_of(config), "first", sampling)
    video = next(stretches(clips, 4 * TIME, [96]))
    return share(judge.values(video, caption)["legibility"])


def run(study, name, seed):
    """One change with one seed. What only samples differently takes the recipe's weights."""
    change, n = CHANGES[name], study.args.n

    def measure(models):
        judge = study.judge(models.config)
        numbers = sample_numbers(models, judge, n, **change.sampling)
        numbers = {metric: numbers[metric] for metric in ("legibility", "frechet")}
        if name in (RECIPE, "no anchors"):
            numbers[LATE] = late_legibility(models, judge, n)
        return numbers

    with ExitStack() as changes:
        for where, what, other in change.patches:
            changes.enter_context(patch.object(where, what, other))
        study.run(name, seed, change.flags, measure, trained_as=RECIPE if change.sampling else name)


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("recipe", __doc__, argv, steps=400, n=64, runs=CHANGES)
    for seed in study.args.seeds:
        for name in dict.fromkeys([RECIPE, *study.args.only]):
            run(study, name, seed)
    study.finish(["legibility", LATE, "frechet"])
    plots.bars(study, ["legibility", "frechet"])


if __name__ == "__main__":
    run_script(main)
