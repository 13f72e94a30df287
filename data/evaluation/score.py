"""Numbers for a checkpoint, each beside the same number for real clips: `python sample.py --score`.

- psnr, ssim: the VAE's copies of held-out clips against the originals (squared error pooled, pixel range 1);
- legibility: share of frames that the referee reads as the clip's caption;
- frechet: distance to training clips in the referee's features, which see what is in a clip and how it changes. Each
  feature is divided by its deviation over 1,024 training clips (a tenth of the mean deviation at least), then projected
  on the 48 directions in which those vary most: blind to what real clips never do. Real clips are not at 0;
- permanence: share of clips whose digits read the same at the end as at the start; with two digits, of those clips in
  which they overlap in between;
- nearest (one digit): distance of the handwriting to that of the nearest training digit, root mean squared over its
  pixels. A model that had memorised its digits would be as near as the VAE's copies of training clips, one that
  invents would be as far as its copies of held-out clips;
- speed, wobble, turns, flicker: of the centre of the ink, see metrics.motion;
- loss: the training loss, of clips that were trained on and others: how much the model has learned by heart;
- prediction: given frames 3 to 10 of held-out clips, frames 11 to 20 are generated without caption or guidance, once.
All with 95 % bootstrap intervals over clips. Clips that the referee cannot read (more digits; a folder's) get psnr,
ssim, loss, prediction, and
- change: mean absolute difference of neighbouring frames, pixel range 1;
- nearest: distance to the nearest training window, see nearest_windows.
"""
import json
import sys
from dataclasses import replace

import torch
import torch.nn.functional as nnf
from tqdm import tqdm

from data.runtime.cli import check_words
from data.clips.files import grid, write_clip, write_still
from data.evaluation.judge import Judge, readable, real_clips
from data.evaluation.metrics import change, interval, psnr, squared_error, ssim
from data.clips.folder import load_data
from sora import SPACE, TIME, InputError, diffusion_loss, draw_windows, extend, generate


@torch.no_grad()
def through_vae(vae, video):
    """What the VAE makes of clips on the CPU."""
    return torch.cat([vae.decode(vae.encode(v.to(vae.mean.device))).clamp(-1, 1).cpu() for v in video.split(16)])


