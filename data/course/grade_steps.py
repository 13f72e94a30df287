"""Graders of parts 7 to 9: the posterior against Bayes' rule, DDIM, SiT."""
import torch

from data.course.checks import expect, near, noise, require
from data.course.grade_diffusion import N, SHAPE, WORDS, bars, case, check_words, each, says


# --- 7. the posterior ---------------------------------------------------------------------------------

def bayes(x0, x, t, s):
    """Mean and variance of x_s given x0 and x_t: a product of two Gaussians in x_s."""
    bar_t, bar_s = bars(t), bars(s)
    alpha = bar_t / bar_s
    precision = 1 / (1 - bar_s) + alpha / (1 - alpha)
    weighted = bar_s.sqrt() * x0 / (1 - bar_s) + alpha.sqrt() * x / (1 - alpha)
    return weighted / precision, 1 / precision


def check_posterior_mean(s):
    """Against Bayes' rule."""
    x0, _, x, t, low = case()
    bar_t, bar_s = bars(t), bars(low)
    alpha = bar_t / bar_s
    of_x0, of_x = (1 - alpha) / (1 - bar_t), (1 - bar_s) / (1 - bar_t)
    one = bar_t / bars(t - 1)
    mistakes = {
        "x0 has the root of alpha_bar_t; eq. 7 has that of the lower level, s":
            bar_t.sqrt() * of_x0 * x0 + alpha.sqrt() * of_x * x,
        "alpha is that of a single step; t to s may be many":
            bar_s.sqrt() * (1 - one) / (1 - bar_t) * x0 + one.sqrt() * of_x * x,
        "alpha is alpha_bar_t; it is alpha_bar_t / alpha_bar_s": bar_s.sqrt() * x0 + bar_t.sqrt() * of_x * x,
        "x has alpha, not its root": bar_s.sqrt() * of_x0 * x0 + alpha * of_x * x,
        "the factors of x0 and x are swapped": alpha.sqrt() * of_x * x0 + bar_s.sqrt() * of_x0 * x}
    got, _ = s.DDPM(N).posterior(x0, x, t, low)
    mean, _ = bayes(x0, x, t, low)
    expect(got, mean, "posterior, the mean", mistakes)


def check_posterior_variance(s):
    """Against Bayes' rule."""
    x0, _, x, t, low = case()
    bar_t, bar_s = bars(t), bars(low)
    alpha = bar_t / bar_s
    share = (1 - bar_s) / (1 - bar_t)
    mistakes = {"the posterior's factor (1 - alpha_bar_s) / (1 - alpha_bar_t) is missing: that is the "
                "larger variance of section 3.2": 1 - alpha,
                "alpha is that of a single step; t to s may be many": (1 - bar_t / bars(t - 1)) * share,
                "it is the standard deviation, the root": ((1 - alpha) * share).sqrt()}
    _, got = s.DDPM(N).posterior(x0, x, t, low)
    _, variance = bayes(x0, x, t, low)
    expect(got, variance, "posterior, the variance", mistakes, atol=1e-5)


def check_ancestral(s):
    """A draw from the posterior, with the network's x0."""
    x0, _, x, t, low = case()
    process, drawn = s.DDPM(N, "x0"), noise(*SHAPE)
    mean, variance = bayes(x0, x, t, low)
    bar_s = bars(low)
    mistakes = {"the noise is multiplied by the variance, not by its root": mean + variance * drawn,
                "no noise is added": mean,
                "x0 is noised anew, without regard to x_t": bar_s.sqrt() * x0 + (1 - bar_s).sqrt() * drawn}
    asked = []

    def randn(like):
        asked.append(like)
        return drawn
    got = process.ancestral(says(x0), x, t, low, WORDS, randn)
    require(asked or near(got, mean), "ancestral: expected its noise from `randn(x)`, which was never "
            "called: do not draw noise of your own")
    expect(got, mean + variance.sqrt() * drawn, "ancestral, a step from t to s", mistakes)


def check_last_step(s):
    """At s = 0 no noise is left."""
    x0, _, x, t, _ = case()
    process = s.DDPM(N, "x0")
    got = process.ancestral(says(x0), x, t, 0 * t, WORDS)
    require(near(got, x0), "ancestral, the last step (s = 0): expected the network's x0 itself, got "
            f"what is {(got - x0).std():.2g} away (standard deviation). At s = 0 x0 has weight 1, x has 0, and the "
            "variance is 0")


# --- 8. DDIM ------------------------------------------------------------------------------------------

