"""The weights that come along, and how they are made."""
