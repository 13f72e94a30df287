"""Graders of parts 1 and 2: patches and rotary positions, one token and one pair at a time."""
import torch

from data.course.checks import Missed, expect, noise


# --- 1. patches ---------------------------------------------------------------------------------------

INSIDE = {"C y x": (0, 1, 2, 3), "y x C": (0, 2, 3, 1), "C x y": (0, 1, 3, 2)}


def tokens_of(latent, p, order="frame row column", inside="C y x"):
    """Tokens one at a time. order: which axis of the grid runs slowest, first; inside: of a token."""
    B, C, F, h, w = latent.shape
    sizes = {"frame": F,
             "row": h // p,
             "column": w // p}
    slow, middle, fast = order.split()
    tokens = []
    for i in range(sizes[slow]):
        for j in range(sizes[middle]):
            for k in range(sizes[fast]):
                at = {slow: i, middle: j, fast: k}
                y, x = at["row"] * p, at["column"] * p
                frame = latent[:, :, at["frame"]]
                patch = frame[:, :, y:y + p, x:x + p]                           # (B,C,p,p)
                tokens.append(patch.permute(INSIDE[inside]).flatten(1))
    return torch.stack(tokens, dim=1)


def strided(latent, p):
    """Tokens of pixels that lie far apart: what view(B,C,F,p,rows,p,columns) makes."""
    B, C, F, h, w = latent.shape
    x = latent.view(B, C, F, p, h // p, p, w // p)
    x = x.permute(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(B, -1, C * p * p)


def check_patchify(s):
    """Each number of each token comes from its place in the latent."""
    latent = noise(2, 3, 2, 4, 6)
    mistakes = {
        "a token is flattened as (p,p,C) instead of (C,p,p)": tokens_of(latent, 2, inside="y x C"),
        "a token's columns come before its rows": tokens_of(latent, 2, inside="C x y"),
        "patches go down the columns first; expected row after row": tokens_of(
            latent, 2, "frame column row"),
        "the frames run fastest; expected frame after frame": tokens_of(latent, 2, "row column frame"),
        "a patch is made of pixels that lie far apart: h splits into (rows,p), not (p,rows)": strided(
            latent, 2)}
    expect(s.patchify(latent, 2), tokens_of(latent, 2), "patchify(latent, 2)", mistakes)


def check_patchify_of_one_pixel(s):
    """Patches of one pixel."""
    latent = noise(1, 3, 2, 2, 3)
    expect(s.patchify(latent, 1), tokens_of(latent, 1), "patchify(latent, 1), patches of one pixel")


def check_unpatchify(s):
    """Each pixel of the latent comes from its place in the tokens."""
    latent = noise(2, 3, 2, 4, 6)
    tokens = tokens_of(latent, 2)
    patches = latent.unflatten(3, (2, 2)).unflatten(5, (3, 2))      # (B,C,F,rows,p,columns,p)
    turned = patches.transpose(4, 6)
    spread = patches.transpose(3, 4).transpose(5, 6)
    mistakes = {"rows and columns are swapped within each patch": turned.reshape(latent.shape),
                "each patch is spread over the picture: the axes p belong behind rows and columns":
                    spread.reshape(latent.shape)}
    split = tokens.view(2, 2, 2, 3, 3, 2, 2)                        # (B,F,rows,columns,C,p,p)
    mistakes["axes are not permuted"] = split.reshape(latent.shape)
    mistakes["axes are permuted as in patchify: it takes the inverse"] = split.permute(
        0, 2, 3, 5, 1, 4, 6).reshape(latent.shape)
    got = s.unpatchify(tokens, 2, 2, 4, 6)
    expect(got, latent, "unpatchify of the tokens of a latent", mistakes)


def check_inverse(s):
    """There and back, on grids of any shape."""
    check_patchify(s)                                                  # else to do nothing would be right
    for p, F, rows, columns in ((1, 1, 1, 1), (2, 3, 1, 4), (3, 2, 3, 1)):
        h, w = p * rows, p * columns
        latent = noise(1, 2, F, h, w)
        back = s.unpatchify(s.patchify(latent, p), p, F, h, w)
        expect(back, latent, f"unpatchify(patchify(latent, {p})), F h w {F} {h} {w}")


# --- 2. rotary positions ------------------------------------------------------------------------------

def angles_of(positions, pairs, base=100.0, sign=-1, axes=(0, 1, 2), closed=False):
    """Angles (B,L,1,pairs), one axis at a time."""
    n_space = 3 * pairs // 8
    parts = []
    for axis, n in zip(axes, (pairs - 2 * n_space, n_space, n_space)):
        exponents = torch.arange(n) / n
        if closed:                                                  # the last one is 1
            exponents = torch.linspace(0, 1, n)
        frequencies = base ** (sign * exponents)
        parts.append(positions[..., axis, None] * frequencies)
    return torch.cat(parts, dim=-1)[:, :, None]


def last_frame(positions):
    """The angles in the order y, x, f."""
    right = angles_of(positions, 8)
    return torch.cat([right[..., 2:], right[..., :2]], dim=-1)


def check_angles(s):
    """Each pair's angle: its axis, its frequency."""
    positions = torch.randint(0, 20, (2, 5, 3))
    right = angles_of(positions, 8)
    mistakes = {"the base is the paper's 10,000, or the exponent -2i/n; here it is 100^(-i/n)": angles_of(
                    positions, 8, 10000.0),
                "exponents are linspace(0, 1, n), which ends at 1; i/n ends at (n-1)/n": angles_of(
                    positions, 8, closed=True),
                "frequencies grow: theta_i is base^(-i/n), with a minus": angles_of(positions, 8, sign=1),
                "all three axes rotate with the frame number": angles_of(positions, 8, axes=(0, 0, 0)),
                "x comes before y: the order is f, y, x": angles_of(positions, 8, axes=(0, 2, 1)),
                "f comes last: the order is f, y, x": last_frame(positions)}
    cos, sin = s.rope_angles(positions, 16)
    expect(cos, right.cos(), "rope_angles, cosines",
           {mistake: angle.cos() for mistake, angle in mistakes.items()})
    expect(sin, right.sin(), "rope_angles, sines",
           {mistake: angle.sin() for mistake, angle in mistakes.items()})
    check_device(s)


def check_device(s):
    """On a GPU all is made where the positions are. PyTorch's meta device, which has no numbers, is as far
    from the CPU."""
    try:
        s.rope_angles(torch.zeros(1, 5, 3, device="meta"), 16)
    except NotImplementedError:                                     # a RuntimeError, too: not written yet
        raise
    except RuntimeError as error:
        raise Missed("rope_angles: expected frequencies on the device of `positions`, or it fails on a GPU "
                     f"(torch.arange(n, device=positions.device)): {error}") from None


def check_rotate(s):
    """Each pair is turned by its angle, the right way round."""
    x, angle = noise(2, 5, 3, 16), noise(2, 5, 1, 8)
    cos, sin = angle.cos(), angle.sin()
    a = x[..., :8]
    b = x[..., 8:]
    turned = torch.complex(a, b) * torch.complex(cos, sin)
    even = x[..., ::2]
    odd = x[..., 1::2]
    pairs = [even * cos - odd * sin, even * sin + odd * cos]
    neighbours = torch.stack(pairs, dim=-1).flatten(3)
    mistakes = {
        "the angle's sign is wrong: a becomes a cos - b sin": torch.cat(
            [a * cos + b * sin, b * cos - a * sin], -1),
        "cosine and sine are mixed up in the second half: b becomes a sin + b cos": torch.cat(
            [a * cos - b * sin, a * cos + b * sin], -1),
        "pairs are neighbours (2i, 2i+1); here they are (i, i + head_dim/2)": neighbours}
    right = torch.cat([turned.real, turned.imag], -1)
    expect(s.rotate(x, (cos, sin)), right, "rotate", mistakes)


def check_relative(s):
    """A query's product with a key depends on the difference of their positions only."""
    check_rotate(s)                                                  # else to do nothing would be right
    q, k = noise(1, 4, 1, 16), noise(1, 4, 1, 16)
    positions = torch.randint(0, 9, (1, 4, 3))
    products = []
    for shift in (0, 5):
        rope = s.rope_angles(positions + shift, 16)
        query, key = s.rotate(q, rope), s.rotate(k, rope)
        products.append((query * key.flip(1)).sum(-1))
    expect(products[1], products[0], "products of queries and keys whose positions are all 5 farther: "
           "they may depend on differences of positions only (eq. 16)")


CHECKS = {1: [check_patchify, check_patchify_of_one_pixel, check_unpatchify, check_inverse],
          2: [check_angles, check_rotate, check_relative]}
