"""Structured rows (entities, labels, relations) to prompts and answers, by the user's templates."""
