"""Thin Ray shells around `algorithms/`: one file a plane, and the records that travel between them."""
