"""Models on disk and on the hub.

`pretrained` loads and saves. `folder` reads and writes the files, `released` knows the names of
the released model's library, `hub` the network, and `convert` that library's training
checkpoints.
"""
