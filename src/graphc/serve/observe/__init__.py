"""Seeing the server: metrics, traces, logs, an audit log and a status page, each an observer of what happens."""
