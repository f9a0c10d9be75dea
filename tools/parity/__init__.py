"""Parity with the original: one module a stem of vector files, and what they share (`vectors`)."""
