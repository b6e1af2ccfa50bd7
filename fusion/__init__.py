"""Fusing the scores of several streams: score files, matching of clips, weights, and the report of the command line."""
