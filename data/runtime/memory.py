"""Whether a machine has the memory for what is asked, by an estimate made before any is taken.

The estimates are low: they count weights, clips and the largest activations. So what they refuse
would hardly have worked, and what they let pass may still be too large. A tenth of the memory is for all else.
"""
import os
from dataclasses import replace

import torch

from data.runtime import machine
from data.runtime.config import shapes_of
from sora import SPACE, TIME, DiT, InputError, VideoVAE

NUMBER = 4                                                          # bytes of a float32
TRAINED = 4 * NUMBER                # of a weight: itself, its gradient, its momentum, its average


def available(device="cpu"):
    """Bytes of memory of a device in all; infinity if the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):                   # Windows
        return float("inf")


def check_memory(what, needed, device="cpu", remedy="ask for less"):
    """Raises InputError if `needed` bytes are more than the device has for it. what: in words, with values."""
    there = 0.9 * available(device)
    if needed > there:
        raise InputError(f"{what}: that would take about {amount(needed)} of memory, and the {device} has "
                         f"{amount(there)} for it; {remedy}")


def count_weights(config, n_words):
    """The weights of (VAE, transformer), without making them: a million blocks cost no more than two."""
    with torch.device("meta"):
        vae = VideoVAE(config)
        one, two = (DiT(replace(config, depth=depth), n_words) for depth in (1, 2))
    vae, one, two = (sum(p.numel() for p in net.parameters()) for net in (vae, one, two))
    return vae, one + (config.depth - 1) * (two - one)


def check_network(config, n_words, device="cpu", path=None, each=NUMBER):
    """Raises InputError if the networks of a config cannot be made here. each: bytes of a weight."""
    vae, dit = count_weights(config, n_words)
    source = f"{path}: " if path else ""
    check_memory(f"{source}vae_width {config.vae_width}, latent_channels {config.latent_channels}", vae * each, device)
    check_memory(f"{source}dim {config.dim}, depth {config.depth}", dit * each, device)
    if config.process == "ddpm":
        check_memory(f"{source}noise_steps {config.noise_steps}", 40 * config.noise_steps)


def check_training(config, device="cpu", parts=1):
    """Raises InputError if a run cannot fit: its weights, or one of the `parts` of a step's clips."""
    check_network(config, 1, device, each=TRAINED)
    shapes = shapes_of(config) or [(config.frames, config.height, config.width, config.batch)]
    cell = SPACE * config.patch
    for frames, height, width, n in shapes:
        size = f"{frames}x{height}x{width}"
        clip = clip_bytes(config, frames, height, width)
        check_memory(f"vae_batch {config.vae_batch} of {size}", config.vae_batch / parts * clip, device,
                     what_to_do(config.vae_batch, parts))
        tokens = max(frames // TIME, 1) * (height // cell) * (width // cell)
        taken = NUMBER * taken_by_blocks(device) * config.dim * config.depth * tokens         # of a clip
        check_memory(f"batch {n} of {size}", n / parts * taken, device, what_to_do(n, parts))


def what_to_do(n, parts):
    """What to do if one of the parts of n clips does not fit."""
    return "ask for less, or split it by --accumulate" if n > parts else "ask for less"


def taken_by_blocks(device):
    """Numbers that a block takes for a token, there and back, as multiples of dim. Measured as peaks: in float32 on
    a CPU 36 to 44; in bfloat16 34 on a CPU and 20 on an H200, compiled."""
    plain = torch.device(device).type != "cuda" and not machine.has_bfloat16(device)
    return 36 if plain else 16


def clip_bytes(config, T, H, W):
    """Bytes of a clip and of the VAE's largest activations on it, which are at 1/4 of its resolution."""
    activations = 3 * config.vae_width * (T / TIME) * (H / 4) * (W / 4)
    return NUMBER * (config.channels * T * H * W + activations)


def amount(n):
    """Bytes in words: 1.5 GB."""
    n /= 1e6
    for unit in ("MB", "GB", "TB", "PB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} EB"
