"""Studies: one module each, with its tables. README.md says what they answer."""
