"""One latency promise, kept: requests from many callers, in batches, on the devices of one machine."""
