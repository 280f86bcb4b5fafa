"""A model directory before it is served: found, and refused where it would be read wrongly."""
