"""Four ways to start a run: new, resumed, or from the weights or the VAE of another checkpoint."""
import copy
import logging
import os
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from data.clips.folder import load_mix, load_sources
from data.runtime import machine
from data.runtime.checkpoints import (OWN, RESUMED, SHIPPED, config_of, load_checkpoint,
                                      load_optimizer, load_weights, make_process)
from data.runtime.config import ClipConfig, check, without_effect
from data.runtime.memory import check_training
from data.training import report
from data.training.kept import FILES, aside, set_aside
from data.training.log import Log
from data.training.loop import save
from data.training.packed import Packed
from sora import DiT, InputError, Muon, VideoVAE

VAE_FIELDS = ("channels", "latent_channels", "vae_width")           # what a borrowed VAE decides
TARGET_FIELDS = ("process", "prediction", "noise_steps")            # what a resumed run has to keep
NET_FIELDS = (*VAE_FIELDS, "patch", "dim", "depth", "heads")        # what borrowed weights decide


def start(args, presets):
    """The run that the command line asks for. presets: {name: the config of a preset}."""
    preset = presets[args.preset or "tiny"]
    if args.until < 1:
        raise InputError(f"--until {args.until}: expected 1 or more")
    machine.use_device(args.device)
    path = Path(args.out) / "sora.pt"
    if args.resume and args.overwrite:
        raise InputError("--resume goes on with a run, --overwrite loses it: leave one of them out")
    if args.resume:
        return resume(args, preset, path)
    there = [path.with_name(name) for name in FILES if path.with_name(name).exists()]
    if there and not args.overwrite:
        remedy = "go on with --resume, " if path.exists() else ""
        raise InputError(f"{there[0]} exists: {remedy}choose another --out, or lose it with --overwrite")
    if args.init:
        return start_from(args, preset, args.init)
    if args.vae:
        return start_with_vae(args, preset, args.vae)
    config = flags_over(args, preset)
    if config.vae_steps == 0:
        raise InputError("--vae-steps 0 without --init: no VAE; train one first, or start from the weights "
                         "that come along: --init data/weights/tiny.pt")
    return build(args, config)


def resume(args, preset, path):
    """Goes on where a run stopped, as if it had not."""
    old = [aside(path.with_name(name)).name for name in FILES if aside(path.with_name(name)).exists()]
    if old and not path.exists():
        raise InputError(f"{path}: --overwrite was killed before its first save. To go on with the run before, take "
                         f".old off the names of {', '.join(old)} in {args.out}; or start anew")
    saved = load_checkpoint(path, args.device)
    missing = [name for name in RESUMED if name not in saved]
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)} to go on with; start from its weights with "
                         "--init")
    config = flags_over(args, config_of(saved, type(preset), path), path, NET_FIELDS + TARGET_FIELDS + ("rule", "placed"))
    flag, total = ("--vae-steps", config.vae_steps) if saved["stage"] == "vae" else ("--steps", config.steps)
    if total < saved["step"]:
        raise InputError(f"{flag} {total}: {path} is at step {saved['step']} already; expected as many or more")
    run = build(args, config, saved["words"])
    for name in ("vae", "dit", "ema"):
        load_weights(getattr(run, name), saved[name], path)
    run.stage, run.step, run.seconds = saved["stage"], saved["step"], saved["seconds"]
    run.saved = run.stage, run.step
    run.command = saved["command"]                                  # what began it, not --resume
    if run.stage == "dit" and run.step >= args.until:
        raise InputError(f"--until {args.until}: {path} is at step {run.step} already; expected more")
    optimizers = run.optimizers[run.stage]
    if len(saved["optimizers"]) != len(optimizers) or saved["sums"].shape != run.log.sums.shape:
        raise InputError(f"{path}: its optimizers or its sums do not fit; use the flags of its first command")
    for optimizer, state in zip(optimizers, saved["optimizers"]):
        load_optimizer(optimizer, state, path)
    if run.rank == 0:                                               # they are those of all processes
        run.log.sums.copy_(saved["sums"])
    return run


def start_from(args, preset, path):
    """Starts at step 0 with the weights of another checkpoint, and its config; with --preset the preset's
    config, but for what the weights decide."""
    saved = load_trained_vae(path, args.device)
    config, keep = config_of(saved, type(preset), path), NET_FIELDS
    if args.preset:
        keep += TARGET_FIELDS
        config = replace(preset, **{name: getattr(config, name) for name in keep})
    config = flags_over(args, config, path, keep, with_preset=True)
    known = saved["words"]
    run = build(args, config, known if config.data else None)
    if run.words[:len(known)] != known:                             # digits: keys may follow
        raise InputError(f"{path}: its words are {', '.join(known)}; these clips have "
                         f"{', '.join(run.words)}: train anew, without --init")
    load_weights(run.vae, saved["vae"], path)
    for name in ("dit", "ema"):
        load_weights(getattr(run, name), with_new_words(saved[name], run.dit), path)
    run.stage = "vae" if config.vae_steps else "dit"
    return run


