"""The model server under load: what it answers, how soon, beside rivals and faults."""
