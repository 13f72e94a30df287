"""Four ways to start a run: new, resumed, or from the weights or the VAE of another checkpoint."""
import copy
import os
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from data.clips import files
from data.clips.folder import load_mix, load_sources
from data.runtime import machine
from data.runtime.checkpoints import config_of, load_checkpoint, load_weights, make_process
from data.runtime.config import ClipConfig, check
from data.training.log import Log
from data.training.packed import Packed
from sora import DiT, InputError, Muon, VideoVAE

VAE_FIELDS = ("channels", "latent_channels", "vae_width")           # what a borrowed VAE decides
TARGET_FIELDS = ("process", "prediction", "noise_steps")            # what a resumed run has to keep


def start(args, presets):
    """The run that the command line asks for. presets: {name: the config of a preset}."""
    preset = presets[args.preset or "tiny"]
    if args.until < 1:
        raise InputError(f"--until {args.until}: expected 1 or more")
    machine.use_device(args.device)
    files.make_folder(args.out)
    path = Path(args.out) / "sora.pt"
    if args.resume:
        return resume(args, preset, path)
    if path.exists() and not args.overwrite:
        raise InputError(f"{path} exists: go on with --resume, choose another --out, or lose it with --overwrite")
    if args.init:
        return start_from(args, preset, args.init)
    if args.vae:
        return start_with_vae(args, preset, args.vae)
    config = flags_over(args, preset)
    if config.vae_steps == 0:
        raise InputError("--vae-steps 0 without --init: no VAE; train one first")
    return build(args, config)


def resume(args, preset, path):
    """Goes on where a run stopped, as if it had not."""
    saved = load_checkpoint(path, args.device)
    if "optimizers" not in saved:
        raise InputError(f"{path}: has no optimizers to go on with; start from its weights with --init")
    config = flags_over(args, config_of(saved, type(preset), path), path, keep=TARGET_FIELDS)
    run = build(args, config, saved["words"])
    for name in ("vae", "dit", "ema"):
        load_weights(getattr(run, name), saved[name], path)
    run.stage, run.step, run.seconds = saved["stage"], saved["step"], saved["seconds"]
    for optimizer, state in zip(run.optimizers[run.stage], saved["optimizers"]):
        load_weights(optimizer, state, path)
    if run.rank == 0:                                               # they are those of all processes
        run.log.sums.copy_(saved["sums"])
    return run


def start_from(args, preset, path):
    """Starts at step 0 with the weights of another checkpoint."""
    saved = load_trained_vae(path, args.device)
    config = flags_over(args, config_of(saved, type(preset), path), path)
    run = build(args, config, saved["words"])
    for name in ("vae", "dit", "ema"):
        load_weights(getattr(run, name), saved[name], path)
    run.stage = "vae" if config.vae_steps else "dit"
    return run


def start_with_vae(args, preset, path):
    """Starts with the VAE of another checkpoint and a new transformer."""
    saved = load_trained_vae(path, args.device)
    theirs = config_of(saved, ClipConfig, path)
    config = replace(preset, **{name: getattr(theirs, name) for name in VAE_FIELDS})
    run = build(args, flags_over(args, config, path, keep=VAE_FIELDS, with_preset=True))
    load_weights(run.vae, saved["vae"], path)
    run.stage = "dit"
    return run


def load_trained_vae(path, device):
    """A checkpoint whose VAE was trained to the end."""
    saved = load_checkpoint(path, device)
    if saved["stage"] == "vae":
        raise InputError(f"{path}: its VAE is not trained to the end; go on with --resume first")
    return saved


def flags_over(args, config, path=None, keep=(), with_preset=False):
    """The config with the flags that were given; `keep`: fields that have to stay as in `path`."""
    if path and args.preset and not with_preset:
        raise InputError(f"--preset {args.preset}: the config is that of {path}; leave it out")
    given = {f.name: getattr(args, f.name) for f in fields(config) if getattr(args, f.name) is not None}
    for name in keep:
        if name in given and given[name] != getattr(config, name):
            raise InputError(f"--{name.replace('_', '-')} {given[name]}: {path} has {getattr(config, name)}; "
                             "leave it out")
    return check(replace(config, **given))


def build(args, config, known_words=None):
    """A run with everything it needs, at step 0 of the VAE."""
    if config.data and os.path.realpath(args.out) == os.path.realpath(config.data):
        raise InputError(f"--out {args.out}: is the folder of clips; choose another, or its pictures become clips")
    check_parts(args, [config.vae_batch] + ([] if config.shapes else [config.batch]))
    device, (rank, world) = args.device, machine.join_processes(args.device)
    parts = world * args.accumulate
    if rank > 0:
        dist.barrier()                                              # the first decodes a folder of clips
    mix, words, config = load_mix(config, device, known_words)
    sources = load_sources(config, words) if config.data else None  # a folder can change; digits cannot
    if rank == 0 and world > 1:
        dist.barrier()                                              # the others read what it has decoded
    check_parts(args, [n for _, n in mix])
    torch.manual_seed(config.seed)                                  # the initial weights
    vae, dit = VideoVAE(config).to(device), DiT(config, len(words)).to(device)
    out = Path(args.out)
    run = SimpleNamespace(
        args=args, config=config, device=device, mix=mix, sources=sources, words=words, out=out, stop=False,
        rank=rank, world=world, parts=[(i, parts) for i in range(rank, parts, world)],
        stage="vae", step=0, seconds=0.0, log=Log(out / "log.csv", device), report=None,
        process=make_process(config, device),
        vae=vae, dit=dit, ema=copy.deepcopy(dit).requires_grad_(False),
        optimizers={"vae": make_optimizers(vae, config.vae_lr, config.vae_muon),
                    "dit": make_optimizers(dit, config.lr, config.muon)})
    run.models = {"vae": vae, "dit": dit if len(mix) == 1 else Packed(dit)}     # what a step calls
    if args.compile or args.compile is None and device.startswith("cuda"):
        torch._dynamo.config.suppress_errors = True                 # falls back to eager, with a message
        run.models = {name: torch.compile(model) for name, model in run.models.items()}
    if world > 1:
        warnings.filterwarnings("ignore", "Grad strides do not match")          # of kernels of 1 x 1 x 1
        run.models = {name: DistributedDataParallel(model) for name, model in run.models.items()}
    return run


def check_parts(args, batches):
    """Raises InputError unless batches can be split evenly among processes and their parts."""
    if args.accumulate < 1:
        raise InputError(f"--accumulate {args.accumulate}: expected 1 or more")
    world = int(os.environ.get("WORLD_SIZE", 1))
    parts = world * args.accumulate
    if any(n % parts for n in batches):
        raise InputError(f"batches of {' and '.join(map(str, batches))} clips: expected multiples of {parts} "
                         f"({world} processes x --accumulate {args.accumulate})")


def make_optimizers(net, lr, muon_lr):
    """AdamW, and Muon for the matrices that the network lists; muon_lr 0: AdamW for all."""
    matrices = net.muon_parameters() if muon_lr > 0 else []
    chosen = {id(p) for p in matrices}
    others = [p for p in net.parameters() if id(p) not in chosen]
    optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, muon_lr))
    return optimizers
