"""Models on disk and on the hub.

`pretrained` loads and saves. `folder` reads and writes the files, `hub` fetches and uploads them,
`released` knows the names of the released model's library, and `convert` converts that library's
training checkpoints.
"""
