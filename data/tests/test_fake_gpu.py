"""Training and sampling on a GPU that is not there: nothing waits for it, nothing is on the wrong device."""
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import sora
import train
from data.runtime import machine
from data.runtime.checkpoints import make_process
from data.tests.fake_gpu import ClaimedGenerator, Events, FakeGPU, moved
from data.training.log import Log
from data.training.packed import Packed
from data.training.start import make_optimizers
from sora import DiT, VideoVAE

GPU = "cuda:0"
MINIATURE = dict(vae_width=8, dim=48, depth=1, heads=2, latent_channels=4, batch=2, vae_batch=2)
USES = [*[("ddpm", dict(prediction=kind)) for kind in ("v", "eps", "x0")], ("sit", {})]


@pytest.fixture
def gpu(monkeypatch):
    """All tensors are fake and GPUs seem to be there. Yields the list of events."""
    if torch.version.cuda and not torch.cuda.is_available():
        pytest.skip("this torch was built for CUDA and looks for a driver; only a build for the CPU can pretend")
    monkeypatch.setattr(torch, "Generator", ClaimedGenerator)
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.nn.Module, "_apply", moved)
    with FakeTensorMode(), FakeGPU(), Events() as events:
        yield events.seen


def on_gpu(shapes=((4, 4, 4),), **changes):
    """A run of train.py on the fake GPU, with fake clips of shapes (F,h,w)."""
    config = train.TrainConfig(**MINIATURE, **changes)

    def source(F, h, w):
        def clips(n, generator=None, frames=None):
            video = torch.zeros(n, 1, 4 * F, 8 * h, 8 * w, device=GPU)
            words = (n, F, 1) if config.placed > 0 else (n, 1)
            return video, torch.ones(words, dtype=torch.long, device=GPU)
        return SimpleNamespace(clips=clips, frames=4 * F)
    vae, dit, ema = VideoVAE(config).to(GPU), DiT(config, 10).to(GPU), DiT(config, 10).to(GPU)
    nets = {"vae": vae, "dit": dit}
    return SimpleNamespace(
        config=config, device=GPU, mix=[(source(*shape), 2) for shape in shapes],
        args=SimpleNamespace(accumulate=2), parts=[(0, 2), (1, 2)], world=1, rank=0, step=0, stage="vae",
        log=Log("log.csv", GPU), vae=vae, dit=dit, ema=ema, process=make_process(config, GPU),
        models=nets if len(shapes) == 1 else nets | {"dit": Packed(dit)},
        optimizers={name: make_optimizers(net, 0.1, 0.1) for name, net in nets.items()})


@pytest.mark.parametrize("process", ["ddpm", "sit"])
@pytest.mark.parametrize("shapes", [((4, 4, 4),), ((4, 4, 4), (2, 4, 6), (1, 4, 4))])
@pytest.mark.parametrize("placed, copies", [(0, 2), (0.5, 3)])
def test_a_training_step_on_a_gpu_does_not_make_it_wait(gpu, monkeypatch, process, shapes, placed, copies):
    """Between two lines of the log. Windows are drawn on the CPU: small copies, none of them of the kind that waits."""
    def windows(config, B, F, generator=None):                      # draw_windows needs numbers
        return torch.zeros(B, F).bool(), torch.zeros(B, F).long(), torch.zeros(B, 4 * F).long()

    run = on_gpu(shapes, process=process, placed=placed)

    def backward(loss):                                             # autograd has no threads for a fake GPU
        assert loss.device == torch.device(GPU) and loss.shape == ()
        for p in (*run.vae.parameters(), *run.dit.parameters()):
            p.grad = torch.zeros_like(p)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(train, "draw_windows", windows)
    monkeypatch.setattr(train, "steps_to_do", lambda run, total: range(2))
    gpu.clear()
    train.train_vae(run)
    assert gpu == []
    run.stage = "dit"
    train.train_dit(run)
    assert gpu == 2 * copies * len(shapes) * ["copy: cpu to cuda"]
    run.log.finite()
    assert gpu[-1] == "wait: _local_scalar_dense"                   # what may wait is seen


