"""What should the compressor keep? VAEs trained differently, then the same transformer on each.

    python3 -m data.studies.compressor

The per-frame VAE compresses as much as the 3D one of the preset; it is half as wide, so that a step costs about
as much. Two numbers of the VAE alone beside PSNR:

- `smooth`: how far latents go if a clip moves by a pixel, as a share of how far apart those of different
  clips are: the mean square of one difference over that of the other;
- `noise`: the squared error that a copy gains if noise of 0.3 standard deviations is added to its latent. A
  large smooth channel that says nothing would make `smooth` small; here it shows, because all else is then small.

Do they tell how good the samples will be? Does PSNR?
"""
from contextlib import ExitStack
from unittest.mock import patch

import torch

from data.evaluation.intervals import interval
from data.evaluation.judge import real_clips
from data.evaluation.metrics import squared_error
from data.evaluation.score import likeness, through_vae
from data.runtime import checkpoints
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.frame_vae import FrameVAE
from data.studies.measure import sample_numbers
from data.studies.study import Study
from data.training import start as starting
from train import TrainConfig

WHOLE, PER_FRAME = "the preset, 8 channels", "per frame, 8 channels"
RUNS = {WHOLE: [],
        "shifted latents": ["--vae-shift", 0.5],
        "AdamW for the VAE": ["--vae-muon", 0],
        PER_FRAME: ["--vae-width", TrainConfig.vae_width // 2]}


@torch.no_grad()
def smoothness(vae, video):
    """How far the latent of each clip (B,channels,T,H,W) goes if the clip moves by a pixel to the right."""
    latent = vae.encode(video)
    change = (vae.encode(video.roll(1, dims=4)) - latent).square().mean((1, 2, 3, 4))
    return change / (2 * latent.var())      # two independent values differ by twice the variance


@torch.no_grad()
def lost_to_noise(vae, video, deviation=0.3):
    """The squared error that the copy of each clip gains if its latent is noisy."""
    latent = vae.encode(video)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(latent.device)
    noisy = vae.decode(latent + deviation * noise)
    return squared_error(video, noisy) - squared_error(video, vae.decode(latent))


def draw(study):
    """The Frechet distance of samples against each number of the VAE, a dot for each run and seed."""
    figure, panels = plots.panels(4, width=3.2)
    for colour, run in zip(plots.COLOURS, study.runs()):
        numbers = {metric: [cell[0] for cell in study.cells(run, metric)] for metric in ("psnr", "noise", "smooth")}
        numbers["smooth x noise"] = [a * b for a, b in zip(numbers["smooth"], numbers["noise"])]
        for panel, (metric, values) in zip(panels, numbers.items()):
            panel.plot(values, [cell[0] for cell in study.cells(run, "frechet")], "o", color=colour, label=run)
            panel.set(xlabel=metric, title="Frechet distance of samples")
            panel.ticklabel_format(axis="x", scilimits=(-2, 3))
            panel.locator_params("x", nbins=5)
    panels[0].legend(fontsize=7)
    plots.save(figure, plots.PICTURES / "compressor.png")


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("compressor", __doc__, argv, steps=300, seeds=(0,), shares_vae=False, runs=RUNS)
    n = study.args.n

    def measure(models):
        video, _ = real_clips(models.config, "heldout", n)
        copies = likeness(video, through_vae(models.vae, video))
        video = video.to(models.vae.mean.device)
        of_vae = {"smooth": interval(smoothness(models.vae, video).cpu()),
                  "noise": interval(lost_to_noise(models.vae, video).cpu())}
        return copies | of_vae | sample_numbers(models, study.judge(models.config), n)

    for seed in study.args.seeds:
        for label in dict.fromkeys([WHOLE, *study.args.only]):
            with ExitStack() as changes:
                if label == PER_FRAME:                              # the class that both make VAEs of
                    for module in (starting, checkpoints):
                        changes.enter_context(patch.object(module, "VideoVAE", FrameVAE))
                study.run(label, seed, RUNS[label], measure)
    study.add_held_out(WHOLE)
    study.finish(["psnr", "smooth", "noise", "legibility", "variety", "frechet"])
    draw(study)


if __name__ == "__main__":
    run_script(main)
