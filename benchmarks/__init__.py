"""Benchmarks: each states a bound and measures it as a ratio within one run; `python -m benchmarks` runs them.

Whatever two systems are compared take turns on the same machine, so that what the machine does besides hits both.
"""
