"""Graders of parts 5 and 6: the cosine schedule against its closed form, v-prediction and back."""
import math

import torch

from data.course.checks import expect, near, noise, require, shape

N = 1000
SHAPE = 2, 3, 2, 2, 2                                               # (B,C,F,h,w)
WORDS = torch.tensor([[1], [2]])                                    # the caption of two clips


def each(values):
    """Values of latent frames (B,F), shaped to multiply a latent."""
    return torch.as_tensor(values)[:, None, :, None, None]


def paper(t, steps=N):
    """alpha_bar of a level below N, the number of steps, as eq. 17 of improved DDPM has it."""
    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return f(t / steps) / f(0)


def bars(t):
    """alpha_bar of levels (B,F) below N, shaped to multiply a latent."""
    return each([[paper(level) for level in row] for row in t.tolist()]).float()


def case():
    """x0, eps and x (B,C,F,h,w), levels t and s (B,F), s < t."""
    t, s = torch.tensor([[900, 400], [650, 80]]), torch.tensor([[700, 100], [300, 20]])
    return noise(*SHAPE), noise(*SHAPE), noise(*SHAPE), t, s


def says(output):
    """A network that answers `output`."""
    def model(x, t, caption, positions=None):
        check_words(caption)
        return output
    return model


def check_words(caption):
    """The model was told the caption as it is."""
    require(caption is not None and torch.equal(caption, WORDS), "expected the network to be told the "
            f"caption, got {'none' if caption is None else 'another'}")


# --- 5. the schedule ----------------------------------------------------------------------------------

def check_schedule(s):
    """alpha_bar of the cosine schedule, against eq. 17."""
    got = s.DDPM(N).alpha_bar
    exact = [paper(t) for t in range(N)]
    right = torch.tensor(exact + [exact[-1] * 0.001])
    roots = [value ** 0.5 for value in exact]
    mistakes = {
        "it is off by one: entry t has to belong to level t, and entry 0 is 1": torch.tensor(
            exact[1:] + [exact[-1] * 0.001, 0]),
        "the cosine is not squared": torch.tensor(roots + [roots[-1] * 0.001]),
        "the betas are not capped at 0.999: at level N nothing is left of the data, and x0 cannot be "
        "had by dividing": torch.tensor(exact + [0.0])}
    cause = "entry 0 is missing, which is 1" if near(got, right[1:]) else "linspace needs N+1 points"
    require(got.shape == right.shape, f"alpha_bar: expected {N + 1} entries, of levels 0 to {N}, got "
            f"{shape(got)}: {cause}")
    expect(got[-3:], right[-3:], "alpha_bar of the last three levels", {
        mistake: result[-3:] for mistake, result in mistakes.items()}, atol=1e-12)
    expect(got, right, "alpha_bar", mistakes, atol=1e-6)
    check_other_steps(s)