def check_ddim(s):
    """eq. 12 with eta = 0."""
    x0, _, x, t, low = case()
    bar_t, bar_s = bars(t), bars(low)
    drawn = noise(*SHAPE)
    eps = (x - bar_t.sqrt() * x0) / (1 - bar_t).sqrt()
    process = s.DDPM(N, "x0")
    got = process.ddim(says(x0), x, t, low, WORDS, lambda like: drawn)
    mistakes = {"it is noised to t again instead of to s: the step does nothing": x,
                "fresh noise is drawn; with eta = 0 the estimated eps is used":
                    bar_s.sqrt() * x0 + (1 - bar_s).sqrt() * drawn,
                "x0 and eps are swapped": bar_s.sqrt() * eps + (1 - bar_s).sqrt() * x0,
                "the noisy x is noised, not the estimate of x0": bar_s.sqrt() * x + (1 - bar_s).sqrt() * eps}
    expect(got, bar_s.sqrt() * x0 + (1 - bar_s).sqrt() * eps, "ddim, a step from t to s", mistakes)


def check_ddim_composes(s):
    """If all data are one point, ten steps lead where one does."""
    check_ddim(s)                                                  # else to do nothing would be right
    x0, _, x, _, _ = case()
    process = s.DDPM(N, "x0")
    ends = []
    for levels in ((900, 300), (900, 700, 500, 300)):
        y = x
        for high, low in zip(levels, levels[1:]):
            high, low = torch.full((2, 2), high), torch.full((2, 2), low)
            y = process.ddim(says(x0), y, high, low, WORDS)
        ends.append(y)
    expect(ends[1], ends[0], "three DDIM steps where the network knows x0: they lead where one step does")


# --- 9. SiT -------------------------------------------------------------------------------------------

def check_interpolant(s):
    """x_t on the straight line."""
    x0, eps, _, _, _ = case()
    t = torch.tensor([[0.9, 0.2], [0.6, 0.4]])
    mistakes = {"time runs the other way: at t = 0 there are data, at t = 1 noise":
                each(t) * x0 + (1 - each(t)) * eps,
                "t multiplies rows and columns: per_frame(t) multiplies frames": (1 - t) * x0 + t * eps}
    right = (1 - each(t)) * x0 + each(t) * eps
    expect(s.SiT().q_sample(x0, t, eps), right, "SiT.q_sample", mistakes)


def check_velocity(s):
    """dx_t / dt."""
    x0, eps, _, t, _ = case()
    mistakes = {"its sign is wrong: the velocity leads from data to noise, with growing t": x0 - eps}
    expect(s.SiT().target(x0, eps, t / N), eps - x0, "SiT.target", mistakes)


def stepped(s, sampler):
    """A step of a sampler with a model that answers 2 x + 3 t: (result, x, t, s)."""
    _, _, x, t, low = case()
    t, low = t / N, low / N

    def model(x, t, caption):
        check_words(caption)
        return 2 * x + 3 * each(t)
    step = getattr(s.SiT(), sampler)
    return step(model, x, t, low, WORDS), x, t, low


def check_euler(s):
    """One step along the velocity."""
    got, x, t, low = stepped(s, "euler")
    velocity, gap = 2 * x + 3 * each(t), each(low - t)
    mistakes = {"its sign is wrong: s - t is negative, because sampling goes from noise to data":
                x - gap * velocity, "the step is not multiplied by s - t": x + velocity,
                "s - t multiplies rows and columns: per_frame(s - t) multiplies frames":
                x + (low - t) * velocity}
    expect(got, x + gap * velocity, "SiT.euler", mistakes)


def check_heun(s):
    """A step along the mean of two velocities."""
    got, x, t, low = stepped(s, "heun")
    gap, first = each(low - t), 2 * x + 3 * each(t)
    there = x + gap * first
    at_x = 2 * x + 3 * each(low)
    second, early = 2 * there + 3 * each(low), 2 * there + 3 * each(t)
    mistakes = {"the velocities are added, not averaged": x + gap * (first + second),
                "the second velocity is asked for at level t instead of s": x + gap * (first + early) / 2,
                "the second velocity is asked for at x instead of Euler's x_s": x + gap * (first + at_x) / 2,
                "it is Euler's step": there,
                "the second velocity alone is taken": x + gap * second}
    expect(got, x + gap * (first + second) / 2, "SiT.heun", mistakes)


def check_heun_at_the_end(s):
    """At level 0 the network is not asked."""
    _, _, x, t, _ = case()
    t = t / N
    low = torch.tensor([[0.0, 0.1], [0.2, 0.0]])

    def model(x, t, caption):
        check_words(caption)
        return torch.where(each(t == 0), 100.0, each(t) + 0 * x)
    first, gap = each(t), each(low - t)

    def mean_step(at_zero):
        second = torch.where(each(low == 0), at_zero, each(low))
        return x + gap * (first + second) / 2
    mistakes = {"the network's answer at level 0 is used; expected Euler's step there": mean_step(100.0)}
    got = s.SiT().heun(model, x, t, low, WORDS)
    expect(got, mean_step(first), "SiT.heun in frames that come to level 0, where the network was "
           "never trained", mistakes)


CHECKS = {7: [check_posterior_mean, check_posterior_variance, check_ancestral, check_last_step],
          8: [check_ddim, check_ddim_composes],
          9: [check_interpolant, check_velocity, check_euler, check_heun, check_heun_at_the_end]}
