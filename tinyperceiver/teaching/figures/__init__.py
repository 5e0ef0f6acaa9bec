"""The figures of the chapters: a file for each, in the parts of `teaching.drawing`."""
