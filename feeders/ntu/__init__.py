"""NTU RGB+D 60 and 120 from the raw archives to a packed store, and back to the published arrays.

`names` knows the two data sets, `sources` finds the raw clips, `raw` parses one, `actors` chooses its actors, `prepare`
is the whole run, `export` writes the published arrays, `clip_bar` is the progress bar of both commands.
"""
