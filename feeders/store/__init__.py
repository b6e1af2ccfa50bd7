"""The packed store: all clips of a data set once, only frames and persons that are there.

`catalogue` is what a store knows of its clips without their coordinates, `hdf5` its file, `packed` the store in memory,
which needs torch; the others do not.
"""
