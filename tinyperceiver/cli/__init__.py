"""The command line, one file a command.

Read `main` first: it registers the commands and turns errors into one line. `options` and
`music_files` hold what several commands share.
"""