@torch.no_grad()
def sample_clips(model, vae, process, config, caption, seed=0, progress=False, **sampling):
    """Clips for captions (B,words), from nothing: (B,c,T,H,W) on the CPU. `sampling` goes to `generate`."""
    sampling = dict(steps=config.sample_steps, guidance=config.guidance) | sampling
    shape = (config.latent_channels, config.frames // TIME, config.height // SPACE, config.width // SPACE)
    known = torch.zeros(shape[1], dtype=torch.bool, device=caption.device)
    parts, rng = [], torch.Generator(caption.device).manual_seed(seed)
    for words in tqdm(caption.split(64), "sampling", disable=not progress):                # 64 at a time, for memory
        blank = torch.zeros(len(words), *shape, device=caption.device)
        latent = generate(model, process, blank, known, words, generator=rng, **sampling)
        parts += [vae.decode(z).clamp(-1, 1).cpu() for z in latent.split(16)]
    return torch.cat(parts)


def pictures(path, config, vae, process, dit=None, n=8):
    """Writes up to 16 of n clips: samples, or without a `dit` held-out ones beside copies. -> (videos, caption)"""
    caption = real_clips(config, "train", n, config.seed)[1].to(vae.mean.device)
    if dit is None:
        video = real_clips(config, "heldout", n // 2, config.seed)[0]
        videos = torch.stack([video, through_vae(vae, video)], dim=1).flatten(0, 1)
    else:
        videos = sample_clips(dit, vae, process, config, caption, config.seed)
    write_clip(path, videos[:16], columns=4, scale=2)
    return videos, caption


def verdict(config, vae, videos, caption):
    """One line on samples and on the VAE."""
    words = load_data(config, "heldout").words
    print("captions:", ", ".join(" ".join(words[i - 1] for i in ids if i) for ids in caption[:16].tolist()))
    video, _ = real_clips(config, "heldout", 256, config.seed)
    line = f"{psnr(squared_error(video, through_vae(vae, video))):.1f} dB on held-out clips"
    if not readable(config):
        return line
    legible = 100 * Judge(config).measure(videos, caption)["legibility"][0]
    return f"{line}, {legible:.0f} % of the frames of {len(videos)} samples read as their captions"


def likeness(video, copy):
    """How well one video repeats another: {metric: (value, low, high)}."""
    errors = squared_error(video, copy)
    return {"psnr": interval(errors, psnr), "ssim": interval(ssim(video, copy))}


@torch.no_grad()
def predict(config, vae, dit, process, n, seed=0, **sampling):
    """The 10 -> 10 test of moving MNIST on n held-out clips: {row: {metric: (value, low, high)}}.

    The latent frames are frames 3-6, 7-10 (given), 11-14, 15-18, 19-22 (generated; 21 and 22 are not scored). A model
    trained on fewer than five latent frames makes them in several windows.
    """
    device, window = vae.mean.device, min(config.frames // TIME, 5)
    parts = {"the model": [], "the last frame again": [], "the VAE alone": []}
    video, _ = real_clips(replace(config, frames=22), "heldout", n, seed)
    rng = torch.Generator(device).manual_seed(seed)
    for part in tqdm(video.split(64), "predicting"):
        latent = vae.encode(part[:, :, 2:].to(device))                         # (B,C,5,h,w)
        future, words = latent[:, :, :2], torch.zeros(len(part), 1, dtype=torch.long, device=device)
        windows = extend(dit, process, future, words, window, min(2, window - 1), generator=rng, **sampling)
        while future.shape[2] < 5:
            future = torch.cat([future, next(windows)], dim=2)[:, :, :5]
        parts["the model"].append(vae.decode(future)[:, :, 8:18].clamp(-1, 1).cpu())
        parts["the last frame again"].append(part[:, :, 9:10].expand(-1, -1, 10, -1, -1))
        parts["the VAE alone"].append(vae.decode(latent)[:, :, 8:18].clamp(-1, 1).cpu())
    truth, size = video[:, :, 10:20], config.channels * config.height * config.width
    guesses = {name: torch.cat(part) for name, part in parts.items()}
    return {name: {"error": interval(squared_error(truth, guess) * size)} | likeness(truth, guess)
            for name, guess in guesses.items()}


@torch.no_grad()
def clip_loss(model, vae, process, config, clips):
    """The training loss of clips (video, caption), their mean, without anchors, stills or dropped captions: (value,
    low, high). To compare only where process, prediction and latents are the same; so are noise and levels then."""
    config = replace(config, known=0.5, anchors=0, stills=0, forcing=0, caption_drop=0, caption_drop_known=0)
    device, losses = vae.mean.device, []
    noise, masks = torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0)
    for video, caption in zip(*(x.to(device).split(64) for x in clips)):
        latent = vae.encode(video)
        known = draw_windows(config, len(video), latent.shape[2], masks)[0].to(device)
        error = diffusion_loss(model.packed, process, config, [(latent, caption, known, None)], noise)[1].view_as(known)
        losses.append((error * ~known).sum(1) / (~known).sum(1))               # (B,)
    return interval(torch.cat(losses).cpu())


def nearest_windows(config, vae, rows, path, n=512):
    """For each row of clips the distance to the nearest of n windows of training clips, root mean squared over pixels
    that are averages of 4 x 4: {row: (value, low, high)}. Writes a picture: six samples, below each its nearest, as the
    VAE copies it."""
    windows = torch.cat([real_clips(config, "train", 64, seed=2 ** 21 + i)[0] for i in range(n // 64)])
    coarse = lambda video: nnf.avg_pool3d(video, (1, 4, 4)).flatten(1)
    far = {name: torch.cdist(coarse(video), coarse(windows)) / coarse(video[:1]).numel() ** 0.5 / 2
           for name, (video, _) in rows.items()}
    which = far["samples"][:6].argmin(dim=1)
    pairs = torch.stack([rows["samples"][0][:6], through_vae(vae, windows[which])], dim=1).flatten(0, 1)[:, :, ::2]
    write_still(path, grid(pairs.transpose(1, 2).flatten(0, 1)[:, :, None], columns=pairs.shape[2]))
    return {name: interval(distances.amin(1)) for name, distances in far.items()}


def show(title, columns):
    """Prints {column: {metric: (value, low, high)}} as a table, a line a metric."""
    print(f"\n{title:20}" + "".join(f"{name:>24}" for name in columns))
    for metric in dict.fromkeys(metric for column in columns.values() for metric in column):
        cells = [column.get(metric) for column in columns.values()]
        places = 1 if max(abs(cell[0]) for cell in cells if cell) > 10 else 3
        text = ["{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*cell, places) if cell else "" for cell in cells]
        print(f"{metric:20}" + "".join(f"{cell:>24}" for cell in text))


def score(config, vae, dit, process, words, path, n=256, seed=0, **sampling):
    """Prints the tables for n clips of each kind, writes them to `path` (.json), returns them."""
    if n < 2:
        raise InputError(f"--n {n}: expected at least 2 clips to score")
    check_words(config, load_data(config, "heldout").words, words)
    caption = real_clips(config, "train", n, seed + 1)[1]
    training, heldout = real_clips(config, "train", n, seed + 2 ** 20), real_clips(config, "heldout", n, seed)
    samples = sample_clips(dit, vae, process, config, caption.to(vae.mean.device), seed, True, **sampling)
    rows = {"training": training, "training, VAE's copy": (through_vae(vae, training[0]), training[1]),
            "held out": heldout, "held out, VAE's copy": (through_vae(vae, heldout[0]), heldout[1]),
            "samples": (samples, caption)}
    if readable(config):
        judge = Judge(config)
        clips = {name: judge.measure(*row) for name, row in tqdm(rows.items(), "measuring")}
        if config.digits == 1:
            judge.pairs(path.with_suffix(".nearest.png"), samples)
    else:
        print("no referee for these clips: it reads one or two digits; so no legibility, frechet, permanence, motion")
        clips = {name: {"change": interval(change(video))} for name, (video, _) in rows.items()}
        for name, cell in nearest_windows(config, vae, rows, path.with_suffix(".nearest.png")).items():
            clips[name]["nearest"] = cell
    for name in ("training", "held out"):
        clips[f"{name}, VAE's copy"] |= likeness(rows[name][0], rows[f"{name}, VAE's copy"][0])
        clips[name]["loss"] = clip_loss(dit, vae, process, config, rows[name])
    show(f"{n} clips each", clips)
    try:
        prediction = predict(config, vae, dit, process, n, seed, **sampling | dict(guidance=1.0))
        show("frames 11 to 20", prediction)
    except InputError as error:  # a folder of shorter clips
        prediction = {}
        print(f"no prediction: it needs clips of 22 frames ({error})")
    table = {"command": " ".join(sys.argv), "n": n, "seed": seed, **sampling, "clips": clips, "prediction": prediction}
    path.write_text(json.dumps(table, indent=1))
    print(f"\nwrote {path}")
    return table
