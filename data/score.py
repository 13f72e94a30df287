"""Numbers for a checkpoint, each beside the same number for real clips: `python sample.py --score`.

- psnr, ssim: the VAE's copies of held-out clips against the originals (squared error pooled, pixel range 1);
- legibility: share of frames that the referee reads as the clip's caption;
- frechet: distance to training clips in the referee's features, which see what is in a clip and how it changes: each
  feature divided by its deviation over 1,024 training clips, then their 48 main directions. Real clips are not at 0;
- permanence: share of clips whose digits read the same at the end as at the start; with two digits, of those clips in
  which they overlap in between;
- nearest (one digit): distance of the handwriting to that of the nearest training digit, root mean squared over its
  pixels. If samples came nearer than the VAE's copies of held-out digits do, they would be memorised;
- speed, wobble, turns, flicker: of the centre of the ink, see metrics.motion;
- prediction: given frames 3 to 10 of held-out clips, frames 11 to 20 are generated without caption or guidance, once.
All with 95 % bootstrap intervals over clips. Clips that the referee cannot read get the numbers that do not need it.
"""
import json
import sys
from dataclasses import replace

import torch
import torch.nn.functional as nnf
from tqdm import tqdm

from data.clips import grid, write_clip, write_still
from data.metrics import (frechet, handwriting, ink_of, interval, motion, nearest, permanence, psnr, squared_error,
                          ssim)
from data.moving_mnist import MovingMNIST, load_digits
from data.referee import load_referee
from sora import SPACE, TIME, generate

READABLE = 2  # digits a clip, at most, for the referee


def real_clips(config, split, n, seed=0):
    """n clips by the config's rule with the digits of one split, on the CPU: (video, caption)."""
    data = MovingMNIST(*load_digits(split, config.mnist), (config.height, config.width), config.digit_size,
                       config.digits, config.frames, config.rule, config.channels)
    return data.clips(n, torch.Generator().manual_seed(seed))


@torch.no_grad()
def through_vae(vae, video):
    """What the VAE makes of clips on the CPU."""
    device = next(vae.parameters()).device
    return torch.cat([vae.decode(vae.encode(v.to(device))).clamp(-1, 1).cpu() for v in video.split(16)])


