"""How train.py trains: the fields that its flags set, and the presets, which are defaults for them."""
from dataclasses import dataclass

from data.runtime.config import ClipConfig
from sora import option


@dataclass(frozen=True)
class TrainConfig(ClipConfig):
    """The fields of ClipConfig, and how to train. The defaults are the preset `tiny`."""
    vae_steps: int = option(2000, "training steps of the VAE (0, with --init only: it stays as it is)")
    vae_batch: int = option(8, "clips in a step of the VAE")
    vae_kl: float = option(1e-4, "weight of the KL term against the squared error")
    vae_shift: float = option(0.0, "share of the VAE's steps in which moved latents are to give moved clips")
    vae_muon: float = option(6e-3, "learning rate of the VAE's kernels (Muon; 0: AdamW instead)")
    vae_lr: float = option(2e-3, "learning rate of the rest of the VAE (AdamW)")
    steps: int = option(600, "training steps of the transformer")
    batch: int = option(32, "clips in a step of the transformer")
    muon: float = option(1.5e-2, "learning rate of attention and MLP matrices (Muon; 0: AdamW)")
    lr: float = option(2e-3, "learning rate of the rest of the transformer (AdamW)")
    ema: float = option(0.995, "of the averaged weights that sampling uses: highest decay a step")
    seed: int = option(0, "of everything random")
    log_every: int = option(20, "steps between two lines of the log")
    save_every: int = option(500, "steps between two checkpoints and previews")


PRESETS = {
    "tiny": TrainConfig(),
    # Two digits on 64x64, the standard moving MNIST, on a CPU. Stills are cheap, and drawing is learned from
    # many (the VAE sees 4 moving frames instead); moving, from clips of 20. Captions say where digits are
    # (placed): else both often become the same one (section 4 of sora.py, `nearness`).
    "small": TrainConfig(height=64, width=64, frames=20, digits=2, digit_size=28, shapes="1x64x64:8 20x64x64:6",
                         latent_channels=16, vae_width=56, vae_steps=28000, vae_batch=6, vae_shift=0.5,
                         placed=0.9, known=0.6, steps=7000, muon=1e-2, ema=0.999),
    # The same for one GPU, where many clips a step cost little; and more noise, to learn how digits move (its
    # weights in data/weights/README.md began without).
    "standard": TrainConfig(height=64, width=64, frames=20, digits=2, digit_size=28, latent_channels=16,
                            vae_width=80, vae_steps=12000, vae_batch=16, vae_shift=0.25, placed=0.5, known=0.85,
                            level_shift=2.0, batch=448, steps=13400, muon=1e-2, ema=0.999, log_every=100,
                            save_every=1000),
    "base": TrainConfig(height=128, width=128, frames=32, channels=3, digits=2, digit_size=28,
                        latent_channels=16, vae_width=192, vae_steps=50000, patch=2, dim=768, depth=12,
                        heads=12, batch=64, steps=200000),
    # A world to play in begins with --init: it can draw digits, and learns what keys do. More windows have
    # known frames, as in play, and fewer of these lose their captions, the keys.
    "steered": TrainConfig(rule="steered", vae_steps=0, steps=1800, muon=5e-3, known=0.9, anchors=0.8,
                           caption_drop_known=0.1),
}
EXPECTED = {"tiny": "at least 27 dB and 85 %", "small": "about 24 dB and 85 %"}       # what it should end with
