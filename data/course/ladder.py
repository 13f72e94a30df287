"""Change one line: eight experiments, each trained for some seeds and measured.

    python3 -m data.course ladder --seeds 0 1 2              all of it: hours; it goes on where it stopped
    python3 -m data.course ladder --seeds 0 --only "SiT"     one experiment, beside the recipe
"""
import statistics
from contextlib import ExitStack
from typing import NamedTuple
from unittest.mock import patch

import torch

from data.evaluation.intervals import share
from data.evaluation.long_video import long_clips, stretches
from data.evaluation.judge import real_clips
from data.runtime import checkpoints
from data.runtime.checkpoints import SHIPPED, load_checkpoint
from data.runtime.config import window_of
from data.studies.measure import sample_numbers
from data.studies.study import Study, in_words
from data.training import start as starting
from sora import TIME, DiT, InputError


class Experiment(NamedTuple):
    """flags: of train.py; sampling: options of `generate`; metric: what to look at."""
    flags: list
    sampling: dict
    metric: str = "legibility"


RECIPE = "the recipe"
LATE = "legibility, frames 97-112"
EXPERIMENTS = {
    RECIPE: Experiment([], {}),
    "SiT": Experiment(["--process", "sit"], {}),
    "eps": Experiment(["--prediction", "eps"], {}),
    "x0": Experiment(["--prediction", "x0"], {}),
    "guidance 1": Experiment([], {"guidance": 1.0}),
    "5 steps": Experiment([], {"steps": 5}),
    "patch 2": Experiment(["--patch", 2], {}),
    "no anchors": Experiment(["--anchors", 0], {}, LATE),
    "no walls": Experiment([], {}),
    "AdamW": Experiment(["--muon", 0], {}),
}


class NoWalls(DiT):
    """A DiT that is not told where the walls are: every token has the same distances."""

    def forward_tokens(self, tokens, positions, walls, *others):
        return super().forward_tokens(tokens, positions, torch.zeros_like(walls), *others)


@torch.no_grad()
def late_legibility(models, judge, n):
    """Legibility of frames 97 to 112 of clips whose caption was given for the first window only."""
    config = models.config
    caption = real_clips(config, "train", n, seed=1)[1].to(models.vae.mean.device)
    sampling = dict(steps=8, guidance=config.guidance)
    clips = long_clips(models, caption, 0, *window_of(config), "first", sampling)
    video = next(stretches(clips, 4 * TIME, [96]))
    return share(judge.values(video, caption)["legibility"])


def add_arguments(parser):
    """What the command takes. Other flags go to every run of train.py."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each (0 1 2)")
    add("--steps", type=int, default=400, help="training steps of the transformer (400; the preset has 600)")
    add("--n", type=int, default=64, help="samples for each number (64)")
    add("--only", nargs="+", choices=list(EXPERIMENTS), help="only these, beside the recipe")
    add("--out", default="out/ladder", help="folder of the runs (out/ladder)")
    add("--flags", default="", help="more flags for every run of train.py, in one string")


def ladder(args):
    """Trains and measures; prints a table, and writes it to a file."""
    if args.steps < 1 or args.n < 4:
        raise InputError(f"--steps {args.steps} --n {args.n}: expected 1 step or more, 4 samples or more")
    numbers = ["--seeds", *map(str, args.seeds), "--steps", str(args.steps), "--n", str(args.n)]
    flags = [*numbers, "--out", args.out, "--ckpt", str(SHIPPED), *args.flags.split()]
    study = Study("ladder", __doc__, flags, steps=400)
    chosen = [name for name in EXPERIMENTS if not args.only or name in (RECIPE, *args.only)]
    minutes = {name: [] for name in chosen}
    for seed in args.seeds:
        for name in chosen:
            run(study, name, seed)
            trained = load_checkpoint(study.folder(trained_as(name), seed) / "sora.pt")
            minutes[name].append(trained["seconds"] / 60)
    text = table(study, chosen, minutes)
    path = study.folder(RECIPE, args.seeds[0]).parent / "table.md"
    path.write_text(text)
    print(f"\n{text}\nwrote {path}")


def trained_as(name):
    """The run whose weights an experiment takes: those that only sample differently take the recipe's."""
    own = EXPERIMENTS[name].flags or name == "no walls"
    return name if own else RECIPE


def run(study, name, seed):
    """One experiment with one seed."""
    experiment, n = EXPERIMENTS[name], study.args.n

    def measure(models):
        judge = study.judge(models.config)
        numbers = sample_numbers(models, judge, n, **experiment.sampling)
        numbers = {metric: numbers[metric] for metric in ("legibility", "frechet")}
        if name in (RECIPE, "no anchors"):
            numbers[LATE] = late_legibility(models, judge, n)
        return numbers

    with ExitStack() as changes:
        if name == "no walls":
            for module in (starting, checkpoints):
                changes.enter_context(patch.object(module, "DiT", NoWalls))
        study.run(name, seed, experiment.flags, measure, trained_as=trained_as(name))


def table(study, names, minutes):
    """The rows for the sheet: a mean over seeds and their deviation in each cell."""
    lines = ["| experiment | minutes to train | legibility | frames 97-112 | Frechet distance |",
             "|---|---|---|---|---|"]
    for name in names:
        cells = [study.cells(name, metric) for metric in ("legibility", LATE, "frechet")]
        words = [in_words(cell) if cell else "" for cell in cells]
        typical = statistics.median(minutes[name])                  # a run that was paused counts little
        lines.append(f"| {name} | {typical:.1f} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"
