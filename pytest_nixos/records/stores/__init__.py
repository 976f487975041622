"""The kinds of stores that hold records, one module each, behind the Protocol of `base`."""
