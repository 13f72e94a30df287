"""What tokens with coordinates make possible, measured: packing clips of many shapes, and dropping tokens.

    python -m data.packing speed       tokens a second: clips of six shapes in one sequence, against equal clips
    python -m data.packing framing     a model trained on six shapes against one trained on square crops of them
    python -m data.packing dropping    how good a model gets in equal time if training drops a share of the tokens

The last two take the VAE of --ckpt (the preset `tiny`, trained on 32x32). Runs go to out/packing and go on where they
were stopped (delete it to start over); tables and pictures to data/results.
"""
import argparse
import csv
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import train
from data import loader
from data.cli import autocast, load_models, run_script, tune_cpu
from data.clips import write_clip
from data.judge import Judge, real_clips
from data.metrics import ink_of, interval
from data.score import clip_loss, sample_clips, show
from data.study import trained
from sora import PRESETS, SPACE, TIME, DiT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/packing"), Path("data/results")
# as many tokens a step in both, 2,208; the shapes' shares of them are nearly the same
NATIVE = "16x32x32:8 16x32x48:5 16x48x32:5 8x32x48:5 8x48x32:5 1x32x32:16"
SQUARE = "16x32x32:8 16x32x48:7 16x48x32:8 8x32x48:8 8x48x32:7 1x32x32:16"      # cropped to 32x32
SEEN = ((16, 32, 32), (16, 32, 48), (16, 48, 32))                                # frames, height, width
UNSEEN = ((16, 40, 40), (16, 48, 48), (16, 32, 64), (16, 64, 32), (8, 32, 64), (24, 32, 48))
PICTURE, SEEDS = (16, 32, 64), (0, 1)
KEPT = {"all": [(1.0, 1.0)], "3/4": [(0.75, 1.0)], "1/2": [(0.5, 1.0)], "1/4": [(0.25, 1.0)],
        "1/2, then all": [(0.5, 0.8), (1.0, 0.2)]}                               # (share kept, share of the time)


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

    It is indexing, not another network. What is dropped is predicted as 0: a constant in the loss, no gradient.
    """
    keep = 1.0

    def forward_tokens(self, tokens, coords, row, t, caption, sizes):
        if self.keep == 1 or not torch.is_grad_enabled():
            return super().forward_tokens(tokens, coords, row, t, caption, sizes)
        kept, start, fewer = [], 0, [(n, round(self.keep * l)) for n, l in sizes]
        for (n, l), (_, few) in zip(sizes, fewer):
            kept.append((start + l * torch.arange(n)[:, None] + torch.rand(n, l).argsort(1)[:, :few]).flatten())
            start += n * l
        kept = torch.cat(kept).to(tokens.device)
        out = super().forward_tokens(tokens[kept], coords[kept], row[kept], t, caption, fewer)
        return torch.zeros_like(tokens).index_copy(0, kept, out)


def step_times(runs, rounds=4, steps=6):
    """Milliseconds of a training step of each {name: (share of tokens kept, run of train.py)}: the best of some rounds,
    in which all take turns."""
    times = {name: [] for name in runs}
    for i in tqdm(range(1 + rounds), "timing"):                                # the first warms up
        for name, (keep, run) in runs.items():
            DroppingDiT.keep, begin = keep, time.perf_counter()
            for step in range(steps):
                train.dit_loss(run, step)[0].backward()
                for optimizer in run.optimizers[1]:
                    optimizer.step()
                    optimizer.zero_grad()
            run.dit.head.bias.sum().item()                                     # waits for a GPU
            times[name] += [1000 * (time.perf_counter() - begin) / steps] * (i > 0)
    return {name: min(values) for name, values in times.items()}


def start(*flags):
    """A run of train.py that leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        return train.start(train.parse(["--out", folder, *map(str, flags)]))


