"""The commands that look after a gateway, one module for each group; `cli.py` gathers them.

Each says what it takes, asks one operation of `gateway/admin/`, and shows the answer. Where it is
done, by the server that runs or on the files, is `house.py`'s business.
"""
