"""Files and downloads that are whole or not there at all.

`whole` writes files and locks folders; `download` fetches large files over HTTP.
"""
