"""Makes videos from a checkpoint: from captions, and onward from a clip.

    python sample.py --prompt 3                                        a clip of a 3
    python sample.py --prompt "3 7" --n 9 --out out/nine.gif           nine clips in a grid (two digits: preset small)
    python sample.py --prompt 5 --frames 200 --out out/long.mp4        long: the window slides
    python sample.py --extend clip.gif --prompt 5 --frames 200         goes on from a clip
    python sample.py --score                                           numbers, each beside that of real clips

Writes .gif, .mp4 or .npy by the name's ending, and a contact sheet .png beside it. --frames counts all frames.
"""
import argparse
import math
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from data import clips, score
from sora import SPACE, TIME, InputError, autocast, check_device, extend, load_models, tune_cpu


def parse(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--ckpt", default="out/sora.pt", help="checkpoint to sample from (out/sora.pt)")
    add("--out", default="out/sample.gif", metavar="FILE", help=".gif, .mp4 or .npy (out/sample.gif)")
    add("--prompt", default="", help='caption, words of the data set such as "3" or "3 7"; left out: whatever comes')
    add("--extend", metavar="CLIP", help="go on from this clip: a video file, a .npy or a folder of pictures")
    add("--score", action="store_true", help="measure the checkpoint with --n clips of each kind (256) and write "
        "score.json beside it; of the other flags only --seed, --steps, --guidance, --sampler, --device matter")
    add("--frames", type=int, help="frames in all (left out: as in training; with --extend: 64 more)")
    add("--size", metavar="HxW", help="size in pixels (left out: as in training)")
    add("--n", type=int, help="clips to make (1)")
    add("--seed", type=int, default=0, help="another seed, another video (0)")
    add("--steps", type=int, help="denoising steps (left out: as in the config)")
    add("--guidance", type=float, help="classifier-free guidance scale, 1 is none (left out: as in the config)")
    add("--sampler", help="ddpm: ancestral or ddim; sit: euler or heun (left out: the first)")
    add("--window", type=int, help="video frames sampled jointly (left out: as in training)")
    add("--context", type=int, help="video frames of the past that a window sees (left out: half of the window)")
    add("--context-noise", type=float, default=0.0, help="deviation of noise added to the context, 0 to 1 (0)")
    add("--fps", type=float, default=12, help="frames a second of the file (12)")
    add("--scale", type=int, default=1, help="enlarge every pixel to SCALE x SCALE (1)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cpu or mps")
    return parser.parse_args(argv)


def word_ids(prompt, words, n, device):
    """The prompt's words as ids (n, words): 1 for the first word of the vocabulary; no prompt: 0."""
    for word in prompt.split():
        if word not in words:
            raise InputError(f"prompt word {word!r} is not known; the words of this checkpoint: {', '.join(words)}")
    ids = [words.index(word) + 1 for word in prompt.split()] or [0]
    return torch.tensor([ids] * n, device=device)


def parse_size(text, grid):
    """HxW -> (h, w) in latent pixels."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {text}: expected HxW in pixels, such as 48x80") from None
    for name, value in (("height", height), ("width", width)):
        if value <= 0 or value % grid:
            raise InputError(f"--size {text}: {name} {value} is not a positive multiple of {grid} "
                             f"({SPACE} for the VAE x {grid // SPACE} for the patch)")
    return height // SPACE, width // SPACE


def check_flags(args):
    """Raises InputError at the first flag that is wrong whatever the checkpoint."""
    for name in ("n", "frames", "steps", "window", "context", "fps", "scale"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: expected more than 0")
    if args.guidance is not None and not math.isfinite(args.guidance):
        raise InputError(f"--guidance {args.guidance}: expected a number, 1 for none")
    if not 0 <= args.seed < 2 ** 63:
        raise InputError(f"--seed {args.seed}: expected 0 to 2^63 - 1")
    if not 0 <= args.context_noise < 1:
        raise InputError(f"--context-noise {args.context_noise}: expected 0 to less than 1")
    if args.extend and args.size:
        raise InputError(f"--size {args.size}: the size is that of the clip to extend; leave it out")
    check_device(args.device)
    if not args.score:
        clips.check_writable(args.out)


def open_clip(path, config, device):
    """The clip without the first frames that do not fill a latent frame: (1,c,T,H,W) with T a multiple of 4."""
    clip = clips.read_clip(path, config.channels)
    _, T, H, W = clip.shape
    grid = SPACE * config.patch
    if T < TIME or H % grid or W % grid:
        raise InputError(f"{path}: {T} frames of {H}x{W}: expected at least {TIME} frames, height and width multiples "
                         f"of {grid}; crop or resize it")
    if (H, W) != (config.height, config.width):
        print(f"note: {path} is {H}x{W}; this model was trained at {config.height}x{config.width}")
    if T % TIME:
        print(f"note: the first {T % TIME} frames of {path} are left out: the VAE takes {TIME} at a time")
    return clip[None, :, T % TIME:].to(device)


def beginning(args, config, vae, n):
    """What there is before sampling: the given clip or None, the latent frames so far (n,C,F,h,w), the total wanted."""
    if not args.extend:
        h, w = parse_size(args.size or f"{config.height}x{config.width}", SPACE * config.patch)
        return None, torch.zeros(n, config.latent_channels, 0, h, w, device=args.device), args.frames or config.frames
    given = open_clip(args.extend, config, args.device)
    frames = args.frames or given.shape[2] + 64
    if frames <= given.shape[2]:
        raise InputError(f"--frames {frames}: the clip has {given.shape[2]} already; ask for more in all")
    return given, vae.encode(given).expand(n, -1, -1, -1, -1), frames


def make_video(vae, windows, past, frames):
    """Decodes the past and as many windows as it takes, each as soon as it is there: (B,c,frames,H,W) in [-1,1]."""
    cache = {}                                                                 # the decoder goes on where it was
    video = [vae.decode(past, cache)] if past.shape[2] else []
    with tqdm(total=frames, initial=past.shape[2] * TIME, unit="frame") as bar:
        while (done := sum(part.shape[2] for part in video)) < frames:
            video.append(vae.decode(next(windows), cache))
            bar.update(min(video[-1].shape[2], frames - done))
    return torch.cat(video, dim=2)[:, :, :frames].clamp(-1, 1)


@torch.no_grad()
def main(argv=None):
    """Checks everything, then samples, decodes and writes."""
    args = parse(argv)
    tune_cpu()
    check_flags(args)
    config, vae, dit, process, words = load_models(args.ckpt, args.device)
    if args.sampler not in (None, *process.samplers):
        raise InputError(f"--sampler {args.sampler}: this checkpoint's process is {config.process}, expected one of "
                         f"{', '.join(process.samplers)}")
    n = args.n or (256 if args.score else 1)
    sampling = dict(steps=args.steps or config.sample_steps, sampler=args.sampler, context_noise=args.context_noise,
                    guidance=config.guidance if args.guidance is None else args.guidance)
    if args.score:
        with autocast(args.device):
            return score.score(config, vae, dit, process, Path(args.ckpt).with_name("score.json"), n, args.seed,
                               **sampling)
    caption = word_ids(args.prompt, words, n, args.device)
    if not args.prompt:
        sampling["guidance"] = 1.0                                             # there is no caption to guide towards
    elif caption.shape[1] != config.digits:
        print(f"note: the captions of this model's training clips have {config.digits} words, yours {caption.shape[1]}")
    window = -(-(args.window or config.frames) // TIME)                        # in latent frames, rounded up
    context = -(-args.context // TIME) if args.context else window // 2
    if not 0 < context < window:
        raise InputError(f"--context {context * TIME} of --window {window * TIME} frames: expected at least {TIME}"
                         f" frames of context and {TIME} new ones")
    with autocast(args.device):
        given, past, frames = beginning(args, config, vae, n)
        rng = torch.Generator(args.device).manual_seed(args.seed)
        windows = extend(dit, process, past, caption, window, context, rng, **sampling)
        video = make_video(vae, windows, past, frames)
    if given is not None:
        error = (video[:, :, :given.shape[2]] - given).abs().mean() / 2
        print(f"the {given.shape[2]} given frames are shown as the VAE reconstructs them: off by {error:.4f} of the"
              " pixel range on average")
    clips.write_clip(args.out, video, args.fps, args.scale)
    print(f"wrote {args.out} and {Path(args.out).with_suffix('.png')}: {n} x {frames} frames of "
          f"{video.shape[3]}x{video.shape[4]}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)
