"""Numbers for a model trained on moving MNIST, each beside the same number for real clips.

    python sample.py --score                 clips as long as in training, beside real ones
    python sample.py --score --frames 200    long clips, stretch by stretch: what drifts

- reconstruction: PSNR of the VAE on held-out clips (squared error pooled over all pixels, pixel range 1);
- legibility: share of frames that the referee reads as the clip's caption;
- motion of a single digit, by the centre of its ink: speed (pixels a frame), wobble (how much the speed along an axis
  changes from frame to frame, whichever way it points, so that a bounce is no wobble; even a straight path has some,
  because positions are whole pixels), turns (changes of direction a clip) and flicker (deviation of the amount of ink
  over a clip, relative to its mean).
Each with its mean over clips and a 95 % bootstrap interval in brackets.
"""
import math
from itertools import islice

import torch

from data.clips import write_clip
from data.moving_mnist import MovingMNIST, load_digits
from data.referee import legibility, load_referee
from sora import SPACE, TIME, extend


def real_clips(config, split, n, seed=0):
    """n clips by the config's rule with the digits of one split, on the CPU: (video, caption)."""
    data = MovingMNIST(*load_digits(split, config.mnist), (config.height, config.width), config.digit_size,
                       config.digits, config.frames, config.rule, config.channels)
    return data.clips(n, torch.Generator().manual_seed(seed))


def psnr(a, b):
    """Decibels between two videos in [-1,1], pixel range 1, errors pooled."""
    return -10 * math.log10(((a - b) / 2).square().mean())


@torch.no_grad()
def reconstructed(vae, config, n, seed=0):
    """n held-out clips and what the VAE makes of them, on the CPU: (video, copy)."""
    video, _ = real_clips(config, "heldout", n, seed)
    device = next(vae.parameters()).device
    return video, torch.cat([vae.decode(vae.encode(v.to(device))).clamp(-1, 1).cpu() for v in video.split(16)])


def read(video, caption):
    """Share of the frames of each clip that the referee reads as its caption, (B,). In float32 on the CPU."""
    with torch.autocast("cpu", enabled=False):
        return legibility(load_referee(), video.float().cpu(), caption.cpu()).mean(1)


@torch.no_grad()
def sample_clips(model, vae, process, config, caption, seed=0, frames=None, **sampling):
    """Clips for captions (B,words), from nothing: (B,c,frames,H,W). Beyond the trained length the window slides on by
    half. `sampling` goes to `generate`."""
    sampling = dict(steps=config.sample_steps, guidance=config.guidance) | sampling
    window = config.frames // TIME
    clips = []
    for i, words in enumerate(caption.split(64)):                              # 64 at a time, for the memory
        past = torch.zeros(len(words), config.latent_channels, 0, config.height // SPACE, config.width // SPACE,
                           device=caption.device)
        rng = torch.Generator(caption.device).manual_seed(seed + i)
        windows = extend(model, process, past, words, window, window // 2, rng, **sampling)
        more = max((frames or 0) - config.frames, 0)
        latent = torch.cat(list(islice(windows, 1 + -(-more // (TIME * (window - window // 2))))), dim=2)
        clips += [vae.decode(z).clamp(-1, 1)[:, :, :frames] for z in latent.split(16)]
    return torch.cat(clips)


def motion(video):
    """Single-digit clips (B,1,T,H,W) -> speed, wobble, turns and flicker, (B,) each; see the top of this file."""
    ink = (video[:, 0].float() + 1) / 2                                        # (B,T,H,W)
    ink = ink * (ink > 0.1)
    mass = ink.sum((2, 3)).clamp(min=1e-6)
    H, W = ink.shape[2:]
    y, x = (ink.sum(3) * torch.arange(H)).sum(2), (ink.sum(2) * torch.arange(W)).sum(2)
    centre = torch.stack([y, x], dim=-1) / mass[..., None]                     # (B,T,2)
    step = centre.diff(dim=1)                                                  # (B,T-1,2)
    smooth = (step[:, 1:] + step[:, :-1]) / 2                                  # over two frames: whole pixels even out
    wobble = smooth.abs().diff(dim=1).abs().mean((1, 2))
    turned = (smooth[:, 2:] * smooth[:, :-2] < 0) & (smooth[:, 2:].abs() > 0.3) & (smooth[:, :-2].abs() > 0.3)
    turns = (turned[:, 1:] & ~turned[:, :-1]).float().sum((1, 2)) + turned[:, 0].float().sum(1)
    return dict(speed=step.norm(dim=-1).mean(1), wobble=wobble, turns=turns, flicker=mass.std(1) / mass.mean(1))


def pictures(path, config, vae, process, dit=None, n=8):
    """Writes up to 16 of n clips to `path`: samples, or without a `dit` held-out clips beside their reconstructions.
    Returns (videos, caption)."""
    device = next(vae.parameters()).device
    caption = real_clips(config, "train", n, config.seed)[1].to(device)
    if dit is None:
        videos = torch.stack(reconstructed(vae, config, n // 2, config.seed), dim=1).flatten(0, 1)
    else:
        videos = sample_clips(dit, vae, process, config, caption, config.seed)
    write_clip(path, videos[:16], columns=4, scale=2)
    return videos, caption


def verdict(config, vae, videos, caption):
    """One line on samples and on the VAE."""
    print("captions of the samples:", ", ".join(" ".join(MovingMNIST.words[i - 1] for i in ids)
                                                for ids in caption[:16].tolist()))
    legible = f"{100 * read(videos, caption).mean():.0f} %" if config.digits <= 2 else "(unread: over two digits)"
    return (f"{psnr(*reconstructed(vae, config, 256, config.seed)):.1f} dB on held-out clips, {legible} of the frames "
            f"of {len(videos)} samples read as their captions")


def interval(values, seed=0):
    """Mean and 95 % bootstrap interval over clips: (mean, low, high)."""
    pick = torch.randint(len(values), (1000, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values[pick].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return values.mean().item(), low, high


def measure(config, video, caption):
    """Everything that can be said of clips (B,1,T,H,W) and their captions: {name: (B,)}."""
    values = {"legibility": read(video, caption)} if config.digits <= 2 else {}
    return values | (motion(video) if config.digits == 1 else {})


def score(config, vae, dit, process, n=64, seed=0, frames=None, **sampling):
    """Prints a table, a row for each kind of clips; returns it as {row: {column: (mean, low, high)}}."""
    device = next(vae.parameters()).device
    caption = real_clips(config, "train", n, seed + 1)[1]
    video = sample_clips(dit, vae, process, config, caption.to(device), seed, frames, **sampling).cpu()
    rows = {"training clips": real_clips(config, "train", 512, seed),
            "held-out clips": real_clips(config, "heldout", 512, seed)}
    if (frames or 0) > config.frames:
        for start in range(0, frames - config.frames + 1, config.frames):
            rows[f"frames {start + 1} to {start + config.frames}"] = video[:, :, start:start + config.frames], caption
    else:
        original, copy = reconstructed(vae, config, 256, seed)
        print(f"reconstruction of held-out clips: {psnr(original, copy):.2f} dB")
        rows |= {"held-out, through the VAE": (copy, real_clips(config, "heldout", 256, seed)[1]),
                 f"{n} samples": (video, caption)}
    table = {name: {key: interval(value) for key, value in measure(config, *row).items()} for name, row in rows.items()}
    print(" " * 26 + "".join(f"{key:>23}" for key in table["training clips"]))
    for name, row in table.items():
        print(f"{name:26}" + "".join(f"{'%.3f [%.3f, %.3f]' % value:>23}" for value in row.values()))
    return table
