"""The machine: device, precision, settings of the CPU, and several processes (torchrun)."""
import ctypes
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from sora import InputError


def use_device(name):
    """Raises InputError unless tensors can be put on the device; sets the CPU up. Returns the name."""
    tune_cpu()
    kind, _, number = name.partition(":")
    try:
        if kind not in ("cpu", "cuda", "mps") or number and kind != "cuda":
            raise RuntimeError("known are cpu, cuda, cuda:0 and so on, and mps")
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0][:60]
        raise InputError(f"--device {name}: not usable ({reason}); expected {default_device()}") from None
    return name


def compiles(device):
    """Whether torch.compile works here: it needs a C++ compiler, and one that it can use."""
    try:
        torch.compile(torch.neg)(torch.ones(64, device=device))
    except Exception:                                               # thousands of lines, if one read them
        return False
    return True


def default_device():
    """cuda if there is one, else cpu. mps has to be asked for: it is not tested."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16(device):
    """Whether the hardware multiplies bfloat16 matrices itself; emulated, they are ten times slower."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return False


def matmul_dtype(device):
    """The precision of matrix products: bfloat16 where hardware has it, else float32."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def autocast(device):
    """Mixed precision where `matmul_dtype` is bfloat16; elsewhere nothing changes."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=has_bfloat16(device))


def moved(x, device):
    """A tensor of the CPU on the device. A CUDA GPU is not waited for (others would read x after it is gone)."""
    return x.to(device, non_blocking=torch.device(device).type == "cuda")


def tune_cpu():
    """Settings that make small networks on a CPU faster. They change nothing but rounding."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # keep freed memory, instead of handing it back and faulting it in again every step
        mallopt(-3, 1 << 30) or mallopt(-3, 32 << 20)               # M_MMAP_THRESHOLD; old libcs: 32 MiB
        mallopt(-1, 1 << 30)                                        # M_TRIM_THRESHOLD
    if not torch.cuda.is_available() and has_bfloat16("cpu"):
        # At a few hundred tokens in bfloat16, plain products beat the CPU's fused attention (which
        # obeys this switch, despite its name). In float32 the fused one is faster.
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)


def join_processes(device):
    """Joins the processes that torchrun started: (rank, how many). Alone: (0, 1)."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if torch.device(device).type == "cuda":
        here, there = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > there:
            raise InputError(f"{here} processes, but {there} GPUs: expected --nproc_per_node={there} or less")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        nccl = device.startswith("cuda") and dist.is_nccl_available()
        # the others wait while the first decodes a folder of clips
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=timedelta(days=7))
    return dist.get_rank(), dist.get_world_size()


def seeded_noise(seeds, device):
    """A `randn` for sampling that gives each clip a seed of its own: the same alone or in any batch."""
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def randn(x):  # (B,...) with as many clips as seeds
        noise = [torch.randn(x.shape[1:], generator=g, device=x.device) for g in generators]
        return torch.stack(noise)
    return randn
