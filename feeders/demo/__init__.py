"""The demo data set: generated clips of twelve actions on the NTU skeleton, or on COCO's in the cameras' images.

`body` turns joint angles into positions, `actions` says how the angles of each class run, `people` who performs them
and how, `generator` adds cameras and noise, `image` makes 2-D clips of 3-D ones, `cache` packs everything and keeps it
in a file. The first three need no torch.
"""
