"""The command line of sample.py: its flags, their check, and the clips that it names."""
import argparse
import math
import os
from pathlib import Path

from data.clips import files
from data.clips.captions import words_in
from data.clips.given import given_clip, parse_size
from data.play.terminal import check_terminal
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.config import ceil_div, trained_sizes
from data.runtime.checkpoints import SHIPPED, STEERED, check_file, default_ckpt
from data.runtime.memory import NUMBER, check_memory, clip_bytes
from data.runtime.writing import check_disk
from data.sampling.prompt import parts_of
from sora import SPACE, TIME, InputError

# of each use, the flags that have no effect on it
IGNORED = {"score": "out prompt places frames size window context anchor fps scale".split(),
           "edit": "context anchor".split(), "play": "n window anchor places".split()}


def parse(description, argv=None):
    """The command line."""
    parser = Parser(description)
    add = parser.add_argument
    add("--ckpt", help="checkpoint (out/sora.pt, else the weights that come along)")
    add("--out", metavar="FILE", help=".gif, .mp4, .webm or .npy, --n clips in a grid (out/sample.gif)")
    add("--prompt", default="", help='caption, words of the data set such as "3" or "3 7"; left out: any; '
                                     '"3, 8 at 60": another one from video frame 60 on; "3, any at 60": none')
    add("--places", nargs="+", metavar="Y,X", help="where the middle of each word begins, or its path in the first "
        'window, "12,12>20,20" (y,x in pixels; what is left out is drawn by the seed)')
    use = parser.add_argument_group("what to make").add_mutually_exclusive_group()
    use.add_argument("--image", metavar="FILE", help="begin with this picture")
    use.add_argument("--extend", metavar="CLIP", help="go on from a clip: video, .npy or folder of pictures")
    use.add_argument("--extend-backward", metavar="CLIP", help="end with this clip")
    use.add_argument("--connect", nargs=2, metavar=("A", "B"), help="begin with clip A and end with clip B")
    use.add_argument("--loop", action="store_true", help="end where it began, for playing in a circle")
    use.add_argument("--edit", metavar="CLIP", help="noise this clip up to --strength, denoise it to the prompt; "
                                                    "at most a window of it")
    use.add_argument("--play", action="store_true", help="steer with arrows or w a s d, in this terminal")
    use.add_argument("--score", action="store_true", help="measure --n clips of each kind (256), write a .score.json "
                     "beside the checkpoint (in out/ for weights that come along); obeys --seed, --steps, --guidance, "
                     "--sampler, --device")
    add("--mnist-test", metavar="FILE", help="of --score: predict the clips of mnist_test_seq.npy (64x64)")
    add_how(parser)
    args = parser.parse_args(argv)
    args.places = args.places and " ".join(args.places)
    args.ckpt = args.ckpt or (str(STEERED) if args.play else default_ckpt())
    args.ignored = [f"--{name}" for use, names in IGNORED.items() for name in names
                    if getattr(args, use) and getattr(args, name) != parser.get_default(name)]
    if args.out is None and not args.play:                          # games are kept only if that is asked for
        args.out = "out/sample.gif"
    return args