@torch.no_grad()
def sample_clips(model, vae, process, config, caption, seed=0, progress=False, **sampling):
    """Clips for captions (B,words), from nothing: (B,c,T,H,W) on the CPU. `sampling` goes to `generate`."""
    sampling = dict(steps=config.sample_steps, guidance=config.guidance) | sampling
    shape = (config.latent_channels, config.frames // TIME, config.height // SPACE, config.width // SPACE)
    known = torch.zeros(shape[1], dtype=torch.bool, device=caption.device)
    parts = []
    for i, words in enumerate(tqdm(caption.split(64), "sampling", disable=not progress)):  # 64 at a time, for memory
        rng = torch.Generator(caption.device).manual_seed(seed + i)
        blank = torch.zeros(len(words), *shape, device=caption.device)
        latent = generate(model, process, blank, known, words, generator=rng, **sampling)
        parts += [vae.decode(z).clamp(-1, 1).cpu() for z in latent.split(16)]
    return torch.cat(parts)


class Judge:
    """The referee, and what the training clips of a config look like to it. In float32, whatever the model uses."""

    @torch.autocast("cpu", enabled=False)
    def __init__(self, config):
        self.config, self.referee = config, load_referee()
        features = self.referee.clip_features(self.grey(real_clips(config, "train", 1024, seed=2 ** 40)[0]))
        self.centre, self.scale = features.mean(0), features.std(0).clamp(min=0.1 * features.std(0).mean())
        self.directions = torch.linalg.svd((features - self.centre) / self.scale, full_matrices=False)[2][:48].T
        self.reference = self.project(features)
        data = MovingMNIST(*load_digits("train", config.mnist), digit_size=config.digit_size)
        self.images = nnf.pad(data.images, (4, 4, 4, 4))                       # (n,s,s) in [0,1]
        self.training = self.handwriting(self.images[:, None, None] * 2 - 1)

    @staticmethod
    def grey(video):
        return video.float().cpu().mean(1, keepdim=True)

    def project(self, features):
        return (((features - self.centre) / self.scale) @ self.directions).double()

    def handwriting(self, video):
        return handwriting(video, self.config.digit_size + 4)

    @torch.autocast("cpu", enabled=False)
    def readings(self, video):
        """Digits read in each frame, sorted: (B,T,digits)."""
        video = self.grey(video)
        return self.referee.read(video[:, 0].flatten(0, 1)[:, None], self.config.digits).unflatten(0, (len(video), -1))

    @torch.autocast("cpu", enabled=False)
    def measure(self, video, caption):
        """Clips (B,c,T,H,W) and their captions (B,digits) -> {metric: (value, low, high)}."""
        video, readings = self.grey(video), self.readings(video)
        asked = (caption.cpu() - 1).sort(dim=1).values[:, None]
        table = {"legibility": interval((readings == asked).all(-1).float().mean(1)),
                 "frechet": interval(self.project(self.referee.clip_features(video)),
                                     lambda features: frechet(self.reference, features)),
                 "permanence": interval(permanence(readings, ink_of(video), self.config.digit_size))}
        if self.config.digits == 1:
            table["nearest"] = interval(nearest(self.handwriting(video), self.training)[0])
        table |= {name: interval(values) for name, values in motion(video).items()}
        return {name: cell for name, cell in table.items() if cell[0] == cell[0]}         # nan: no clip counted

    def pairs(self, path, video):
        """Writes a picture: the handwriting of 16 single-digit clips, and below each its nearest training digit."""
        digits = self.handwriting(self.grey(video[:16]))
        which = nearest(digits, self.training)[1]
        sheet = torch.cat([digits, self.training[which]])[:, None, None] * 2 - 1
        write_still(path, grid(sheet, columns=len(digits)), scale=2)


def pictures(path, config, vae, process, dit=None, n=8):
    """Writes up to 16 of n clips: samples, or without a `dit` held-out ones beside copies. -> (videos, caption)"""
    caption = real_clips(config, "train", n, config.seed)[1].to(next(vae.parameters()).device)
    if dit is None:
        video = real_clips(config, "heldout", n // 2, config.seed)[0]
        videos = torch.stack([video, through_vae(vae, video)], dim=1).flatten(0, 1)
    else:
        videos = sample_clips(dit, vae, process, config, caption, config.seed)
    write_clip(path, videos[:16], columns=4, scale=2)
    return videos, caption


def verdict(config, vae, videos, caption):
    """One line on samples and on the VAE."""
    print("captions of the samples:", ", ".join(" ".join(MovingMNIST.words[i - 1] for i in ids)
                                                for ids in caption[:16].tolist()))
    legible = "(unread: over two digits)"
    if config.digits <= READABLE:
        legible = f"{100 * Judge(config).measure(videos, caption)['legibility'][0]:.0f} %"
    video, _ = real_clips(config, "heldout", 256, config.seed)
    return (f"{psnr(squared_error(video, through_vae(vae, video))):.1f} dB on held-out clips, {legible} of the frames "
            f"of {len(videos)} samples read as their captions")


def likeness(video, copy):
    """How well one video repeats another: {metric: (value, low, high)}."""
    errors = squared_error(video, copy)
    return {"psnr": interval(errors, psnr), "ssim": interval(ssim(video, copy))}


@torch.no_grad()
def predict(config, vae, dit, process, n, seed=0, **sampling):
    """The 10 -> 10 test of moving MNIST on n held-out clips: {row: {metric: (value, low, high)}}.

    The latent frames are frames 3-6, 7-10 (given), 11-14, 15-18, 19-22 (generated; 21 and 22 are not scored).
    """
    device, parts = next(vae.parameters()).device, {"the model": [], "the last frame again": [], "the VAE alone": []}
    video, _ = real_clips(replace(config, frames=22), "heldout", n, seed)
    known = torch.arange(5, device=device) < 2
    for i, part in enumerate(tqdm(video.split(64), "predicting")):
        latent = vae.encode(part[:, :, 2:].to(device))                         # (B,C,5,h,w)
        words = torch.zeros(len(part), 1, dtype=torch.long, device=device)
        rng = torch.Generator(device).manual_seed(seed + i)
        future = generate(dit, process, latent * known[:, None, None], known, words, generator=rng, **sampling)
        parts["the model"].append(vae.decode(future)[:, :, 8:18].clamp(-1, 1).cpu())
        parts["the last frame again"].append(part[:, :, 9:10].expand(-1, -1, 10, -1, -1))
        parts["the VAE alone"].append(vae.decode(latent)[:, :, 8:18].clamp(-1, 1).cpu())
    truth, size = video[:, :, 10:20], config.channels * config.height * config.width
    rows = {name: torch.cat(part) for name, part in parts.items()}
    return {name: {"error": interval(squared_error(truth, guess) * size)} | likeness(truth, guess)
            for name, guess in rows.items()}


def show(title, columns):
    """Prints {column: {metric: (value, low, high)}} as a table, a line a metric."""
    print(f"\n{title:20}" + "".join(f"{name:>24}" for name in columns))
    for metric in dict.fromkeys(metric for column in columns.values() for metric in column):
        cells = [column.get(metric) for column in columns.values()]
        places = 1 if max(abs(cell[0]) for cell in cells if cell) > 10 else 3
        text = ["{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*cell, places) if cell else "" for cell in cells]
        print(f"{metric:20}" + "".join(f"{cell:>24}" for cell in text))


def score(config, vae, dit, process, path, n=256, seed=0, **sampling):
    """Prints the tables for n clips of each kind, writes them to `path` (.json), returns them."""
    caption = real_clips(config, "train", n, seed + 1)[1]
    heldout, heldout_caption = real_clips(config, "heldout", n, seed)
    copy = through_vae(vae, heldout)
    samples = sample_clips(dit, vae, process, config, caption.to(next(vae.parameters()).device), seed, True, **sampling)
    rows = {"training": real_clips(config, "train", n, seed + 2 ** 20), "held out": (heldout, heldout_caption),
            "held out, VAE's copy": (copy, heldout_caption), "samples": (samples, caption)}
    if config.digits <= READABLE:
        judge = Judge(config)
        clips = {name: judge.measure(*row) for name, row in tqdm(rows.items(), "measuring")}
        if config.digits == 1:
            judge.pairs(path.with_name("nearest.png"), samples)
    else:
        print(f"{config.digits} digits a clip: the referee reads one or two, so no legibility, frechet, permanence")
        clips = {name: {key: interval(values) for key, values in motion(video).items()}
                 for name, (video, _) in rows.items()}
    clips["held out, VAE's copy"] |= likeness(heldout, copy)
    prediction = predict(config, vae, dit, process, n, seed, **sampling | dict(guidance=1.0))
    show(f"{n} clips each", clips)
    show("frames 11 to 20", prediction)
    table = {"command": " ".join(sys.argv), "n": n, "seed": seed, **sampling, "clips": clips, "prediction": prediction}
    path.write_text(json.dumps(table, indent=1))
    print(f"\nwrote {path}")
    return table
