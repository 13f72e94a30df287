"""Checkpoints: one file with everything, replaced by a whole one or not at all, checked when read."""
import math
import os
import zipfile
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch

from data.runtime.config import LATER, ClipConfig, check
from data.runtime.memory import check_network
from data.runtime.writing import replacing
from sora import DDPM, DiT, InputError, SiT, VideoVAE

FORMAT = 4  # goes up when an old checkpoint can no longer be read, or would compute something else
OWN = "out/sora.pt"                                                 # what train.py writes
SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "tiny.pt"          # made by data/weights/ship.py
STEERED = SHIPPED.with_name("steered.pt")                                       # a world to play in, likewise
FIELDS = {"config": dict, "words": list, "command": str, "vae": dict, "dit": dict, "ema": dict,
          "stage": str, "step": int}                                # what each has to be
RESUMED = {"optimizers": list, "sums": torch.Tensor, "seconds": float}          # and to go on training
STAGES = ("vae", "dit")
MOST_STEPS = 10 ** 15                                               # as in a config


def save_checkpoint(path, **state):
    """Writes a checkpoint in place of `path`; the old file stays until the new one is whole.

    train.py keeps the config (as a dict), the vocabulary, the command, the weights (vae, dit and
    ema, the average that samples), the stage ("vae" or "dit") with its optimizers, step and seconds,
    and the half-filled line of the log.
    """
    with replacing(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path, device="cpu"):
    """What `save_checkpoint` wrote, a dict. InputError if it is missing, damaged, foreign or old."""
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:                      # torch.load checks no checksums
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"checksum of {damaged}")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can fail in the zip, the pickle or the tensor reader
        raise InputError(f"{path}: damaged, or not a checkpoint of sora.py ({type(error).__name__})") from None
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int or found != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this sora.py (format {found}, not {FORMAT}): "
                         "train it again")
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise InputError(f"{path}: a checkpoint without {', '.join(missing)}: train it again")
    wrong = wrong_fields(state)
    if wrong:
        raise InputError(f"{path}: not what train.py writes ({wrong[0]}); use another checkpoint")
    return state


def check_file(path):
    """Raises InputError unless there is such a file."""
    if not os.path.isfile(path):
        what = "not a file" if os.path.exists(path) else "no such checkpoint"
        raise InputError(f"{path}: {what}; expected a checkpoint, which `python3 train.py` makes")


def wrong_fields(state):
    """What is wrong with the contents of a checkpoint, in words."""
    wrong = [f"its {name} is no {kind.__name__}" for name, kind in (FIELDS | RESUMED).items()
             if name in state and (not isinstance(state[name], kind) or isinstance(state[name], bool))]
    if wrong:
        return wrong
    words = state["words"]
    if not all(isinstance(word, str) and word for word in words) or len(set(words)) < len(words):
        wrong.append("its words are not words, each once")
    if state["stage"] not in STAGES or not 0 <= state["step"] <= MOST_STEPS:
        wrong.append(f"it is of {state['stage']!r}, step {state['step']}")
    if not 0 <= state.get("seconds", 0) < math.inf:
        wrong.append(f"it took {state['seconds']} seconds")
    if not all(isinstance(name, str) for name in state["config"]):
        wrong.append("its config has names that are no text")
    for name in ("vae", "dit", "ema"):
        values = state[name].values()
        if not all(is_plain(x) for x in values):
            wrong.append(f"its {name} has weights that are no tensors of numbers")
        elif not all(torch.isfinite(x).all() for x in values):
            wrong.append(f"its {name} has weights that are infinite or no numbers: training diverged")
    return wrong


def is_plain(x):
    """Whether something is a tensor of ordinary numbers, in memory: none that is sparse or on "meta"."""
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided or x.is_meta:
        return False
    return x.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def config_of(state, kind, path):
    """The config of a checkpoint, as a `kind` of config (ClipConfig or TrainConfig), checked."""
    saved = state["config"]
    missing = [item.name for item in fields(kind) if item.name not in (*saved, *LATER)]
    if missing:
        raise InputError(f"{path}: from another version of sora.py (it has no {', '.join(missing)})")
    try:
        return check(kind(**{item.name: saved[item.name] for item in fields(kind) if item.name in saved}))
    except InputError as error:
        raise InputError(f"{path}: its config cannot be used: {error}") from None


def load_weights(net, weights, path):
    """load_state_dict of a network; InputError that names the file if it fails."""
    with naming(path):
        net.load_state_dict(weights)


def load_optimizer(optimizer, saved, path):
    """load_state_dict of an optimizer, whose rates and the like stay as they are: the config says them."""
    with naming(path):
        if any(type(i) is not int or not isinstance(state, dict) for i, state in saved["state"].items()):
            raise ValueError("an optimizer's state of another kind")
        optimizer.load_state_dict(optimizer.state_dict() | {"state": saved["state"]})
        for p, state in optimizer.state.items():                    # torch does not look at them
            if not all(is_plain(x) and (x.numel() == 1 or x.shape == p.shape) for x in state.values()):
                raise ValueError("an optimizer's state of another shape")


@contextmanager
def naming(path):
    """Turns what goes wrong in loading weights into an InputError that names the file."""
    try:
        yield
    except Exception as error:                                      # whatever is wrong is in the file
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()[:99]
        raise InputError(f"{path}: its weights do not fit ({reason}); use the version of sora.py that "
                         "it was trained with") from None


def make_process(config, device=None):
    """The diffusion process that a config names."""
    if config.process == "sit":
        return SiT(config.level_shift)
    return DDPM(config.noise_steps, config.prediction, device, config.level_shift)


class Models(NamedTuple):
    """A trained model, ready to sample."""
    config: ClipConfig
    vae: VideoVAE
    dit: DiT
    process: object
    words: list


def load_models(path=None, device="cpu"):
    """Models from a checkpoint, with the averaged weights; None: from `default_ckpt`."""
    path = path or default_ckpt()
    state = load_checkpoint(path, device)
    if state["stage"] == "vae":
        raise InputError(f"{path}: training stopped before the transformer; go on with "
                         "`python3 train.py --resume`")
    config = config_of(state, ClipConfig, path)
    check_network(config, len(state["words"]), device, path)
    vae = VideoVAE(config).to(device).eval()
    dit = DiT(config, len(state["words"])).to(device).eval()
    load_weights(vae, state["vae"], path)
    load_weights(dit, state["ema"], path)
    return Models(config, vae, dit, make_process(config, device), state["words"])


def default_ckpt():
    """What to sample from if the user does not say: what train.py made, else the weights shipped."""
    if not Path(OWN).exists():
        return str(SHIPPED)
    try:
        state = torch.load(OWN, mmap=True, weights_only=True)
        untrained = state["stage"] == "vae" or state["step"] == 0
    except Exception:                                               # load_checkpoint says what is wrong
        untrained = False
    if not untrained:
        return OWN
    print(f"note: {OWN} has no trained transformer yet (train.py --resume goes on); the weights that come "
          "along are used")
    return str(SHIPPED)
