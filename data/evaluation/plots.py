"""The plot of long_video.py, drawn from its table. Needs matplotlib."""
import csv

from sora import InputError

SHOWN = {"legibility": "legibility", "kernel distance": "kernel distance to training clips",
         "own": "handwriting: distance to its start"}              # metric: title


def need_matplotlib():
    """Its pyplot, set up to write files. Called before hours of work that would end in a plot."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("plots need matplotlib: python3 -m pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def read(path):
    """A table of long_video.py: {(clips, metric): a list of (first frame, value, low, high)}, where
    the first frame of real clips is None."""
    lines = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            first = int(row["first_frame"]) if row["first_frame"] else None
            point = (first, *(float(row[name]) for name in ("value", "low", "high")))
            lines.setdefault((row["clips"], row["metric"]), []).append(point)
    return lines


def drift(path, png):
    """Draws numbers against the frame number; those of real clips are grey horizontal lines."""
    pyplot, lines = need_matplotlib(), read(path)
    shown = [metric for metric in SHOWN if any(found == metric for _, found in lines)]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.4 * len(shown), 3.3), squeeze=False,
                                   layout="constrained")
    for axis, metric in zip(axes[0], shown):
        for number, clips in enumerate(dict.fromkeys(clips for clips, _ in lines)):
            draw(axis, lines.get((clips, metric), []), clips, f"C{number}", "-")
            if metric == "own":
                other = lines.get((clips, "other"), [])
                draw(axis, other, f"{clips}, to another's start", f"C{number}", ":")
        axis.set(xlabel="frame", title=SHOWN[metric])
        axis.legend(fontsize=6)
    figure.savefig(png, dpi=100)
    pyplot.close(figure)
    print(f"wrote {png}")


def draw(axis, points, label, colour, style):
    """A line with its interval, or a horizontal one where there is no frame number."""
    if not points:
        return
    first, value, low, high = zip(*points)
    if first[0] is None:
        grey = "0.4" if "copy" in label else "0.7"
        axis.axhline(value[0], color=grey, linestyle=style, linewidth=1, label=label)
        return
    axis.plot(first, value, color=colour, linestyle=style, label=label)
    axis.fill_between(first, low, high, color=colour, alpha=0.2, linewidth=0)
