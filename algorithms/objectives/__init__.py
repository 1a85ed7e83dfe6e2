"""The objectives, one file each: formula, paper and symbols stand at its top."""
