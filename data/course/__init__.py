"""A course in a box: parts to write, graders, bug hunts, experiments and a board. See README.md."""