def speed(vae):
    """Prints tokens a second of packed and of equal clips, with as many tokens a step."""
    shapes = {"32x32 only": "16x32x32:35", "32x48 only": "16x32x48:23", "six shapes": NATIVE}
    runs = {name: (1.0, start("--vae", vae, "--shapes", shape)) for name, shape in shapes.items()}
    for name, ms in step_times(runs).items():
        mix = runs[name][1].mix
        tokens = sum(n * (data.frames // TIME) * math.prod(edge // SPACE for edge in data.canvas) for data, n in mix)
        print(f"{name:12} {sum(n for _, n in mix):4} clips, {tokens} tokens a step, no padding: {ms:.0f} ms, "
              f"{1000 * tokens / ms:.0f} tokens a second")


def framed(video):
    """Share of frames of each clip in which the digit is there, and not cut off by an edge: (B,)."""
    ink = ink_of(video)
    edge = torch.cat([ink[:, :, [0, -1]].flatten(2), ink[..., [0, -1]].flatten(2)], dim=2).amax(2)     # (B,T)
    return ((edge < 0.3) & (ink.sum((2, 3)) > 10)).float().mean(1)


def framing(vae, n=64):
    """Trains both, samples shapes that were trained and others, writes framing.csv and the pictures."""
    flags = "--steps 1200 --save-every 400".split()
    runs = {"six shapes": NATIVE, "square crops": SQUARE}
    models, plain = {}, loader.load_data
    for name, shapes in runs.items():
        loader.load_data = plain if shapes is NATIVE else lambda *args, **more: SquareCrop(plain(*args, **more))
        saved = trained(OUT / name.replace(" ", "-"), ["--vae", vae, "--shapes", shapes, *flags], mark=1200)
        models[name] = load_models(saved, DEVICE)
    loader.load_data = plain
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
        show(f"{where}{'' if shape in SEEN else ' (not trained)'}", table)
        rows += [[where, shape in SEEN, name, metric, *(f"{x:.5g}" for x in cell)]
                 for name, cells in table.items() for metric, cell in cells.items()]
        if shape == PICTURE:
            write_clip(RESULTS / "framing.gif", torch.cat([clips[name][0][:6] for name in runs]), columns=6, scale=2)
    write_table("framing", ["shape", "trained", "clips", "metric", "value", "low", "high"], rows)
    config, vae, dit, process, _ = models["six shapes"]
    with autocast(DEVICE):
        video = sample_clips(dit, vae, process, replace(config, frames=40, height=48, width=80),
                             torch.arange(1, 5, device=DEVICE)[:, None])
    write_clip(RESULTS / "shapes.gif", video, columns=2, scale=2)


def dropping(vae, n=128, steps=600):
    """Trains with each of KEPT for as long as `steps` steps with all tokens take; writes dropping.csv."""
    train.DiT, flags = DroppingDiT, ["--vae", vae, "--save-every", 10 ** 6]
    OUT.mkdir(parents=True, exist_ok=True)
    if not (measured := OUT / "times.json").exists():
        times = step_times({str(keep): (keep, start(*flags)) for keep in (1.0, 0.75, 0.5, 0.25)})
        measured.write_text(json.dumps(times))
    times, rows, judge = json.loads(measured.read_text()), [], Judge(PRESETS["tiny"])
    for name, phases in KEPT.items():
        ends = [round(share * steps * times["1.0"] / times[str(keep)]) for keep, share in phases]
        for seed in SEEDS:
            folder, at = OUT / f"kept-{name.replace('/', '-of-').replace(', ', '-')}-{seed}", 0
            for (keep, _), more in zip(phases, ends):
                DroppingDiT.keep, at = keep, at + more
                saved = trained(folder, [*flags, "--steps", sum(ends), "--seed", seed], at)
            config, vae_, dit, process, _ = load_models(saved, DEVICE)
            caption = real_clips(config, "train", n, seed=1)[1].to(DEVICE)
            with autocast(DEVICE):
                loss = clip_loss(dit, vae_, process, config, real_clips(config, "heldout", 512))
                table = {"loss": loss} | judge.measure(sample_clips(dit, vae_, process, config, caption), caption)
            show(f"{name}, seed {seed}", {f"{sum(ends)} steps": table})
            rows += [[name, seed, sum(ends), metric, *(f"{x:.5g}" for x in cell)] for metric, cell in table.items()]
    write_table("dropping", ["kept", "seed", "steps", "metric", "value", "low", "high"], rows)


def write_table(name, head, rows):
    """data/results/NAME.csv."""
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    print(f"wrote {RESULTS / name}.csv")


def main():
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "framing", "dropping"))
    parser.add_argument("--ckpt", default="out/sora.pt")
    args = parser.parse_args()
    tune_cpu()
    {"speed": speed, "framing": framing, "dropping": dropping}[args.what](args.ckpt)


if __name__ == "__main__":
    run_script(main)
