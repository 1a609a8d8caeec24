"""Requests whose answer goes on: logs, attach, port-forward, proxies, with their wire protocols."""
