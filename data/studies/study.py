"""The comparisons that the README shows, one command each; a command that was interrupted goes on where it was.

    python -m data.studies.study process       DDPM (v, eps, x0) against SiT: same network, VAE, data and seeds
    python -m data.studies.study scaling       four widths x two patch sizes, against counted training FLOPs
    python -m data.studies.study compressor    a 3D against a per-frame VAE, and two sizes of the latent
    python -m data.studies.study digits        450, 150 and 50 different training digits a class

All share one VAE with 16 latent channels, which is trained first, but for those of the last two studies that need one
of their own. (The preset has 8 channels since the third study.) Fewer training clips have known frames than in the
preset. Checkpoints and their numbers go to out/study (delete it to start over), the tables and the plots to
data/results.
"""
import argparse
import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import train
from data.runtime import cli
from data.studies import plots
from data.runtime.cli import autocast, load_models, run_script, tune_cpu
from data.clips.files import write_clip
from data.studies.frame_vae import FrameVAE
from data.evaluation.judge import Judge, real_clips
from data.clips.moving_mnist import IDX_FILES, load_digits
from data.evaluation.score import clip_loss, likeness, sample_clips, through_vae
from sora import (PRESETS, SPACE, TIME, InputError, VideoVAE, load_checkpoint)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT, RESULTS = Path("out/study"), Path("data/studies/tables")
MARKS = (150, 300, 600)                                                        # steps at which a run is looked at
VAE = ["--latent-channels", 16, "--vae-steps", 4000]
MIX = "--known 0.375 --anchors 0 --stills 0 --forcing 0 --caption-drop-known 0.1".split()  # no practice for long video
SHARED = ["--vae", OUT / "vae" / "sora.pt"]
PROCESSES = {"v": [], "sit": ["--process", "sit"], "eps": ["--prediction", "eps"], "x0": ["--prediction", "x0"]}
BASE = {"width192-patch1": SHARED}                                             # the preset tiny; every study has it
STUDIES = {                                                                    # {study: {run: flags of train.py}}
    "process": BASE | {f"{name}-{seed}": [*SHARED, "--seed", seed, *flags] for seed in range(3)
                       for name, flags in PROCESSES.items() if (name, seed) != ("v", 0)},
    "scaling": {f"width{dim}-patch{patch}": [*SHARED, "--dim", dim, "--heads", max(dim // 32, 1), "--patch", patch]
                for dim in (24, 48, 96, 192) for patch in (1, 2)} | BASE,
    "compressor": BASE | {"frame-vae": [*VAE, "--vae-width", 32, "--vae-steps", 6000],
                          "channels8": [*VAE, "--latent-channels", 8]},
    "digits": BASE | {f"digits{n}": [*VAE, "--mnist", OUT / f"mnist{n}"] for n in (150, 50)}}
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
    cli.VideoVAE = train.VideoVAE = FrameVAE if name == "frame-vae" else VideoVAE


def trained(folder, flags, mark):
    """Trains a run up to a step of the transformer, from where it is; returns its checkpoint."""
    saved = folder / "sora.pt"
    state = load_checkpoint(saved) if saved.exists() else {"stage": 0}
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    if state["stage"] == 0 or state["step"] < mark:
        flags = ["--resume"] if saved.exists() else flags
        try:
            train.main([str(flag) for flag in ("--out", folder, "--until", mark, *flags)])
        except SystemExit as stop:
            if stop.code:
                raise
        finally:
            for number, handler in handlers:                                   # train.py had its own
                signal.signal(number, handler)
    return saved


def run(name):
    """Trains a run up to each of MARKS and keeps the checkpoint of each; what is there already is not made again."""
    use(name)
    for mark in MARKS:
        kept = OUT / name / f"step{mark}.pt"
        if not kept.exists():
            saved = trained(OUT / name, ["--steps", MARKS[-1], *MIX, *RUNS[name]], mark)
            if (step := load_checkpoint(saved)["step"]) != mark:
                raise InputError(f"{saved}: at step {step}, past {mark}; delete {saved.parent} to train it again")
            shutil.copy(saved, kept.with_suffix(".tmp"))
            kept.with_suffix(".tmp").replace(kept)


def training_flops(config, dit, steps):
    """Floating point operations of the transformer's training, counted: forward and backward of one step, x steps."""
    B, F = config.batch, config.frames // TIME
    x = torch.randn(B, config.latent_channels, F, config.height // SPACE, config.width // SPACE, device=DEVICE)
    with torch.autocast(DEVICE, enabled=False), FlopCounterMode(display=False) as counter:
        dit(x, torch.rand(B, F, device=DEVICE), torch.ones(B, 1, dtype=torch.long, device=DEVICE)).sum().backward()
    return counter.get_total_flops() * steps


def evaluate(name, mark, judge, n=128):
    """Yields the numbers of a checkpoint: (guidance or "", metric, (value, low, high))."""
    use(name)
    config, vae, dit, process, _ = load_models(OUT / name / f"step{mark}.pt", DEVICE)
    for metric, value in (("loss", clip_loss(dit, vae, process, config, real_clips(config, "heldout", 512))),
                          ("flops", training_flops(config, dit, mark)),
                          ("parameters", sum(p.numel() for p in dit.parameters()))):
        yield "", metric, (value, value, value)
    if mark == MARKS[-1]:
        video = real_clips(config, "heldout", 256)[0]
        yield from (("", *item) for item in likeness(video, through_vae(vae, video)).items())
    caption = real_clips(config, "train", n, seed=1)[1].to(DEVICE)
    for guidance in (1.0, config.guidance) if mark == MARKS[-1] else (1.0,):
        video = sample_clips(dit, vae, process, config, caption, guidance=guidance)
        yield from ((guidance, *item) for item in judge.measure(video, caption).items())
        if config.mnist:                                                       # how near to the few digits it has seen
            yield guidance, "nearest of its own", Judge(config).measure(video, caption)["nearest"]


def results(study):
    """Measures the checkpoints of a study, once each; returns {(run, step, guidance, metric): (value, low, high)}."""
    judge = Judge(PRESETS["tiny"])
    real = judge.measure(*real_clips(PRESETS["tiny"], "heldout", 128))
    cells = {("held out", "", "", metric): cell for metric, cell in real.items()}
    marks = [(name, mark) for name in STUDIES[study] for mark in (MARKS if study == "process" else MARKS[-1:])]
    for name, mark in tqdm(marks, "measuring"):
        checkpoint, table = OUT / name / f"step{mark}.pt", OUT / name / f"step{mark}.json"
        if not table.exists() or table.stat().st_mtime < checkpoint.stat().st_mtime:
            with autocast(DEVICE):
                table.with_suffix(".tmp").write_text(json.dumps(list(evaluate(name, mark, judge))))
            table.with_suffix(".tmp").replace(table)
        cells |= {(name, mark, guidance, metric): cell for guidance, metric, cell in json.loads(table.read_text())}
    with (RESULTS / f"{study}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["run", "step", "guidance", "metric", "value", "low", "high"],
                                    *([*key, *(f"{x:.6g}" for x in cell)] for key, cell in cells.items())])
    return cells


def growth():
    """Writes samples of the same seeds at 1, 4 and 16 times the compute, a row each."""
    rows = []
    for dim in (48, 96, 192):
        use("")
        config, vae, dit, process, _ = load_models(OUT / f"width{dim}-patch1" / f"step{MARKS[-1]}.pt", DEVICE)
        caption = torch.arange(1, 9, device=DEVICE)[:, None]                                   # 0 to 7
        with autocast(DEVICE):
            rows.append(sample_clips(dit, vae, process, config, caption))
    write_clip(RESULTS / "growth.gif", torch.cat(rows), scale=2, columns=8)


def main():
    """Trains, measures, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    study = parser.parse_args().study
    plots.need_matplotlib()
    tune_cpu()
    for per_class in (150, 50):
        few_digits(OUT / f"mnist{per_class}", per_class)
    use("")
    trained(OUT / "vae", VAE, mark=1)
    for name in STUDIES[study]:
        run(name)
    plots.draw(study, list(STUDIES[study]), results(study), MARKS)
    if study == "scaling":
        growth()


if __name__ == "__main__":
    run_script(main)
