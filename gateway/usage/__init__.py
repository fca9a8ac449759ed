"""The books: what each request used and cost, on disk, and what can be asked of it."""