def add_how(parser):
    """The flags that say how, whatever is made."""
    add = parser.add_argument_group("how").add_argument
    add("--strength", type=float, help="of --edit: near 0 leaves the clip, 1 leaves nothing of it (0.6)")
    add("--frames", type=int, help="frames in all (as in training; 64 more than the clip to extend; with --connect "
                                   "as many between as fit into one window)")
    add("--size", metavar="HxW", help="size in pixels (as in training, or that of the clip)")
    add("--resize", action="store_true", help="bring given clips and pictures to --size first")
    add("--n", type=int, help="clips to make, with seeds SEED, SEED + 1, ... (1)")
    add("--seed", type=int, default=0, help="another seed, another video (0)")
    add("--steps", type=int, help="denoising steps (as in the config)")
    add("--guidance", type=float, help="classifier-free guidance scale, 1 is none (as in the config)")
    add("--sampler", help="ddpm: ancestral or ddim; sit: euler or heun (the first)")
    add("--window", type=int, help="video frames sampled jointly, rounded up to 4 (as in training)")
    add("--context", type=int, help="video frames of the past that a window sees, rounded up to 4 (up to half)")
    add("--anchor", action=argparse.BooleanOptionalAction, default=True,
        help="windows keep the first 4 frames of the video, so that it does not forget (yes)")
    add("--fps", type=float, help="frames a second of the file (as in the clip that is given, else 12); of --play (24)")
    add("--scale", type=int, help="enlarge every pixel to SCALE x SCALE (so that a clip is about 128 wide)")
    add("--device", default=machine.default_device(), help="cuda, cpu or mps")


def given_names(args):
    """The files that the command line gives to begin or end with, or to make something from."""
    if args.connect:
        return args.connect
    return [name for name in (args.image, args.extend, args.extend_backward, args.edit) if name]


def check_flags(args):
    """Raises InputError at the first flag that is wrong whatever the checkpoint."""
    given = given_names(args)
    for name in ("n", "frames", "steps", "window", "context", "fps", "scale"):
        value = getattr(args, name)
        if value is not None and not 0 < value <= 10 ** 15:
            raise InputError(f"--{name} {value}: expected more than 0, and at most 1e15")
    if args.fps is not None and not 0.01 <= args.fps <= 1000:
        raise InputError(f"--fps {args.fps}: expected 0.01 to 1000 frames a second")
    if args.ignored:
        print(f"note: {', '.join(args.ignored)}: no effect here")
    if args.guidance is not None and not math.isfinite(args.guidance):
        raise InputError(f"--guidance {args.guidance}: expected a number, 1 for none")
    if not 0 <= args.seed < 2 ** 62:
        raise InputError(f"--seed {args.seed}: expected 0 to 2^62")
    if args.strength is not None and not (args.edit and 0 < args.strength <= 1):
        raise InputError(f"--strength {args.strength}: expected up to 1, not 0, and --edit")
    if args.size and given and not args.resize:
        raise InputError(f"--size {args.size}: expected that of what is given: leave it out, or add --resize")
    if args.resize and not given:
        raise InputError("--resize: expected a clip or picture to bring to size")
    if args.mnist_test and not args.score:
        raise InputError(f"--mnist-test {args.mnist_test}: expected --score beside it")
    others = args.extend_backward or args.connect or args.loop or args.edit
    if others and len(parts_of(args.prompt)) > 1:
        raise InputError(f"--prompt {args.prompt!r}: one that changes goes with text, --image and --extend")
    if args.places is not None and not args.score and (given or not args.prompt):
        why = "the given clip or picture shows where things are" if given else "expected --prompt"
        raise InputError(f"--places {args.places}: {why}; leave it out")
    if args.play:
        check_terminal(0, 0)
    machine.use_device(args.device)
    if args.play and not args.out:
        return None
    if args.score:
        check_file(args.ckpt)
        return files.make_folder(score_path(args.ckpt).parent)
    files.check_writable(args.out)
    out = Path(args.out)
    written = [os.path.realpath(path) for path in (out, files.part_of(out), out.with_suffix(".png"))]
    for name in given:
        if os.path.realpath(name) in written:                       # realpath bears links in a circle
            raise InputError(f"--out {args.out}: would be written over {name}; choose another name")
        if os.path.isdir(name) and os.path.realpath(name) == os.path.dirname(os.path.realpath(out)):
            raise InputError(f"--out {args.out}: lies in the clip {name}; choose another folder")


def score_path(ckpt):
    """Where --score writes: beside the checkpoint, in out/ for the weights that come along."""
    path = Path(ckpt)
    if Path(os.path.realpath(path)).parent == SHIPPED.parent:
        path = Path("out") / path.name
    return path.with_suffix(".score.json")


