"""The exercises of the chapters: a module for each, named as the chapter is."""
