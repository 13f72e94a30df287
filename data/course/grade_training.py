"""Graders of part 11: known frames in training and sampling."""
import torch

from data.course.checks import expect, noise, require, shape

KNOWN = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])


# --- 11. known frames ---------------------------------------------------------------------------------

def check_levels(s):
    """Known frames have level 0; the others of a clip share one."""
    known = KNOWN.repeat(20, 1)
    config = s.Config(caption_drop=0.0, caption_drop_known=0.0)
    t, _, _ = s.draw_noise(s.DDPM(1000), config, (60, 2, 3, 2, 2), known, torch.ones(60, 1).long())
    require(isinstance(t, torch.Tensor) and t.shape == (60, 3), "draw_noise: expected levels t (B,F)")
    require(bool((t[~known] > 0).all()), "draw_noise: expected levels above 0 in unknown frames, got "
                                     "0. Is the mask the wrong way round?")
    require(bool((t[known] == 0).all()), "draw_noise: expected level 0 in known frames, got up to "
            f"{t[known].max()}. Known frames are clean, and the network is told so")
    level = t.amax(1, keepdim=True)                                 # (B,1): known ones have 0
    require(bool((t == level)[~known].all()), "draw_noise: expected one level for all unknown frames "
            "of a clip, got several (that would be diffusion forcing)")
    require(len(t[:, 1].unique()) > 10, "draw_noise: expected a level of its own for each clip")
    for process in (s.DDPM(1000), s.SiT()):
        check_drawn(s, process)


def check_drawn(s, process):
    """The levels are those that the process drew, with the generator."""
    real, drawn, name = process.draw_levels, [], type(process).__name__

    def draw_levels(shape, generator=None, device=None):
        levels = real(shape, generator, device)
        drawn.append((levels, generator))
        return levels

    process.draw_levels, generator = draw_levels, torch.Generator()
    t, _, _ = s.draw_noise(process, s.Config(), (3, 2, 3, 2, 2), KNOWN, torch.ones(3, 1).long(), generator)
    require(drawn, "draw_noise: expected levels of process.draw_levels, which was never called")
    levels, given = drawn[0]
    require(given is generator, "draw_noise: expected draw_levels to get the `generator`, so that a run "
            "can be repeated")
    require(bool(torch.isin(t[~KNOWN], levels).all()), f"draw_noise with {name}: expected what "
            "draw_levels drew, got other levels. Those of SiT are reals: do not cast them")
    require(t.dtype == levels.dtype, f"draw_noise with {name}: expected levels of the dtype of draw_levels, "
            f"{kind(levels)}, got {kind(t)}. With DDPM they are indices of alpha_bar: write 0, not 0.0")


def kind(x):
    """The dtype of a tensor, in a word."""
    return str(x.dtype).replace("torch.", "")


def loss_case(s, process=None, level=500):
    """(loss(...), x_t, t, what the network was told, the error of each frame); it answers noise."""
    x0, eps, output = noise(3, 3, 2, 3, 2, 2)
    t = torch.where(KNOWN, 0, level)
    process, told = process or s.DDPM(1000), []

    def model(x, t, caption, positions):
        told.append((x, t, caption, positions))
        return output
    caption, positions = torch.tensor([[1], [2], [3]]), torch.arange(2, 5).expand(3, 3)

    def loss(**more):
        return s.diffusion_loss(model, process, x0, caption, KNOWN, positions, t, eps, **more)
    gap = output - process.target(x0, eps, t)
    error = gap.square().mean((1, 3, 4))
    return loss, process.q_sample(x0, t, eps), t, told, error


def check_loss(s):
    """The mean over unknown frames only."""
    loss, _, _, _, error = loss_case(s)
    got, by_frame = loss()
    mistakes = {"known frames count too": error.mean(),
                "the sum over unknown frames is divided by the number of all": (error * ~KNOWN).mean(),
                "known frames count, and the unknown do not": (error * KNOWN).sum() / KNOWN.sum(),
                "the errors of known frames are added": error.sum() / (~KNOWN).sum()}
    right = (error * ~KNOWN).sum() / (~KNOWN).sum()
    expect(got, right, "diffusion_loss: the loss", mistakes)
    expect(by_frame, error, "diffusion_loss: the error of each latent frame")
    check_count(loss, error)


