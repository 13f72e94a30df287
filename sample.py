"""Makes videos from a checkpoint: from captions, from a picture, and from given clips, at any length.

    python3 sample.py --prompt 3                                   a clip of a 3
    python3 sample.py --prompt 7 --n 9 --out out/nine.gif          nine clips
    python3 sample.py --prompt 5 --frames 200 --out out/long.mp4   long: the window slides
    python3 sample.py --image digit.png --prompt 5                 begins with a picture
    python3 sample.py --extend clip.gif --prompt 5 --frames 200    goes on from a clip
    python3 sample.py --extend-backward clip.gif --prompt 5        leads up to a clip
    python3 sample.py --connect a.npy b.npy --prompt 5 --frames 48 what happens between two clips
    python3 sample.py --loop --prompt 5 --frames 48                ends where it began
    python3 sample.py --edit clip.npy --strength 0.6 --prompt 8    another content, the same motion
    python3 sample.py --prompt "3, 8 at 60" --guidance 10          a prompt that changes on the way
    python3 sample.py --play --prompt 5                            a world to play in, in this terminal
    python3 sample.py --score                                      numbers, beside those of real clips

Writes .gif, .mp4, .webm or .npy by the name's ending, and a contact sheet .png beside it. In a notebook:

    from sample import load_models, text_to_video, write_clip
    video = text_to_video(load_models(), "5", n=4)         # (4,1,16,32,32) in [-1,1]
    write_clip("five.gif", video, scale=4)
"""
import data  # first of all: it sets how the threads of torch wait

import sys
from itertools import chain
from types import SimpleNamespace

import torch

from data.clips import files
from data.clips.files import write_clip
from data.evaluation import score
from data.play.player import play
from data.runtime import machine
from data.runtime.checkpoints import load_models
from data.runtime.config import ceil_div, window_of
from data.runtime.errors import run_script
from data.runtime.writing import putting_in_place
from data.sampling.flags import (check_flags, check_room, given_clips, least_window, parse, print_notes,
                                 score_path)
from data.sampling.prompt import changes_at, told_where, word_ids
from data.sampling.watch import Progress, Range, checked
from sora import SPACE, TIME, InputError, connect, extend, generate, loop, take


# --- one function a use. Each returns (latents, skip, frames): an iterator over pieces of the latent video,
# --- (B,C,F,h,w) each, in the order of time; how many video frames to leave out at the start; how many to
# --- show. A given clip is (1,channels,T,H,W), T a multiple of 4. `job` holds what they share: see `make_job`.

def from_text(job, frames=None):
    """From nothing: windows that slide."""
    windows = extend(*job.denoiser, job.empty, told_where(job), *job.windows, **job.sampling)
    last_change = changes_at(job.caption)                           # at this video frame; 0: there is none
    return windows, 0, frames or max(job.config.frames, 2 * last_change)


def from_picture(job, picture, frames=None):
    """The picture, four times, is the first latent frame; three of these four frames are not shown."""
    start = encode(job, picture)
    windows = extend(*job.denoiser, start, job.caption, *job.windows, **job.sampling)
    return chain([start], windows), TIME - 1, frames or job.config.frames - (TIME - 1)


def from_clip(job, clip, frames=None):
    """The clip, and how it goes on."""
    past = encode(job, clip)
    frames = require_more(frames or clip.shape[2] + 64, clip.shape[2])
    windows = extend(*job.denoiser, past, job.caption, *job.windows, **job.sampling)
    return chain([past], windows), 0, frames


def up_to_clip(job, clip, frames=None):
    """What leads up to the clip, and the clip. All new frames are made first: time runs backward."""
    past = encode(job, clip)
    frames = require_more(frames or clip.shape[2] + 64, clip.shape[2])
    n = ceil_div(frames - clip.shape[2], TIME)
    windows = extend(*job.denoiser, past, job.caption, *job.windows, backward=True, **job.sampling)
    before = take(windows, n).flip(2)
    return iter([before, past]), (n + past.shape[2]) * TIME - frames, frames


