"""Trains only the decoder of a checkpoint's VAE further: better copies, while latents and transformer stay as they are.

    python3 -m data.weights.polish out/small/sora.pt --steps 10000 --out out/polished.pt

With --vae-shift the decoder learned to decode moved latents too. Sampling needs none of these, so here it
learns from the latents that the encoder gives, and nothing else. The rates fall to 0, as in training.
"""
import data  # first of all: it sets how the threads of torch wait

from pathlib import Path

import torch
from tqdm import trange

from data.clips.files import make_folder
from data.clips.folder import load_mix
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.checkpoints import config_of, load_checkpoint, load_models, save_checkpoint
from data.runtime.errors import run_script
from data.training.start import make_optimizers
from sora import InputError, VideoVAE
from train import TrainConfig


class Decoder(torch.nn.Module):
    """The part of a VAE that learns here, as `make_optimizers` takes it."""

    def __init__(self, vae):
        super().__init__()
        self.decoder, self.to_pixels = vae.decoder, vae.to_pixels
    muon_parameters = VideoVAE.muon_parameters


def polish(vae, mix, config, steps, device):
    """Trains vae.decode for a number of steps on the clips of a mix, each shape in its turn."""
    decoder, rates = Decoder(vae), (config.vae_lr, config.vae_muon)
    optimizers = make_optimizers(decoder, *rates)
    for step in (bar := trange(steps, desc="decoder")):
        source, _ = mix[step % len(mix)]
        video, _ = source.clips(config.vae_batch, torch.Generator().manual_seed(config.seed + step))
        with machine.autocast(device):
            with torch.no_grad():
                latent = vae.encode(video)
            error = (vae.decode(latent) - video).square().mean()
        error.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        factor = min(1, (step + 1) / 50) * (1 - step / steps)
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            bar.set_postfix_str(f"squared error {error.item():.4f}")


def main(argv=None):
    """Loads, trains, saves."""
    parser = Parser(__doc__)
    parser.add_argument("ckpt", help="whose decoder to train")
    parser.add_argument("--steps", type=int, default=10000, help="(10000)")
    parser.add_argument("--out", default="out/polished.pt", help="(out/polished.pt)")
    parser.add_argument("--device", default=machine.default_device(), help="cuda, cpu or mps")
    args = parser.parse_args(argv)
    if args.steps < 1:
        raise InputError(f"--steps {args.steps}: expected 1 or more")
    machine.use_device(args.device)
    make_folder(Path(args.out).parent)                              # refused now, not after the training
    state, models = load_checkpoint(args.ckpt), load_models(args.ckpt, args.device)
    mix, _, config = load_mix(config_of(state, TrainConfig, args.ckpt), args.device, state["words"])
    polish(models.vae.train().requires_grad_(True), mix, config, args.steps, args.device)
    save_checkpoint(args.out, **state | {"vae": models.vae.state_dict()})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_script(main)
