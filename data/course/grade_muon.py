"""Graders of part 13: Newton-Schulz."""
import torch

from data.course.checks import Missed, expect, noise


def iterated(x, steps=5, a=3.4445, b=-4.7750, c=2.0315):
    """The polynomial on the singular values of one matrix, which were scaled before."""
    u, values, v = torch.linalg.svd(x.double(), full_matrices=False)
    for _ in range(steps):
        values = a * values + b * values ** 3 + c * values ** 5
    return (u * values[..., None, :] @ v).float()


def check_newton_schulz(s):
    """All singular values in the known band, with the same singular vectors."""
    x = noise(3, 4, 6)
    unit = x / x.norm(dim=(1, 2), keepdim=True)
    spectral = x / torch.linalg.matrix_norm(x, 2, keepdim=True)
    mistakes = {
        "all matrices are divided by the norm of the whole batch": iterated(x / x.norm()),
        "it is the older cubic iteration, with 1.5, -0.5 and 0": iterated(unit, 5, 1.5, -0.5, 0.0),
        "there is one step too few": iterated(unit, 4),
        "there is one step too many": iterated(unit, 6),
        "matrices are divided by the largest singular value, not by the Frobenius norm": iterated(spectral)}
    expect(s.newton_schulz(x), iterated(unit), "newton_schulz, wide matrices", mistakes, atol=1e-3)


def check_not_scaled(s):
    """The result does not depend on the matrix's size."""
    x = noise(2, 4, 6)
    expect(s.newton_schulz(1000 * x), s.newton_schulz(x), "newton_schulz of matrices a thousand times "
           "larger (the same is expected: divide each matrix by its norm first)", atol=1e-3)
    check_zero(s)


def check_zero(s):
    """Matrices of zeros stay zeros: in the first training step all gradients are."""
    x = torch.cat([torch.zeros(1, 4, 6), noise(1, 4, 6)])
    got, expected = s.newton_schulz(x), torch.cat([x[:1], iterated(x[1:] / x[1:].norm())])
    if isinstance(got, torch.Tensor) and got.isnan().any():
        raise Missed("newton_schulz of a matrix of zeros: expected zeros, got nan. In the first training step gates "
                     "are 0, so gradients are, and 0/0 is nan: divide by the norm + 1e-7")
    expect(got, expected, "newton_schulz of a matrix of zeros and another", atol=1e-3)


def check_tall(s):
    """Tall matrices are treated as wide ones."""
    x = noise(2, 7, 3)
    unit = x / x.norm(dim=(1, 2), keepdim=True)
    got = s.newton_schulz(x)
    if got is not None and got.shape == (2, 3, 7):
        raise Missed("newton_schulz of tall matrices: expected (2,7,3), got (2,3,7): turned, but not "
                     "turned back")
    expect(got, iterated(unit), "newton_schulz, tall matrices", atol=1e-3)


def check_steps(s):
    """`steps` says how many."""
    x = noise(1, 3, 5)
    unit = x / x.norm()
    mistakes = {"`steps` is ignored": iterated(unit, 5),
                "there is one step too few": unit,
                "b and c are swapped": iterated(unit, 1, b=2.0315, c=-4.7750),
                "the fifth power is missing: c belongs to square @ "
                "square": iterated(unit, 1, b=-2.7435, c=0.0)}
    expect(s.newton_schulz(x, steps=1), iterated(unit, 1), "newton_schulz with steps=1", mistakes, atol=1e-3)


CHECKS = {13: [check_newton_schulz, check_not_scaled, check_tall, check_steps]}
