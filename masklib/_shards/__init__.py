"""Tensors sharded over a mesh of processes: where each shard lies, and how the few numbers that decide are shared.

No rank ever holds a whole weight. `_layout` says which entries a rank has, `_wire` what crosses between the ranks.
"""
