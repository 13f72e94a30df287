"""The figures of data/results, drawn from the tables beside them. Needs matplotlib."""
import csv
from pathlib import Path

import numpy as np

from sora import InputError

RESULTS = Path(__file__).with_name("tables")
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def need_matplotlib():
    """Its pyplot, set up to write files. Called before hours of work that would end in a plot."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("plots need matplotlib: python -m pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def panels(n):
    """A figure with n panels in a row."""
    pyplot = need_matplotlib()
    return pyplot.subplots(1, n, figsize=(4.4 * n, 3.3), layout="constrained")


def save(figure, path):
    """Writes a figure and says so."""
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


def draw(study, runs, cells, marks):
    """Draws a study of study.py; cells {(run, step, guidance, metric): (value, low, high)}."""
    {"process": curves, "scaling": scaling}.get(study, bars)(study, runs, cells, marks)


def curves(study, runs, cells, marks):
    """Learning curves: a thin line a seed, a thick one for their mean."""
    figure, axes = panels(2)
    kinds = {"DDPM, v": ("v", "width192"), "SiT": ("sit",), "DDPM, eps": ("eps",), "DDPM, x0": ("x0",)}
    for axis, metric in zip(axes, ("frechet", "legibility")):
        for colour, (label, names) in zip(COLOURS, kinds.items()):
            lines = np.array([[cells[run, mark, 1.0, metric][0] for mark in marks]
                              for run in runs if run.partition("-")[0] in names])
            axis.plot(marks, lines.T, color=colour, linewidth=0.7, alpha=0.6)
            axis.plot(marks, lines.mean(0), color=colour, linewidth=2, label=label)
            final = [cells[run, marks[-1], 3.0, metric][0] for run in runs if run.partition("-")[0] in names]
            print(f"{label}: {metric} at step {marks[-1]}, mean (deviation) of {len(lines)} seeds: no guidance "
                  f"{lines[:, -1].mean():.3f} ({lines[:, -1].std(ddof=1):.3f}), guidance 3 {np.mean(final):.3f} "
                  f"({np.std(final, ddof=1):.3f})")
        real = cells["held out", "", "", metric][0]
        axis.set(xlabel="step", title=f"{metric}, no guidance (held-out clips: {real:.2g})")
        axis.legend(fontsize=7)
    save(figure, RESULTS / f"{study}.png")


def scaling(study, runs, cells, marks):
    """Held-out loss and Frechet distance against training FLOPs, with a power law fitted over all runs."""
    figure, axes = panels(2)
    get = lambda run, metric, guidance="": cells[run, marks[-1], guidance, metric][0]
    flops = np.array([get(run, "flops") for run in runs])
    for axis, metric, guidance in zip(axes, ("loss", "frechet"), ("", 3.0)):
        values = np.array([get(run, metric, guidance) for run in runs])
        for colour, patch in zip(COLOURS, (1, 2)):
            mine = np.array([run.endswith(f"patch{patch}") for run in runs])
            axis.plot(flops[mine], values[mine], "o-", color=colour, label=f"patch {patch}")
        (slope, offset), covariance = np.polyfit(np.log(flops), np.log(values), 1, cov=True)
        correlation = np.corrcoef(np.log(flops), np.log(values))[0, 1]
        ends = np.array([flops.min(), flops.max()])
        axis.plot(ends, np.exp(offset) * ends ** slope, ":", color="0.5", label=f"FLOPs^{slope:.3f}")
        axis.set(xscale="log", yscale="log", xlabel="training FLOPs",
                 title="frechet, guidance 3" if guidance else "held-out loss")
        axis.legend(fontsize=7)
        print(f"{metric}: slope {slope:.3f} +- {covariance[0, 0] ** 0.5:.3f}, correlation of the logarithms "
              f"{correlation:.3f}; alone, " + ", ".join(
                  f"patch {patch} {np.polyfit(*np.log([flops[i::2], values[i::2]]), 1)[0]:.3f}"
                  for i, patch in enumerate((1, 2))))
        if metric == "loss":  # the line, continued to 3e9 parameters trained as long, and how uncertain it is there
            large = 3e9 * flops[-2] / get(runs[-2], "parameters")              # runs[-2]: the largest at patch 1
            x = np.array([np.log(large), 1])
            spread = (x @ covariance @ x) ** 0.5
            middle, low, high = (np.exp(offset + slope * x[0] + z * spread) for z in (0, -2, 2))
            print(f"3e9 parameters: {large:.1e} FLOPs, {large / ends[1]:.0f} times the largest run's; loss {middle:.3f}"
                  f", between {low:.3f} and {high:.3f} if there were no floor, which there is")
    for run in runs:
        print(f"{run}: {get(run, 'parameters') / 1e6:.2f} M parameters, {get(run, 'flops'):.2e} FLOPs, loss "
              f"{get(run, 'loss'):.4f}, with guidance 3 frechet {get(run, 'frechet', 3.0):.0f}, legibility "
              f"{get(run, 'legibility', 3.0):.3f}")
    save(figure, RESULTS / f"{study}.png")


def bars(study, runs, cells, marks):
    """A few numbers of each run, side by side, with their intervals."""
    shown = {"compressor": (("", "psnr"), (3.0, "legibility"), (3.0, "frechet"), (3.0, "flicker")),
             "digits": (("", "psnr"), (3.0, "legibility"), (3.0, "frechet"), (3.0, "nearest"))}[study]
    figure, axes = panels(len(shown))
    for axis, (guidance, metric) in zip(axes, shown):
        table = np.array([cells[run, marks[-1], guidance, metric] for run in runs])       # (runs,3)
        axis.bar(range(len(runs)), table[:, 0], color="tab:blue", alpha=0.6)
        axis.errorbar(range(len(runs)), table[:, 0], abs(table[:, 1:].T - table[:, 0]), fmt="none", color="0.2")
        axis.set_xticks(range(len(runs)), runs, fontsize=7)
        axis.set(title=metric)
        if ("held out", "", "", metric) in cells:
            axis.axhline(cells["held out", "", "", metric][0], color="0.6", linestyle=":")
    save(figure, RESULTS / f"{study}.png")
    for run in runs:
        for (name, step, guidance, metric), cell in cells.items():
            if (name, step) == (run, marks[-1]) and guidance != 1.0:
                print(f"{run:16} {metric:20} {cell[0]:.4g} [{cell[1]:.4g}, {cell[2]:.4g}]")


def drift(path, png):
    """The table that drift.py wrote: numbers against the frame number, real clips' as horizontal lines."""
    rows = list(csv.DictReader(open(path)))
    shown = [m for m in ("legibility", "frechet", "own") if any(row["metric"] == m for row in rows)]
    figure, axes = panels(len(shown))
    for axis, metric in zip(axes, shown):
        for name in dict.fromkeys(row["clips"] for row in rows):
            colour = None
            for line in (metric, "other") if metric == "own" else (metric,):
                mine = [row for row in rows if (row["clips"], row["metric"]) == (name, line)]
                style = dict(linestyle=":" if line == "other" else "-",
                             label=name + (", to another's start" if line == "other" else ""))
                value, low, high = ([float(row[key]) for row in mine] for key in ("value", "low", "high"))
                if not mine[0]["first_frame"]:
                    axis.axhline(value[0], color="0.4" if "copy" in name else "0.7", linewidth=1, **style)
                    continue
                x = [int(row["first_frame"]) for row in mine]
                colour = axis.plot(x, value, color=colour, **style)[0].get_color()
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel="frame", title="handwriting: distance to its start" if metric == "own" else metric)
        axis.legend(fontsize=6)
    save(figure, png)
