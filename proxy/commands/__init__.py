"""The commands of ``koguma``, one module each: arguments in, exit code out."""
