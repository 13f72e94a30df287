"""What does packing cost, what does it save? Tokens a second in training: packed, padded, equal clips.

    python3 -m data.studies.packing

- equal: clips of one shape, in a batch;
- packed: clips of six shapes, one behind the other in one sequence, as train.py --shapes does it;
- padded: as many clips as packed, all of the largest shape, which is what padding them to it would
  compute. Only the tokens of the six shapes count.
Timed in one run, in which the three take turns, a turn for each of --seeds: --steps steps of the transformer,
forward, backward and update; latents are there before. Nothing is kept: it is soon done again.
"""
import data  # first of all: it sets how the threads of torch wait

import tempfile
import time

import torch

import train
from data.runtime import machine
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.study import DEVICE, Study
from data.training.packed import packed_loss
from data.training.start import start
from sora import diffusion_loss

EQUAL, PACKED, PADDED = "equal clips", "six shapes, packed", "six shapes, padded"
SHAPES = {EQUAL: "16x32x32:35",                                     # FRAMESxHEIGHTxWIDTH:CLIPS
          PACKED: "16x32x32:8 16x32x48:5 16x48x32:5 8x32x48:5 8x48x32:5 1x32x32:16",
          PADDED: "16x32x48:44"}


def draw_batch(run, step):
    """What a step needs, for each shape: (latent, caption, known, positions, t, eps)."""
    clips = []
    for shape in range(len(run.mix)):
        video, *rest = train.draw_group(run, step, shape)
        with torch.no_grad(), machine.autocast(DEVICE):
            clips.append((run.vae.encode(video), *rest))
    return clips


def wait():
    """Waits until a GPU has done what it was asked to."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds_for(run, batches):
    """How long the steps of the transformer on these batches take."""
    wait()
    begin = time.perf_counter()
    for clips in batches:
        with machine.autocast(DEVICE):
            if len(clips) == 1:
                loss = diffusion_loss(run.models["dit"], run.process, *clips[0])[0]
            else:
                loss = packed_loss(run.models["dit"], run.process, clips)[0]
        loss.backward()
        train.update(run, run.dit, 0.5, (run.config.lr, run.config.muon))
    wait()
    return time.perf_counter() - begin


def tokens_of(run, clips):
    """How many tokens a batch has."""
    return sum(latent.shape[0] * latent[0, 0].numel() for latent, *_ in clips) // run.config.patch ** 2


def main(argv=None):
    """Times them, draws."""
    study = Study("packing", __doc__, argv, steps=6, seeds=(0, 1, 2, 3))
    runs = {}
    for name, shapes in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:               # nothing is kept of these runs
            flags = [*study.take_vae, *study.flags, "--out", folder, "--shapes", shapes]
            runs[name] = start(train.parse(flags), train.PRESETS)
    counts = {name: tokens_of(run, draw_batch(run, 0)) for name, run in runs.items()}
    useful = counts | {PADDED: counts[PACKED]}
    for run in runs.values():
        seconds_for(run, [draw_batch(run, 0)])                      # the first step warms up
    for seed in study.args.seeds:
        for name, run in runs.items():
            batches = [draw_batch(run, seed * study.args.steps + i) for i in range(study.args.steps)]
            seconds = seconds_for(run, batches) / study.args.steps
            numbers = {"tokens a step": counts[name],
                       "share that is useful": useful[name] / counts[name],
                       "milliseconds a step": 1000 * seconds,
                       "useful tokens a second": useful[name] / seconds}
            study.add(name, seed, study.args.steps, {metric: (x, x, x) for metric, x in numbers.items()})
    shown = list(numbers)
    study.finish(shown)
    plots.bars(study, shown[1:])


if __name__ == "__main__":
    run_script(main)
