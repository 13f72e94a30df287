"""What several studies measure: samples, the held-out loss by noise level, and floating point operations."""
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.evaluation.judge import real_clips
from data.evaluation.intervals import interval
from data.evaluation.score import sample_clips
from data.runtime.config import shapes_of
from sora import DDPM, SPACE, TIME, DiT

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)      # where the loss is measured: t / N of DDPM


def sample_numbers(models, judge, n, **sampling):
    """What the judge says of n samples: {metric: (value, low, high)}. sampling: as for `generate`."""
    config, vae, dit, process, _ = models
    caption = real_clips(config, "train", n, seed=1)[1].to(vae.mean.device)
    return judge.measure(sample_clips(dit, vae, process, config, caption, **sampling), caption)


@torch.no_grad()
def loss_by_level(models, n):
    """The loss of n held-out clips at each of LEVELS, and the mean of these: {metric: (value, low, high)}.

    Caption given, no frame known. It can be compared from one process to another: all are asked for the clean
    latent where it has the same share of noise, and the squared error of their estimate is divided by
    this share. For DDPM with v-prediction that is the training loss."""
    config, vae, dit, process, _ = models
    device = vae.mean.device
    rng = torch.Generator(device).manual_seed(0)
    video, caption = real_clips(config, "heldout", n)
    errors = []                                                     # (clips,levels) each
    for clips, words in zip(video.split(64), caption.to(device).split(64)):
        latent = vae.encode(clips.to(device))
        eps = torch.randn(latent.shape, generator=rng, device=device)
        parts = []
        for level in LEVELS:
            t, share = level_of(process, level)
            t = torch.full((len(latent), latent.shape[2]), t, device=device)
            guess = estimate(process, dit, process.q_sample(latent, t, eps), t, words)
            parts.append((guess - latent).square().mean((1, 2, 3, 4)) / share)
        errors.append(torch.stack(parts, dim=1))
    errors = torch.cat(errors).float().cpu()
    table = {f"loss at {level}": interval(errors[:, i]) for i, level in enumerate(LEVELS)}
    return {"loss": interval(errors.mean(1))} | table


def level_of(process, level):
    """The level of a process at which latents are as noisy as at `level` x N of DDPM; the share of noise
    there, in the sum of the squares of signal and noise."""
    alpha_bar = DDPM(1000).alpha_bar[round(1000 * level)].item()
    if isinstance(process, DDPM):
        t = round(level * process.N)
        return t, 1 - process.alpha_bar[t].item()
    noise, signal = (1 - alpha_bar) ** 0.5, alpha_bar ** 0.5
    return noise / (signal + noise), 1 - alpha_bar                  # SiT: (1 - t) to t, as signal to noise


def estimate(process, dit, x, t, caption):
    """The clean latent, as a network sees it in a noisy one."""
    if isinstance(process, DDPM):
        return process.predict(dit, x, t, caption)[0]
    return x - t[:, None, :, None, None] * dit(x, t, caption)       # SiT: x_t = x0 + t (eps - x0)


def flops_of_a_step(config, batch):
    """The operations of a training step of the transformer: of `batch` equal clips, or of those in --shapes."""
    shapes = shapes_of(config) or [(config.frames, config.height, config.width, batch)]
    return sum(n * flops_of_a_clip(replace(config, frames=max(frames, TIME), height=height, width=width))
               for frames, height, width, n in shapes)


def flops_of_a_clip(config):
    """Floating point operations of the transformer for one training clip, forward and backward, counted.
    Nothing is computed: tensors on the device "meta" have shapes only."""
    F = config.frames // TIME
    with torch.device("meta"):
        dit = DiT(config, 10)
        x = torch.empty(1, config.latent_channels, F, config.height // SPACE, config.width // SPACE)
        t, caption = torch.empty(1, F), torch.ones(1, 1, dtype=torch.long)
    # Attention spelled out in products: the fused kernel of a CPU would count as nothing.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dit(x, t, caption).sum().backward()
    return counter.get_total_flops()
