"""Many runs of `align` with Ray Tune, and one table of what each of them reached."""
