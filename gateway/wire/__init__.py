"""Pure: bytes to meaning and back. Knows OpenAI's formats, knows no room; nothing here awaits.

What is read here is for our books: what passes through is never re-made from parsed objects.
"""
