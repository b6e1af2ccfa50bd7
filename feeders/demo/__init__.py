"""The demo data set: generated clips of twelve actions on the NTU skeleton.

`body` turns joint angles into positions, `actions` says how the angles of each class run, `generator` adds people,
cameras and noise, `cache` packs everything and keeps it in a file. The first two need no torch.
"""
