"""What should the compressor keep? A 3D VAE with 4, 8 or 16 latent channels, and one that sees single frames.

    python3 -m data.studies.compressor

Every run trains a VAE of its own and then the same transformer on its latents. Fewer channels: more
compression, a worse copy, but latents that are easier to generate. The per-frame VAE compresses as much
as the 3D one with 8 channels; it is half as wide, so that a step costs about as much.
"""
from contextlib import nullcontext
from unittest.mock import patch

from data.evaluation.judge import real_clips
from data.evaluation.score import likeness, through_vae
from data.runtime import checkpoints
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.frame_vae import FrameVAE
from data.studies.measure import sample_numbers
from data.studies.study import Study
from data.training import start as starting
from train import TrainConfig

PER_FRAME = "per frame, 8 channels"
RUNS = {"3D, 4 channels": ["--latent-channels", 4],
        "3D, 8 channels": ["--latent-channels", 8],
        "3D, 16 channels": ["--latent-channels", 16],
        PER_FRAME: ["--latent-channels", 8, "--vae-width", TrainConfig.vae_width // 2]}


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("compressor", __doc__, argv, steps=600, seeds=(0,), shares_vae=False)
    n = study.args.n

    def measure(models):
        video, _ = real_clips(models.config, "heldout", 2 * n)
        copies = likeness(video, through_vae(models.vae, video))
        return copies | sample_numbers(models, study.judge(models.config), n)

    for seed in study.args.seeds:
        for label, flags in RUNS.items():
            in_train = in_loading = nullcontext()
            if label == PER_FRAME:                                  # the class that both make VAEs of
                in_train = patch.object(starting, "VideoVAE", FrameVAE)
                in_loading = patch.object(checkpoints, "VideoVAE", FrameVAE)
            with in_train, in_loading:
                study.run(label, seed, flags, measure)
    study.add_held_out(next(iter(RUNS)))
    shown = ["psnr", "ssim", "legibility", "frechet", "flicker"]
    study.finish(shown)
    plots.bars(study, shown)


if __name__ == "__main__":
    run_script(main)
