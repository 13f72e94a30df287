"""What surrounds sample.py."""
