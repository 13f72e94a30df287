"""How a run starts, is logged, is saved and ends. What it learns stands in train.py."""
