"""A GPU without a GPU: in FakeTensorMode tensors have a shape, a type and a device, but no numbers.

They may claim to be on "cuda" on any machine; an operation on tensors of two devices fails as it would
on a GPU.
"""
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_consecutive")


class ClaimedGenerator(torch.Generator):
    """A generator that claims to be on a device."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.claimed = torch.device(device).type
        return generator

    def manual_seed(self, seed):
        return self


def view_of(x, key):
    """What x[key] begins with: a view of x by the numbers, slices, None and ... in key, and its tensors in
    place, None elsewhere."""
    key = key if isinstance(key, tuple) else (key,)
    used = sum(item.ndim if isinstance(item, torch.Tensor) and item.dtype == torch.bool else 1
               for item in key if item is not None and item is not ...)
    indices, ellipsis = [], x.ndim - used
    for item in key:
        dim = len(indices)
        if item is None:
            x = x.unsqueeze(dim)
        elif item is ...:
            indices += [None] * (ellipsis - 1)
        elif isinstance(item, slice):
            x = torch.ops.aten.slice(x, dim, item.start, item.stop, item.step or 1)
        elif isinstance(item, torch.Tensor):
            indices += [None] * ((item.ndim if item.dtype == torch.bool else 1) - 1)
        if isinstance(item, int):
            x = x.select(dim, item)
        else:
            indices.append(item if isinstance(item, torch.Tensor) else None)
    return x, indices if any(i is not None for i in indices) else []


class FakeGPU(TorchFunctionMode):
    """Random numbers have to be drawn by a generator of the device that they are wanted on. Brackets, ~
    and `contiguous` are done by other means: they refuse a device that torch was not built for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            x, indices = view_of(*args[:2])
            if function is torch.Tensor.__getitem__:
                return torch.ops.aten.index(x, indices) if indices else x
            if indices and not isinstance(args[2], torch.Tensor):   # a mask and a number: as torch does
                return x.masked_fill_(indices[0].view(-1, *[1] * (x.ndim - 1)), args[2])
            if indices:
                return x.index_put_(indices, args[2])
            return x.zero_().add_(args[2])
        if function is torch.Tensor.__invert__:
            return torch.bitwise_not(*args)
        if function is torch.Tensor.contiguous:
            return torch.clone(*args, **kwargs)
        generator = kwargs.pop("generator", None)
        result = function(*args, **kwargs)
        if generator is not None and result.device.type != generator.claimed:
            raise RuntimeError(f"{function.__name__}: generator on {generator.claimed}, numbers on "
                               f"{result.device}")
        return result


class Events(TorchDispatchMode):
    """Lists where the host waits for the device, and what is copied from one to the other."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(i is not None and i.dtype == torch.bool for i in indices):
            if args[0].device.type != "cpu":
                self.seen.append(f"wait: {name}")
        if name == "_local_scalar_dense":
            return 1                                                # a fake tensor has no number
        if name == "unique_consecutive":
            return args[0], args[0], args[0]                        # nor can it be known how many differ
        source = next((x.device.type for x in args[::-1] if isinstance(x, torch.Tensor)), None)
        result = function(*args, **kwargs or {})
        if name in ("_to_copy", "copy_") and source != result.device.type:
            waits = not (kwargs or {}).get("non_blocking", args[2:3] == (True,))
            self.seen.append(f"{'wait: ' * waits}copy: {source} to {result.device.type}")
        return result


def moved(self, fn):
    """In place of Module._apply, which cannot put a fake parameter in the place of another."""
    for module in self.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = torch.nn.Parameter(fn(p.detach()), False)
        for name, x in module._buffers.items():
            module._buffers[name] = fn(x)
    return self