def check_other_steps(s):
    """alpha_bar with half as many steps."""
    got, half = s.DDPM(N // 2).alpha_bar, N // 2
    exact = [paper(t, half) for t in range(half)]
    beginning = torch.tensor([paper(t) for t in range(half + 1)])   # of the schedule of N steps
    require(len(got) == half + 1, f"alpha_bar of DDPM({half}): expected {half + 1} entries, got {len(got)}: "
            "`N` says how many")
    expect(got, torch.tensor(exact + [exact[-1] * 0.001]), f"alpha_bar of DDPM({half})", {
        f"t is divided by {N}, not by `N`": beginning}, atol=1e-6)


def check_signal_noise(s):
    """The two factors of x_t, shaped to multiply a latent."""
    _, _, _, t, _ = case()
    signal, share = s.DDPM(N).signal_noise(t)
    bar = bars(t)
    expect(signal, bar.sqrt(), "signal_noise, the signal", {
        "the root is forgotten: variances add up to 1, so amplitudes are their roots": bar,
        "every frame of a clip has the level of its first": bars(t[:, :1].expand(2, 2)).sqrt()})
    expect(share, (1 - bar).sqrt(), "signal_noise, the noise", {
        "the root is forgotten: variances add up to 1, so amplitudes are their roots": 1 - bar,
        "it is 1 minus the signal": 1 - bar.sqrt()})


def check_q_sample(s):
    """x_t from data and noise."""
    x0, eps, _, t, _ = case()
    bar = bars(t)
    mistakes = {"data and noise are swapped": bar.sqrt() * eps + (1 - bar).sqrt() * x0,
                "the data are not scaled, so variance grows": x0 + (1 - bar).sqrt() * eps,
                "the noise is subtracted": bar.sqrt() * x0 - (1 - bar).sqrt() * eps}
    expect(s.DDPM(N).q_sample(x0, t, eps), bar.sqrt() * x0 + (1 - bar).sqrt() * eps, "q_sample", mistakes)
    zero = torch.zeros_like(t)
    expect(s.DDPM(N).q_sample(x0, zero, eps), x0, "q_sample at level 0, which is the data")


# --- 6. v-prediction ----------------------------------------------------------------------------------

def check_target(s):
    """v, against its definition."""
    x0, eps, _, t, _ = case()
    signal, share = bars(t).sqrt(), (1 - bars(t)).sqrt()
    mistakes = {"the sign is wrong: v is the derivative of x_t along the circle, eps enters with plus":
                share * x0 - signal * eps,
                "signal and noise are swapped: signal belongs to eps": share * eps - signal * x0,
                "the two are added": signal * eps + share * x0,
                "v is x_t itself": signal * x0 + share * eps}
    expect(s.DDPM(N).target(x0, eps, t), signal * eps - share * x0, "target, v", mistakes)


def check_other_targets(s):
    """eps and x0 are themselves."""
    x0, eps, _, t, _ = case()
    expect(s.DDPM(N, "eps").target(x0, eps, t), eps, "target, prediction eps")
    expect(s.DDPM(N, "x0").target(x0, eps, t), x0, "target, prediction x0")


def clamped(x0, prediction):
    """The mistake of clamping where nothing is divided by a small signal."""
    return {f"x0 is clamped with {prediction}-prediction: that is for eps-prediction alone": x0.clamp(-5, 5)}


def check_predict_v(s):
    """x0 and eps from a v that is right."""
    x0, eps, _, t, _ = case()
    x0 = 10 * x0                                                    # beyond 5, where one may clamp
    signal, share = bars(t).sqrt(), (1 - bars(t)).sqrt()
    x, v = signal * x0 + share * eps, signal * eps - share * x0
    got = s.DDPM(N).predict(says(v), x, t, WORDS)
    expect(got[0], x0, "predict, the x0 of a network that knows v", {
        "v is added: x0 = signal x - noise v": signal * x + share * v,
        "signal and noise are swapped": share * x - signal * v, **clamped(x0, "v")})
    expect(got[1], eps, "predict, the eps of a network that knows v", {
        "the sign of x is wrong: eps = noise x + signal v": signal * v - share * x,
        "signal and noise are swapped": signal * x + share * v})


def check_predict_others(s):
    """x0 and eps from an x0, or an eps, that is right."""
    x0, eps, _, t, _ = case()
    signal, share = bars(t).sqrt(), (1 - bars(t)).sqrt()
    for prediction, size in (("eps", 1), ("x0", 10)):
        x0 = size * x0                                              # with "x0" beyond 5
        x = signal * x0 + share * eps
        answer = eps if prediction == "eps" else x0
        got = s.DDPM(N, prediction).predict(says(answer), x, t, WORDS)
        expect(got[0], x0, f"predict with {prediction}-prediction, x0",
               clamped(x0, prediction), atol=1e-3)
        expect(got[1], eps, f"predict with {prediction}-prediction, eps", atol=1e-3)


def check_level_told(s):
    """The model is told t / N."""
    told = []

    def model(x, t, caption):
        check_words(caption)
        told.append(t)
        return x
    _, _, x, t, _ = case()
    s.DDPM(N).predict(model, x, t, WORDS)
    expect(told[0].float(), t / N, "the level that the network is told by predict", {
        "it is told t, up to N; expected t / N, in [0,1]": t.float()})
    half, t = N // 2, t // 2
    s.DDPM(half).predict(model, x, t, WORDS)
    expect(told[1].float(), t / half, f"the level that the network is told by predict of DDPM({half})", {
        f"it is told t / {N}: N is self.N": t / N})


def check_clamp(s):
    """eps-prediction near t = N: x0 is bounded, and eps fits it."""
    x, t = 3 * noise(*SHAPE), torch.full((2, 2), N)
    got, eps = s.DDPM(N, "eps").predict(says(noise(*SHAPE)), x, t, WORDS)
    largest = got.abs().max().item()
    require(largest <= 5.001, "predict with eps-prediction at t = N: expected x0 within -5 .. 5, got "
            f"{largest:.3g}. Dividing by a signal of 5e-5 blows up any error: clamp x0")
    bar = s.DDPM(N).alpha_bar[N]
    expect(bar.sqrt() * got + (1 - bar).sqrt() * eps, x, "signal x0 + noise eps of the two estimates: "
           "they have to fit x also where x0 was clamped")


CHECKS = {5: [check_schedule, check_signal_noise, check_q_sample],
          6: [check_target, check_other_targets, check_predict_v, check_predict_others, check_level_told,
              check_clamp]}
