"""Readers: each turns one format of other people's files into the packed store."""
