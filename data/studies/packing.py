"""What tokens with coordinates make possible, measured: packing clips of many shapes, and dropping tokens.

    python -m data.studies.packing speed       tokens a second: clips of six shapes in one sequence, against equal clips
    python -m data.studies.packing framing     a model trained on six shapes against one trained on square crops of them
    python -m data.studies.packing dropping    how good a model gets in equal time if training drops a share of the tokens

All take the VAE of --ckpt (the preset `tiny`, trained on 32x32). Training goes on where it was stopped, in out/packing
(delete it to start over); tables and pictures go to data/results. framing has one seed, dropping those in SEEDS.
"""
import argparse
import csv
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

import train
from data.clips import folder as loader
from data.studies.bench import step_times
from data.runtime.cli import autocast, load_models, run_script, tune_cpu
from data.clips.files import write_clip
from data.evaluation.judge import Judge, real_clips
from data.evaluation.metrics import ink_of, interval
from data.evaluation.score import clip_loss, sample_clips, show
from data.studies.study import trained
from sora import PRESETS, SPACE, TIME, DiT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/packing"), Path("data/studies/tables")
# as many tokens a step in both, 2,208; the shapes' shares of them are nearly the same
NATIVE = "16x32x32:8 16x32x48:5 16x48x32:5 8x32x48:5 8x48x32:5 1x32x32:16"
SQUARE = "16x32x32:8 16x32x48:7 16x48x32:8 8x32x48:8 8x48x32:7 1x32x32:16"      # cropped to 32x32
SEEN = ((16, 32, 32), (16, 32, 48), (16, 48, 32))                                # frames, height, width
UNSEEN = ((16, 40, 40), (16, 48, 48), (16, 32, 64), (16, 64, 32), (8, 32, 64), (24, 32, 48))
PICTURE, SEEDS = (16, 32, 48), (0,)
KEPT = {"1.0": [(1.0, 1.0)], "0.75": [(0.75, 1.0)], "0.5": [(0.5, 1.0)], "0.25": [(0.25, 1.0)],
        "0.5, then 1.0": [(0.5, 0.8), (1.0, 0.2)]}                               # (share kept, share of the time)


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
        top, left = ((edge - side) // 2 for edge in video.shape[3:])
        return video[..., top:top + side, left:left + side], caption


class DroppingDiT(DiT):
    """Sees a random share `keep` of each clip's tokens in training (as MAE's encoder does), all of them in sampling.

    It is indexing, not another network. What is dropped is predicted as 0: no gradient, but part of the logged loss,
    which compares with nothing then. And a run that was stopped drops others than one that never was.
    """
    keep = 1.0

    def forward_tokens(self, tokens, coords, row, t, caption, known, sizes, memory=None):
        if self.keep == 1 or not torch.is_grad_enabled():
            return super().forward_tokens(tokens, coords, row, t, caption, known, sizes, memory)
        kept, start, fewer = [], 0, [(n, round(self.keep * l)) for n, l in sizes]
        for (n, l), (_, few) in zip(sizes, fewer):
            kept.append((start + l * torch.arange(n)[:, None] + torch.rand(n, l).argsort(1)[:, :few]).flatten())
            start += n * l
        kept = torch.cat(kept).to(tokens.device)
        out = super().forward_tokens(tokens[kept], coords[kept], row[kept], t, caption, known, fewer)
        return torch.zeros_like(tokens).index_copy(0, kept, out)


def start(*flags):
    """A run of train.py that is not to be saved."""
    with tempfile.TemporaryDirectory() as folder:
        return train.start(train.parse(["--out", folder, *map(str, flags)]))


def speed(vae):
    """Prints tokens a second: clips of one shape; of six, packed; as many of the largest of the six, which is what
    padding them to one length would compute: only the tokens of the six count there."""
    shapes = {"32x32 only": "16x32x32:35", "32x48 only": "16x32x48:23", "six, packed": NATIVE,
              "six, if padded": "16x32x48:44"}
    runs = {name: start("--vae", vae, "--shapes", shape) for name, shape in shapes.items()}
    count = {name: sum(n * (data.frames // TIME) * math.prod(edge // SPACE for edge in data.canvas)
                       for data, n in run.mix) for name, run in runs.items()}
    for name, ms in step_times(runs).items():
        useful = count["six, packed" if "six" in name else name]
        print(f"{name:14} {ms:4.0f} ms a step, {count[name]} tokens, {100 * useful / count[name]:3.0f} % of them "
              f"useful: {1000 * useful / ms:.0f} a second")


def framed(video):
    """Share of frames of each clip in which the digit is there, and not cut off by an edge: (B,)."""
    ink = ink_of(video)
    edge = torch.cat([ink[:, :, [0, -1]].flatten(2), ink[..., [0, -1]].flatten(2)], dim=2).amax(2)     # (B,T)
    return ((edge < 0.3) & (ink.sum((2, 3)) > 10)).float().mean(1)


def framing(vae, n=64):
    """Trains both, samples shapes that were trained and others, writes framing.csv and the pictures."""
    flags = "--steps 800 --save-every 400".split()
    runs = {"six shapes": NATIVE, "square crops": SQUARE}
    models, plain = {}, loader.load_data
    for name, shapes in runs.items():
        load = plain if name == "six shapes" else lambda *args: SquareCrop(plain(*args))
        with patch.object(loader, "load_data", load):
            saved = trained(OUT / name.replace(" ", "-"), ["--vae", vae, "--shapes", shapes, *flags], mark=800)
        models[name] = load_models(saved, DEVICE)
    rows = []
    for shape in SEEN + UNSEEN:
        config = replace(models["six shapes"][0], **dict(zip(("frames", "height", "width"), shape)), shapes="")
        judge, clips = Judge(config), {"held out": real_clips(config, "heldout", n)}
        caption = real_clips(config, "train", n, seed=1)[1]
        for name, (_, vae, dit, process, _) in models.items():
            with autocast(DEVICE):
                clips[name] = sample_clips(dit, vae, process, config, caption.to(DEVICE), steps=25), caption
        table = {name: {"framed": interval(framed(row[0]))} | judge.measure(*row) for name, row in clips.items()}
        where = "x".join(map(str, shape))
        show(f"{where}{'' if shape in SEEN else ', unseen'}", table)
        rows += [[where, shape in SEEN, name, *row] for name, cells in table.items() for row in lines(cells)]
        if shape == PICTURE:
            write_clip(RESULTS / "framing.gif", torch.cat([clips[name][0][:6] for name in runs]), columns=6, scale=2)
    write_table("framing", ["shape", "trained", "clips"], rows)
    config, vae, dit, process, _ = models["six shapes"]
    with autocast(DEVICE):
        video = sample_clips(dit, vae, process, replace(config, frames=40, height=48, width=80),
                             torch.arange(1, 5, device=DEVICE)[:, None])
    write_clip(RESULTS / "shapes.gif", video, columns=2, scale=2)


def dropping(vae, n=128, steps=300):
    """Trains with each of KEPT for as long as `steps` steps with all tokens take; writes dropping.csv."""
    flags = ["--vae", vae, "--save-every", 10 ** 6]
    OUT.mkdir(parents=True, exist_ok=True)
    if not (measured := OUT / "times.json").exists():
        times = step_times({str(keep): start(*flags) for keep in (1.0, 0.75, 0.5, 0.25)},
                           before=lambda name: setattr(DroppingDiT, "keep", float(name)))
        measured.write_text(json.dumps(times))
    times, rows, judge = json.loads(measured.read_text()), [], Judge(PRESETS["tiny"])
    for name, phases in KEPT.items():
        ends = [round(share * steps * times["1.0"] / times[str(keep)]) for keep, share in phases]
        for seed in SEEDS:
            folder, at = OUT / f"kept{name[:4].strip(',')}-steps{sum(ends)}-{seed}", 0
            for (keep, _), more in zip(phases, ends):
                DroppingDiT.keep, at = keep, at + more
                saved = trained(folder, [*flags, "--steps", sum(ends), "--seed", seed], at)
            config, vae_, dit, process, _ = load_models(saved, DEVICE)
            caption = real_clips(config, "train", n, seed=1)[1].to(DEVICE)
            with autocast(DEVICE):
                loss = clip_loss(dit, vae_, process, config, real_clips(config, "heldout", 512))
                table = {"loss": loss} | judge.measure(sample_clips(dit, vae_, process, config, caption), caption)
            show(f"{name}, seed {seed}", {f"{sum(ends)} steps": table})
            rows += [[name, seed, sum(ends), *row] for row in lines(table)]
    write_table("dropping", ["kept", "seed", "steps"], rows)


def lines(table):
    """A row of csv for each metric."""
    return [[metric, *(f"{x:.5g}" for x in cell)] for metric, cell in table.items()]


def write_table(name, head, rows):
    """data/results/NAME.csv."""
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*head, "metric", "value", "low", "high"], *rows])


def main():
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "framing", "dropping"))
    parser.add_argument("--ckpt", default="out/sora.pt", help="whose VAE to use (out/sora.pt)")
    args = parser.parse_args()
    tune_cpu()
    with patch.object(train, "DiT", DroppingDiT):                              # with keep = 1, a DiT
        {"speed": speed, "framing": framing, "dropping": dropping}[args.what](args.ckpt)


if __name__ == "__main__":
    run_script(main)
