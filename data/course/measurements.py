"""The measurements that tell the mistakes of hunts.py: each takes load(file) -> module, gives a number."""
import tempfile
from pathlib import Path

import torch

from data.evaluation.judge import real_clips
from data.evaluation.metrics import psnr, squared_error
from data.runtime.checkpoints import SHIPPED, config_of, load_checkpoint, save_checkpoint
from data.runtime.config import ClipConfig

LATENT = 2, 8, 4, 4, 4                                              # (B,C,F,h,w)
WORD = torch.ones(2, 1).long()                                      # a caption for each clip


def latents(n):
    """n latents, always the same."""
    return torch.randn(n, *LATENT, generator=torch.Generator().manual_seed(0))


def guidance_by_channel(load):
    """The least change of a channel by guidance, over the greatest, where all should change alike."""
    def model(x, t, caption):
        return x + caption.float()[:, :, None, None, None]
    guided = load("sora.py").guided(model, 4.0)
    x, t = torch.zeros(LATENT), torch.zeros(2, 4)
    effect = guided(x, t, WORD) - model(x, t, WORD)
    by_channel = effect.abs().mean((0, 2, 3, 4))
    return (by_channel.min() / by_channel.max()).item()


@torch.no_grad()
def levels_apart(load):
    """What the network is told of levels 0.3 and 0.4: their difference, relative to their size."""
    sora = load("sora.py")
    config = sora.Config(dim=48, heads=2, depth=1)
    model, told = sora.DiT(config, 10), []

    def note(layer, inputs):
        told.append(inputs[0][0, 0])
    model.embed_level.register_forward_pre_hook(note)
    for level in (0.3, 0.4):
        t = torch.full((2, 4), level)
        model(torch.zeros(LATENT), t, WORD)
    return ((told[0] - told[1]).norm() / told[0].norm()).item()


def noise_at_the_end(load):
    """Standard deviation of what the last ancestral step leaves on the network's x0."""
    x0, x = latents(2)
    t = torch.full((2, 4), 40)                                      # the last of 25 steps
    process = load("sora.py").DDPM(1000, "x0")
    end = process.ancestral(lambda *_: x0, x, t, 0 * t, None)
    return (end - x0).std().item()


def noise_declared(load):
    """Noise in what the network sees first, with strength 0.5, over the noise that its level declares."""
    sora, seen = load("sora.py"), []

    def model(x, t, caption, positions):
        seen.append(x)
        return torch.zeros_like(x)
    process, known = sora.DDPM(1000), torch.zeros(4, dtype=torch.bool)
    sora.generate(model, process, torch.zeros(LATENT), known, WORD, steps=2, strength=0.5,
                  randn=lambda like: latents(1)[0])
    declared = (1 - process.alpha_bar[500]).sqrt()
    return (seen[0].std() / declared).item()


@torch.no_grad()
def decibels_lost(load):
    """Decibels that copies lose if their latents are normalised and brought back, as for the transformer."""
    saved = load_checkpoint(SHIPPED)
    config = config_of(saved, ClipConfig, SHIPPED)
    vae = load("sora.py").VideoVAE(config)
    vae.load_state_dict(saved["vae"])
    video, _ = real_clips(config, "heldout", 8)
    normalised = vae.decode(vae.encode(video))
    vae.mean.zero_()
    vae.std.fill_(1)                                                # as in its training
    direct = vae.decode(vae.encode(video))
    lost = psnr(squared_error(video, direct)) - psnr(squared_error(video, normalised))
    return lost.item()


def level_0(load):
    """The largest change of q_sample at level 0."""
    x0, eps = latents(2)
    level = torch.zeros(2, 4, dtype=torch.long)
    noisy = load("sora.py").DDPM(1000).q_sample(x0, level, eps)
    return (noisy - x0).abs().max().item()


def averaged_weights(load):
    """The share of sampling's weights that are the averaged ones, of a checkpoint whose two sets differ."""
    saved = load_checkpoint(SHIPPED)
    saved["dit"] = {name: x + 1 for name, x in saved["ema"].items()}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "sora.pt")
        del saved["format"]
        save_checkpoint(path, **saved)
        models = load("data/runtime/checkpoints.py").load_models(path)
    weights = models.dit.state_dict()
    equal = [torch.equal(weights[name], x.float()) for name, x in saved["ema"].items()]
    return sum(equal) / len(equal)


def loss_of_unknown(load):
    """The loss, over the mean error of the unknown frames."""
    sora = load("sora.py")
    x0, eps, output = latents(3)
    known = torch.tensor([[True, True, True, False], [True, False, False, False]])
    t = torch.where(known, 0, 700)
    process = sora.DDPM(1000)
    loss, error = sora.diffusion_loss(lambda *_: output, process, x0, None, known, None, t, eps)
    return (loss / error[~known].mean()).item()


def shared_digits(load):
    """How many held-out digits are, pixel by pixel, training digits."""
    load_digits = load("data/clips/moving_mnist.py").load_digits
    training = {image.tobytes() for image in load_digits("train")[0]}
    return float(sum(image.tobytes() in training for image in load_digits("heldout")[0]))


MEASUREMENTS = {                                                    # {name: (function, lowest, highest)}
    "guidance: its least effect on a channel, by the greatest": (guidance_by_channel, 0.99, 1.01),
    "levels: how far 0.3 and 0.4 are apart for the network": (levels_apart, 0.5, 2.0),
    "ancestral: noise left after the last step": (noise_at_the_end, 0.0, 1e-3),
    "strength: noise at the start, by the noise that is declared": (noise_declared, 0.9, 1.1),
    "VAE: decibels that copies lose by normalised latents": (decibels_lost, -0.01, 0.01),
    "level 0: how far q_sample moves the data": (level_0, 0.0, 1e-4),
    "sampling: share of weights that are the averaged ones": (averaged_weights, 1.0, 1.0),
    "the loss, by the mean error of unknown frames": (loss_of_unknown, 0.999, 1.001),
    "held-out digits that are training digits": (shared_digits, 0.0, 0.0),
}
