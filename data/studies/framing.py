"""Many shapes, or square crops? The Sora report: who trains on native shapes frames things better.

    python3 -m data.studies.framing

Two models with as many tokens a step: one sees clips of six shapes, packed; the other only the square in the
middle of the same canvases, where digits are often cut off. Both then make clips of shapes that the first has
trained on, and of others. `framed`: share of frames with a digit that no edge cuts off.
Also draws framing-clips.gif: clips of 32x48, a row for each model.
"""
from dataclasses import replace
from functools import cache
from statistics import mean
from unittest.mock import patch

import torch

from data.clips import folder as loader
from data.clips.files import write_clip
from data.clips.folder import load_data
from data.evaluation.intervals import share
from data.evaluation.judge import Judge, cells, real_clips
from data.evaluation.metrics import ink_of
from data.evaluation.score import sample_clips
from data.runtime import machine
from data.runtime.checkpoints import load_models
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.packing import PACKED, SHAPES
from data.studies.study import DEVICE, Study, once

NATIVE, SQUARE = "six shapes", "square crops"
# Cropped to 32x32, these are the same 2,208 tokens a step, and nearly the same share of them for each shape.
CROPPED = "16x32x32:8 16x32x48:7 16x48x32:8 8x32x48:8 8x48x32:7 1x32x32:16"
SEEN = ((16, 32, 32), (16, 32, 48), (16, 48, 32))                   # frames, height, width
UNSEEN = ((16, 40, 40), (16, 48, 48), (16, 32, 64), (24, 32, 48))
METRICS = ("framed", "legibility", "speed")


class SquareCrop:
    """The squares in the middle of another data set's clips; the caption stays, whatever is cut off."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        return getattr(self.data, name)

    def clips(self, n, generator=None, frames=None):
        """As MovingMNIST.clips."""
        video, caption = self.data.clips(n, generator, frames)
        side = min(video.shape[3:])
        top, left = [(edge - side) // 2 for edge in video.shape[3:]]
        return video[..., top:top + side, left:left + side], caption


def load_cropped(*args):
    """In the place of `load_data`."""
    return SquareCrop(load_data(*args))


def framed(video):
    """Share of frames of each clip in which a digit is there, and not cut off by an edge: (B,)."""
    ink = ink_of(video)                                             # (B,T,H,W)
    edges = [ink[:, :, 0], ink[:, :, -1], ink[..., 0], ink[..., -1]]
    at_edge = torch.stack([edge.amax(-1) for edge in edges]).amax(0)            # (B,T)
    return ((at_edge < 0.3) & (ink.sum((2, 3)) > 10)).float().mean(1)


def name_of(shape):
    """16x32x48"""
    return "x".join(map(str, shape))


@cache
def judge_of(config):
    """The judge of clips of one shape, made once."""
    return Judge(config)


def numbers(config, video, caption):
    """{metric: (value, low, high)} of clips of one shape."""
    shape = name_of((config.frames, config.height, config.width))
    table = {"framed": share(framed(video))} | cells(judge_of(config).values(video, caption))
    return {f"{shape}, {metric}": table[metric] for metric in METRICS}


def at_each_shape(config):
    """A config for each shape to measure, with nothing in it that tells the two models apart."""
    for frames, height, width in SEEN + UNSEEN:
        yield replace(config, frames=frames, height=height, width=width, shapes="")


def clips_of(models, config, n):
    """Samples of one shape, and their captions."""
    caption = real_clips(config, "train", n, seed=1)[1]
    return sample_clips(models.dit, models.vae, models.process, config, caption.to(DEVICE)), caption


def picture(study):
    """Writes clips of the second shape: a row for each model, the same captions and seeds."""
    rows = []
    for label in study.runs():
        models = load_models(study.folder(label, study.args.seeds[0]) / "sora.pt", DEVICE)
        config = list(at_each_shape(models.config))[1]
        with machine.autocast(DEVICE):
            rows.append(clips_of(models, config, 6)[0])
    path = plots.PICTURES / "framing-clips.gif"
    write_clip(path, torch.cat(rows), columns=6, scale=2)
    print(f"wrote {path}")


def draw(study):
    """Each metric against the shape: a line for each model, a dotted one for held-out clips."""
    shapes = [name_of(shape) for shape in SEEN + UNSEEN]
    figure, axes = plots.panels(len(METRICS))
    for axis, metric in zip(axes, METRICS):
        for run, style in ((NATIVE, "o-"), (SQUARE, "s-"), (plots.HELD_OUT, ":")):
            values = [mean(cell[0] for cell in study.cells(run, f"{shape}, {metric}")) for shape in shapes]
            axis.plot(shapes, values, style, label=run)
        axis.axvline(len(SEEN) - 0.5, color="0.8")                  # on the right: not trained on
        axis.tick_params("x", labelrotation=60, labelsize=7)
        axis.set(title=metric)
        axis.legend(fontsize=7)
    plots.save(figure, plots.PICTURES / "framing.png")


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("framing", __doc__, argv, steps=400, seeds=(0,), n=64, flags=["--sample-steps", 25])
    n = study.args.n

    def measure(models):
        table = {}
        for config in at_each_shape(models.config):
            table |= numbers(config, *clips_of(models, config, n))
        return table

    def measure_held_out():
        config = load_models(study.folder(NATIVE, study.args.seeds[0]) / "sora.pt").config
        table = {}
        for one in at_each_shape(config):
            table |= numbers(one, *real_clips(one, "heldout", n))
        return table

    for seed in study.args.seeds:
        study.run(NATIVE, seed, ["--shapes", SHAPES[PACKED]], measure)
        with patch.object(loader, "load_data", load_cropped):       # what train.py calls
            study.run(SQUARE, seed, ["--shapes", CROPPED], measure)
    study.add(plots.HELD_OUT, "", "", once(study.held_out_path(), measure_held_out))
    study.finish([row.metric for row in study.rows if row[:2] == (NATIVE, study.args.seeds[0])])
    draw(study)
    picture(study)


if __name__ == "__main__":
    run_script(main)
