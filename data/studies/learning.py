"""How legible after how much compute? Checkpoints of one run against the operations of their training.

    for step in 500 1000 2000 3000 4500; do                                 # the first time without --resume,
        python3 train.py --resume --until $step --out out/long              # but with the flags of the run
        python3 -m data.weights.ship out/long/sora.pt --out out/long/at$step.pt
    done
    python3 -m data.studies.learning out/long/at*.pt

All checkpoints are of the same run, so their learning rates are still high, but for the last one's: each is worse
than a run that was planned to end there. Writes NAME.csv (--name) to tables, NAME.png to ../pictures.
"""
import csv

import numpy as np

from data.evaluation.intervals import share
from data.evaluation.judge import Judge, check_measurable, real_clips
from data.evaluation.score import through_vae
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.checkpoints import load_checkpoint, load_models
from data.runtime.errors import run_script
from data.studies import plots, study
from data.studies.measure import flops_of_a_step, sample_numbers
from sora import InputError

HOUR = {"an hour at 100 GFLOP/s (two CPU cores)": 3600 * 1e11,
        "an hour at 100 TFLOP/s (a GPU)": 3600 * 1e14}


def measured(path, judge, n):
    """The numbers of a checkpoint: {metric: (value, low, high)}, with the operations of the transformer so far."""
    state, models = load_checkpoint(path), load_models(path, study.DEVICE)
    step = state["step"]
    flops = float(step * flops_of_a_step(models.config, state["config"]["batch"]))
    with machine.autocast(study.DEVICE):
        numbers = sample_numbers(models, judge, n)
    kept = {metric: numbers[metric] for metric in ("legibility", "frechet")}
    return {"step": (step,) * 3, "FLOPs": (flops,) * 3} | kept


def extrapolated(flops, legible, until):
    """A line through the log odds of legibility against the logarithm of FLOPs: (xs, ys). It is a guess."""
    odds = np.log(np.clip(legible, 0.01, 0.99) / (1 - np.clip(legible, 0.01, 0.99)))
    slope, offset = np.polyfit(np.log(flops), odds, 1)
    xs = np.geomspace(min(flops), until, 100)
    return xs, 1 / (1 + np.exp(-(slope * np.log(xs) + offset)))


def draw(rows, real, copies, name):
    """Legibility against FLOPs, with what real clips and the VAE's copies reach."""
    figure, (axis,) = plots.panels(1, width=7, height=4)
    x, (y, low, high) = [row["FLOPs"][0] for row in rows], np.array([row["legibility"] for row in rows]).T
    axis.plot(x, y, "o-", label="samples")
    axis.fill_between(x, low, high, alpha=0.2)
    if len(rows) > 2:
        axis.plot(*extrapolated(x, y, 10 * max(*x, *HOUR.values())), ":", color="C0", label="a guess")
    for value, label, colour in ((real, "real clips", "0.5"), (copies, "the VAE's copies", "C1")):
        axis.axhline(value, color=colour, linestyle="--", linewidth=1, label=label)
    for label, flops in HOUR.items():
        axis.axvline(flops, color="0.8")
        axis.text(flops, 0.02, label, rotation=90, fontsize=6, ha="right")
    axis.set(xscale="log", ylim=(0, 1), xlabel="FLOPs of training the transformer", title="legibility")
    axis.legend(fontsize=7)
    plots.save(figure, plots.PICTURES / f"{name}.png")


def main(argv=None):
    """Measures each checkpoint, writes the table and the plot."""
    parser = Parser(__doc__)
    parser.add_argument("ckpt", nargs="+", help="checkpoints of one run")
    parser.add_argument("--n", type=int, default=128, help="samples of each (128)")
    parser.add_argument("--name", default="learning", choices=("learning", "learning_small"),
                        help="of the table and the plot (learning)")
    args = parser.parse_args(argv)
    if args.n < 4:
        raise InputError(f"--n {args.n}: expected at least 4 samples")
    plots.need_matplotlib()
    machine.use_device(study.DEVICE)
    paths = sorted(args.ckpt, key=lambda path: load_checkpoint(path)["step"])
    models = load_models(paths[-1], study.DEVICE)
    check_measurable(paths[-1], models.config)
    judge, rows = Judge(models.config), []
    for path in paths:
        rows.append(measured(path, judge, args.n))
        print(path, {metric: round(cell[0], 3) for metric, cell in rows[-1].items()}, flush=True)
    video, caption = real_clips(models.config, "heldout", args.n)
    real, copies = (share(judge.values(clips, caption)["legibility"])[0]
                    for clips in (video, through_vae(models.vae, video)))
    print(f"real clips {real:.3f}, the VAE's copies {copies:.3f}")
    path = study.TABLES / f"{args.name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(["step", "FLOPs", "metric", "value", "low", "high"])
        for row in rows:
            for metric in ("legibility", "frechet"):
                cell = [f"{x:.4g}" for x in row[metric]]
                csv.writer(file).writerow([row["step"][0], f"{row['FLOPs'][0]:.4g}", metric, *cell])
    print(f"wrote {path}")
    draw(rows, real, copies, args.name)


if __name__ == "__main__":
    run_script(main)
