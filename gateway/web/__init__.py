"""HTTP edges: the data plane, the admin plane, health, and how errors look."""
