"""Tests of everything but sora.py, whose own are in test_sora.py. Run: python3 -m pytest -q"""
import os

# All is tested on the CPU, bit for bit, also where there is a GPU; but see test_gpu.py. (The processes of pytest-xdist
# find the GPU hidden already, so what was visible before is kept in the environment, too.)
VISIBLE = os.environ.setdefault("VISIBLE_OUTSIDE_PYTEST", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
