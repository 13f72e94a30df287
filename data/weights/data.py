"""Lets `python3 data/weights/NAME.py` run from any folder: Python then looks for `data` in this one first."""
import sys
from pathlib import Path

if __name__ == "data":                                              # not as data.weights.data
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    del sys.modules["data"]                                         # this file
    import data
