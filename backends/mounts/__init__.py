"""Mounted filesystems: where they are mounted, on which disk they are, and what they are called.

Everything is read from /proc, /sys and /dev, without privileges; nothing here starts a program.
"""