def check_room(args, config, size, window, frames=0, scale=1):
    """Raises InputError if what is asked cannot fit into memory, or onto the disk, before any is taken.

    size: (H,W) in pixels; window: in latent frames; frames: to be written; scale: as for the file."""
    H, W = size
    n, steps = args.n or 1, args.steps or config.sample_steps
    if args.loop or args.connect or args.extend_backward:           # all is made before any is written
        window = max(window, frames // TIME)
    check_memory(f"--steps {steps}", 24 * steps)                    # the levels
    latent = n * window * config.latent_channels * (H // SPACE) * (W // SPACE)
    what = f"--n {n}, {window * TIME} frames of {H}x{W} at once"
    check_memory(what, 10 * NUMBER * latent, args.device)
    check_memory(what, n * clip_bytes(config, min(8, window) * TIME, H, W), args.device)
    if args.score:
        return
    pixels = 3 * n * H * W * scale ** 2                             # of a frame of the file
    at_once = frames if args.out.endswith(".gif") else min(frames, 8 * TIME)
    what = f"--out {args.out}: {frames} frames of --n {n} clips at --scale {scale}"
    check_memory(what, pixels * at_once)
    if args.out.endswith(".npy"):
        check_disk(what, args.out, pixels * frames)


def print_notes(args, config, size, fps):
    """Says what of a request is far from what the model was trained on, or has no effect. fps: None if it was
    not asked for."""
    if fps and args.out.endswith(".gif"):
        plays = 1000 / files.gif_delay(fps)
        if abs(plays - fps) > 0.02 * fps:
            print(f"note: a .gif plays {plays:.3g} frames a second, not {fps:g}: it shows each for whole hundredths of "
                  "a second, at least two; .mp4 plays any rate")
    words = max(len([word for word in words_in(part) if word != "any"]) for part in parts_of(args.prompt))
    expected = config.digits + 1 if config.rule == "steered" else config.digits
    if words and not config.data and words != expected:
        print(f"note: words in a caption of this model's training clips: {expected}; in yours: {words}; expect "
              "something in between")
    trained = trained_sizes(config)
    if not args.resize and tuple(size) not in trained:
        known = ", ".join(f"{height}x{width}" for height, width in trained)
        remedy = "; --resize brings it to that" if given_names(args) else ""
        print(f"note: {size[0]}x{size[1]} was not trained, only {known}: expect less of it, or nothing{remedy}")
    if args.guidance is not None and not args.prompt:
        print("note: --guidance has no effect without --prompt")


def least_window(args):
    """The shortest window, in latent frames, in which a use has room for what is known and something new."""
    if args.connect or args.loop:
        return 3
    if args.image or args.extend or args.extend_backward:
        return 2
    return 1


def given_clips(args, config):
    """The clips that the command line gives, (1,channels,T,H,W) each; the size (H,W) in pixels of what is to
    be made, theirs if there are any; and the frames a second of the first, None if that is not known."""
    size = parse_size(args.size or f"{config.height}x{config.width}", SPACE * config.patch)
    names, clips, rates = given_names(args), [], []
    most = None
    if args.edit:                                                   # a window, and enough to see that there is more
        most = ceil_div(args.window or config.frames, TIME) * TIME + TIME
    for i, name in enumerate(names):
        keep_end = i == 0 and bool(args.extend or args.connect)
        clip, rate = given_clip(name, config, size if args.resize else None, bool(args.image), keep_end, most,
                                args.device)
        clips.append(clip.to(args.device))
        rates.append(rate)
    if len({clip.shape[3:] for clip in clips}) > 1:
        raise InputError(f"--connect {' '.join(names)}: the clips differ in size; --resize makes them equal")
    if not clips:
        return [], size, None
    return clips, clips[0].shape[3:], rates[0]