def check_count(loss, error):
    """`count` is what is divided by."""
    expect(loss(count=10)[0], (error * ~KNOWN).sum() / 10, "diffusion_loss with count=10", {
        "`count` is ignored": (error * ~KNOWN).sum() / (~KNOWN).sum()})


def check_told(s):
    """What the model is told: noisy latents, levels, captions, positions."""
    loss, x_t, t, told, _ = loss_case(s)
    loss()
    expect(told[0][0], x_t, "what diffusion_loss shows the network (q_sample of the clean latent)")
    expect(told[0][1].float(), t / 1000, "the level that diffusion_loss tells the network", {
        "it is t, up to N; expected t / N, in [0,1]": t.float()})
    _, _, caption, positions = told[0]
    handed_in = ("caption", caption, [[1], [2], [3]]), ("positions", positions, 3 * [[2, 3, 4]])
    for what, got, given in handed_in:
        require(got is not None and got.tolist() == given, f"diffusion_loss: expected `{what}` to be "
                "handed to the network as they are")
    for process, level in ((s.DDPM(500), 250), (s.SiT(), 0.5)):     # a half of N, so it is told 0.5
        check_level_told(s, process, level)


def check_level_told(s, process, level):
    """The level told is t / N with any N."""
    loss, _, t, told, _ = loss_case(s, process, level)
    loss()
    name = f"the level that diffusion_loss tells the network with {type(process).__name__}, N = {process.N}"
    expect(told[0][1].float(), t / process.N, name, {"it is t / 1000: N is the process's": t / 1000})


def noting(s):
    """(a process whose DDIM step changes all frames, what that step was handed, each time)"""
    calls = []

    class Noting(s.DDPM):
        def ddim(self, model, x, t, s, caption, randn=None):
            calls.append((t, s, caption, randn, model(x, t / self.N, caption)))
            return x + 1                                            # known frames too: they are put back

    return Noting(1000), calls


def generated(s, strength=1.0, sampler="ddim", process=None):
    """What a network is shown while `generate` fills frames 1 and 2 of 4, and the result."""
    latent, known = noise(2, 2, 4, 2, 2), torch.tensor([True, False, False, True])
    start = noise(2, 2, 4, 2, 2)
    seen, asked = [], []

    def model(x, t, caption, positions):
        require(asked, "generate: expected to begin with `randn(latent)`, which was not called before the network: "
                "do not draw noise of your own")
        seen.append((x, t))
        return torch.zeros_like(x)

    def randn(like):
        asked.append(like)
        return start
    caption = torch.ones(2, 1).long()
    result = s.generate(model, process or s.DDPM(1000), latent, known, caption, steps=4, sampler=sampler,
                        strength=strength, randn=randn)
    return latent, known, start, seen, result


def check_known_come_back(s):
    """Known frames come back bit for bit."""
    latent, known, _, _, result = generated(s, sampler="ancestral")     # makes nan of level 0
    require(isinstance(result, torch.Tensor) and result.shape == latent.shape,
            "generate: expected a latent (B,C,F,h,w)")
    require(not result[:, :, known].isnan().any(), "generate: expected the known frames bit for bit, got nan: "
            "a step may leave nan there, and 0 * nan is nan. Put them in with torch.where")
    require(torch.equal(result[:, :, known], latent[:, :, known]), "generate: expected the known "
                        "frames bit for bit, got others. Put them in a last time after the last step")
    far = result[:, :, ~known].isnan().any()
    require(not far, "generate: expected numbers in the unknown frames, got nan")


