"""The plots of the studies, in data/pictures. They need matplotlib, which is imported when one is drawn."""
import statistics
from pathlib import Path

from data.evaluation.plots import need_matplotlib

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
HELD_OUT = "held-out clips"             # the run that is none: real clips, to read the others beside
COLOURS = [f"C{i}" for i in range(10)]                              # matplotlib's own


def panels(n, width=4.4, height=3.3):
    """A figure with n panels in a row."""
    pyplot = need_matplotlib()
    figure, axes = pyplot.subplots(1, n, figsize=(width * n, height), layout="constrained", squeeze=False)
    return figure, axes[0]


def save(figure, path):
    """Writes a figure and says so."""
    figure.savefig(path, dpi=100)
    need_matplotlib().close(figure)
    print(f"wrote {path}")


def bars(study, metrics):
    """Metrics of the runs at their end, side by side: a bar for the mean, a dot for each seed; the 95 %
    interval over clips if there is one seed only."""
    runs = study.runs()
    figure, axes = panels(len(metrics), width=2.8, height=1 + 0.35 * len(runs))
    for axis, metric in zip(axes, metrics):
        for i, run in enumerate(runs):
            cells = study.cells(run, metric)
            values = [cell[0] for cell in cells]
            axis.barh(i, statistics.mean(values), color="tab:blue", alpha=0.5)
            axis.plot(values, [i] * len(values), "o", color="0.2", markersize=3)
            if len(cells) == 1:
                axis.plot(cells[0][1:], [i, i], color="0.2")
        for value, _, _ in study.cells(HELD_OUT, metric):
            axis.axvline(value, color="0.6", linestyle=":")
        axis.set_yticks(range(len(runs)), runs if axis is axes[0] else [""] * len(runs), fontsize=8)
        axis.invert_yaxis()
        axis.set(title=metric)
    save(figure, PICTURES / f"{study.name}.png")
