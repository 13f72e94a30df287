"""Right answers that are written otherwise than sora.py: with loops, with other formulas, with fewer names.

A grader that refuses one of them grades a style, not a part.
"""
import pytest

from data.course.blanks import fill, original
from data.course.grading import check_part
from data.course.wrong import Wrong, apply

ANSWERS = {
    1: ["""
    B, C, F, h, w = latent.shape
    out = []
    for f in range(F):
        for y in range(h // p):
            for x in range(w // p):
                out.append(latent[:, :, f, y * p:(y + 1) * p, x * p:(x + 1) * p].reshape(B, -1))
    return torch.stack(out, 1)
""", """
    B = tokens.shape[0]
    out = torch.zeros(B, tokens.shape[2] // p // p, F, h, w)
    i = 0
    for f in range(F):
        for y in range(h // p):
            for x in range(w // p):
                out[:, :, f, y * p:(y + 1) * p, x * p:(x + 1) * p] = tokens[:, i].view(B, -1, p, p)
                i += 1
    return out
"""],
    2: ["""
    parts = []
    for axis, n in [(0, n_time), (1, n_space), (2, n_space)]:
        theta = torch.tensor([100 ** (-i / n) for i in range(n)], device=positions.device)
        parts.append(torch.einsum("bl,n->bln", positions[:, :, axis].float(), theta))
    angles = torch.cat(parts, -1).unsqueeze(2)
""", """
    cos, sin = rope
    h = x.shape[-1] // 2
    out = torch.empty_like(x)
    out[..., :h] = x[..., :h] * cos - x[..., h:] * sin
    out[..., h:] = x[..., :h] * sin + x[..., h:] * cos
    return out
"""],
    3: ["""
        hd = D // self.heads
        qkv = self.qkv(x).reshape(B, L, 3, self.heads, hd)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        q = rotate(norm(q) * self.gain, rope).permute(0, 2, 1, 3)
        k = rotate(norm(k), rope).permute(0, 2, 1, 3)
        v = v.permute(0, 2, 1, 3)
        if lengths is not None:
            y = packed_attention(q, k, v, lengths)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / hd ** 0.5, -1) @ v
        return self.out(y.permute(0, 2, 1, 3).flatten(2))
"""],
    5: ["""
        t = torch.arange(N + 1) / N
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        alpha_bar = f / f[0]
        for i in range(1, N + 1):
            beta = min(1 - float(f[i] / f[i - 1]), 0.999)
            alpha_bar[i] = alpha_bar[i - 1] * (1 - beta)
""", """
        a = self.alpha_bar[t][:, None, :, None, None]
        return a ** 0.5, (1 - a) ** 0.5
""", """
        a = per_frame(self.alpha_bar[t])
        return torch.sqrt(a) * x0 + torch.sqrt(1 - a) * eps
"""],
    7: ["""
        bt, bs = per_frame(self.alpha_bar[t]), per_frame(self.alpha_bar[s])
        a = bt / bs
        beta = 1 - a
        var = beta * (1 - bs) / (1 - bt)
        eps = (x - bt.sqrt() * x0) / (1 - bt).sqrt()
        return (x - beta / (1 - bt).sqrt() * eps) / a.sqrt(), var
""", """
        x0, eps = self.predict(model, x, t, caption)
        m, v = self.posterior(x0, x, t, s)
        z = torch.where(per_frame(s) > 0, randn(x), torch.zeros_like(x))
        return m + torch.sqrt(v) * z
"""],
    8: ["""
        x0, noise_there = self.predict(model, x, t, caption)
        signal, noise = self.signal_noise(s)
        return signal * x0 + noise * noise_there
"""],
    10: ["""
    def both(x, t, caption):
        nothing = model(x, t, torch.zeros_like(caption))
        return nothing * (1 - scale) + scale * model(x, t, caption)
    return both
"""],
    11: ["""
    t = process.draw_levels((B, 1), generator, device).repeat(1, known.shape[1])
    t[known] = 0
""", """
    x_t = process.q_sample(x0, t, eps)
    out = model(x_t, t / process.N, caption, positions)
    error = ((out - process.target(x0, eps, t)) ** 2).mean(dim=(1, 3, 4))
    n = (~known).sum() if count is None else count
    return error[~known].sum() / n, error
""", """
    levels = levels[:, None, None].repeat(1, B, F)
    levels[:, :, known] = 0
    x = randn(latent)
    if strength < 1:
        x = process.q_sample(latent, levels[0], x)
    x[:, :, known] = latent[:, :, known]
    for i in range(len(levels) - 1):
        x = step(denoiser, x, levels[i], levels[i + 1], caption, randn)
        x[:, :, known] = latent[:, :, known]
    return x
"""],
    12: ["""
    video = past.flip(2) if backward else past
    while True:
        made = video.shape[2]
        n = min(context, made)
        numbers = list(range(made - n, made))
        places = list(range(n))
        if anchor and made > n:
            numbers, places = [0] + numbers, [-anchor] + [i + 1 for i in places]
        m = len(numbers)
        new_count = window - m
        all_numbers = numbers + list(range(made, made + new_count))
        positions = torch.tensor(places + list(range(m, window)))
        latent = torch.zeros(video.shape[0], video.shape[1], window, *video.shape[3:])
        latent[:, :, :m] = video[:, :, numbers]
        mask = torch.zeros(window, dtype=torch.bool)
        mask[:m] = True
        words = caption
        if caption.ndim == 3:
            words = caption[:, [min(i, caption.shape[1] - 1) for i in all_numbers]]
        if backward:
            positions = -positions
        out = generate(model, process, latent=latent, known=mask, caption=words, positions=positions,
                       **sampling)
        new = out[:, :, m:]
        video = torch.cat([video, new], 2)
        yield new
"""],
    13: ["""
    out = []
    for x in matrices:
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(steps):
            y = x @ x.T
            x = 3.4445 * x - 4.7750 * y @ x + 2.0315 * y @ y @ x
        out.append(x)
    return torch.stack(out)
"""],
}


@pytest.mark.parametrize("part", ANSWERS)
def test_right_answers_written_otherwise_get_all_points(part):
    reasons = check_part(fill(original(), part, [text.strip("\n") for text in ANSWERS[part]]), part)
    assert not any(reasons), f"part {part}, right but written otherwise: expected all points, got {reasons}"


SMALL_CHANGES = [  # (part, what stands in sora.py, what is as good)
    (4, "gate2 = modulation.chunk(6, dim=-1)", "gate2 = [part.float() for part in modulation.chunk(6, dim=-1)]"),
    (12, "captions, positions, **sampling)", "captions, positions if anchor or backward else None, **sampling)"),
]


@pytest.mark.parametrize("part, old, new", SMALL_CHANGES)
def test_small_changes_that_are_right_get_all_points(part, old, new):
    reasons = check_part(apply(original(), part, Wrong(old, new, "")), part)
    assert not any(reasons), f"part {part}, {new!r} instead of {old!r}: expected all points, got {reasons}"
