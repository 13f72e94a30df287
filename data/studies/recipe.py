"""What does each part of the recipe buy? The preset `tiny`, trained briefly, one thing changed at a time.

    python3 -m data.studies.recipe

- no gain: queries and keys stay normalised, and heads learn no gain for their queries;
- uniform levels: all noise levels are trained alike, not the middle ones more often;
- AdamW: for all weights, instead of Muon for the matrices; at three learning rates, because the preset's
  was chosen beside Muon;
- patch 2, SiT: flags of train.py.
How to switch off what has no flag stands here, not in sora.py. The held-out loss is shown by level.
"""
from contextlib import nullcontext
from unittest.mock import patch

import torch
import torch.nn as nn

from data.runtime.errors import run_script
from data.studies import plots
from data.studies.measure import LEVELS, loss_by_level, sample_numbers
from data.studies.study import Study
from data.training import start as starting
from sora import DDPM, DiT


class NoGain(DiT):
    """A DiT whose queries have gain 1, which is not trained."""

    def initialise(self):
        super().initialise()
        for block in self.blocks:
            nn.init.ones_(block.attention.gain)
            block.attention.gain.requires_grad_(False)


def uniform_levels(process, shape, generator=None, device=None):
    """Levels in 1..N, all alike: in the place of DDPM.draw_levels."""
    return torch.randint(1, process.N + 1, shape, generator=generator, device=device)


WHOLE = "the recipe"
RUNS = {WHOLE: [],                                                  # flags of train.py
        "no gain": [],
        "uniform levels": [],
        "AdamW 0.001": ["--muon", 0, "--lr", 0.001],
        "AdamW 0.002": ["--muon", 0, "--lr", 0.002],
        "AdamW 0.004": ["--muon", 0, "--lr", 0.004],
        "patch 2": ["--patch", 2],
        "SiT": ["--process", "sit"]}
CHANGES = {"no gain": (starting, "DiT", NoGain),                    # what is put in the place of what
           "uniform levels": (DDPM, "draw_levels", uniform_levels)}


def draw(study):
    """The loss by level, divided by that of the whole recipe with the same seed; and legibility."""
    runs = study.runs()
    figure, (left, right) = plots.panels(2, width=5)
    for colour, run in zip(plots.COLOURS, runs):
        ratios = []                                                 # (levels,seeds)
        for level in LEVELS:
            pairs = zip(study.cells(run, f"loss at {level}"), study.cells(WHOLE, f"loss at {level}"))
            ratios.append([mine[0] / whole[0] for mine, whole in pairs])
        left.plot(LEVELS, ratios, color=colour, linewidth=0.7, alpha=0.6)
        left.plot(LEVELS, [sum(seeds) / len(seeds) for seeds in ratios], color=colour, linewidth=2, label=run)
        legible = [cell[0] for cell in study.cells(run, "legibility")]
        right.plot(legible, [run] * len(legible), "o", color=colour)
    left.set(xlabel="noise level t / N", title="held-out loss, relative to the recipe's")
    left.legend(fontsize=7)
    right.set(title="legibility, a dot for each seed")
    right.invert_yaxis()
    plots.save(figure, plots.PICTURES / "recipe.png")


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("recipe", __doc__, argv, steps=300)
    n = study.args.n

    def measure(models):
        return loss_by_level(models, 4 * n) | sample_numbers(models, study.judge(models.config), n)

    for seed in study.args.seeds:
        for label, flags in RUNS.items():
            changed = patch.object(*CHANGES[label]) if label in CHANGES else nullcontext()
            with changed:
                study.run(label, seed, flags, measure)
    study.add_held_out(WHOLE)
    study.finish(["loss", *(f"loss at {level}" for level in LEVELS), "legibility", "frechet"])
    draw(study)


if __name__ == "__main__":
    run_script(main)
