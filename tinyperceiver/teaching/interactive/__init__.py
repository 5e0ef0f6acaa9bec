"""The figures that readers move: a file for each chapter, on `teaching.slider`."""
