"""Tests of everything but sora.py, whose own are in test_sora.py. Run: python3 -m pytest -q"""
