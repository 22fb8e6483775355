"""What is mounted where, on which disk, and what it is called.

All of it is read from /proc, /sys and /dev, without privileges; nothing here starts a program.
"""
