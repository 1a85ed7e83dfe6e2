"""The mathematics of NashLoop: no Ray, no inference engine, no clock, no files."""
