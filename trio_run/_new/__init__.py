"""``python -m trio_run new DIR``: a project of one's own, begun with a copy of ours.

_command   what is asked for, and what is said
_project   which files a project has, and what is in them
_names     what it may be called
_origin    where the trio-run that writes it came from, and so how the project gets it
_write     the files on the disk: all of them, or none
"""
