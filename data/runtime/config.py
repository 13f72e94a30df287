"""The config of a model that was trained on clips, and the check of every value in a config."""
import math
import re
from dataclasses import dataclass, fields

from sora import SPACE, TIME, Config, InputError, option


@dataclass(frozen=True)
class ClipConfig(Config):
    """The fields of sora.Config, how to sample, and which clips to train on. Sizes are in pixels."""
    guidance: float = option(4.0, "classifier-free guidance scale when sampling; 1 is none")
    sample_steps: int = option(25, "denoising steps when sampling")
    height: int = option(32, "height of a clip, a multiple of 8 x patch")
    width: int = option(32, "width of a clip, a multiple of 8 x patch")
    frames: int = option(16, "video frames of a training clip, a multiple of 4, at least 8")
    shapes: str = option("", "several shapes in every step: FRAMESxHEIGHTxWIDTH:CLIPS ...; 1 to 4 frames: "
                             "an image, that is a still; left out: `batch` equal clips")
    data: str = option("", "folder of clips (see data/clips/README.md); left out: moving MNIST")
    heldout: str = option("", "hold out clips whose names contain one of these words; left out: every "
                              "tenth")
    stride: int = option(1, "keep every stride-th frame of the clips in the folder")
    rate: float = option(0.0, "frames a second to which the clips in the folder are brought, before stride; "
                              "0: as they are")
    cache: str = option("", "folder for decoded clips (left out: .cache in the folder of clips)")
    mnist: str = option("", "folder of the four MNIST files, instead of the 5,000 digits that come along")
    rule: str = option("official", "motion of the digits: official (straight lines), stochastic or steered")
    digits: int = option(1, "digits in a clip")
    digit_size: int = option(20, "edge of a digit")


# Fields that older checkpoints do not have: what those did is the default.
LATER = ("rate", "vae_shift", "placed", "level_shift")
SHARES = ("ema", "vae_shift", "known", "anchors", "caption_drop", "caption_drop_known", "placed")     # in [0,1]
LEAST = {"frames": 2 * TIME, "seed": 0, "reach": 0, "vae_steps": 0, "level_shift": -10}        # other counts: 1
MOST = {"seed": 2 ** 63 - 1, "rate": 1000, "level_shift": 10, "digits": 100, "dim": 10 ** 8, "vae_width": 10 ** 8,
        "latent_channels": 10 ** 8} | {name: 1 for name in SHARES}              # of others 10^15
SHAPE = re.compile(r"(\d+)x(\d+)x(\d+):(\d+)", re.ASCII)
CHOICES = {"process": ("ddpm", "sit"), "prediction": ("v", "eps", "x0"), "channels": (1, 3),
           "rule": ("official", "stochastic", "steered")}


def check(config):
    """Raises InputError at the first value that cannot work, with the numbers. Returns the config."""
    for item in fields(config):
        check_value(item.name, item.type, getattr(config, item.name))
    cell = SPACE * config.patch
    for name, step, why in (("height", cell, f"{SPACE} for the VAE x {config.patch} for the patch"),
                            ("width", cell, f"{SPACE} for the VAE x {config.patch} for the patch"),
                            ("frames", TIME, "the video frames of a latent frame"),
                            ("reach", TIME, "the video frames of a latent frame"),
                            ("dim", 2 * config.heads, "2 x heads")):
        value = getattr(config, name)
        if value % step:
            raise InputError(f"{name} {value} is not a multiple of {step} ({why})")
    shapes_of(config)
    if config.placed > 0 and config.rule == "steered":
        raise InputError(f"placed {config.placed} with the rule steered: expected 0, as keys say where digits go")
    if config.dim < 8 * config.heads:
        raise InputError(f"dim {config.dim} with {config.heads} heads: expected at least 8 for each "
                         "head, because rotary positions have three axes")
    return config


def check_value(name, kind, value):
    """Raises InputError unless a field's value is of its type and in its range."""
    if name in CHOICES and value not in CHOICES[name]:
        raise InputError(f"{name} {value!r}: expected one of {', '.join(map(str, CHOICES[name]))}")
    if kind is str:
        if not isinstance(value, str):
            raise InputError(f"{name} {value!r}: expected text")
        return
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise InputError(f"{name} {value!r}: expected a number ({kind.__name__})")
    low = LEAST.get(name, 1 if kind is int else 0)
    high = MOST.get(name, 10 ** 15)                                 # so that estimates can be computed
    if name == "guidance":
        low = -math.inf
    if not low <= value <= high or value == -math.inf:
        expected = f"{low} to {high:g}" if name in MOST or value > high else f"{low} or more"
        if low == -math.inf:
            expected = "a finite number"
        raise InputError(f"{name} {value}: expected {expected}")


def without_effect(config, given, borrowed_vae=False):
    """Of the fields `given`, those that have no effect beside the others: {name: because}."""
    cases = (
        (config.data, "mnist rule digits digit_size placed", "clips come from --data"),
        (not config.data, "heldout stride rate cache", "there is no --data"),
        (config.shapes, "height width frames batch", "there are shapes (--shapes, or of preset or checkpoint)"),
        (config.process == "sit", "prediction noise_steps", "the process is sit"),
        (config.anchors == 0, "reach", "--anchors is 0"),
        (config.reach == 0, "anchors", "--reach is 0"),
        (config.known == 0, "anchors reach caption_drop_known", "--known is 0"),
        (config.vae_steps == 0, "vae_batch vae_kl vae_shift vae_muon vae_lr", "--vae-steps is 0"),
        (borrowed_vae, "vae_steps vae_batch vae_kl vae_shift vae_muon vae_lr", "the VAE is another's"))
    found = {}
    for holds, names, why in cases:
        if holds:
            found |= {name: why for name in names.split() if name in given}
    return found


def window_of(config, window=None, context=None, anchor=True):
    """(window, context, anchor) in latent frames, as `extend` takes them, from video frames.

    window: left out, that of training; context: left out, up to half of the window; anchor: whether
    windows keep the first latent frame, which works if that was practised.
    """
    window = ceil_div(window or config.frames, TIME)
    practised = anchor and config.known > 0 and config.anchors > 0 and config.reach > 0
    if context:
        context = ceil_div(context, TIME)
    else:
        half = (window - 1) // 2 if practised else window // 2      # beside the anchor
        context = min(max(half, 1), window - 1)
    if not context < window:
        raise InputError(f"--context {context * TIME} of --window {window * TIME} frames: expected at least "
                         f"{TIME} new ones")
    distance = config.reach // TIME if practised and context + 1 < window else 0
    return window, context, distance


def trained_sizes(config):
    """The sizes (H,W) in pixels that a model was trained at."""
    sizes = [(height, width) for _, height, width, _ in shapes_of(config)]
    return list(dict.fromkeys(sizes)) or [(config.height, config.width)]        # each once


def shapes_of(config):
    """What --shapes says: a list of (frames, height, width, clips). InputError names what cannot be read."""
    shapes = []
    for part in config.shapes.split():
        match = SHAPE.fullmatch(part)
        if match is None:
            raise InputError(f"--shapes {part}: expected FRAMESxHEIGHTxWIDTH:CLIPS, such as 16x32x48:8")
        shapes.append(tuple(int(number) for number in match.groups()))
    return shapes


def ceil_div(a, b):
    """a / b, rounded up."""
    return (a + b - 1) // b
