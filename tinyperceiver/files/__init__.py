"""Files and downloads that are whole or not there at all.

`errors` holds the base class of the errors that a user can put right; `whole` writes files
and locks folders; `download` fetches large files over HTTP.
"""
