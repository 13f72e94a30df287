"""Whether a step of training is refused for want of memory, before any is taken."""
import pytest

from data.runtime import machine, memory
from data.training.presets import PRESETS
from sora import InputError


@pytest.mark.parametrize("gigabytes,bfloat16,parts,fits", [
    (24, False, 1, False), (24, False, 2, True), (40, False, 1, True), (24, True, 1, True), (8, True, 1, False)])
def test_standard_needs_what_was_measured(monkeypatch, gigabytes, bfloat16, parts, fits):
    """448 clips of 20 frames in a step take 25 GB in float32, half of that in bfloat16; --accumulate 2 halves them."""
    monkeypatch.setattr(memory, "available", lambda device: gigabytes * 2 ** 30)
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: bfloat16)
    case = f"{gigabytes} GiB, {'bfloat16' if bfloat16 else 'float32'}, {parts} parts"
    if fits:
        return memory.check_training(PRESETS["standard"], "cpu", parts)
    with pytest.raises(InputError, match="batch 448 of 20x64x64: .*GB for it; ask for less, or .*--accumulate"):
        memory.check_training(PRESETS["standard"], "cpu", parts)
        pytest.fail(f"{case}: expected one line, and nothing tried")


def test_every_preset_for_a_laptop_fits_one(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 6 * 2 ** 30)
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: False)
    for name in ("tiny", "small", "steered"):
        memory.check_training(PRESETS[name], "cpu")
