"""Makes videos from a checkpoint: from captions, from a picture, and from given clips, at any length.

    python sample.py --prompt 3                                        a clip of a 3
    python sample.py --prompt "3 7" --n 9 --out out/nine.gif           nine clips in a grid (two digits: preset small)
    python sample.py --prompt 5 --frames 200 --out out/long.mp4        long: the window slides
    python sample.py --image digit.png --prompt 5                      begins with a picture
    python sample.py --extend clip.gif --prompt 5 --frames 200         goes on from a clip; --extend-backward: up to it
    python sample.py --connect a.npy b.npy --prompt 5 --frames 48      what happens between two clips
    python sample.py --loop --prompt 5 --frames 48                     ends where it began
    python sample.py --edit clip.npy --strength 0.6 --prompt 8         another content, the same motion
    python sample.py --score                                           numbers, each beside that of real clips

Writes .gif, .mp4 or .npy by the name's ending, and a contact sheet .png beside it. --frames counts all frames.
"""
import argparse
import math
from pathlib import Path

import torch
from tqdm import tqdm

from data.clips import files as clips
from data.evaluation import score
from data.runtime.cli import SHIPPED, autocast, default_ckpt, load_models, run_script, use_device, window_of
from sora import SPACE, TIME, InputError, connect, extend, loop, take


def parse(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="checkpoint to sample from (out/sora.pt, else the weights shipped)")
    add("--out", default="out/sample.gif", metavar="FILE", help=".gif, .mp4 or .npy (out/sample.gif)")
    add("--prompt", default="", help='caption, words of the data set such as "3" or "3 7"; left out: whatever comes')
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--image", metavar="FILE", help="begin with this picture")
    task.add_argument("--extend", metavar="CLIP", help="go on from this clip: video file, .npy or folder of pictures")
    task.add_argument("--extend-backward", metavar="CLIP", help="end with this clip")
    task.add_argument("--connect", nargs=2, metavar=("A", "B"), help="begin with clip A and end with clip B")
    task.add_argument("--loop", action="store_true", help="end where it began, for playing in a circle")
    task.add_argument("--edit", metavar="CLIP", help="noise this clip up to --strength and denoise it to the prompt")
    task.add_argument("--score", action="store_true", help="measure the checkpoint with --n clips of each kind (256), "
        "write a .score.json beside it; obeys --seed, --steps, --guidance, --sampler, --context-noise, --device")
    add("--strength", type=float, help="of --edit: near 0 leaves the clip, 1 leaves nothing of it (0.6)")
    add("--frames", type=int, help="frames in all (left out: as in training; 64 more than the clip to extend; those of"
        " the clip to edit; with --connect as many between as fit into one window)")
    add("--size", metavar="HxW", help="size in pixels (left out: as in training, or that of the clip)")
    add("--resize", action="store_true", help="bring given clips and pictures to --size first")
    add("--n", type=int, help="clips to make, with seeds SEED, SEED + 1, ... (1)")
    add("--seed", type=int, default=0, help="another seed, another video (0)")
    add("--steps", type=int, help="denoising steps (left out: as in the config)")
    add("--guidance", type=float, help="classifier-free guidance scale, 1 is none (left out: as in the config)")
    add("--sampler", help="ddpm: ancestral or ddim; sit: euler or heun (left out: the first)")
    add("--window", type=int, help="video frames sampled jointly, rounded up to 4 (left out: as in training)")
    add("--context", type=int, help="video frames of the past that a window sees, rounded up to 4 (up to half of it)")
    add("--context-noise", type=float, default=0.0, help="deviation of noise added to the context, 0 to 1 (0)")
    add("--anchor", action=argparse.BooleanOptionalAction, default=True, help="windows keep the first 4 frames, those "
        "of --connect and --loop the first 4 of what they lead to (yes)")
    add("--history-guidance", type=float, default=1.0, help="guidance scale of the known frames (1: none)")
    add("--fps", type=float, default=12, help="frames a second of the file (12)")
    add("--scale", type=int, default=1, help="enlarge every pixel to SCALE x SCALE (1)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cpu or mps")
    return parser.parse_args(argv)