def check_known_are_shown(s):
    """In each step the model sees known frames as they are, at level 0."""
    process, _ = noting(s)
    latent, known, start, seen, _ = generated(s, process=process)
    require(seen, "generate: expected the network to be asked in each step, got no call")
    for i, (x, t) in enumerate(seen):
        require(bool((t[:, known] == 0).all()), "generate: expected the network to be told level 0 in "
                f"known frames, got up to {t[:, known].max():.3g}: the levels of known frames are 0")
        require(torch.equal(x[:, :, known], latent[:, :, known]), "generate: expected the network to "
                            "see known frames as they are, got others. Put them in before each step"
                            + (", not only before the first" if i else ""))
    require(torch.equal(seen[0][0][:, :, ~known], start[:, :, ~known]), "generate: expected to begin "
                        "with noise alone in the unknown frames")
    told = torch.stack([t[0, 1] for _, t in seen])
    expect(told, torch.tensor([1.0, 0.75, 0.5, 0.25]), "generate: the levels of unknown frames, step by step")
    _, _, _, seen, _ = generated(s, process=s.SiT(), sampler="euler")
    told = torch.stack([t[0, 1] for _, t in seen])
    expect(told, torch.tensor([1.0, 0.75, 0.5, 0.25]), "generate with SiT: the levels of unknown frames", {
        "they are cast to integers: levels are reals in SiT": torch.tensor([1.0, 0.0, 0.0, 0.0])})
    _, _, _, seen, _ = generated(s, sampler="ancestral")            # its steps make nan of level 0
    for x, _ in seen:
        require(not x[:, :, known].isnan().any(), "generate: expected the network to see known frames as "
                "they are, got nan. Put them in with torch.where: a step may leave nan, and 0 * nan is nan")


def check_step(s):
    """The levels of each step are those of the schedule."""
    process, calls = noting(s)
    latent, known = noise(2, 2, 4, 2, 2), torch.tensor([True, False, False, True])
    caption = torch.tensor([[1], [2]])
    words = caption.view(2, 1, 1, 1, 1)

    def model(x, t, caption, positions):
        return caption.float().view(-1, 1, 1, 1, 1).expand_as(x)

    def draw(like):
        return torch.zeros_like(like)

    s.generate(model, process, latent, known, caption, steps=2, guidance=3.0, sampler="ddim", randn=draw)
    require(len(calls) == 2, f"generate with steps=2: expected two calls of `step`, got {len(calls)}")
    for (t, low, given, randn, answer), (high, next_one) in zip(calls, ((1000, 500), (500, 0))):
        for levels, expected in ((t, high), (low, next_one)):
            require(levels.shape == (2, 4), "generate: expected `step` to get levels (B,F), (2,4), got "
                    f"{shape(levels)}")
            require(levels[0].tolist() == [0, expected, expected, 0], "generate with steps=2: expected steps "
                    f"from level 1000 to 500, then to 0, got one with {levels[0].tolist()} (known frames: 0)")
        require(torch.equal(given, caption), "generate: expected `step` to get the caption, got another")
        require(randn is draw, "generate: expected `step` to get `randn`: whoever calls gives each "
                "clip a seed of its own")
        require(bool((answer == 3 * words).all()), "generate: expected `step` to get the guided "
                "network, `denoiser`, got another")


def check_strength(s):
    """SDEdit begins with the noised latent."""
    latent, known, start, seen, _ = generated(s, strength=0.5)
    bar = s.DDPM(1000).alpha_bar[500]
    mixed = bar.sqrt() * latent + (1 - bar).sqrt() * start
    mistakes = {"`latent` is not noised: the level is told, but there is no noise": latent[:, :, ~known],
                "the unknown frames of `latent` are ignored": start[:, :, ~known]}
    expect(seen[0][0][:, :, ~known], mixed[:, :, ~known], "generate with strength 0.5: where it "
           "begins", mistakes)


CHECKS = {11: [check_levels, check_loss, check_told, check_known_come_back, check_known_are_shown,
               check_step, check_strength]}
