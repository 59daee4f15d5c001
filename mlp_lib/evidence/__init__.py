"""Pure functions of a run's tables: a file a question, its rule beside its statistics."""