def word_ids(prompt, words, n, device):
    """The prompt's words as ids (n, words): 1 for the first word of the vocabulary; no prompt: 0."""
    for word in prompt.lower().split():
        if word not in words:
            raise InputError(f"prompt word {word!r} is not known; the words of this checkpoint: {', '.join(words)}")
    return torch.tensor([[words.index(word) + 1 for word in prompt.lower().split()] or [0]] * n, device=device)


def score_path(ckpt):
    """Where --score writes: beside the checkpoint, in out/ for the weights that come along."""
    return (Path("out/tiny.pt") if Path(ckpt).resolve() == SHIPPED else Path(ckpt)).with_suffix(".score.json")


def given_names(args):
    """The files that the video is to begin or end with, or to be made from."""
    return args.connect or [name for name in (args.image, args.extend, args.extend_backward, args.edit) if name]


def check_flags(args):
    """Raises InputError at the first flag that is wrong whatever the checkpoint."""
    for name in ("n", "frames", "steps", "window", "context", "fps", "scale"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: expected more than 0")
    for name, fine, expected in (("guidance", math.isfinite(args.guidance or 0), "a number, 1 for none"),
                                 ("history_guidance", math.isfinite(args.history_guidance), "a number, 1 for none"),
                                 ("seed", 0 <= args.seed < 2 ** 63, "0 to 2^63 - 1"),
                                 ("context_noise", 0 <= args.context_noise < 1, "0 to less than 1"),
                                 ("strength", args.strength is None or 0 < args.strength <= 1, "up to 1, not 0"),
                                 ("strength", args.strength is None or args.edit, "only with --edit"),
                                 ("size", not args.size or args.resize or not given_names(args),
                                  "that of what is given: leave it out, or add --resize"),
                                 ("resize", not args.resize or given_names(args), "only with a clip or picture")):
        if not fine:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected {expected}")
    use_device(args.device)
    if args.score:
        return clips.make_folder(score_path(args.ckpt).parent)
    clips.check_writable(args.out)
    for name in given_names(args):
        if Path(name).resolve() in (Path(args.out).resolve(), Path(args.out).with_suffix(".png").resolve()):
            raise InputError(f"--out {args.out}: would be written over {name}; choose another name")


def plan(args, config, given, window, context, anchor):
    """What to make: (latent frames in all, video frames to drop at the start, video frames to show)."""
    known, back = sum(clip.shape[2] for clip in given), (window - 2 * max(context // 2, 1)) * TIME
    more = back if args.connect else 64 if args.extend or args.extend_backward else 0
    frames = args.frames or (config.frames - 3 if args.image else known + more if given else config.frames)
    if window < (least := 3 if args.connect or args.loop else 2 if given or frames > TIME else 1):
        raise InputError(f"--window {window * TIME}: expected at least {least * TIME} frames for this")
    if args.edit and frames > known or more and frames <= known:
        raise InputError(f"--frames {frames}: {known} frames are given; ask for {'as many' if args.edit else 'more'}")
    if args.loop and frames <= back:
        raise InputError(f"--frames {frames}: a loop needs more than the {back} frames that lead back to its beginning")
    total = -(-(frames + 3 * bool(args.image)) // TIME)                        # of a still's four frames, one is shown
    if (args.connect or args.loop) and frames % TIME:
        print(f"note: {frames} frames become {total * TIME}, a multiple of {TIME}: both ends are fixed")
        frames = total * TIME
    seen = 0 if args.edit else known // TIME                                   # known latent frames
    room = back // TIME if args.connect else 0 if args.loop else window - min(seen, context)
    room -= bool(anchor) and seen > context and not args.connect               # the place of the anchor
    print("new frames are sampled jointly" if total - seen <= room else f"new frames: windows of {window * TIME} slide")
    drop = 3 if args.image else frames if args.loop else bool(args.extend_backward) * (total * TIME - frames)
    return total, drop, frames


def pieces(args, models, nothing, given, total, caption, window, context, anchor, sampling):
    """Yields the video's latent frames in the order of time, and with those of a given clip the clip (else None)."""
    _, vae, dit, process, _ = models
    known = [vae.encode(clip).expand(len(caption), -1, -1, -1, -1) for clip in given]
    gap = total - sum(latent.shape[2] for latent in known)
    slide = lambda past, **more: extend(dit, process, past, caption, window, context, anchor, **more, **sampling)
    if args.extend_backward:
        yield take(slide(known[0], backward=True), gap, backward=True), None
        yield known[0], given[0]
    elif args.connect:
        yield known[0], given[0]
        yield connect(dit, process, *known, gap, caption, window, context, anchor, **sampling), None
        yield known[1], given[1]
    elif args.loop:
        circle = loop(dit, process, nothing, total, caption, window, context, anchor, **sampling), None
        yield from (circle, circle)                                            # once unseen, to warm the decoder up
    else:
        draft = dict(draft=known.pop(), strength=args.strength or 0.6) if args.edit else {}
        if known:
            yield known[0], given[0]
        yield from ((latent, None) for latent in slide(known[0] if known else nothing, **draft))


def write_video(vae, latents, drop, frames, writer):
    """Decodes and writes frames as they come: `drop` are left out, then `frames` written. Returns by how much those of
    given clips differ from them on average, of the pixel range 1; None if there are none."""
    cache, at, errors = {}, -drop, []                                          # the decoder goes on where it was
    with tqdm(total=frames, unit="frame") as bar:
        for latent, clip in latents:
            for i, part in enumerate(latent.split(8, dim=2)):                  # in parts, for the memory
                video = vae.decode(part, cache).clamp(-1, 1)
                if clip is not None:
                    errors.append((video - clip.split(8 * TIME, dim=2)[i]).abs().mean().item() / 2)
                shown, at = video[:, :, max(-at, 0):max(frames - at, 0)], at + video.shape[2]
                if shown.shape[2]:
                    writer.write(shown)
                    bar.update(shown.shape[2])
            if at >= frames:
                break
    return sum(errors) / len(errors) if errors else None


@torch.no_grad()
def main(argv=None):
    """Checks everything, then samples, decodes and writes."""
    args = parse(argv)
    check_flags(args)
    models = config, vae, dit, process, words = load_models(args.ckpt, args.device)
    if args.sampler not in (None, *process.samplers):
        raise InputError(f"--sampler {args.sampler}: this checkpoint's process is {config.process}, expected one of "
                         f"{', '.join(process.samplers)}")
    sampling = dict(steps=args.steps or config.sample_steps, sampler=args.sampler, context_noise=args.context_noise,
                    guidance=config.guidance if args.guidance is None else args.guidance,
                    history_guidance=args.history_guidance)
    if args.score:
        with autocast(args.device):
            return score.score(*models, score_path(args.ckpt), args.n or 256, args.seed,
                               **sampling)
    caption = word_ids(args.prompt, words, args.n or 1, args.device)
    if not args.prompt:
        sampling["guidance"] = args.history_guidance                           # else `guided` computes one term twice
    elif not config.data and caption.shape[1] != config.digits:
        print(f"note: the captions of this model's training clips have {config.digits} words, yours {caption.shape[1]}")
    window, context, anchor = window_of(args, config)                          # in latent frames
    size = clips.parse_size(args.size or f"{config.height}x{config.width}", SPACE * config.patch)
    given = [clips.given_clip(name, config, size if args.resize else None, still=bool(args.image),
                              keep_end=bool(args.extend or args.connect and i == 0)).to(args.device)
             for i, name in enumerate(given_names(args))]
    if len({clip.shape[3:] for clip in given}) > 1:
        raise InputError(f"--connect {' '.join(args.connect)}: the clips differ in size; --resize makes them equal")
    sampling["generator"] = [torch.Generator(args.device).manual_seed(args.seed + i) for i in range(len(caption))]
    total, drop, frames = plan(args, config, given, window, context, anchor)
    h, w = (edge // SPACE for edge in (given[0].shape[3:] if given else size))
    nothing = torch.zeros(len(caption), config.latent_channels, 0, h, w, device=args.device)
    with autocast(args.device):
        latents = pieces(args, models, nothing, given, total, caption, window, context, anchor, sampling)
        writer = clips.ClipWriter(args.out, frames, args.fps, args.scale)
        try:
            error = write_video(vae, latents, drop, frames, writer)
        finally:
            writer.close()                                                     # what there is, even after Ctrl-C
    if error is not None:
        print(f"given frames are shown as the VAE reconstructs them: off by {error:.4f} of the pixel range on average")
    print(f"{args.ckpt} wrote {args.out} and {Path(args.out).with_suffix('.png')}: {len(caption)} x {frames} frames")


if __name__ == "__main__":
    run_script(main)
