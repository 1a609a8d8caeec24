"""The API over HTTP: TLS, users, rights, addresses, forms of answers, streams. It decides nothing about objects."""
