"""What stands between a client and a model server, whichever server it is: limits, key, queue guard, use, health.

One pure ASGI application around another. It must never import an engine, a web framework or Airflow: it runs inside
vLLM's own process (`vllm serve --middleware`) as well as around this project's server.
"""
