"""The comparisons that the README shows, one command each; a command that was interrupted goes on where it was.

    python -m data.study process       DDPM (v, eps, x0) against SiT: same network, VAE, data and seeds
    python -m data.study scaling       four widths x two patch sizes, against counted training FLOPs
    python -m data.study compressor    a 3D against a per-frame VAE, and two sizes of the latent
    python -m data.study digits        450, 150 and 50 different training digits a class

All start from the VAE of `python train.py` (out/sora.pt). Checkpoints go to out/study, tables and plots to
data/results.
"""
import argparse
import csv
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import sora
import train
from data import plots
from data.clips import write_clip
from data.frame_vae import FrameVAE
from data.moving_mnist import IDX_FILES, load_digits
from data.score import Judge, likeness, real_clips, sample_clips, through_vae
from sora import PRESETS, SPACE, TIME, InputError, VideoVAE, autocast, diffusion_loss, load_models, tune_cpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/study"), Path("data/results")
MARKS = (150, 300, 450, 600)                                                  # steps at which a run is looked at
SHARED = ["--vae", "out/sora.pt"]
PROCESSES = {"v": [], "sit": ["--process", "sit"], "eps": ["--prediction", "eps"], "x0": ["--prediction", "x0"]}
BASE = {"width192-patch1": SHARED}                                             # the preset tiny; every study has it
STUDIES = {                                                                    # {study: {run: flags of train.py}}
    "process": BASE | {f"{name}-{seed}": [*SHARED, "--seed", seed, *flags] for seed in range(3)
                       for name, flags in PROCESSES.items() if (name, seed) != ("v", 0)},
    "scaling": {f"width{dim}-patch{patch}": [*SHARED, "--dim", dim, "--heads", max(dim // 32, 1), "--patch", patch]
                for dim in (24, 48, 96, 192) for patch in (1, 2)} | BASE,
    "compressor": BASE | {"frame-vae": ["--vae-width", 32], "channels8": ["--latent-channels", 8]},
    "digits": BASE | {f"digits{n}": ["--mnist", OUT / f"mnist{n}"] for n in (150, 50)}}
RUNS = {run: flags for study in STUDIES.values() for run, flags in study.items()}


def few_digits(folder, per_class):
    """Writes MNIST idx files with the first digits of each class to train on, and all the held-out ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in IDX_FILES.items():
        images, labels = load_digits(split)
        if split == "train":
            keep = np.sort(np.concatenate([np.flatnonzero(labels == digit)[:per_class] for digit in range(10)]))
            images, labels = images[keep], labels[keep]
        for name, array in zip(names, (images, labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / name).write_bytes(head + array.tobytes())


def use(name):
    """Puts the VAE class of a run into its place."""
    sora.VideoVAE = train.VideoVAE = FrameVAE if name == "frame-vae" else VideoVAE


def run(name):
    """Trains a run up to each of MARKS and keeps the checkpoint of each; what is there already is not made again."""
    folder = OUT / name
    use(name)
    for mark in MARKS:
        kept = folder / f"step{mark}.pt"
        if kept.exists():
            continue
        flags = ["--resume"] if (folder / "sora.pt").exists() else ["--steps", MARKS[-1], *RUNS[name]]
        try:
            train.main([str(flag) for flag in ("--out", folder, "--until", mark, *flags)])
        except SystemExit as stop:
            if stop.code:
                raise
        shutil.copy(folder / "sora.pt", folder / "copy.tmp")
        (folder / "copy.tmp").replace(kept)
    signal.signal(signal.SIGINT, signal.default_int_handler)                   # train.py had its own


@torch.no_grad()
def held_out_loss(config, vae, dit, process, n=512):
    """The training loss on held-out digits; the same noise and levels for every model."""
    generator, losses = torch.Generator(DEVICE).manual_seed(0), []
    for video, caption in zip(*(x.to(DEVICE).split(64) for x in real_clips(config, "heldout", n))):
        losses.append(diffusion_loss(dit, process, vae.encode(video), caption, generator=generator)[0])
    return torch.stack(losses).mean().item()


def training_flops(config, dit, steps):
    """Floating point operations of the transformer's training, counted: forward and backward of one step, x steps."""
    B, F = config.batch, config.frames // TIME
    x = torch.randn(B, config.latent_channels, F, config.height // SPACE, config.width // SPACE, device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        dit(x, torch.rand(B, F, device=DEVICE), torch.ones(B, 1, dtype=torch.long, device=DEVICE)).sum().backward()
    return counter.get_total_flops() * steps


def evaluate(name, mark, judge, n=128):
    """Yields the numbers of a checkpoint: (guidance or "", metric, (value, low, high))."""
    use(name)
    config, vae, dit, process, _ = load_models(OUT / name / f"step{mark}.pt", DEVICE)
    for metric, value in (("loss", held_out_loss(config, vae, dit, process)),
                          ("flops", training_flops(config, dit, mark)),
                          ("parameters", sum(p.numel() for p in dit.parameters()))):
        yield "", metric, (value, value, value)
    video = real_clips(config, "heldout", 256)[0]
    yield from (("", *item) for item in likeness(video, through_vae(vae, video)).items())
    caption = real_clips(config, "train", n, seed=1)[1].to(DEVICE)
    for guidance in (1.0, config.guidance) if mark == MARKS[-1] else (1.0,):
        video = sample_clips(dit, vae, process, config, caption, guidance=guidance)
        yield from ((guidance, *item) for item in judge.measure(video, caption).items())
        if config.mnist:                                                       # how near to the few digits it has seen
            yield guidance, "nearest of its own", Judge(config).measure(video, caption)["nearest"]


def results(study):
    """Measures what of a study is not yet in data/results/study.csv; returns {(run, step, guidance, metric): cell}."""
    path = RESULTS / "study.csv"
    if not path.exists():
        path.write_text("run,step,guidance,metric,value,low,high\n")
    done = {tuple(row[:2]) for row in csv.reader(path.open())}
    marks = [(name, mark) for name in STUDIES[study] for mark in (MARKS if study == "process" else MARKS[-1:])]
    marks = [item for item in [("held out", ""), *marks] if tuple(map(str, item)) not in done]
    judge = Judge(PRESETS["tiny"]) if marks else None
    for name, mark in tqdm(marks, "measuring"):
        with autocast(DEVICE):
            lines = [("", *item) for item in judge.measure(*real_clips(PRESETS["tiny"], "heldout", 128)).items()] \
                if name == "held out" else list(evaluate(name, mark, judge))
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([name, mark, *line[:2], *(f"{x:.6g}" for x in line[2])] for line in lines)
    return {tuple(row[:4]): [float(x) for x in row[4:]] for row in list(csv.reader(path.open()))[1:]}


def growth():
    """Writes samples of the same seeds at 1, 4 and 16 times the compute, a row each."""
    rows = []
    for dim in (48, 96, 192):
        use("")
        config, vae, dit, process, _ = load_models(OUT / f"width{dim}-patch1" / f"step{MARKS[-1]}.pt", DEVICE)
        caption = torch.arange(1, 9, device=DEVICE)[:, None]                                   # 0 to 7
        with autocast(DEVICE):
            rows.append(sample_clips(dit, vae, process, config, caption))
    write_clip(RESULTS / "scaling.gif", torch.cat(rows), scale=2, columns=8)


def main():
    """Trains, measures, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    study = parser.parse_args().study
    if not Path("out/sora.pt").exists():
        raise InputError("no out/sora.pt, whose VAE the runs share; make it with `python train.py`")
    plots.need_matplotlib()
    tune_cpu()
    for per_class in (150, 50):
        few_digits(OUT / f"mnist{per_class}", per_class)
    for name in STUDIES[study]:
        run(name)
    plots.draw(study, list(STUDIES[study]), results(study), MARKS)
    if study == "scaling":
        growth()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"data/study.py: {error}", file=sys.stderr)
        sys.exit(2)
