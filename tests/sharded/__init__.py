"""Tests of tensors that are sharded over processes; `crew` starts these once and is importable by other tests."""
