"""What graders are made of: a check is a function of a module like sora.py, and raises Missed in words."""
import torch

ATOL, RTOL = 1e-4, 1e-3                                             # rounding of float32, with room


class Missed(Exception):
    """One line: what was expected, what came, the likeliest mistake."""


def near(got, expected, atol=ATOL):
    """Whether two tensors are equal but for rounding; other shapes are not, nor is nan."""
    if got.shape != expected.shape:
        return False
    return torch.allclose(got.double(), expected.double(), rtol=RTOL, atol=atol)


def expect(got, expected, what, mistakes=None, atol=ATOL):
    """Raises Missed unless `got` is `expected` but for rounding.

    what: names the thing; mistakes: {what one has done wrong: what would come of that}, the
    likeliest first."""
    expected = torch.as_tensor(expected)
    if not isinstance(got, torch.Tensor):
        raise Missed(f"{what}: expected a tensor {shape(expected)}, got {type(got).__name__}. Is there "
                     "a `return`?")
    if near(got, expected, atol):
        return
    cause = ""
    for mistake, result in (mistakes or {}).items():
        if near(got, torch.as_tensor(result), atol):
            cause = f" It is what comes if {mistake}."
            break
    raise Missed(f"{what}: {difference(got, expected)}.{cause}")


def shape(x):
    """A shape as this project writes it: (2,3)."""
    return f"({','.join(map(str, x.shape))})"


def difference(got, expected):
    """Where two tensors differ most, in words."""
    if got.shape != expected.shape:
        return f"expected the shape {shape(expected)}, got {shape(got)}"
    far = (got.double() - expected.double()).abs()
    if far.isnan().any():
        return f"expected numbers, got nan in {far.isnan().sum()} of {far.numel()} places"
    place = torch.unravel_index(far.argmax(), far.shape)
    at = ",".join(str(int(i)) for i in place)
    return f"expected {expected[place].item():.4g}, got {got[place].item():.4g} at [{at}]"


def require(true, message):
    """Raises Missed with the message unless `true`."""
    if not true:
        raise Missed(message)


def noise(*sizes):
    """Normal numbers of a shape."""
    return torch.randn(*sizes)


def lively(net):
    """The network with all weights random, so that nothing is 0 by its initialisation."""
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.3)
    return net
