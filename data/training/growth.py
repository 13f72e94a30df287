"""How a run grew: the previews side by side in growth.png, and the losses in log.png."""
import csv
from contextlib import suppress
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image
from tqdm import tqdm

from data.clips.files import to_pixels
from data.runtime.writing import replacing
from data.training.log import LEVELS

MOST = 40                                                           # previews in a picture


def keep(run, videos):
    """Keeps the preview (B,c,T,H,W) of a run, and draws its losses so far if matplotlib is there."""
    add_preview(run.out / "growth.png", videos)
    try:
        draw_losses(run.log.path, run.out / "log.png")
    except ImportError:
        if not run.told_of_matplotlib:
            tqdm.write(f"note: no {run.out / 'log.png'} without matplotlib")
        run.told_of_matplotlib = True


def add_preview(path, videos):
    """Adds a column to a picture: the middle frame of each of the clips (B,c,T,H,W). When there are
    `MOST` columns, every second one goes, so that the picture spans the whole run."""
    stills = to_pixels(videos[:, :, videos.shape[2] // 2].movedim(0, 1))        # (B,H,W,3)
    column = np.concatenate(list(np.pad(stills, ((0, 0), (0, 2), (0, 2), (0, 0)))))
    height, width, _ = column.shape                                 # with a gap below and at the right
    columns = []
    with suppress(Exception), Image.open(path) as image:            # there is none, or it cannot be read
        picture = np.array(image.convert("RGB"))
        if picture.shape[0] == height and picture.shape[1] % width == 0:        # else of another run
            columns = np.split(picture, picture.shape[1] // width, axis=1)
    if len(columns) >= MOST:
        columns = columns[::2]
    with replacing(path) as file:
        file.write(iio.imwrite("<bytes>", np.concatenate([*columns, column], axis=1), extension=".png"))


def draw_losses(log, path):
    """Draws a log.csv: the loss of each stage, and of the transformer by noise level."""
    import matplotlib.figure                                        # optional, and slow to import
    with Path(log).open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    curves = (("vae", ["loss"], "VAE: loss"), ("dit", ["loss"], "transformer: loss"),
              ("dit", LEVELS, "transformer: error by noise level t / N"))
    for axis, (stage, columns, title) in zip(axes, curves):
        for column in columns:
            points = [(int(row["step"]), float(row[column])) for row in rows
                      if row["stage"] == stage and row[column]]
            if points:
                axis.plot(*zip(*points), label=column.removeprefix("level_"))
        axis.set(title=title, xlabel="step", yscale="log")
    if axes[2].lines:
        axes[2].legend(fontsize=7, ncols=2)
    with replacing(path) as file:
        figure.savefig(file, format="png")
