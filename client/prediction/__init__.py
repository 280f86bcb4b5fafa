"""A test set through a served model: rows out, answers in, nothing lost."""
