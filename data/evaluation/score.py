"""Numbers for a checkpoint, each beside the same number of real clips: `python3 sample.py --score`.

README.md beside this file says what each of them means. `score` prints the tables and writes them,
with the values of every clip, to a .score.json; compare.py compares two of these clip by clip.
"""
import sys
from dataclasses import replace

import torch
import torch.nn.functional as nnf
from tqdm import tqdm

from data.clips.files import grid, write_clip, write_still
from data.clips.folder import check_words, load_data, load_sources
from data.clips.places import digits_of
from data.evaluation.intervals import interval, jackknife
from data.evaluation.judge import Judge, cells, grey, published_clips, readable, real_clips, words_of
from data.evaluation.metrics import change, psnr, squared_error, ssim
from data.evaluation.referee import legibility, load_referee
from data.evaluation.tables import show, write_table
from data.runtime.machine import seeded_noise
from sora import (SPACE, TIME, InputError, diffusion_loss, draw_noise, draw_windows, extend, generate,
                  take)


# --- clips to measure ---------------------------------------------------------------------------------

@torch.no_grad()
def through_vae(vae, video, progress=False):
    """What the VAE makes of clips (B,channels,T,H,W) on the CPU: the same shape, on the CPU."""
    parts = tqdm(video.split(16), "copying", disable=not progress)
    return torch.cat([vae.decode(vae.encode(part.to(vae.mean.device))).cpu() for part in parts])


def blank_latent(config, n, F, device):
    """F latent frames of n clips with nothing in them, (n,C,F,h,w); 0 frames is where `extend` begins."""
    shape = config.latent_channels, F, config.height // SPACE, config.width // SPACE
    return torch.zeros(n, *shape, device=device)


def noise_of(seed, n, device, first=0):
    """A `randn` for n clips. The noise of a clip depends on `seed` and on its number only."""
    begin = seed * 2 ** 20 + first
    return seeded_noise([(begin + i) % 2 ** 63 for i in range(n)], device)


@torch.no_grad()
def sample_clips(model, vae, process, config, caption, seed=0, progress=False, **sampling):
    """Clips for captions (B,words): (B,channels,T,H,W) on the CPU. sampling: goes to `generate`."""
    sampling = dict(steps=config.sample_steps, guidance=config.guidance) | sampling
    F, device, parts = config.frames // TIME, caption.device, []
    known = torch.zeros(F, dtype=torch.bool, device=device)
    for first in tqdm(range(0, len(caption), 64), "sampling", disable=not progress):
        words = caption[first:first + 64]
        blank = blank_latent(config, len(words), F, device)
        randn = noise_of(seed, len(words), device, first)
        latent = generate(model, process, blank, known, words, randn=randn, **sampling)
        parts += [vae.decode(z).cpu() for z in latent.split(16)]
    return torch.cat(parts)


