"""A package outside of s2s that adds a component of each kind by entry points; the code of docs/extending.md."""
