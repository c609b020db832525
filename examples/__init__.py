"""Programs that use graphc from outside."""