def between_clips(job, first, last, frames=None):
    """Both clips, and what leads from one to the other."""
    given, gap = first.shape[2] + last.shape[2], room_of(job)       # gap: in latent frames
    if frames:
        gap = ceil_div(require_more(frames, given) - given, TIME)
    before, after = encode(job, first), encode(job, last)
    new = connect(*job.denoiser, before, after, gap, job.caption, *job.windows, **job.sampling)
    return iter([before, new, after]), 0, noting_change(frames, given + gap * TIME)


def in_a_circle(job, frames=None):
    """A loop. It is decoded twice, the first time unseen, so that its start follows on its end."""
    n = ceil_div(frames or 2 * job.config.frames, TIME)
    if n <= room_of(job):
        raise InputError(f"--frames {n * TIME}: a loop needs more than the {room_of(job) * TIME} frames "
                         "that lead back to its beginning")
    circle = loop(*job.denoiser, job.empty, n, told_where(job), *job.windows, **job.sampling)
    return iter([circle, circle]), n * TIME, noting_change(frames, n * TIME)


def edited(job, clip, strength, frames=None):
    """The clip, noised to a level and denoised to the caption (SDEdit). At most a window of it."""
    wanted = frames or clip.shape[2]
    most = min(wanted, job.windows[0] * TIME, clip.shape[2])
    if most < wanted:
        print(f"note: only the first {most} frames are edited: no more than the clip or a window (--window) has")
    draft = encode(job, clip[:, :, :ceil_div(most, TIME) * TIME])
    known = torch.zeros(draft.shape[2], dtype=torch.bool, device=draft.device)
    latent = generate(*job.denoiser, draft, known, job.caption, strength=strength, **job.sampling)
    return iter([latent]), 0, most


def encode(job, clip):
    """Latent (n,C,F,h,w) of a clip (1,channels,T,H,W), once for each of the clips to make."""
    return job.models.vae.encode(clip).expand(len(job.caption), -1, -1, -1, -1)


def require_more(frames, given):
    """The number of frames, or an InputError unless it is more than what is given."""
    if frames <= given:
        raise InputError(f"--frames {frames}: {given} frames are given; ask for more")
    return frames


def noting_change(asked, frames):
    """The number of frames, with a note if it is not what was asked for: both ends are fixed."""
    if asked and asked != frames:
        print(f"note: {asked} frames become {frames}, a multiple of {TIME}: both ends are fixed")
    return frames