def with_new_words(weights, dit):
    """Weights of a transformer that knows only the first words of `dit`, with its embeddings of the others; and of
    places, if only one of the two has heard of any, those of `dit`."""
    name, places, own = "embed_word.weight", "embed_place.weight", dit.state_dict()
    known = weights[name]                                           # (words + 1, D), row 0 is no word
    if known.shape[1] != own[name].shape[1]:                        # load_weights says so
        return weights
    weights = {**weights, name: torch.cat([known, own[name][len(known):].to(known.dtype)])}
    if (places in weights) != (places in own):
        weights = {key: x for key, x in weights.items() if key != places}
        weights |= {key: x for key, x in own.items() if key == places}
    return weights


def start_with_vae(args, preset, path):
    """Starts with the VAE of another checkpoint and a new transformer."""
    if path == OWN and not Path(path).exists():
        print(f"note: there is no {OWN} yet; the VAE that comes along is used ({SHIPPED})")
        path = str(SHIPPED)
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
    config = check(replace(config, **given))
    if os.environ.get("RANK", "0") == "0":
        for name, why in without_effect(config, given, bool(args.vae)).items():
            print(f"note: --{name.replace('_', '-')} has no effect: {why}")
    return config


def build(args, config, known_words=None):
    """A run with everything it needs, at step 0 of the VAE."""
    if config.data and os.path.realpath(args.out) == os.path.realpath(config.data):
        raise InputError(f"--out {args.out}: is the folder of clips; choose another, or its pictures become clips")
    trains_vae = config.vae_steps > 0 and not args.vae
    check_parts(args, [config.vae_batch] * trains_vae + ([] if config.shapes else [config.batch]))
    device, (rank, world) = args.device, machine.join_processes(args.device)
    parts = world * args.accumulate
    check_training(config, device, parts)
    if args.overwrite and rank == 0:
        set_aside(args)
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
        args=args, config=config, device=device, mix=mix, sources=sources, words=words, out=out, stop=0,
        command=" ".join(sys.argv), saved=None, expected=None, told_of_matplotlib=False,
        rank=rank, world=world, parts=[(i, parts) for i in range(rank, parts, world)],
        stage="vae", step=0, seconds=0.0, log=Log(out / "log.csv", device), report=None,
        process=make_process(config, device),
        vae=vae, dit=dit, ema=copy.deepcopy(dit).requires_grad_(False),
        optimizers={"vae": make_optimizers(vae, config.vae_lr, config.vae_muon),
                    "dit": make_optimizers(dit, config.lr, config.muon)})
    run.networks = {"vae": vae, "dit": dit if len(mix) == 1 else Packed(dit)}
    run.models = dict(run.networks)                                 # what a step calls
    if args.compile or args.compile is None and device.startswith("cuda"):
        compile_networks(run)
    if world > 1:
        warnings.filterwarnings("ignore", "Grad strides do not match")          # of kernels of 1 x 1 x 1
        run.models = {name: DistributedDataParallel(model) for name, model in run.models.items()}
    return run


def compile_networks(run):
    """torch.compile, or one line on why not."""
    if machine.compiles(run.device):
        torch._dynamo.config.suppress_errors = True                 # what cannot be compiled runs as it is,
        torch._logging.set_logs(dynamo=logging.CRITICAL, inductor=logging.CRITICAL)     # without tracebacks
        vae = copy.copy(run.vae)                                    # another object, the same weights
        # Its `forward` would be compiled anew for each shift of the latents, which lies between these two.
        vae.moments, vae.decode = torch.compile(vae.moments), torch.compile(vae.decode)
        run.models = {"vae": vae, "dit": torch.compile(run.models["dit"])}
    elif run.rank == 0:
        print("note: torch.compile finds no C++ compiler that works (a recent g++ or clang++): all runs as "
              "it is, which is slower but right")


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


def begin(run):
    """A checkpoint at once, so that a crash can be resumed; then the log, as far as the checkpoint goes: if
    it came first, a run that is killed in between could neither be resumed nor begun again."""
    if not run.args.resume:
        save(run)
    if run.rank == 0:
        run.log.cut_back(run.stage, run.step)
    report.begin(run)