@pytest.mark.parametrize("device, waits", [("cuda", False), ("cuda:1", False), ("mps", True), ("cpu", True)])
def test_only_cuda_is_not_waited_for(device, waits):
    """What is copied may be gone before another kind of device has read it."""
    class Noted:
        def to(self, where, non_blocking):
            return where, not non_blocking
    assert machine.moved(Noted(), device) == (device, waits)


def sample_all(process, randn, monkeypatch, events, **changes):
    """All uses of section 9 with all samplers of a process. Returns two lists, for each window: events
    before the first call of the network, and from there on."""
    run, before, after, plain = on_gpu(process=process, **changes), [], [], sora.generate

    def generate(model, *args, **kwargs):
        def watched(*inputs):
            nonlocal calls
            if calls == 0:
                before.append(list(events))
                events.clear()
            calls += 1
            return model(*inputs)
        events.clear()
        calls = 0
        result = plain(watched, *args, **kwargs)
        after.append(list(events))
        return result
    monkeypatch.setattr(sora, "generate", generate)
    words, old = torch.ones(2, 1, dtype=torch.long, device=GPU), torch.zeros(2, 4, 5, 4, 4, device=GPU)
    known = torch.ones(5, dtype=torch.bool, device=GPU)
    for sampler in run.process.samplers:
        how = dict(steps=2, guidance=3.0, sampler=sampler, randn=randn)
        with machine.autocast(GPU):
            new = [sora.generate(run.dit, run.process, old, known, words, strength=0.5, **how)]
            for anchor, backward in ((0, False), (6, True)):
                each = words[:, None].expand(2, 7, 1)               # a caption for each latent frame
                windows = sora.extend(run.dit, run.process, old, each, 4, 2, anchor, backward, **how)
                new.append(sora.take(windows, 2))
            new.append(sora.connect(run.dit, run.process, old, old, 3, words, 4, 2, 6, **how))
            new.append(sora.loop(run.dit, run.process, old[:, :, :0], 5, words, 4, 2, 6, **how))
            cache = {}
            videos = [run.vae.decode(latent, cache) for latent in new[:2]]
        assert [latent.shape[2] for latent in new] == [5, 2, 2, 3, 5]
        assert {x.device for x in new + videos} == {torch.device(GPU)}
    return before, after


@pytest.mark.parametrize("process, changes", USES)
def test_sampling_on_a_gpu_does_not_make_it_wait(gpu, monkeypatch, process, changes):
    """In the loop over noise levels nothing waits and nothing is copied; before it, only the levels."""
    before, after = sample_all(process, machine.seeded_noise([0, 1], GPU), monkeypatch, gpu, **changes)
    assert len(before) == len(after) > 10 and not any(after)
    allowed = ["wait: unique_consecutive"] if process == "ddpm" else []
    assert all(events == allowed for events in before)


def test_planted_faults_of_a_gpu_path_are_seen(gpu, monkeypatch):
    """A tensor made on the CPU, a generator of the CPU, and a number read in the loop."""
    randn = machine.seeded_noise([0, 1], GPU)
    with monkeypatch.context() as patch:
        patch.setattr(sora, "sinusoid", lambda x, dim, max_period: torch.cat(
            2 * [x[..., None] * torch.arange(dim // 2)], -1))
        with pytest.raises(Exception, match="device"):
            sample_all("ddpm", randn, patch, gpu)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="generator on cpu"):
        sample_all("ddpm", machine.seeded_noise([0, 1], "cpu"), patch, gpu)
    ddim = sora.DDPM.ddim

    def reads_a_number(self, model, x, t, s, caption, randn):
        return ddim(self, model, x, t, s, caption, randn) / x.abs().max().item()
    with monkeypatch.context() as patch:
        patch.setattr(sora.DDPM, "ddim", reads_a_number)
        _, after = sample_all("ddpm", randn, patch, gpu)
    assert ["wait: _local_scalar_dense"] * 2 in after
