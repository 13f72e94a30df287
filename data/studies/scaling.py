"""Does it scale? Four widths x two patch sizes against the floating point operations of their training.

    python3 -m data.studies.scaling

All train for the same number of steps. The learning rates are those of the preset, which suit its own
width; the narrowest and the widest network are therefore trained with half and with twice these, too.
Also draws growth.gif: samples of the same seeds at growing compute.
"""
import statistics

import numpy as np
import torch

from data.clips.files import write_clip
from data.evaluation.score import sample_clips
from data.runtime import machine
from data.runtime.checkpoints import load_checkpoint, load_models
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.measure import flops_of_a_clip, loss_by_level, sample_numbers
from data.studies.study import DEVICE, Study
from train import TrainConfig

WIDTHS, PATCHES = (24, 48, 96, 192), (1, 2)
FACTORS = (0.5, 2)                      # of the learning rates, tried at both ends


def runs():
    """{label: flags} of all runs."""
    table = {}
    for patch in PATCHES:
        for dim in WIDTHS:
            table[label_of(dim, patch)] = flags_of(dim, patch)
    for dim in (WIDTHS[0], WIDTHS[-1]):
        for factor in FACTORS:
            table[f"{label_of(dim, 1)}, rates x {factor}"] = flags_of(dim, 1, factor)
    return table


def label_of(dim, patch):
    """What a run is called."""
    return f"width {dim}, patch {patch}"


def flags_of(dim, patch, factor=1):
    """Its flags of train.py. Heads are 32 wide, or as wide as the network."""
    rates = ["--lr", factor * TrainConfig.lr, "--muon", factor * TrainConfig.muon]
    return ["--dim", dim, "--heads", max(dim // 32, 1), "--patch", patch, *rates]


def clips_seen(folder):
    """How many clips a run has trained on."""
    state = load_checkpoint(folder / "sora.pt")
    return state["step"] * state["config"]["batch"]


def growth(study):
    """Writes samples of the same captions and seeds: a row for each width, at patch 1."""
    rows = []
    for dim in WIDTHS:
        folder = study.folder(label_of(dim, 1), study.args.seeds[0])
        config, vae, dit, process, _ = load_models(folder / "sora.pt", DEVICE)
        caption = torch.arange(1, 9, device=DEVICE)[:, None]        # 0 to 7
        with machine.autocast(DEVICE):
            rows.append(sample_clips(dit, vae, process, config, caption))
    path = plots.PICTURES / "growth.gif"
    write_clip(path, torch.cat(rows), scale=2, columns=8)
    print(f"wrote {path}: a row for each of the widths {WIDTHS}")


def draw(study, metrics):
    """Metrics against operations, both on logarithmic axes, and the power law that fits them best."""
    figure, axes = plots.panels(len(metrics))
    for axis, metric in zip(axes, metrics):
        xs, ys = [], []
        for colour, patch in zip(plots.COLOURS, PATCHES):
            x, y = points(study, metric, [label_of(dim, patch) for dim in WIDTHS])
            axis.plot(x, y, "o-", color=colour, label=f"patch {patch}")
            xs, ys = xs + x, ys + y
        others = [run for run in study.runs() if "rates" in run]
        axis.plot(*points(study, metric, others), "x", color="0.3", label="other learning rates")
        slope, offset = np.polyfit(np.log(xs), np.log(ys), 1)
        ends = np.array([min(xs), max(xs)])
        axis.plot(ends, np.exp(offset) * ends ** slope, ":", color="0.5", label=f"FLOPs^{slope:.3f}")
        axis.set(xscale="log", yscale="log", xlabel="training FLOPs", title=metric)
        axis.legend(fontsize=7)
        print(f"{metric}: best fitted by FLOPs^{slope:.3f}")
    plots.save(figure, plots.PICTURES / "scaling.png")


def points(study, metric, labels):
    """Operations and a metric, the mean over seeds, of some runs."""
    x = [study.cells(label, "flops")[0][0] for label in labels]
    y = [statistics.mean(cell[0] for cell in study.cells(label, metric)) for label in labels]
    return x, y


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("scaling", __doc__, argv, steps=300, seeds=(0,))
    n = study.args.n
    for seed in study.args.seeds:
        for label, flags in runs().items():
            def measure(models):
                flops = flops_of_a_clip(models.config) * clips_seen(study.folder(label, seed))
                parameters = sum(p.numel() for p in models.dit.parameters())
                table = {"flops": (flops,) * 3, "parameters": (parameters,) * 3}
                table |= sample_numbers(models, study.judge(models.config), n)
                return table | loss_by_level(models, 4 * n)
            study.run(label, seed, flags, measure)
    study.add_held_out(label_of(WIDTHS[0], 1))
    study.finish(["parameters", "flops", "loss", "legibility", "frechet"])
    draw(study, ["loss", "frechet"])
    growth(study)


if __name__ == "__main__":
    run_script(main)
