"""Checkpoints: one file with everything, written so that a crash never leaves half of one."""
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch

from data.runtime.config import LATER, ClipConfig, check
from sora import DDPM, DiT, InputError, SiT, VideoVAE

FORMAT = 4  # goes up when an old checkpoint can no longer be read, or would compute something else
SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "tiny.pt"          # made by data/weights/ship.py
FIELDS = ("config", "words", "command", "vae", "dit", "ema", "stage", "step")


def save_checkpoint(path, **state):
    """Writes a temporary file beside `path`, then renames it: the old file stays until then.

    train.py keeps the config (as a dict), the vocabulary, the command, the weights (vae, dit and
    ema, the average that samples), the stage ("vae" or "dit") with its optimizers, step and seconds,
    and the half-filled line of the log.
    """
    torch.save({"format": FORMAT, **state}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_checkpoint(path, device="cpu"):
    """What `save_checkpoint` wrote, a dict. InputError if it is missing, damaged, foreign or old."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint; `python3 train.py` makes one")
    try:
        with zipfile.ZipFile(path) as archive:                      # torch.load checks no checksums
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"checksum of {damaged}")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can fail in the zip, the pickle or the tensor reader
        raise InputError(f"{path}: damaged, or not a checkpoint of sora.py ({type(error).__name__})") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this sora.py (format {found}, not {FORMAT}): "
                         "train it again")
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise InputError(f"{path}: a checkpoint without {', '.join(missing)}: train it again")
    return state


def config_of(state, kind, path):
    """The config of a checkpoint, as a `kind` of config (ClipConfig, or train.py's), checked."""
    saved = state["config"]
    missing = [item.name for item in fields(kind) if item.name not in (*saved, *LATER)]
    if missing:
        raise InputError(f"{path}: from another version of sora.py (it has no {', '.join(missing)})")
    try:
        return check(kind(**{item.name: saved[item.name] for item in fields(kind) if item.name in saved}))
    except InputError as error:
        raise InputError(f"{path}: its config cannot be used: {error}") from None


def load_weights(net, weights, path):
    """load_state_dict of a network or an optimizer; InputError that names the file if it fails."""
    try:
        net.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()[:99]
        raise InputError(f"{path}: its weights do not fit ({reason}); use the version of sora.py that "
                         "it was trained with") from None


def make_process(config, device=None):
    """The diffusion process that a config names."""
    if config.process == "sit":
        return SiT()
    return DDPM(config.noise_steps, config.prediction, device)


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
    vae = VideoVAE(config).to(device).eval()
    dit = DiT(config, len(state["words"])).to(device).eval()
    load_weights(vae, state["vae"], path)
    load_weights(dit, state["ema"], path)
    return Models(config, vae, dit, make_process(config, device), state["words"])


def default_ckpt():
    """What to sample from if the user does not say: what train.py made, else the weights shipped."""
    return "out/sora.pt" if Path("out/sora.pt").exists() else str(SHIPPED)