def pictures(path, config, vae, process, dit=None, seed=0, n=8, sources=None, progress=False):
    """Writes a picture of up to 16 of n clips: samples, or without a `dit` held-out clips, each
    beside its copy. Returns (videos, caption). sources: as for `real_clips`."""
    caption = real_clips(config, "train", n, seed, sources)[1].to(vae.mean.device)
    if dit is None:
        video, _ = real_clips(config, "heldout", n // 2, seed, sources)
        videos = torch.stack([video, through_vae(vae, video)], dim=1).flatten(0, 1)
    else:
        videos = sample_clips(dit, vae, process, config, caption, seed, progress)
    write_clip(path, videos[:16], columns=4, scale=2)
    return videos, caption


def verdict(config, vae, videos, caption, seed=0, sources=None, progress=False):
    """One line on the VAE and on samples. sources: as for `real_clips`."""
    words = (sources["heldout"] if sources else load_data(config, "heldout")).words
    caption = caption if config.data else digits_of(caption, config.digits)
    captions = [" ".join(words[i - 1] for i in ids if i) for ids in caption[:16].tolist()]
    print("captions:", ", ".join(captions))
    video, _ = real_clips(config, "heldout", 256, seed, sources)
    copies = through_vae(vae, video, progress)
    line = f"{psnr(squared_error(video, copies)):.1f} dB on held-out clips"
    if not readable(config):
        return line
    with torch.autocast("cpu", enabled=False):                      # the referee reads in float32
        right = legibility(load_referee(), grey(videos), caption.cpu()).mean()
    return f"{line}, {100 * right:.0f} % of the frames of {len(videos)} samples read as their captions"


# --- what is measured beside the judge's numbers ------------------------------------------------------

def resemblance(video, copy):
    """How well each clip repeats another: {metric: (B,)}."""
    return {"squared error": squared_error(video, copy), "ssim": ssim(video, copy)}


def likeness(video, copy):
    """How well one video repeats another: {metric: (value, low, high)}."""
    values = resemblance(video, copy)

    def psnr_of(kept):
        return psnr(values["squared error"][kept])

    return {"psnr": jackknife(len(video), psnr_of), "ssim": interval(values["ssim"])}


@torch.no_grad()
def predict(config, vae, dit, process, n, seed=0, clips=None, **sampling):
    """The 10 -> 10 test of moving MNIST (Srivastava et al. 2015) on n held-out clips, or on `clips`, a
    (video (n,channels,22,H,W), caption). Returns their frames 11 to 20 (n,channels,10,H,W), guesses of
    them {name: the same shape}, and the captions (n,words), which the model is not told.

    The latent frames are frames 3-6, 7-10 (given), 11-14, 15-18, 19-22 (generated; 21 and 22 are
    not scored). A model trained on fewer than five latent frames makes them in several windows."""
    sampling = dict(steps=config.sample_steps) | sampling
    device, window = vae.mean.device, min(config.frames // TIME, 5)
    context = min(2, window - 1)
    video, caption = clips or real_clips(replace(config, frames=22), "heldout", n, seed)
    parts = {"the model": [], "the VAE alone": []}
    for first in tqdm(range(0, len(video), 64), "predicting"):
        part = video[first:first + 64]
        latent = vae.encode(part[:, :, 2:].to(device))              # (B,C,5,h,w)
        nothing = torch.zeros(len(part), 1, dtype=torch.long, device=device)
        randn = noise_of(seed, len(part), device, first)
        given = latent[:, :, :2]
        new = take(extend(dit, process, given, nothing, window, context, randn=randn, **sampling), 3)
        predicted = torch.cat([given, new], dim=2)
        parts["the model"].append(vae.decode(predicted)[:, :, 8:18].cpu())
        parts["the VAE alone"].append(vae.decode(latent)[:, :, 8:18].cpu())
    guesses = {name: torch.cat(part) for name, part in parts.items()}
    guesses["the last frame again"] = video[:, :, 9:10].expand(-1, -1, 10, -1, -1)
    return video[:, :, 10:20], guesses, caption


@torch.no_grad()
def clip_losses(model, vae, process, config, clips):
    """The training loss of each of `clips`, (video, caption): (B,). Half of them have known frames;
    there are no anchors, and no captions are dropped. Noise, levels and masks are the same in every
    call. To be compared only where process, prediction, levels and VAE are the same."""
    config = replace(config, known=0.5, anchors=0, caption_drop=0, caption_drop_known=0)
    device, losses = vae.mean.device, []
    noise, masks = torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0)
    for first in range(0, len(clips[0]), 64):
        video, caption = (x[first:first + 64].to(device) for x in clips)
        latent = vae.encode(video)                                  # (B,C,F,h,w)
        known, positions, _ = draw_windows(config, len(video), latent.shape[2], masks)
        known, positions = known.to(device), positions.to(device)
        t, eps, caption = draw_noise(process, config, latent.shape, known, caption, noise)
        _, error = diffusion_loss(model, process, latent, caption, known, positions, t, eps)
        losses.append((error * ~known).sum(1) / (~known).sum(1))    # (B,)
    return torch.cat(losses).cpu()


def nearest_windows(source, vae, rows, path, n=512):
    """How far clips are from the nearest of n windows of a source's clips: {row: (B,)}. Root mean
    squared difference of averages over 4 x 4 pixels, pixel range 1. rows: {row: (video, caption)}.
    Writes a picture: six samples, below each its nearest window, as the VAE copies it."""
    seeds = [torch.Generator().manual_seed(2 ** 21 + i) for i in range(n // 64)]
    windows = torch.cat([source.clips(64, generator)[0] for generator in seeds])

    def coarse(video):                                              # (B,values) in the pixel range 1
        return nnf.avg_pool3d(video, (1, 4, 4)).flatten(1) / 2

    far = {}
    for name, (video, _) in rows.items():
        pixels = coarse(video)
        far[name] = torch.cdist(pixels, coarse(windows)) / pixels.shape[1] ** 0.5
    which = far["samples"][:6].argmin(dim=1)
    pairs = torch.stack([rows["samples"][0][:6], through_vae(vae, windows[which])], dim=1).flatten(0, 1)
    pairs = pairs[:, :, ::2]                                        # (12,channels,T/2,H,W): a row each
    write_still(path, grid(pairs.transpose(1, 2).flatten(0, 1)[:, :, None], columns=pairs.shape[2]))
    return {name: distances.amin(1) for name, distances in far.items()}


# --- the tables ---------------------------------------------------------------------------------------

def score(config, vae, dit, process, words, path, n=256, seed=0, mnist_test=None, **sampling):
    """Prints the tables for n clips of each kind, writes them to `path` (.json), returns them.

    mnist_test: the file of published clips for the 10 -> 10 test; left out: held-out clips of our own."""
    if n < 2:
        raise InputError(f"--n {n}: expected at least 2 clips to score")
    published = published_clips(mnist_test, config, n) if mnist_test else None
    sources = load_sources(config, words)
    check_words(config, sources["train"], words)
    caption = real_clips(config, "train", n, seed + 1, sources)[1]
    on_device = caption.to(vae.mean.device)
    samples = sample_clips(dit, vae, process, config, on_device, seed, progress=True, **sampling)
    training = real_clips(config, "train", n, seed + 2 ** 20, sources)
    heldout = real_clips(config, "heldout", n, seed, sources)
    rows = {"training": training, "training, VAE's copy": (through_vae(vae, training[0]), training[1]),
            "held out": heldout, "held out, VAE's copy": (through_vae(vae, heldout[0]), heldout[1]),
            "samples": (samples, caption)}

    values, clips = measure(config, vae, dit, process, rows, sources["train"], path.with_suffix(".nearest.png"))
    show(f"{n} clips each", clips)
    guessed, told, prediction = measure_prediction(config, vae, dit, process, n, seed, published, sampling)
    captions = {name: words_of(caption, config) for name, (_, caption) in rows.items()}
    same = "height width frames channels digits digit_size rule data".split()   # what makes clips comparable
    write_table(path, {"command": " ".join(sys.argv), "data": [getattr(config, name) for name in same],
                       "n": n, "seed": seed, "mnist_test": mnist_test,
                       **sampling, "clips": clips, "prediction": prediction,
                       "values": values | guessed, "captions": captions | told})
    print(f"\nwrote {path}")
    return {"n": n, "seed": seed, "clips": clips, "prediction": prediction, "values": values | guessed}


def measure(config, vae, dit, process, rows, training, path):
    """The numbers of rows {name: (video, caption)}: values {name: {metric: (n,)}}, clip by clip, and cells
    {name: {metric: (mean, low, high)}}. training: source of clips; path: for a picture of the nearest."""
    values, clips = {}, {}
    if readable(config):
        judge = Judge(config)
        for name, row in tqdm(rows.items(), "measuring"):
            values[name] = judge.values(*row)
            clips[name] = cells(values[name]) | judge.together(*row)
        if config.digits == 1:
            judge.pairs(path, rows["samples"][0])
    else:
        print("no referee for these clips: it reads one or two digits; the rest is measured")
        far = nearest_windows(training, vae, rows, path)
        for name, (video, _) in rows.items():
            values[name] = {"change": change(video), "nearest": far[name]}
            clips[name] = cells(values[name])
    for name in ("training", "held out"):
        copy, loss = f"{name}, VAE's copy", clip_losses(dit, vae, process, config, rows[name])
        values[copy] |= resemblance(rows[name][0], rows[copy][0])
        clips[copy] |= likeness(rows[name][0], rows[copy][0])
        values[name]["loss"], clips[name]["loss"] = loss, interval(loss)
    return values, clips


def measure_prediction(config, vae, dit, process, n, seed, published, sampling):
    """The 10 -> 10 test: prints its table; values and captions of its rows, and the table. Without guidance."""
    values, captions, prediction = {}, {}, {}
    try:
        unguided = sampling | dict(guidance=1.0)
        truth, guesses, caption = predict(config, vae, dit, process, n, seed, published, **unguided)
    except InputError as error:                                     # a folder of shorter clips
        print(f"no prediction: it needs clips of 22 frames ({error})")
        return values, captions, prediction
    for name, guess in guesses.items():
        error = squared_error(truth, guess) * truth[0, :, 0].numel()            # sum over a frame
        prediction[name] = {"error": interval(error)} | likeness(truth, guess)
        row = f"frames 11 to 20, {name}"
        values[row], captions[row] = {"error": error, "ssim": ssim(truth, guess)}, words_of(caption, config)
    show("frames 11 to 20", prediction)
    return values, captions, prediction