def room_of(job):
    """How many latent frames fit between two ends in one window."""
    window, context, _ = job.windows
    return window - 2 * max(context // 2, 1)


# --- what they share ------------------------------------------------------------------------------------

def make_job(models, prompt, n=1, seed=0, size=None, windows=None, unseen=0, places=None, **sampling):
    """What all uses share: models, caption ids, windows, an empty latent, and how to sample.

    size: (H,W) in pixels; windows: (window, context, anchor) of `extend`; both left out: as in training.
    unseen: video frames left out at the start, which the times of a prompt do not count.
    places: see `read_places`; for videos that begin with nothing.
    """
    config, device = models.config, models.vae.mean.device
    height, width = size or (config.height, config.width)
    caption = word_ids(prompt, models.words, n, device, unseen)
    guidance = config.guidance if (caption > 0).any() else 1.0
    sampling = dict(steps=config.sample_steps, guidance=guidance) | sampling
    return SimpleNamespace(
        models=models, denoiser=(models.dit, models.process), config=config,
        windows=windows or window_of(config), caption=caption, size=(height, width), seeds=range(seed, seed + n),
        places=places,
        empty=torch.zeros(n, config.latent_channels, 0, height // SPACE, width // SPACE, device=device),
        sampling=sampling | dict(randn=machine.seeded_noise(range(seed, seed + n), device)))


@torch.no_grad()
def text_to_video(models, prompt, n=1, frames=None, seed=0, **options):
    """Clips (n,channels,T,H,W) in [-1,1] on the CPU. options: as for `make_job` and `generate`."""
    latents, _, frames = from_text(make_job(models, prompt, n, seed, **options), frames)
    latent = take(latents, ceil_div(frames, TIME))
    return checked(models.vae.decode(latent)[:, :, :frames].cpu())


def write_video(vae, latents, skip, frames, writer, show):
    """Decodes latents as they come and writes the frames: `skip` are left out, then `frames` written, and
    show(n) is told how many are there. InputError if it is no video that comes out."""
    cache, at, seen = {}, -skip, Range()                          # the decoder goes on where it was
    for latent in latents:
        for part in latent.split(8, dim=2):                         # in parts, for the memory
            video = vae.decode(part, cache)
            shown = video[:, :, max(-at, 0):max(frames - at, 0)]
            at += video.shape[2]
            if shown.shape[2]:
                seen.add(shown)
                writer.write(shown)
                show(min(at, frames))
        if at >= frames:
            break
    seen.check()


def choose(args, job, clips, strength):
    """Calls the use that the command line asks for."""
    if args.image:
        return from_picture(job, *clips, args.frames)
    if args.extend:
        return from_clip(job, *clips, args.frames)
    if args.extend_backward:
        return up_to_clip(job, *clips, args.frames)
    if args.connect:
        return between_clips(job, *clips, args.frames)
    if args.loop:
        return in_a_circle(job, args.frames)
    if args.edit:
        return edited(job, *clips, strength, args.frames)
    return from_text(job, args.frames)


@torch.no_grad()
def main(argv=None):
    """Checks all that it can, samples, decodes and writes. Some uses sample already in `choose`."""
    args = parse(__doc__, argv)
    check_flags(args)
    models = load_models(args.ckpt, args.device)
    config, samplers = models.config, models.process.samplers
    if args.sampler not in (None, *samplers):
        raise InputError(f"--sampler {args.sampler}: this checkpoint's process is {config.process}, expected "
                         f"one of {', '.join(samplers)}")
    options = dict(steps=args.steps, guidance=args.guidance, sampler=args.sampler)
    options = {name: value for name, value in options.items() if value is not None}
    if args.score:
        check_room(args, config, (config.height, config.width), config.frames // TIME)
        with machine.autocast(args.device):
            return score.score(*models, score_path(args.ckpt), args.n or 256, args.seed, args.mnist_test, **options)
    if args.play:
        return play(models, args, **options)
    windows = window_of(config, args.window, args.context, args.anchor)
    if windows[0] < least_window(args):
        raise InputError(f"--window {windows[0] * TIME}: expected at least {least_window(args) * TIME} frames")
    clips, size, rate = given_clips(args, config)
    fps, shown = args.fps or rate or 12, args.frames or config.frames
    print_notes(args, config, size, args.fps or rate)
    scale = args.scale or max(round(128 / size[1]), 1)
    check_room(args, config, size, windows[0], shown, scale)
    unseen = TIME - 1 if args.image else 0
    job = make_job(models, args.prompt, args.n or 1, args.seed, size, windows, unseen, args.places, **options)
    strength = (args.strength or 0.6) if args.edit else 1.0
    progress = Progress(models.dit, models.process, shown, job.sampling["steps"], strength, args.sampler)
    job.denoiser = progress, models.process             # progress calls models.dit, and counts
    with machine.autocast(args.device), progress:
        latents, skip, frames = choose(args, job, clips, strength)
        check_room(args, config, size, windows[0], frames, scale)
        progress.frames = frames
        change = changes_at(job.caption, skip)
        if change >= frames:
            print(f"note: the prompt changes at {change}, after the last of {frames} frames")
        writer = files.ClipWriter(args.out, frames, fps, scale)
        with putting_in_place(writer.part, args.out):
            try:
                write_video(models.vae, latents, skip, frames, writer, progress.show)
            except KeyboardInterrupt:
                if writer.at == 0:
                    raise
            writer.close()                                          # what there is, even after Ctrl-C
    if writer.at < frames:
        print(f"stopped; {args.out} has {writer.at} of {frames} frames")
        sys.exit(130)
    print(f"{args.ckpt} wrote {args.out} and {writer.sheet_path}: {len(job.caption)} x {frames} frames")


if __name__ == "__main__":
    run_script(main)
